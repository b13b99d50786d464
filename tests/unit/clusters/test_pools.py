from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess

import pytest

from cluster_configs import recipes
from heliostat.clusters import document, render, targets
from heliostat.errors import ConfigError
from tests.conftest import ROOT


def terraform(*arguments, folder):
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    done = subprocess.run(
        ["terraform", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def pools_module(tmp_path):
    """A copy, so that no state comes into the repository."""
    module = tmp_path / "pools"
    shutil.copytree(ROOT / "cluster_configs" / "terraform" / "pools", module)
    return module


def test_terraforms_own_tests_of_the_pools_pass(pools_module):
    """The module has no provider, so no cloud; all modules are written as `terraform fmt` writes."""
    terraform("init", "-backend=false", folder=pools_module)

    assert "6 passed, 0 failed" in terraform("test", folder=pools_module)
    terraform("fmt", "-check", "-recursive", folder=ROOT / "cluster_configs" / "terraform")


def groups_of(cluster):
    """A recipe's groups as the variables of the module."""
    groups = {
        group.name: {"machine_type": "m", "max_workers": group.max_workers,
                     "spot_share_percent": group.spot_share_percent}
        for group in (cluster.cpu, *cluster.gpus)
    }  # fmt: skip
    for group in cluster.gpus:
        groups[group.name] |= {
            "accelerator": group.accelerator, "gpus_per_worker": group.gpus_per_worker
        }  # fmt: skip
    tpus = {
        group.name: {"machine_type": "m", "topology": group.topology, "num_hosts": group.num_hosts,
                     "max_slices": group.max_slices}
        for group in cluster.tpus
    }  # fmt: skip
    system = {"machine_type": "m", "min_nodes": 2, "max_nodes": 4}
    return {"target": cluster.target, "groups": groups, "tpus": tpus, "system": system}


@pytest.mark.parametrize("target", ["gke", "aks"])
def test_terraforms_pools_take_the_workers_of_the_recipe(target, pools_module):
    """Every group has nodes with its labels, no taint that it does not tolerate, and room for all."""
    cluster = getattr(recipes, target)().cluster
    (pools_module / "terraform.tfvars.json").write_text(json.dumps(groups_of(cluster)))
    terraform("init", "-backend=false", folder=pools_module)
    terraform("apply", "-auto-approve", folder=pools_module)
    made = json.loads(terraform("output", "-json", "pools", folder=pools_module))
    # What the cloud itself puts on spot and TPU nodes.
    theirs = ("cloud.google.com/gke-spot", "cloud.google.com/gke-tpu-", "kubernetes.azure.com/")

    wanted = targets.all_pools(cluster)
    assert set(made) == {"system", *(pool.name for pool in wanted)}
    for pool in wanted:
        nodes = made[pool.name]
        selector = targets.node_selector(cluster.target, pool)
        assert nodes["labels"] == {k: v for k, v in selector.items() if not k.startswith(theirs)}
        tolerated = {item["key"] for item in targets.tolerations(cluster.target, pool)}
        assert {taint["key"] for taint in nodes["taints"]} <= tolerated
        hosts = getattr(pool.group, "num_hosts", 1)
        assert (nodes["max_nodes"], nodes["is_spot"]) == (pool.max_workers * hosts, pool.is_spot)


def test_sharing_a_card_is_chosen_by_node():
    """Whole cards stay whole unless a node's label says otherwise; slices are what the recipe says."""
    platform = recipes.onprem()
    files = render.render(platform.cluster, ROOT, dict(platform.jobs))
    chart = document.read_value(files["values/gpu-operator.yaml"])
    items = {item.name: item.body["data"] for item in document.read_text(files["nodes/nodes.yaml"], "f")[0]
             if item.kind == "ConfigMap"}  # fmt: skip
    plugin, slices = chart["devicePlugin"]["config"], chart["migManager"]["config"]
    layouts = document.read_value(items[slices["name"]]["config.yaml"])["mig-configs"]

    assert (plugin["default"], slices["default"]) == ("whole", "all-disabled")
    assert document.read_value(items[plugin["name"]]["whole"]) == {"version": "v1"}
    sharing = document.read_value(items[plugin["name"]]["shared"])["sharing"]["timeSlicing"]
    assert sharing["renameByDefault"] is True
    assert layouts == {
        "all-disabled": [{"devices": "all", "mig-enabled": False}],
        "all-1g.10gb": [{"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb": 7}}],
    }


def test_a_slice_is_named_by_its_card_and_counted_by_its_owner():
    """No node carries a suffix for shares and slices that have resources of their own."""
    cluster = recipes.onprem().cluster
    whole, mig, shared, _ = cluster.gpus
    for group, name in ((shared, "X-SHARED"), (mig, "X-MIG-1g.10gb")):
        changed = dataclasses.replace(group, accelerator=name)
        with pytest.raises(ConfigError, match=f"accelerator = '{name}': must be the whole card's"):
            dataclasses.replace(cluster, gpus=(whole, changed))
    for group, count in ((mig, None), (mig, 8), (whole, 7)):
        with pytest.raises(
            ConfigError, match=r"mig_slices_per_gpu = .*: must be 1 to 7 with sharing"
        ):
            dataclasses.replace(group, mig_slices_per_gpu=count)
