from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from heliostat.clusters.document import read_text
from heliostat.testing.kubernetes import FakeKubernetes
from heliostat.testing.ports import free_ports
from tests.conftest import ROOT

CALLS = """
import json, sys
import requests
from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient
client = KubernetesHttpApiClient(namespace="heliostat")
path = "rayclusters/heliostat-dev"
found = {"group": client.get(path)["spec"]["workerGroupSpecs"][0]["groupName"]}
def status(call):
    try:
        call()
    except requests.HTTPError as error:
        return error.response.status_code
    return 200
def patch(*steps):
    return lambda: client.patch(path, [dict(zip(("op", "path", "value"), step)) for step in steps])
group = "/spec/workerGroupSpecs/0"
found["replicas"] = status(patch(("replace", group + "/replicas", 3)))
found["delete"] = status(patch(("replace", group + "/scaleStrategy", {"workersToDelete": ["a"]})))
found["bad type"] = status(patch(("replace", group + "/replicas", "many")))
found["unknown field"] = status(patch(("replace", group + "/howMany", 3)))
found["no path"] = status(patch(("replace", "/spec/nothing/0/x", 3)))
found["old version"] = status(patch(("test", "/metadata/resourceVersion", "0")))
found["gone"] = status(lambda: client.get("rayclusters/other"))
found["may not"] = status(lambda: client.delete(path))
found["pods"] = [item["metadata"]["name"] for item in client.get("pods?labelSelector=a%3Db")["items"]]
print(json.dumps(found))
"""


@pytest.fixture
def server(tmp_path):
    (port,) = free_ports(1)
    server = FakeKubernetes("127.0.0.1", port, tmp_path / "kubernetes")
    yield server
    server.close()


def test_rays_own_client_reads_and_patches_it(server):
    """As the API server does: a patch that leaves the schema is refused whole, with its reason."""
    text = (ROOT / "cluster_configs" / "eks" / "ray" / "shared-cluster.yaml").read_text()
    (cluster,) = read_text(text, "f")[0]
    server.put(cluster.body)
    for name, labels in (("mine", {"a": "b"}), ("other", {"a": "c"})):
        metadata = {"name": name, "namespace": "heliostat", "labels": labels}
        server.put({"kind": "Pod", "metadata": metadata, "status": {}})
    environment = {
        **os.environ, **server.client_variables(), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    output = subprocess.check_output([sys.executable, "-c", CALLS], env=environment, text=True)

    assert json.loads(output) == {
        "group": "cpu", "replicas": 200, "delete": 200, "bad type": 422, "unknown field": 422,
        "no path": 422, "old version": 422, "gone": 404, "may not": 403, "pods": ["mine"],
    }  # fmt: skip
    stored = server.get("RayCluster", "heliostat", "heliostat-dev")["spec"]["workerGroupSpecs"][0]
    assert (stored["replicas"], stored["scaleStrategy"]) == (3, {"workersToDelete": ["a"]})
    assert [name for name, _ in server.patches] == ["heliostat-dev", "heliostat-dev"]


def test_nobody_is_answered_without_a_certificate(server):
    """401, as an API server without anonymous access."""
    context = ssl.create_default_context(cafile=server.folder / "ca.crt")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        opener.open(f"https://127.0.0.1:{server.port}/api/v1/namespaces/heliostat/pods", timeout=5)

    assert refused.value.code == 401
