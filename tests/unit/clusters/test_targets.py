from __future__ import annotations

import dataclasses
import shutil
import subprocess

import pytest

from cluster_configs import recipes
from heliostat.clusters import (
    check,
    cost,
    document,
    folder,
    kubernetes_schemas,
    render,
    schema,
    simulate,
    structural,
    values,
)
from heliostat.clusters.checks import materialise, reach
from heliostat.clusters.checks.bundle import Bundle
from heliostat.clusters.checks.reach import Endpoint
from heliostat.clusters.recipe import TARGETS
from heliostat.errors import ConfigError, GateRefused
from tests.conftest import ROOT


def files_of(target):
    platform = getattr(recipes, target)()
    return render.render(platform.cluster, ROOT, dict(platform.jobs))


def bundle_of(target):
    return check.read_bundle([ROOT / "cluster_configs" / target / name for name in (
        "foundation", "queues", "platform", "ray", "jobs")])  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_committed_is_what_the_recipe_renders(target):
    """Golden: a change of a recipe or of the renderer shows in the diff of YAML."""
    assert folder.compare(files_of(target), ROOT / "cluster_configs" / target) == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_has_no_finding_at_all(target):
    """Neither error nor warning, as a whole, with import paths that exist."""
    options = check.Options(
        is_whole=True, ray_version="2.60.0", source_roots=(str(ROOT), str(ROOT / "platform"))
    )
    report = check.check_paths([ROOT / "cluster_configs" / target], options)

    assert [str(item) for item in report.findings] == []
    assert report.num_objects > 60


@pytest.mark.parametrize("version", kubernetes_schemas.VERSIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_fits_every_version_of_kubernetes(target, version):
    """Core kinds and the Pods that the operator makes follow 1.33 to 1.37; dynamic resource allocation is newer than 1.33."""
    faults = [
        (item.where, str(fault))
        for item in bundle_of(target).documents
        for fault in kubernetes_schemas.object_faults(version, item.body)
    ]
    faults += [
        (cluster.document.where, str(fault))
        for cluster in bundle_of(target).clusters()
        for made in materialise.pods(cluster)
        for fault in kubernetes_schemas.object_faults(version, made.body)
    ]

    assert faults == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_follows_the_crds_of_others(target, crds):
    """KubeRay, Kueue, Gateway API, Karpenter and prometheus-operator, defaults applied."""
    checked, faults = set(), []
    for item in check.read_bundle([ROOT / "cluster_configs" / target / "ray"]).documents:
        checked.add(item.kind)
    for item in [*bundle_of(target).documents, *nodes_of(target)]:
        found = crds.get((item.api_version, item.kind))
        if found:
            checked.add(item.kind)
            filled = structural.with_defaults(found, dict(item.body))
            faults += [(item.where, str(fault)) for fault in structural.faults(found, filled)]

    assert faults == []
    assert {"RayService", "RayCronJob", "ClusterQueue", "PodMonitor", "HTTPRoute"} <= checked


def nodes_of(target):
    path = ROOT / "cluster_configs" / target / "nodes"
    return check.read_bundle([path]).documents if path.is_dir() else ()


@pytest.mark.parametrize("target", TARGETS)
def test_kustomize_builds_every_folder(target):
    """`kubectl apply -k` begins with this; it needs no cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    root = ROOT / "cluster_configs" / target
    built = {}
    for path in sorted(root.rglob("kustomization.yaml")):
        done = subprocess.run(
            ["kubectl", "kustomize", str(path.parent)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        built[str(path.parent.relative_to(root))] = document.read_text(done.stdout, "built")[0]
    whole = {(item.kind, item.namespace, item.name) for item in built["."]}
    written = {
        (item.kind, item.namespace, item.name)
        for name in ("foundation", "nodes", "queues", "platform", "ray")
        if (root / name).is_dir()
        for item in check.read_bundle([root / name]).documents
        if item.kind != "Kustomization"
    }

    assert whole == written
    assert {
        (name, item.kind) for name in built if "mutual" in name for item in built[name]
        if item.kind.startswith("Ray") and "tlsOptions:" in render.to_yaml(item.body)
    } == set()  # fmt: skip
    assert {item.kind for item in built["overlays/without-mutual-tls/jobs"]} == {"RayJob"}
    gates = {**values.gates(getattr(recipes, target)().cluster), "RayClusterMTLS": False,
             "GCSFaultToleranceEmbeddedStorage": True}  # fmt: skip
    for name in (
        "overlays/rocksdb",
        "overlays/without-mutual-tls",
        "overlays/without-mutual-tls/jobs",
    ):
        items = [item for item in built[name] if name != "overlays/rocksdb"
                 or item.kind == "RayCluster"]  # fmt: skip
        wanted = gates if "mutual" in name else {**gates, "RayClusterMTLS": True}
        report = check.check_documents(items, check.Options(), gates=wanted)
        assert (name, [str(item) for item in report.findings]) == (name, [])
    (patched,) = [item for item in built["overlays/rocksdb"] if item.kind == "RayCluster"]
    assert patched.spec["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    assert all("template" in group for group in patched.spec["workerGroupSpecs"])


@pytest.mark.parametrize("target", TARGETS)
def test_those_who_must_reach_ray_do(target):
    """The operator, Prometheus, the gateway, DNS and Ray's own Pods."""
    network = getattr(recipes, target)().cluster.network
    callers = reach.Callers(
        operator=network.operator_namespace,
        monitoring=network.monitoring_namespace,
        gateway=network.gateway_namespace,
    )

    assert [str(item) for item in reach.needed(bundle_of(target), callers)] == []


def test_the_reachability_matrix_of_a_service():
    """Who reaches which port of the service's head and workers; jobs reach the gateway, with a key."""
    bundle = bundle_of("eks")
    policies = bundle.of_kind("NetworkPolicy")
    known = dict(reach.endpoints(bundle))
    sources = {
        "operator": Endpoint(namespace="kuberay-system"),
        "prometheus": Endpoint(namespace="monitoring"),
        "gateway": Endpoint(namespace="envoy-gateway-system"),
        "its worker": known["heliostat-serve/cpu"],
        "another role": known["heliostat-dev/cpu"],
        "stranger": Endpoint(namespace="heliostat", labels={"app": "x"}),
        "elsewhere": Endpoint(namespace="default", labels={"app": "x"}),
        "internet": Endpoint(address="203.0.113.9"),
    }
    ports = (6379, 8265, 10001, 9101, 8404, 8000, 8080)

    def row(target):
        return {
            name: [port for port in ports if reach.allows(policies, source, known[target], port)]
            for name, source in sources.items()
        }

    assert row("heliostat-serve/head") == {
        "operator": [8265, 8000], "prometheus": [8080], "gateway": [], "its worker": list(ports),
        "another role": [], "stranger": [], "elsewhere": [], "internet": [],
    }  # fmt: skip
    assert row("heliostat-serve/cpu") == {
        "operator": [8000], "prometheus": [8080], "gateway": [8000], "its worker": list(ports),
        "another role": [8000], "stranger": [], "elsewhere": [], "internet": [],
    }  # fmt: skip


def test_rollouts_and_finished_stages_lie_in_postgresql():
    """Ray's Pods get its address and, beside it, the password; they and MLflow reach it, only they."""
    bundle = bundle_of("onprem")
    policies = bundle.of_kind("NetworkPolicy")
    database = Endpoint(namespace="heliostat-platform", labels={"app": "postgres"})
    sources = {
        **dict(reach.endpoints(bundle)),
        "mlflow": Endpoint(namespace="heliostat-platform", labels={"app": "mlflow"}),
        "stranger": Endpoint(namespace="heliostat", labels={"app": "x"}),
        "elsewhere": Endpoint(namespace="default", labels={"app": "x"}),
    }
    shut = [
        name for name, item in sources.items() if not reach.allows(policies, item, database, 5432)
    ]
    variables = [
        {item["name"]: item.get("value") or item["valueFrom"]["secretKeyRef"]
         for item in made.body["spec"]["containers"][0]["env"]
         if item["name"].startswith("HELIOSTAT_STATE")}
        for cluster in bundle.clusters() for made in materialise.pods(cluster)
    ]  # fmt: skip

    assert shut == ["stranger", "elsewhere"]
    assert len(variables) > 20
    assert all(found == {
        "HELIOSTAT_STATE_URL": "postgresql+psycopg://heliostat"
        "@postgres.heliostat-platform.svc.cluster.local:5432/heliostat",
        "HELIOSTAT_STATE_PASSWORD": {"name": "heliostat-postgres", "key": "password"},
    } for found in variables)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_children_of_schedules_can_wait_in_a_queue(target):
    """A policy of the API server names them by their owner, and gives what `kueue` asks of a RayJob."""
    cel = pytest.importorskip("cel")
    path = ROOT / "cluster_configs" / target / "overlays" / "queued-schedules" / "policies.yaml"
    policies, findings = document.read_text(path.read_text(), "policies.yaml")
    faults = [
        str(fault) for item in policies for version in ("1.36", "1.37")
        for fault in kubernetes_schemas.object_faults(version, item.body)
    ]  # fmt: skip
    assert (findings, faults) == ([], [])
    assert kubernetes_schemas.is_builtin("1.36", policies[0].api_version, policies[0].kind)

    def taken_by(**metadata):
        return [
            item.name for item in policies if item.kind == "MutatingAdmissionPolicy"
            and all(cel.evaluate(condition["expression"], {"object": {"metadata": metadata}})
                    for condition in item.spec["matchConditions"])
        ]  # fmt: skip

    def owner(name, kind="RayCronJob"):
        return {"ownerReferences": [{"kind": kind, "name": name}]}

    assert taken_by(**owner("heliostat-drift")) == ["heliostat-scheduled-batch"]
    assert taken_by(**owner("heliostat-retrain")) == ["heliostat-scheduled-train"]
    assert taken_by(**owner("heliostat-drift", "Deployment")) == taken_by() == []
    queued = {item.name: item for item in bundle_of(target).of_kind("RayJob")}
    for name, policy in (("heliostat-batch", policies[2]), ("heliostat-train", policies[0])):
        (change,) = policy.spec["mutations"]
        text = change["applyConfiguration"]["expression"]
        given = cel.evaluate(text.replace("Object.metadata", "").replace("Object", "")
                             .replace("metadata:", '"metadata":').replace("labels:", '"labels":')
                             .replace("annotations:", '"annotations":'), {})["metadata"]  # fmt: skip
        assert given["labels"].items() <= queued[name].metadata["labels"].items()
        assert given["annotations"] == queued[name].metadata["annotations"]


@pytest.mark.parametrize("target", TARGETS)
def test_rays_own_parser_accepts_every_cluster(target):
    """Labels, amounts, priorities and TPU slices, read by the code that runs beside a head."""
    clusters = simulate.clusters_of(bundle_of(target))
    for cluster in clusters.values():
        groups = simulate.autoscaling_config(cluster)["available_node_types"]
        for spec in cluster["spec"]["workerGroupSpecs"]:
            hosts = spec["numOfHosts"]
            assert groups[spec["groupName"]]["max_workers"] == spec["maxReplicas"] * hosts
    assert len(clusters) >= 7


def test_the_autoscaler_takes_spot_first_then_on_demand():
    """Two spot nodes of four, the rest on demand; without spot all on demand; too large never."""
    cluster = simulate.clusters_of(bundle_of("eks"))["RayCluster/heliostat-dev"]
    parse = simulate.Demand.parse

    def launched(*demands, gone=()):
        return simulate.simulate(cluster, [parse(text) for text in demands], gone=gone)

    assert launched("2xGPU=1").launched == {"gpu-spot": 2}
    assert launched("3xGPU=1").launched == {"gpu": 1, "gpu-spot": 2}
    assert launched("3xGPU=1", gone=["gpu-spot"]).launched == {"gpu": 3}
    assert launched("1xGPU=2").infeasible == (({"GPU": 2.0}, 1),)
    assert launched("9xGPU=1").infeasible == (({"GPU": 1.0}, 3),)


def test_gpu_workers_can_be_kept_from_cpu_work():
    """Ray takes them once the CPU group is full; a worker that offers Ray no CPU is never taken."""
    recipe, parse = recipes.eks().cluster, simulate.Demand.parse

    def launched(cpus_for_ray, *demands):
        (gpu,) = recipe.gpus
        gpu = dataclasses.replace(gpu, cpus_for_ray=cpus_for_ray)
        files = render.render(dataclasses.replace(recipe, gpus=(gpu,)), ROOT)
        items, findings = document.read_text(files["ray/shared-cluster.yaml"], "f")
        assert findings == []
        (cluster,) = simulate.clusters_of(Bundle(documents=items)).values()
        found = simulate.simulate(cluster, [parse(text) for text in demands])
        left = {tuple(sorted(needs.items())): count for needs, count in found.infeasible}
        return dict(found.launched), left

    # Ten CPU workers of 8 CPUs are the most there may be.
    assert launched(None, "11xCPU=8") == ({"cpu": 10, "gpu-spot": 1}, {})
    assert launched(0, "11xCPU=8") == ({"cpu": 10}, {(("CPU", 8.0),): 1})
    assert launched(0, "3xGPU=1") == ({"gpu": 1, "gpu-spot": 2}, {})
    assert launched(2, "3xCPU=2,GPU=1") == ({"gpu": 1, "gpu-spot": 2}, {})
    assert launched(0, "1xCPU=1,GPU=1") == ({}, {(("CPU", 1.0), ("GPU", 1.0)): 1})
    with pytest.raises(ConfigError, match=r"gpus.gpu.cpus_for_ray = 9: must be 0 to 8, or None"):
        launched(9)


def test_every_group_is_started_by_some_demand():
    """Slices, shared GPUs, claims and TPU slices too, which Ray cannot see in the Pod."""
    for target, demand in (("onprem", "7xGPU=1"), ("gke", "4xTPU=4")):
        cluster = simulate.clusters_of(bundle_of(target))["RayCluster/heliostat-dev"]
        demands = [simulate.Demand.parse(demand), simulate.Demand.parse("80xCPU=8")]
        found = simulate.simulate(cluster, demands)
        names = {group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]}
        wanted = {
            name for name in names if ("gpu" in name) == (target == "onprem") or name == "cpu"
        }
        assert wanted - set(found.launched) <= ({"gpu", "gpu-spot"} if target == "gke" else set())


def test_a_recipe_without_a_customers_key_is_refused():
    """Buckets, volumes and databases are encrypted with a key of the customer's own."""
    storage = recipes.eks().cluster.storage
    with pytest.raises(ConfigError, match=r"storage.customer_key = None: must be set"):
        dataclasses.replace(storage, customer_key=None)


def test_a_recipe_says_what_it_cannot_mean():
    """Spot on premises, latest images and one worker that serves are refused when built."""
    cluster = recipes.onprem().cluster
    with pytest.raises(ConfigError, match="must be 0 on premises"):
        dataclasses.replace(cluster, cpu=dataclasses.replace(cluster.cpu, spot_share_percent=10))
    with pytest.raises(ConfigError, match="must not be latest"):
        dataclasses.replace(cluster.images, redis="registry.example.com/redis:latest")
    with pytest.raises(ConfigError, match="one node that drains would be an outage"):
        dataclasses.replace(cluster, serve_min_workers=1)


def test_prices_come_from_a_table_of_the_users_own(tmp_path):
    """Without one the tool asks; with one it says source and date, and prices spot as spot."""
    with pytest.raises(ConfigError, match="must name a price table of yours"):
        cost.PriceTable.read(None)
    path = tmp_path / "prices.yaml"
    path.write_text(
        "source: made up for this test\ndate: 2026-11-01\ncurrency: X\n"
        "per_hour: {system: 1, cpu: 2, gpu: 10, gpu-spot: 4}\n"
    )
    table = cost.PriceTable.read(path)
    lines = cost.price(recipes.eks().cluster, table)

    assert {line.pool: (line.num_nodes, line.per_hour) for line in lines} == {
        "system": (2, 2), "cpu": (10, 20), "gpu-spot": (2, 8), "gpu": (2, 20),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="must have a price"):
        cost.price(recipes.gke().cluster, table)


def test_examples_are_never_applied():
    """The committed folders hold names that stand for something of the team's."""
    path = ROOT / "cluster_configs" / "eks"
    with pytest.raises(GateRefused, match="put in your own names and render again"):
        folder.kubectl_apply(path, context="none", dry_run=True)


@pytest.mark.parametrize("target", TARGETS)
def test_the_service_carries_the_very_file_that_serve_deploys(target):
    """Byte for byte, so that what ran on one machine is what runs on the cluster."""
    text = (ROOT / "serve_apps" / "cluster.yaml").read_text()
    (service,) = bundle_of(target).of_kind("RayService")

    assert service.spec["serveConfigV2"] == text


def test_a_typed_job_is_what_the_file_says():
    """Reading the committed YAML into the models and writing it again changes nothing."""
    from heliostat.clusters import kuberay

    for item in bundle_of("gke").ray():
        cls = kuberay.SPECS[item.kind]
        assert schema.to_manifest(schema.from_manifest(cls, item.spec)) == item.spec
