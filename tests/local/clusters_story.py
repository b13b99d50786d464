"""The rendered service and a rendered job on Pods of this machine; prints one JSON line.

A fake Kubernetes API and the part of the operator that Ray meets; heads, workers, autoscalers,
Serve, gateway, job, MLflow, PostgreSQL and Redis are the real programs, each in a network of its own.
Usage, inside `pods.isolated`: ``python -m tests.local.clusters_story FOLDER``
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cluster_configs import recipes
from heliostat.access.keys import KeyFile
from heliostat.clusters import pods as pod_templates
from heliostat.clusters import render
from heliostat.clusters.recipe import CpuGroup, GpuGroup, Size
from heliostat.features.redis_client import RedisAddress, RedisConnection
from heliostat.stack import ingress
from heliostat.store.address import state_url as address_of_state
from heliostat.store.events import EventLog
from heliostat.testing.kuberay import DashboardClient, FakeOperator
from heliostat.testing.kubernetes import FakeKubernetes
from heliostat.testing.pods import NODE_IP, PodNetwork, RunningPod
from tests.conftest import ROOT
from tests.local import clusters_servers as servers

TOKEN = "t" * 64
IDLE_S = 8
JOB = "python jobs/deploy.py --recipe jobs.flights:small"
MODEL = "flight-delay"
NEEDS_GPUS = """
import ray, time
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_gpus=1, num_cpus=0)
def where():
    time.sleep(3)
    return ray.get_runtime_context().get_node_labels().get("ray.io/market-type")
print("ran on", sorted(ray.get([where.remote() for _ in range(2)])))
"""


class Story:
    """One platform on one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.began = time.monotonic()
        self.seen: dict[str, Any] = {"seconds": {}}
        self.request: dict[str, Any] = {}
        self.started_servers: list[RunningPod] = []
        for path in (self.home, self.home / "keys"):
            path.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.network = PodNetwork(folder / "pods", [ROOT, self.home, Path(sys.prefix)])
        self.api = FakeKubernetes(NODE_IP, 6443, folder / "kubernetes")
        control = KeyFile(self.home / "keys" / "control", time.time)
        self.control_key, _ = control.create("jobs", role="admin")
        self.client_key, _ = KeyFile(self.home / "keys", time.time).create("client", role="predict")
        # Nodes as small as this machine, and no cert-manager.
        self.recipe = dataclasses.replace(
            recipes.eks().cluster, mutual_tls=False,
            cpu=CpuGroup(size=Size(cpus=4, memory_gib=4), max_workers=1),
            gpus=(
                GpuGroup(
                    accelerator="l4", size=Size(cpus=1, memory_gib=2), max_workers=2,
                    cpus_for_ray=0,
                ),
            ),
        )  # fmt: skip
        platform = render.Platform(
            cluster=self.recipe, jobs=(("first", render.JobLine(entrypoint=JOB)),)
        )
        self.files = render.render(self.recipe, ROOT, dict(platform.jobs))
        self.operator = FakeOperator(
            self.api, self.network, cwd=ROOT, secrets=self.secrets(),
            environment=servers.image_environment(), adapt=self.adapt,
        )  # fmt: skip

    def secrets(self) -> dict[str, str]:
        """Values of Secrets, by name and key."""
        name = self.recipe.name
        return {
            f"{name}-ray-token/auth_token": TOKEN,
            f"{name}-online-store/password": servers.REDIS_PASSWORD,
            f"{name}-redis-online/password": servers.REDIS_PASSWORD,
            f"{name}-control-key/api_key": self.control_key,
            f"{name}-postgres/password": servers.DATABASE_PASSWORD,
        }

    def adapt(
        self, command: list[str], environment: dict[str, str], name: str
    ) -> tuple[list[str], dict[str, str]]:
        """Change what names the image's and the volumes' paths, and the size of a real node."""
        *start, script = command
        script = script.replace(
            f"={pod_templates.SPILL_PATH}", "=/tmp/spill --object-store-memory=209715200"
        )
        proxy = self.network.folder / name / "haproxy-bin"
        for path in (proxy, self.network.folder / name / "spill"):
            path.mkdir(parents=True, exist_ok=True)
        executable = ingress.write_executable(proxy, ingress.find_haproxy())
        changed = {
            "HELIOSTAT_HOME": str(self.home),
            "RAY_SERVE_HAPROXY_BINARY_PATH": f"/tmp/haproxy-bin/{executable.name}",
        }
        return [*start, script], {**environment, **changed}

    def timed(self, name: str, condition: Callable[[], Any], limit_s: float) -> Any:
        """Wait until something holds; its seconds go into the answer."""
        began = time.monotonic()
        while not (found := condition()):
            if self.operator.problems:
                raise RuntimeError("; ".join(self.operator.problems))
            for server in self.started_servers:
                if not server.is_alive():
                    raise RuntimeError(f"{server.name} ended")
            if time.monotonic() - began > limit_s:
                raise TimeoutError(name)
            time.sleep(0.25)
        self.seen["seconds"][name] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{time.monotonic() - self.began:7.1f} s  {name}\n")
        return found

    def objects(self, path: str) -> dict[str, dict[str, Any]]:
        """Rendered objects of a file, by kind."""
        return {item["kind"]: item for item in yaml.safe_load_all(self.files[path])}

    def cluster(self, name: str, spec: dict[str, Any]) -> None:
        """Make a RayCluster as the operator does for a service or a job; idle workers go sooner."""
        for group in spec["workerGroupSpecs"]:
            group["idleTimeoutSeconds"] = IDLE_S
        metadata = {"name": name, "namespace": self.recipe.namespace}
        self.api.put(
            {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}
        )
        self.timed(
            f"{name}: head answers",
            lambda: (
                self.dashboard(name) is not None
                and self.dashboard(name).call("GET", "/api/serve/applications/")[0] == 200
            ),
            240,
        )

    def dashboard(self, cluster: str, token: str | None = TOKEN) -> DashboardClient | None:
        """The head's dashboard, once there is a head."""
        try:
            return DashboardClient(self.operator.head(cluster).address, token)
        except KeyError:
            return None

    def servers(self) -> RunningPod:
        """Start what the platform's namespace holds; returns MLflow's Pod, which takes a while."""
        suffix = f"{self.recipe.platform_namespace}.svc.cluster.local"
        container = self.container("platform/redis.yaml", "StatefulSet", "redis-online")
        secrets = self.secrets()
        found = [
            servers.redis(self.network, f"redis-online.{suffix}", container, secrets),
            servers.database(self.network, pod_templates.database_host(self.recipe)),
        ]
        self.started_servers += found
        for pod, port in zip(found, (6379, 5432), strict=True):
            self.timed(f"{pod.name} answers", partial(servers.listens, pod.address, port), 60)
        container = self.container("platform/mlflow.yaml", "Deployment", "mlflow")
        mlflow = servers.mlflow(
            self.network, f"mlflow.{suffix}", container, secrets, self.home / "artifacts"
        )
        self.started_servers.append(mlflow)
        return mlflow

    def container(self, path: str, kind: str, name: str) -> dict[str, Any]:
        """First container of a rendered workload."""
        (body,) = [
            item for item in yaml.safe_load_all(self.files[path])
            if (item["kind"], item["metadata"]["name"]) == (kind, name)
        ]  # fmt: skip
        found: dict[str, Any] = body["spec"]["template"]["spec"]["containers"][0]
        return found

    def kept(self) -> dict[str, Any]:
        """What PostgreSQL holds of the deployment, and Redis of features."""
        host = pod_templates.database_host(self.recipe)
        url = address_of_state(
            {
                "HELIOSTAT_STATE_URL": (
                    f"postgresql+psycopg://heliostat@{self.addresses(host)}:5432/heliostat"
                ),
                "HELIOSTAT_STATE_PASSWORD": servers.DATABASE_PASSWORD,
            }
        )
        log = EventLog(str(url))
        found = {
            "events": [event.kind for event in log.read(f"model/{MODEL}")],
            "has_a_file": (self.home / "state.db").exists(),
        }
        log.close()
        (size,) = RedisConnection(
            RedisAddress(host=self.addresses("redis-online"), password=servers.REDIS_PASSWORD),
            timeout_s=5.0,
        ).call([(b"DBSIZE",)])
        return {**found, "online_records": size}

    def addresses(self, name: str) -> str:
        """Where a Pod is."""
        return self.network.addresses[name]

    def doors(self, cluster: str) -> dict[str, int]:
        """Ask a head with no token, with a wrong one, and with the right one."""
        found = {}
        for who, token in (("none", None), ("wrong", "w" * 64), ("right", TOKEN)):
            client = self.dashboard(cluster, token)
            found[f"read {who}"] = client.call("GET", "/api/serve/applications/")[0]
            found[f"start a job {who}"] = client.call("POST", "/api/jobs/", {"entrypoint": "true"})[
                0
            ]
        return found

    def submit(self, cluster: str, submission_id: str, entrypoint: list[str]) -> None:
        """What the submitter's container of a RayJob runs."""
        client = self.dashboard(cluster)
        environment = {
            **servers.image_environment(),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
        }
        subprocess.run(
            ["ray", "job", "submit", "--address", client.url, "--no-wait",
             "--submission-id", submission_id, "--", *entrypoint],
            env=environment, cwd=ROOT, check=True, stdout=sys.stderr,
        )  # fmt: skip

    def run_job(self, cluster: str, submission_id: str, entrypoint: list[str]) -> str:
        """Submit, wait for the end, and give the output; fails as the job does."""
        self.submit(cluster, submission_id, entrypoint)
        client = self.dashboard(cluster)
        ended = ("SUCCEEDED", "FAILED", "STOPPED")
        self.timed(
            f"job {submission_id}", lambda: client.job(submission_id)["status"] in ended, 600
        )
        log = client.job_log(submission_id)
        status = client.job(submission_id)["status"]
        if status != "SUCCEEDED":
            raise RuntimeError(f"{submission_id}: {status}: {log[-3000:]}")
        return log

    def most(self, cluster: str, group: str) -> int:
        """The most replicas that the autoscaler asked a group to have."""
        body = self.api.get("RayCluster", self.recipe.namespace, cluster)
        groups = [item["groupName"] for item in body["spec"]["workerGroupSpecs"]]
        path = f"/spec/workerGroupSpecs/{groups.index(group)}/replicas"
        return max(
            (step["value"] for name, patch in self.api.patches for step in patch
             if name == cluster and step["path"] == path),
            default=0,
        )  # fmt: skip

    def predict(self, key: str | None) -> tuple[int, Any]:
        """Ask the gateway through a serving Pod that is ready, as Kubernetes' Service would."""
        url = f"http://{self.ready_pods()[0].address}:8000/v2/models/{MODEL}/infer"
        found = servers.post(url, self.request["body"], key, {"x-heliostat-at": self.request["at"]})
        if found[0] != 200:
            sys.stderr.write(f"{found}\n")
        return found

    def ready_pods(self) -> list[RunningPod]:
        """Serving Pods that pass the probe which KubeRay gives workers of a service."""
        pods = self.operator.workers("heliostat-serve-a", "cpu")
        return [pod for pod in pods if servers.status(pod.address, 8000, "/-/healthz") == 200]


def tell(story: Story) -> dict[str, Any]:
    """Service, doors, job with scale-up, prediction, GPUs spot first, idle workers gone."""
    seen = story.seen
    mlflow = story.servers()
    service = story.objects("ray/service.yaml")["RayService"]["spec"]
    story.cluster("heliostat-serve-a", service["rayClusterConfig"])
    seen["doors"] = story.doors("heliostat-serve-a")
    dashboard = story.dashboard("heliostat-serve-a")
    seen["serve_config_is_the_local_file"] = (
        service["serveConfigV2"] == (ROOT / "serve_apps" / "cluster.yaml").read_text()
    )
    story.timed(
        "mlflow answers", lambda: servers.status(mlflow.address, 5000, "/health") == 200, 400
    )
    dashboard.put_applications(service["serveConfigV2"])
    story.timed(
        "applications run",
        lambda: dashboard.applications() == {"gateway": "RUNNING", "control": "RUNNING"}, 300,
    )  # fmt: skip
    seen["applications"] = dashboard.applications()
    story.timed("serving Pods are ready", lambda: len(story.ready_pods()) == 2, 240)
    host = f"heliostat-serve-serve-svc.{story.recipe.namespace}.svc.cluster.local"
    story.network.name({host: story.ready_pods()[0].address})

    job = story.objects("jobs/first.yaml")["RayJob"]["spec"]
    story.cluster("heliostat-first-b", job["rayClusterSpec"])
    seen["job_workers_before"] = len(story.operator.workers("heliostat-first-b"))
    log = story.run_job("heliostat-first-b", "first", job["entrypoint"].split())
    seen["job_log_end"] = log.strip().splitlines()[-1]
    seen["job_workers_asked"] = story.most("heliostat-first-b", "cpu")
    seen["kept_in_servers"] = story.kept()
    story.request = request(story.home)
    # A read of features has 40 ms, which a machine as busy as this one may miss at first.
    story.timed("first answer", lambda: story.predict(story.client_key)[0] == 200, 240)
    status, answer = story.predict(story.client_key)
    seen["prediction"] = {
        "status": status, "version": answer["model_version"],
        "value": answer["outputs"][0]["data"][0],
    }  # fmt: skip
    seen["prediction_without_key"] = story.predict(None)[0]

    log = story.run_job("heliostat-first-b", "gpus", [sys.executable, "-c", NEEDS_GPUS])
    seen["gpu_tasks"] = [line for line in log.splitlines() if line.startswith("ran on")]
    seen["gpu_asked"] = {
        group: story.most("heliostat-first-b", group) for group in ("gpu-spot", "gpu")
    }
    story.timed(
        "idle workers are gone", lambda: not story.operator.workers("heliostat-first-b"), 120
    )
    seen["ended_after_sigterm_s"] = [round(item[2], 1) for item in story.operator.ended]
    seen["serving_workers_at_the_end"] = len(story.operator.workers("heliostat-serve-a"))
    seen["prediction_at_the_end"] = story.predict(story.client_key)[0]
    seen["api"] = {
        "calls": len(story.api.calls),
        "refused": sorted({call for call in story.api.calls if call[2] >= 400}),
        "patches": len(story.api.patches),
    }
    seen["pods_started"] = len(story.operator.started)
    # Where the machine is busy with other things, a Ray node may not start in Ray's 30 s.
    seen["pods_failed"] = len(story.operator.failed)
    seen["whole_s"] = round(time.monotonic() - story.began, 1)
    return seen


def request(home: Path) -> dict[str, Any]:
    """A request by entity keys and its moment: the first row of the replay's period."""
    from heliostat.data.tables import Catalog
    from heliostat.pipeline import canary
    from jobs.flights import recipes as flights

    recipe = flights.small()
    rows = Catalog(home / "tables" / recipe.model).read(recipe.examples.table)
    (example, *_) = canary.examples(
        recipe, rows.filter(rows[recipe.examples.time] >= recipe.replay.period.start_at)
    )
    inputs = [
        {"name": key, "shape": [1], "data": [value],
         "datatype": "INT64" if isinstance(value, int) else "BYTES"}
        for key, value in example.values.items()
    ]  # fmt: skip
    return {"body": {"inputs": inputs}, "at": example.at.isoformat()}


def main() -> None:
    """Tell the story; the Pods end with this process's namespaces."""
    story = Story(Path(sys.argv[1]))
    try:
        print(json.dumps(tell(story)), flush=True)
    except BaseException:
        sys.stderr.write(json.dumps(story.seen) + "\n")
        raise


if __name__ == "__main__":
    main()
