"""The part of KubeRay's operator that a Ray cluster meets: Pods per replica, and its REST calls."""

from __future__ import annotations

import contextlib
import json
import secrets as randomness
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from heliostat.clusters.checks import materialise
from heliostat.clusters.checks.bundle import Bundle, Group, RaySpec
from heliostat.clusters.document import Document
from heliostat.testing import pods
from heliostat.testing.kubernetes import FakeKubernetes

Adapt = Callable[[list[str], dict[str, str], str], tuple[list[str], dict[str, str]]]
"""Gets a Pod's command, environment and name, and gives those that this machine can run."""

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class FakeOperator:
    """Makes a real Ray process of each Pod of a RayCluster, and follows what is patched.

    As KubeRay 1.7 does: the head and its autoscaler first, then as many workers per group as its
    ``replicas`` say; Pods named in ``workersToDelete`` are deleted; with autoscaling no others are,
    but those that failed, which others replace. It knows no Services, quotas, mounts or images.
    """

    def __init__(
        self, kubernetes: FakeKubernetes, network: pods.PodNetwork, *, cwd: Path,
        environment: Mapping[str, str], secrets: Mapping[str, str], adapt: Adapt,
    ) -> None:  # fmt: skip
        """Start to follow RayClusters.

        Args:
            environment: What the image would bring: PATH, PYTHONPATH.
            secrets: Values by ``name/key``.
        """
        self._api, self._network, self._cwd = kubernetes, network, cwd
        self._environment, self._secrets, self._adapt = dict(environment), secrets, adapt
        self._running: dict[str, pods.RunningPod] = {}
        self._stopping: list[threading.Thread] = []
        self._is_over = threading.Event()
        self.started: list[tuple[float, str]] = []
        """Time and name of each Pod that was started."""
        self.ended: list[tuple[float, str, float]] = []
        """Time, name, and seconds from SIGTERM to its end, of each Pod that was deleted."""
        self.failed: list[str] = []
        """Names of workers that ended by themselves."""
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to follow, and end every Pod."""
        self._is_over.set()
        self._thread.join()
        for running in list(self._running.values()):
            running.process.kill()
            running.process.wait()

    def head(self, cluster: str) -> pods.RunningPod:
        """Give the head of a cluster; it may not answer yet."""
        return self._running[f"{cluster}-head"]

    def workers(self, cluster: str, group: str | None = None) -> list[pods.RunningPod]:
        """Give the workers of a cluster that run, or of one group."""
        wanted = {"ray.io/cluster": cluster, "ray.io/node-type": "worker"}
        if group is not None:
            wanted["ray.io/group"] = group
        names = [item["metadata"]["name"] for item in self._api.all("Pod", wanted)]
        return [self._running[name] for name in names if name in self._running]

    def delete(self, cluster: str, namespace: str) -> None:
        """Delete a RayCluster with its Pods; returns when they are gone."""
        self._api.delete("RayCluster", namespace, cluster)
        for item in self._api.all("Pod", {"ray.io/cluster": cluster}):
            self._stop(item)
        for thread in self._stopping:
            thread.join()

    def _follow(self) -> None:
        while not self._is_over.is_set():
            for body in self._api.all("RayCluster"):
                try:
                    self._reconcile(body)
                except Exception as error:  # noqa: BLE001 - told to the test, which fails by it
                    self.problems.append(f"{body['metadata']['name']}: {error!r}")
                    self._is_over.set()
            self._look()
            with self._api.changed:
                self._api.changed.wait(0.3)

    def _reconcile(self, body: Mapping[str, Any]) -> None:
        document = Document(file="api", body=body)
        (cluster,) = Bundle(documents=[document]).clusters()
        made = {item.group.name: item for item in materialise.pods(cluster)}
        if f"{document.name}-head" not in self._running:
            self._start_pod(cluster, made["head"], f"{document.name}-head")
        for group in cluster.workers:
            doomed = (group.spec.get("scaleStrategy") or {}).get("workersToDelete") or []
            labels = {"ray.io/cluster": document.name, "ray.io/group": group.name}
            there = self._api.all("Pod", labels)
            left = []
            for item in there:
                name = item["metadata"]["name"]
                has_failed = name in self._running and not self._running[name].is_alive()
                if _is_going(item):
                    continue
                if has_failed and name not in doomed:
                    self.failed.append(name)
                if has_failed or name in doomed:
                    self._stop(item)
                else:
                    left.append(item)
            for _ in range(wanted(group) - len(left)):
                name = f"{document.name}-{group.name}-{randomness.token_hex(3)}"
                self._start_pod(cluster, made[group.name], name)

    def _start_pod(self, cluster: RaySpec, made: materialise.MadePod, name: str) -> None:
        container = made.body["spec"]["containers"][0]
        labels = made.body["metadata"]["labels"]
        fields = {
            "metadata.name": name,
            "metadata.labels['ray.io/group']": labels["ray.io/group"],
        }
        environment = {
            **self._environment,
            **pods.container_environment(container, fields, self._secrets),
        }
        address = self._network.address()
        if made.group.is_head:
            self._network.name({materialise.head_service(cluster): address})
        command = [*container["command"], *container["args"]]
        command, environment = self._adapt(command, environment, name)
        body = {**made.body, "metadata": {**made.body["metadata"], "name": name}}
        self._api.put({**body, "status": {"phase": "Pending", "podIP": address}})
        running = self._network.start(name, address, command, environment, self._cwd)
        self._running[name] = running
        self.started.append((time.monotonic(), name))
        if made.group.is_head and cluster.is_autoscaled:
            self._start_autoscaler(cluster, made, running, environment)

    def _start_autoscaler(
        self, cluster: RaySpec, made: materialise.MadePod, running: pods.RunningPod,
        environment: Mapping[str, str],
    ) -> None:  # fmt: skip
        container = made.body["spec"]["containers"][-1]
        assert container["name"] == "autoscaler"
        document = cluster.document
        folder = running.folder / "kubernetes"
        folder.mkdir()
        for path in self._api.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        found = {
            **environment,
            "RAY_CLUSTER_NAMESPACE": document.namespace,
            "RAY_HEAD_POD_NAME": running.name,
            **self._api.client_variables(Path("/tmp/kubernetes")),  # noqa: S108 - the Pod's own
        }
        text = " ".join(container["args"])
        for key in ("RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"):
            text = text.replace(f"$({key})", found[key])
        with (self._network.folder / f"{running.name}-autoscaler.log").open("wb") as log:
            subprocess.Popen(
                running.inside([*container["command"], text]), env=found, cwd=self._cwd,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _stop(self, body: dict[str, Any]) -> None:
        name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
        body["metadata"]["deletionTimestamp"] = "now"
        self._api.put(body)
        grace_s = float(body["spec"].get("terminationGracePeriodSeconds") or 30)

        def end() -> None:
            running = self._running[name]
            seconds = running.stop(grace_s)
            self._api.delete("Pod", namespace, name)
            self._running.pop(name)
            self.ended.append((time.monotonic(), name, seconds))

        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        self._stopping.append(thread)

    def _look(self) -> None:
        """Write each Pod's state, as a kubelet does."""
        for name, running in list(self._running.items()):
            for item in self._api.all("Pod"):
                if item["metadata"]["name"] != name or _is_going(item):
                    continue
                state = "running" if running.is_alive() else "terminated"
                status = {
                    "phase": "Running" if state == "running" else "Failed",
                    "podIP": running.address,
                    "containerStatuses": [{"name": "ray", "state": {state: {}}}],
                }
                if item["status"] != status:
                    with contextlib.suppress(LookupError):
                        self._api.put({**item, "status": status})


def wanted(group: Group) -> int:
    """How many Pods a group shall have: its replicas within their bounds, times its hosts."""
    spec = group.spec
    if spec.get("suspend"):
        return 0
    least, most = int(spec.get("minReplicas") or 0), spec.get("maxReplicas")
    replicas = max(int(spec.get("replicas") or 0), least)
    if most is not None:
        replicas = min(replicas, int(most))
    return replicas * int(spec.get("numOfHosts") or 1)


class DashboardClient:
    """The calls that the operator makes to a head's dashboard, with its token."""

    def __init__(self, address: str, token: str | None) -> None:
        self.url = f"http://{address}:8265"
        self._token = token

    def put_applications(self, serve_config: str) -> None:
        """Send ``serveConfigV2`` as JSON, as ``PUT /api/serve/applications/``."""
        status, text = self.call("PUT", "/api/serve/applications/", yaml.safe_load(serve_config))
        if status != 200:
            raise OSError(f"PUT of the Serve config: {status} {text[:500]}")

    def applications(self) -> dict[str, str]:
        """Give each Serve application's status by name."""
        _, text = self.call("GET", "/api/serve/applications/?api_type=declarative")
        return {
            name: item["status"]
            for name, item in json.loads(text or "{}").get("applications", {}).items()
        }

    def job(self, submission_id: str) -> dict[str, Any]:
        """Give what the dashboard knows of a job."""
        found: dict[str, Any] = json.loads(self.call("GET", f"/api/jobs/{submission_id}")[1])
        return found

    def job_log(self, submission_id: str) -> str:
        """Give a job's output so far."""
        return str(json.loads(self.call("GET", f"/api/jobs/{submission_id}/logs")[1])["logs"])

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Make a call; 0 where nobody answers."""
        request = urllib.request.Request(  # noqa: S310 - http to a Pod
            self.url + path, method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._token}"} if self._token else {}),
        )  # fmt: skip
        try:
            with _OPENER.open(request, timeout=300) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError:
            return 0, ""


def _is_going(body: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in body["metadata"]
