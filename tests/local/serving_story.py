"""Runs a rollout under load on a real Ray Serve with its HAProxy ingress; prints one JSON line.

A program of its own, since Serve's flags must be in the environment before Ray is imported.
Usage: ``python -m tests.local.serving_story FOLDER PORTS RATE SECONDS_PER_STEP``
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heliostat.rollout.policy import ModelPolicy, Policy, Variant

MODEL = "shapes"


def environment(folder: Path, ports: list[int]) -> dict[str, str]:
    """Flags of Serve's HAProxy mode with private files and ports."""
    from heliostat.stack import ingress
    from heliostat.stack.settings import Ports

    serve, fallback, metrics, stats = ports
    chosen = Ports(
        serve=serve, serve_fallback=fallback, ingress_metrics=metrics, ingress_stats=stats
    )
    executable = ingress.write_executable(folder, ingress.find_haproxy())
    return ingress.variables(chosen, folder, executable)


def write(home: Path, version: str, **options: Any) -> tuple[str, str]:
    """Write and sign a version; return its path and digest."""
    from heliostat.registry import signing
    from heliostat.registry.package import ModelInput
    from heliostat.testing import packages

    path = home / "packages" / version
    inputs = [ModelInput(name=f"n{i}", kind="numeric") for i in range(12)]
    inputs += [
        ModelInput(name=f"c{i}", kind="categorical", vocabulary=("a", "b")) for i in range(4)
    ]
    packages.write_package(
        path, model=MODEL, inputs=inputs, bias=float(version), keys_dir=home / "keys", **options
    )
    return str(path), signing.verify(path, home / "keys")


def body() -> bytes:
    """One row for the model."""
    tensors = [
        {"name": f"n{i}", "shape": [1], "datatype": "FP64", "data": [random.random()]}
        for i in range(12)
    ]
    tensors += [
        {"name": f"c{i}", "shape": [1], "datatype": "BYTES", "data": ["a"]} for i in range(4)
    ]
    return json.dumps({"inputs": tensors}).encode()


class Load:
    """An open-loop client: fixed rate, intended send times, no retry."""

    def __init__(self, url: str, rate: float) -> None:
        self.url = url
        self.rate = rate
        self.answers: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []
        self.num_sent = 0
        self.phase = "start"
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        """Send until stopped, then wait for what is under way."""
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        timeout = aiohttp.ClientTimeout(total=10.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            tasks = set()
            began = time.perf_counter()
            while not self.stopped.is_set():
                due = began + self.num_sent / self.rate
                now = time.perf_counter()
                if due > now:
                    await asyncio.sleep(due - now)
                task = asyncio.create_task(self._one(session, self.num_sent, max(due, began)))
                self.num_sent += 1
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _one(self, session: Any, number: int, due: float) -> None:
        unit, request_id, phase = f"u{number}", f"r{number}", self.phase
        headers = {
            "content-type": "application/json",
            "x-heliostat-unit": unit,
            "x-heliostat-request-id": request_id,
        }
        try:
            async with session.post(self.url, data=body(), headers=headers) as response:
                text = await response.read()
                if response.status != 200:
                    self.failed.append(f"{phase} {response.status} {text[:200]!r}")
                    return
                self.answers[request_id] = {
                    "unit": unit,
                    "version": response.headers["x-heliostat-version"],
                    "epoch": int(response.headers["x-heliostat-epoch"]),
                    "fallback": response.headers["x-heliostat-fallback"] == "1",
                    "phase": phase,
                    "ms": (time.perf_counter() - due) * 1000,
                }
        except Exception as error:  # noqa: BLE001 - every kind of failure is counted
            self.failed.append(f"{phase} {type(error).__name__}: {error}")


async def collect_evidence(reports: list[Any]) -> tuple[Any, str]:
    """Stand in for the controller: take evidence."""
    from aiohttp import web

    async def take(request: Any) -> Any:
        reports.extend(await request.json())
        return web.json_response({})

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/evidence", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    return runner, f"http://127.0.0.1:{port}"


async def story(folder: Path, port: int, rate: float, step_s: float) -> dict[str, Any]:
    """Deploy version 1, roll version 2 out under load, promote it, stop its application."""
    from ray import serve

    from heliostat.serving import deployments
    from heliostat.stats.slots import assign, slot

    home = folder / "home"
    (home / "keys").mkdir(parents=True, mode=0o700)
    (path_1, digest_1), (path_2, digest_2) = write(home, "1"), write(home, "2")
    reports: list[Any] = []
    runner, evidence_url = await collect_evidence(reports)
    endpoint = f"http://127.0.0.1:{port}"

    def stable(version: str, path: str, digest: str) -> Variant:
        return Variant(
            version=version, role="stable", placement="in_process",
            package_path=path, package_digest=digest,
        )  # fmt: skip

    policies: dict[int, ModelPolicy] = {}
    timings: dict[str, float] = {}

    async def publish(epoch: int, *variants: Variant, share: float = 0.0, **more: Any) -> None:
        shares = [1.0] if len(variants) == 1 else [1 - share, share]
        policies[epoch] = ModelPolicy(
            model=MODEL,
            variants=variants,
            slots=assign(None, shares, salt=MODEL),
            deadline_s=5.0,
            **more,
        )
        policy = Policy(epoch=epoch, models={MODEL: policies[epoch]})
        began = time.perf_counter()
        assert await asyncio.to_thread(deployments.publish, policy, wait_s=30.0)
        timings[f"epoch {epoch} obeyed after s"] = round(time.perf_counter() - began, 3)

    from serve_apps.gateway import build

    began = time.perf_counter()
    args = {"home": str(home), "endpoint": evidence_url}
    await asyncio.to_thread(serve.run, build(args), name="gateway", route_prefix="/")
    timings["gateway up after s"] = round(time.perf_counter() - began, 1)
    one, two = stable("1", path_1, digest_1), stable("2", path_2, digest_2)
    await publish(1, one)
    load = Load(f"{endpoint}/v2/models/{MODEL}/infer", rate)
    sending = asyncio.create_task(load.run())
    load.phase = "stable"
    before, sent_before = cpu_s(), load.num_sent
    await asyncio.sleep(step_s)
    after, sent = cpu_s(), load.num_sent - sent_before
    cpu_ms = {kind: round((after[kind] - before[kind]) * 1000 / sent, 3) for kind in after}
    load.phase = "variant starts"
    began = time.perf_counter()
    url = await asyncio.to_thread(
        deployments.start_variant, MODEL, "2", path_2, digest_2, home, endpoint=endpoint
    )
    timings["variant up after s"] = round(time.perf_counter() - began, 1)
    began = time.perf_counter()
    await asyncio.to_thread(
        deployments.start_variant, MODEL, "2", path_2, digest_2, home, endpoint=endpoint
    )
    unsealed = await forbidden(url)
    timings["variant started again after s"] = round(time.perf_counter() - began, 2)
    candidate = Variant(
        version="2", role="candidate", placement="isolated",
        package_path=path_2, package_digest=digest_2, url=url,
    )  # fmt: skip
    for epoch, share in enumerate((0.05, 0.5, 1.0), start=2):
        load.phase = f"{share:.0%} paired"
        await publish(epoch, one, candidate, share=share, rollout_id="ro", paired=True)
        await asyncio.sleep(step_s)
    load.phase = "promoted"
    await publish(5, two)
    await asyncio.sleep(1.0)
    load.phase = "variant stops"
    await asyncio.to_thread(deployments.stop_variant, MODEL, "2")
    await asyncio.sleep(step_s)
    load.stopped.set()
    await sending
    await asyncio.sleep(2.5)
    await runner.cleanup()

    spool = home / "spool" / "exposures"
    exposures = [json.loads(line) for f in spool.glob("*.jsonl") for line in f.open()]
    misassigned = 0
    for answer in load.answers.values():
        policy = policies[answer["epoch"]]
        owner = policy.variants[policy.slots[slot(answer["unit"], MODEL)]].version
        misassigned += not answer["fallback"] and owner != answer["version"]
    by_phase = collections.defaultdict(list)
    for answer in load.answers.values():
        by_phase[answer["phase"]].append(answer["ms"])
    pairs = [pair for report in reports for pair in report["pairs"]]
    return {
        "sent": load.num_sent,
        "answered": len(load.answers),
        "failed": len(load.failed),
        "failures": load.failed[:5],
        "fallbacks": sum(answer["fallback"] for answer in load.answers.values()),
        "misassigned": misassigned,
        "exposed": len(exposures),
        "exposed_ids": len({e["request_id"] for e in exposures} & load.answers.keys()),
        "counted": sum(c["requests"] for r in reports for c in r["counts"]),
        "paired": len(pairs),
        "pairs_wanted": sum(policies[a["epoch"]].paired for a in load.answers.values()),
        "versions": dict(collections.Counter(a["version"] for a in load.answers.values())),
        "unsealed": unsealed,
        "timings": timings,
        "cpu_ms_per_request": cpu_ms,
        "load": os.getloadavg()[0],
        "latency_ms": {
            phase: {
                "n": len(values),
                **{f"p{q}": round(sorted(values)[int(len(values) * q / 100)], 2) for q in (50, 95, 99)},
            }
            for phase, values in by_phase.items()
        },
    }  # fmt: skip


def processes() -> Iterator[tuple[int, list[str], float]]:
    """Every process: its id, its words, and the processor seconds it has used."""
    ticks = os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue
        yield int(folder.name), words, (int(fields[11]) + int(fields[12])) / ticks


def cpu_s() -> dict[str, float]:
    """Processor seconds used so far by the gateway's replica and by this client."""
    gateway = sum(
        used_s for _, words, used_s in processes() if words[0].startswith("ray::ServeReplica:gateway")
    )  # fmt: skip
    return {"gateway": gateway, "client": time.process_time()}


async def forbidden(url: str) -> int:
    """Ask a variant as a client would; return the status."""
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/infer", data=b"{}") as reply,
    ):
        return reply.status


def stop_ingress(folder: Path) -> None:
    """Ray leaves HAProxy behind; end the one whose configuration lies in our folder."""
    for number, words, _ in processes():
        if "haproxy" in words[0] and any(word.startswith(str(folder)) for word in words):
            os.kill(number, signal.SIGKILL)


def main() -> None:
    """Run the story with a private Ray."""
    folder, ports = Path(sys.argv[1]), [int(port) for port in sys.argv[2].split(",")]
    os.environ.update(environment(folder, ports))
    import ray
    from ray import serve

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=128 << 20, _temp_dir=str(folder / "ray"),
    )  # fmt: skip
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": ports[0]})
        result = asyncio.run(story(folder, ports[0], float(sys.argv[3]), float(sys.argv[4])))
        print(json.dumps(result), flush=True)
    finally:
        # Serve's own shutdown waits half a minute for replicas to drain; nobody is left here.
        ray.shutdown()
        stop_ingress(folder)


if __name__ == "__main__":
    main()
