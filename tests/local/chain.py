"""The whole chain for tests: a private Ray with Serve, its HAProxy ingress and a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from heliostat.registry.package import ModelInput
from heliostat.rollout.policy import ModelPolicy, Policy, Variant
from tests.local import serving_story

MODEL = "shapes"
MARK = "HELIOSTAT_TEST_CHAIN"
INPUTS = (
    ModelInput(name="size", kind="numeric"),
    ModelInput(name="colour", kind="categorical", vocabulary=("red", "blue")),
)


class Chain:
    """Start it as a context in a process of its own: Serve's flags must come before Ray."""

    def __init__(self, folder: Path, ports: list[int], **args: Any) -> None:
        """Name folder and ports.

        Args:
            args: Settings of the gateway.
        """
        self.folder = folder
        self.home = folder / "home"
        self.port = ports[0]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.endpoint}/v2/models/{MODEL}/infer"
        self.args = {"home": str(self.home), "endpoint": self.endpoint, **args}
        self.epoch = 0
        self.policies: dict[int, ModelPolicy] = {}
        self._ports = ports
        self.inputs = INPUTS
        self.beside: list[dict[str, Any]] = []
        """Applications that are declared beside the gateway."""

    def __enter__(self) -> Self:
        os.environ.update(serving_story.environment(self.folder, self._ports))
        os.environ[MARK] = str(self.folder)
        (self.home / "keys").mkdir(parents=True, mode=0o700, exist_ok=True)
        import ray
        from ray import serve

        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=128 << 20, _temp_dir=str(self.folder / "ray"),
        )  # fmt: skip
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": self.port})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
        ray.shutdown()
        serving_story.stop_ingress(self.folder)

    def put(self, *, gateways: int = 1, more: list[dict[str, Any]] | None = None) -> None:
        """Hand Serve its whole configuration, as an operator does with a PUT.

        Args:
            gateways: Replicas.
            more: Applications beside the gateway; those of the last time without it.
        """
        from ray.serve import context
        from ray.serve.schema import ServeDeploySchema

        self.beside = self.beside if more is None else more
        config = {
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "applications": [
                {
                    "name": "gateway",
                    "route_prefix": "/",
                    "import_path": "serve_apps.gateway:build",
                    "args": self.args,
                    "deployments": [{"name": "gateway", "num_replicas": gateways}],
                },
                *self.beside,
            ],
        }
        client = context._get_global_client()
        client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=False)

    def serve(self) -> Variant:
        """Deploy one gateway and wait until it answers with version 1 as stable, which it returns."""
        self.put()
        self.wait(lambda: self.ask("/v2/health/live")[0] == 200)
        stable = self.stable("1")
        self.publish(stable)
        self.wait(self.is_ready)
        return stable

    def package(self, version: str, **options: Any) -> tuple[str, str]:
        """Write and sign a version; return its path and digest."""
        from heliostat.registry import signing
        from heliostat.testing import packages

        model = options.pop("model", MODEL)
        path = self.home / "packages" / f"{model}-{version}"
        packages.write_package(
            path,
            **{
                "model": model, "inputs": self.inputs, "bias": float(version),
                "keys_dir": self.home / "keys", **options,
            },
        )  # fmt: skip
        return str(path), signing.verify(path, self.home / "keys")

    def stable(self, version: str, **options: Any) -> Variant:
        """A version that answers in the gateway."""
        path, digest = self.package(version, **options)
        return Variant(
            version=version, role="stable", placement="in_process",
            package_path=path, package_digest=digest,
        )  # fmt: skip

    def candidate(self, version: str) -> Variant:
        """A version in an app of its own, started."""
        from heliostat.serving import deployments

        path, digest = self.package(version)
        url = deployments.start_variant(
            MODEL, version, path, digest, self.home, endpoint=self.endpoint
        )
        return Variant(
            version=version, role="candidate", placement="isolated",
            package_path=path, package_digest=digest, url=url,
        )  # fmt: skip

    def publish(self, *variants: Variant, share: float = 0.0, **more: Any) -> float:
        """Publish the next epoch and wait until all gateways obey; return the seconds it took."""
        from heliostat.serving import deployments
        from heliostat.stats.slots import assign

        self.epoch += 1
        shares = [1.0] if len(variants) == 1 else [1 - share, share]
        model = ModelPolicy(
            model=MODEL,
            variants=variants,
            slots=assign(None, shares, salt=MODEL),
            **{"deadline_s": 5.0, **more},
        )
        self.policies[self.epoch] = model
        began = time.perf_counter()
        policy = Policy(epoch=self.epoch, models={MODEL: model})
        assert deployments.publish(policy, wait_s=60.0)
        return time.perf_counter() - began

    def pids(self, *kinds: str) -> list[int]:
        """Processes of this chain whose title begins with one of these; all without any."""
        mark = f"{MARK}={self.folder}".encode()
        found = []
        for number, words, _ in serving_story.processes():
            if number == os.getpid() or (kinds and not words[0].startswith(kinds)):
                continue
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
                    found.append(number)
        return found

    def gateways(self) -> list[int]:
        """Gateway replicas."""
        return self.pids("ray::ServeReplica:gateway")

    def variants(self) -> list[int]:
        """Replicas of isolated versions."""
        return self.pids("ray::ServeReplica:variant")

    def cpu_s(self, *kinds: str) -> float:
        """Processor seconds that processes of these kinds have used so far."""
        pids = set(self.pids(*kinds))
        return sum(used for number, _, used in serving_story.processes() if number in pids)

    def num_routed(self) -> int:
        """Gateway replicas that the ingress sends requests to, by its statistics."""
        return sum(
            row["type"] == "2"
            and row["status"].startswith("UP")
            and "gateway" in row["pxname"]
            and row["act"] == "1"  # not Serve's own proxy, which stands by
            for row in self.ingress()
        )

    def ingress(self) -> list[dict[str, str]]:
        """HAProxy's own statistics, one row per frontend, backend and server."""
        url = f"http://127.0.0.1:{self._ports[3]}/stats;csv"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=2.0) as answer:
                lines = answer.read().decode().lstrip("# ").splitlines()
        except OSError:
            return []
        names = lines[0].split(",")
        return [dict(zip(names, line.split(","), strict=False)) for line in lines[1:]]

    def wait(self, holds: Callable[[], bool], *, timeout_s: float = 60.0) -> float:
        """Wait until something holds; return the seconds."""
        began = time.perf_counter()
        while not holds():
            assert time.perf_counter() - began < timeout_s, "it did not come to hold"
            time.sleep(0.05)
        return time.perf_counter() - began

    def is_ready(self) -> bool:
        """Whether a gateway says through the ingress that it is ready."""
        return self.ask("/v2/health/ready")[0] == 200

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """One request through the ingress; status and JSON, status 0 without an answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(
            self.endpoint + path, data=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )  # fmt: skip
        try:
            with opener.open(request, timeout=10.0) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None

    def exposures(self) -> Iterator[dict[str, Any]]:
        """Every record that gateways have written."""
        for path in sorted((self.home / "spool" / "exposures").glob("*.jsonl")):
            for line in path.open():
                yield json.loads(line)

    def exposed_ids(self, tag: str) -> list[str]:
        """Ids of the records whose id begins with this; the others are not kept in memory."""
        folder = self.home / "spool" / "exposures"
        return [
            found
            for path in sorted(folder.glob("*.jsonl"))
            for line in path.open()
            if tag in line and (found := json.loads(line)["request_id"]).startswith(tag)
        ]

    def misassigned(self, entries: list[Any]) -> int:
        """Answers that did not come from the owner of their slot under the epoch they name."""
        from heliostat.stats.slots import slot

        wrong = 0
        for entry in entries:
            if entry.status != 200 or entry.is_fallback:
                continue
            policy = self.policies[entry.epoch]
            owner = policy.variants[policy.slots[slot(f"u{entry.number}", MODEL)]].version
            wrong += owner != entry.version
        return wrong


async def in_thread(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Do blocking work while the load goes on."""
    return await asyncio.to_thread(work, *args, **options)
