from __future__ import annotations

import fnmatch

import pytest

from heliostat.clusters import check
from heliostat.clusters.checks import reach
from heliostat.clusters.checks.reach import Endpoint
from heliostat.clusters.recipe import TARGETS
from tests.conftest import ROOT


@pytest.mark.parametrize("target", TARGETS)
def test_mlflow_gets_what_it_needs_and_shows_its_metrics(target):
    """Prometheus asks it by a Pod's address; on GKE it and Ray's Pods get their identity by address."""
    bundle = check.read_bundle(
        [ROOT / "cluster_configs" / target / name for name in ("foundation", "platform", "ray")]
    )
    policies = bundle.of_kind("NetworkPolicy")
    mlflow = Endpoint(namespace="heliostat-platform", labels={"app": "mlflow"})
    prometheus = Endpoint(namespace="monitoring")
    metadata_server = Endpoint(address="169.254.169.252")
    local_dns = Endpoint(address="169.254.20.10")
    pods = [mlflow, *dict(reach.endpoints(bundle)).values()]
    (server,) = [item for item in bundle.of_kind("Deployment") if item.name == "mlflow"]
    arguments = server.spec["template"]["spec"]["containers"][0]["args"]
    hosts = arguments[arguments.index("--allowed-hosts") + 1].split(",")

    assert reach.allows(policies, prometheus, mlflow, 5000)
    assert not reach.allows(policies, Endpoint(namespace="default"), mlflow, 5000)
    assert {reach.allows(policies, pod, metadata_server, 988) for pod in pods} == {target == "gke"}
    assert all(reach.allows(policies, pod, local_dns, 53, "UDP") for pod in pods)
    for host in ("10.8.0.7:5000", "172.20.1.9:5000", "localhost:5000",
                 "mlflow.heliostat-platform.svc.cluster.local:5000"):  # fmt: skip
        assert any(fnmatch.fnmatch(host, pattern) for pattern in hosts)
    assert not any(fnmatch.fnmatch("evil.example.com:5000", pattern) for pattern in hosts)
