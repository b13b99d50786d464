"""The parts of `tests.bench.serving_long`: each takes a chain, returns its figures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any

from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Policy
from tests.bench.fault_runs import capacity
from tests.local.chain import MODEL, Chain, in_thread
from tests.local.load import OpenLoop
from tests.unit.serving import bad_input

WORK = 24
"""Products of matrices that make one prediction take milliseconds."""


async def policies(chain: Chain, *, small: bool) -> dict[str, Any]:
    """Change the split again and again under load; each answer must name a right owner."""
    from heliostat.serving import deployments

    changes = 20 if small else 1_000
    stable = await in_thread(chain.stable, "1")
    candidate = await in_thread(chain.candidate, "2")
    await in_thread(lambda: chain.publish(stable, candidate, share=0.5, rollout_id="p"))
    rate = 40.0 if small else round(await capacity(chain) / 2)
    load = OpenLoop(chain.url, bad_input.GOOD, rate=rate)
    sending = asyncio.create_task(load.run())
    obeyed, ended = [], []
    for number in range(changes):
        share = 0.0 if number % 2 else random.choice((0.05, 0.25, 0.5, 1.0))
        began = time.perf_counter()
        epoch = await in_thread(_publish, chain, (stable, candidate), share)
        await in_thread(_wait_obeyed, epoch)
        obeyed.append(time.perf_counter() - began)
        if share == 0.0:
            ended.append((began, epoch))
        await asyncio.sleep(0.05)
    load.stop()
    ledger = await sending
    last = [
        max([e.due - began for e in ledger.entries
             if e.version == "2" and began <= e.due < began + 5 and e.epoch < epoch], default=0.0)
        for began, epoch in ended
    ]  # fmt: skip
    await in_thread(deployments.stop_variant, MODEL, "2")
    return {
        **ledger.summary(),
        "changes": changes,
        "rate_per_s": rate,
        "misassigned": chain.misassigned(ledger.entries),
        "obeyed_s": _quantiles(obeyed),
        "last_candidate_request_s": _quantiles(last),
    }


def _wait_obeyed(epoch: int) -> None:
    from heliostat.serving import deployments

    ends = time.perf_counter() + 30.0
    while min(deployments.active_epochs().values(), default=-1) < epoch:
        assert time.perf_counter() < ends, "a policy was not obeyed"
        time.sleep(0.005)


def _publish(chain: Chain, variants: tuple[Any, ...], share: float) -> int:
    """Publish without waiting for anybody."""
    from heliostat.serving import deployments
    from heliostat.stats.slots import assign

    chain.epoch += 1
    model = ModelPolicy(
        model=MODEL, variants=variants, slots=assign(None, [1 - share, share], salt=MODEL),
        deadline_s=5.0, rollout_id="p",
    )  # fmt: skip
    chain.policies[chain.epoch] = model
    deployments.publish(Policy(epoch=chain.epoch, models={MODEL: model}))
    return chain.epoch


async def stream(chain: Chain, *, small: bool) -> dict[str, Any]:
    """Read one answer while variants are started and stopped; the ingress reloads each time.

    It takes 110 s, since ten starts take a minute, and as the ingress lets an answer take two.
    """
    import aiohttp

    from heliostat.serving import deployments

    starts, lines = (1, 24) if small else (10, 220)
    await in_thread(chain.wait, lambda: _streams(chain), timeout_s=120.0)
    seen: list[float] = []
    problem = ""

    async def read() -> None:
        nonlocal problem
        timeout = aiohttp.ClientTimeout(total=None, sock_read=20.0)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{chain.endpoint}/lines/{lines}") as answer,
            ):
                async for _ in answer.content:
                    seen.append(time.perf_counter())  # noqa: PERF401 - what came before a cut counts
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = repr(error)

    reading = asyncio.create_task(read())
    began = time.perf_counter()
    within = 0
    for number in range(starts):
        version = str(20 + number)
        await in_thread(chain.candidate, version)
        within += not reading.done()
        await in_thread(deployments.stop_variant, MODEL, version)
    await reading
    pauses = [after - before for before, after in itertools.pairwise(seen)]
    return {
        "lines": len(seen),
        "lines_expected": lines + 1,
        "problem": problem,
        "seconds": round(seen[-1] - began, 1) if seen else 0.0,
        "starts": starts,
        "starts_while_it_ran": within,
        "longest_pause_s": round(max(pauses, default=0), 2),
    }


def _streams(chain: Chain) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{chain.endpoint}/lines/0", timeout=5.0) as answer:
            return bool(answer.read() == b"end\n")
    except OSError:
        return False


async def shadow(chain: Chain, *, small: bool) -> dict[str, Any]:
    """Load at half of the capacity with and without pairing of every answer, in turn."""
    from heliostat.serving import deployments

    stable = await in_thread(chain.stable, "1")
    candidate = await in_thread(chain.candidate, "2")
    await in_thread(lambda: chain.publish(stable, candidate, share=0.0, rollout_id="s"))
    rate = 40.0 if small else round(await capacity(chain) / 2)
    rounds, seconds = (1, 4.0) if small else (6, 20.0)
    found: dict[str, list[float]] = {"without": [], "paired": []}
    failed = 0
    for number in range(rounds):
        for name in ("without", "paired") if number % 2 else ("paired", "without"):
            more = {"share": 0.0, "rollout_id": "s", "paired": name == "paired"}
            await in_thread(lambda more=more: chain.publish(stable, candidate, **more))
            load = OpenLoop(chain.url, bad_input.GOOD, rate=rate)
            summary = (await load.run(total=int(rate * seconds))).summary()
            found[name].append(summary["p99_ms"])
            failed += summary["failed"]
    await in_thread(lambda: chain.publish(stable))
    await in_thread(deployments.stop_variant, MODEL, "2")
    added = [one - other for one, other in zip(found["paired"], found["without"], strict=True)]
    return {
        "rate_per_s": rate, "rounds": rounds, "failed": failed, "p99_ms": found,
        "added_p99_ms": _quantiles(added, digits=2),
    }  # fmt: skip


async def models(chain: Chain, *, small: bool) -> dict[str, Any]:
    """Fifty models in one gateway beside one alone; then a budget that holds ten of them."""
    from heliostat.serving import deployments

    number, asked = (5, 100) if small else (50, 3_000)
    names = [MODEL, *(f"shapes-{index}" for index in range(1, number))]
    stable = await in_thread(chain.stable, "1")
    await in_thread(lambda: chain.publish(stable))
    rate = 20.0 if small else 100.0

    async def p50() -> tuple[float, int]:
        load = OpenLoop(chain.url, bad_input.GOOD, rate=rate)
        summary = (await load.run(total=asked)).summary()
        return summary["p50_ms"], summary["failed"]

    alone, failed = await p50()
    memory_before = _resident_mib(chain)
    variants = {
        name: await in_thread(lambda name=name: chain.stable("1", model=name)) for name in names
    }
    chain.epoch += 1
    policy = Policy(
        epoch=chain.epoch,
        models={
            name: ModelPolicy(model=name, variants=(variant,), slots=bytes(NUM_SLOTS))
            for name, variant in variants.items()
        },
    )
    chain.policies[chain.epoch] = policy.models[MODEL]
    began = time.perf_counter()
    await in_thread(lambda: deployments.publish(policy, wait_s=120.0))
    loaded_s = time.perf_counter() - began
    for name in names:
        status, _ = await in_thread(chain.ask, f"/v2/models/{name}/infer", bad_input.GOOD)
        failed += status != 200
    among, more = await p50()
    return {
        "models": number, "obeyed_after_s": round(loaded_s, 2),
        "resident_mib_per_gateway": {"one": memory_before, "all": _resident_mib(chain)},
        "p50_ms": {"alone": alone, "among_all": among}, "p50_ratio": round(among / alone, 3),
        "failed": failed + more, **await _evictions(chain, variants, small=small),
    }  # fmt: skip


async def _evictions(chain: Chain, variants: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Ask for all in turn where only some have room, within a gateway of this process."""
    from tests.unit.serving.conftest import Bench, ask

    room = 2 if small else 10
    bench = Bench(chain.folder / "evictions", settings={"model_memory_bytes": room << 20})
    shutil.copytree(chain.home / "keys", bench.root / "keys", dirs_exist_ok=True)
    gateway = bench.new_gateway("evictions")
    policy = Policy(
        epoch=1,
        models={
            name: ModelPolicy(model=name, variants=(variant,), slots=bytes(NUM_SLOTS))
            for name, variant in variants.items()
        },
    )
    await gateway.policies.activate(policy)
    statuses = []
    for _ in range(2 if small else 5):
        for name in variants:
            reply = await ask(gateway, f"/v2/models/{name}/infer", bad_input.GOOD)
            statuses.append(reply.status)
    residents = gateway.residents
    return {
        "evictions": residents.num_evictions, "loads": residents.num_loads,
        "asked_while_evicting": len(statuses),
        "failed_while_evicting": sum(status != 200 for status in statuses),
    }  # fmt: skip


async def overload(chain: Chain, *, small: bool) -> dict[str, Any]:
    """Three times what a model of some milliseconds can take; then the usual load again."""
    heavy = await in_thread(lambda: chain.stable("40", work=WORK))
    await in_thread(lambda: chain.publish(heavy))
    peak = await capacity(chain, seconds=2.0 if small else 6.0, start=10.0)
    seconds = 4.0 if small else 30.0

    async def phase(rate: float, length_s: float) -> tuple[dict[str, Any], Any]:
        load = OpenLoop(chain.url, bad_input.GOOD, rate=rate)
        ledger = await load.run(total=max(1, int(rate * length_s)))
        return ledger.summary(), ledger

    at_peak, _ = await phase(peak, seconds)
    over, _ = await phase(3 * peak, seconds)
    began = time.perf_counter()
    after, ledger = await phase(peak / 2, seconds)
    late = [
        entry.due - began for entry in ledger.entries
        if entry.status != 200 or entry.took_s * 1000 > 2 * max(at_peak["p99_ms"], 50.0)
    ]  # fmt: skip
    await in_thread(lambda: chain.publish(chain.stable("1")))
    return {
        "peak_per_s": peak,
        "goodput_to_peak": round(over["answered"] / seconds / peak, 3),
        "p99_ms": {"peak": at_peak["p99_ms"], "admitted_over": over.get("p99_ms")},
        "by_status_over": over["by_status"],
        "lost_over": over["lost"],
        "recovered_after_s": round(max(late, default=0.0), 2),
        "failed_after": after["failed"],
    }


async def memory(chain: Chain, *, small: bool) -> dict[str, Any]:
    """Load for ten minutes and watch the gateways' resident memory."""
    minutes, warm_s = (0.3, 5.0) if small else (10.0, 60.0)
    await in_thread(lambda: chain.publish(chain.stable("1")))
    rate = 40.0 if small else round(await capacity(chain) / 2)
    load = OpenLoop(chain.url, bad_input.GOOD, rate=rate)
    sending = asyncio.create_task(load.run())
    await asyncio.sleep(warm_s)
    samples = [_resident_mib(chain)]
    until = time.perf_counter() + minutes * 60
    while time.perf_counter() < until:
        await asyncio.sleep(5.0)
        samples.append(await in_thread(_resident_mib, chain))
    load.stop()
    summary = (await sending).summary()
    growth = [last / first for first, last in zip(samples[0], samples[-1], strict=True)]
    return {
        "minutes": minutes, "rate_per_s": rate, "sent": summary["sent"], "failed": summary["failed"],
        "resident_mib": samples[:: max(1, len(samples) // 12)], "last_mib": samples[-1],
        "growth_ratio": [round(value, 4) for value in growth],
    }  # fmt: skip


def _resident_mib(chain: Chain) -> list[float]:
    """Resident memory of each gateway, in the order of their process ids."""
    found = []
    for pid in sorted(chain.gateways()):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            line = next(text for text in lines if text.startswith("VmRSS:"))
            found.append(round(int(line.split()[1]) / 1024, 1))
    return found


def _quantiles(values: list[float], *, digits: int = 3) -> dict[str, Any]:
    ordered = sorted(values)
    picked = {
        f"p{q}": ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))] for q in (50, 99)
    }
    return {
        **{name: round(value, digits) for name, value in picked.items()},
        "max": round(ordered[-1], digits),
        "n": len(ordered),
    }
