"""Many models in one gateway: memory, neighbours, swap in place, joint runs."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest

from heliostat.registry.package import ServingOptions
from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Policy
from heliostat.serving.batching import Batcher, pays
from tests.unit.serving.conftest import Bench, ask, by_inputs, by_key

ONE = 1 << 20


def many(bench: Bench, epoch: int, names: list[str], **options: Any) -> Policy:
    return Policy(
        epoch=epoch,
        models={
            name: ModelPolicy(
                model=name,
                variants=(bench.stable(str(number), model=name, **options),),
                slots=bytes(NUM_SLOTS),
            )
            for number, name in enumerate(names, start=1)
        },
    )


async def infer(bench: Bench, model: str, **more: Any) -> Any:
    return await ask(bench.gateway, f"/v2/models/{model}/infer", by_inputs(0.0, None), **more)


def test_models_beyond_the_budget_are_put_away_and_come_back(tmp_path: Path) -> None:
    """Least recently used first; no request fails, and a pinned one stays."""
    bench = Bench(
        tmp_path / "home",
        settings={"model_memory_bytes": 4 * ONE + ONE // 2, "pinned": ("m1",)},
    )
    names = [f"m{number}" for number in range(1, 11)]

    async def story() -> list[Any]:
        await bench.gateway.policies.activate(many(bench, 1, names))
        replies = [await infer(bench, name) for _ in range(3) for name in names]
        tasks = [infer(bench, name) for name in names * 3]
        return replies + list(await asyncio.gather(*tasks))

    replies = asyncio.run(story())

    assert {reply.status for reply in replies} == {200}
    expected = [1 / (1 + math.exp(-number)) for number in range(1, 11)] * 6
    scores = [reply.body["outputs"][0]["data"][0] for reply in replies]
    assert scores == pytest.approx(expected, abs=1e-6)
    residents = bench.gateway.residents
    assert residents.num_loaded == 4
    assert residents.size_bytes <= 4 * ONE + ONE // 2
    assert residents.num_evictions >= 20
    loaded = {item.model for item in residents._held.values() if item.predictor}
    assert "m1" in loaded


def test_one_load_serves_all_who_wait_for_it(tmp_path: Path) -> None:
    """Twenty requests for a model that was put away cause one load."""
    bench = Bench(tmp_path / "home", settings={"model_memory_bytes": ONE + ONE // 2})

    async def story() -> int:
        await bench.gateway.policies.activate(many(bench, 1, ["a", "b"]))
        await infer(bench, "a")
        before = bench.gateway.residents.num_loads
        await asyncio.gather(*(infer(bench, "b") for _ in range(20)))
        return bench.gateway.residents.num_loads - before

    assert asyncio.run(story()) == 1


def test_a_broken_model_does_not_hinder_its_neighbours(bench: Bench) -> None:
    """One that answered before goes on as it was; the others obey the new policy."""

    async def story() -> Any:
        first = many(bench, 1, ["a", "b"])
        await bench.gateway.policies.activate(first)
        second = dataclasses.replace(many(bench, 2, ["a", "b", "c"]), epoch=2)
        for name in ("a", "c"):
            variant = dataclasses.replace(
                second.models[name].variants[0], package_path="/nowhere", package_digest="sha256:0"
            )
            model = dataclasses.replace(second.models[name], variants=(variant,))
            second = dataclasses.replace(second, models={**second.models, name: model})
        await bench.gateway.policies.activate(second)
        ready = await ask(bench.gateway, "/v2/health/ready")
        return [await infer(bench, name) for name in "abc"], ready

    replies, ready = asyncio.run(story())

    assert [reply.status for reply in replies] == [200, 200, 503]
    assert [reply.headers["x-heliostat-epoch"] for reply in replies[:2]] == ["1", "2"]
    assert (ready.status, ready.body) == (
        200,
        {"ready": True, "epoch": 2, "broken": ["a", "c"]},
    )


def test_a_slow_model_uses_up_its_own_limit_only(tmp_path: Path) -> None:
    """Further requests for it are refused with Retry-After; a neighbour is answered."""
    bench = Bench(tmp_path / "home", settings={"max_per_model": 3})

    async def story() -> Any:
        other = many(bench, 1, ["x", "y", "fast"]).models["fast"]
        slow = await bench.candidate("2", model="shapes")
        bench.wire.hangs.add(slow.url)
        policy = bench.policy(1, bench.stable("1"), slow, share=1.0)
        await bench.gateway.policies.activate(
            dataclasses.replace(policy, models={**policy.models, "fast": other})
        )
        waiting = [asyncio.create_task(infer(bench, "shapes")) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = await infer(bench, "shapes")
        neighbour = await infer(bench, "fast")
        return refused, neighbour, await asyncio.gather(*waiting)

    refused, neighbour, waited = asyncio.run(story())

    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert neighbour.status == 200
    assert {reply.status for reply in waited} == {200}


def test_a_new_stable_version_takes_over_in_place_and_the_old_one_goes(bench: Bench) -> None:
    """Loaded beside the old one, then swapped; nothing holds the old one after it."""

    async def story() -> Any:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1")))
        before = await infer(bench, "shapes")
        old = bench.gateway.policies.snapshot
        assert old is not None
        resident = old.models["shapes"].stable.resident
        assert resident is not None
        assert resident.predictor is not None
        gone = weakref.ref(resident.predictor)
        del old, resident
        await bench.gateway.policies.activate(bench.policy(2, bench.stable("2")))
        after = await infer(bench, "shapes")
        gc.collect()
        return before, after, gone()

    before, after, gone = asyncio.run(story())

    versions = [reply.headers["x-heliostat-version"] for reply in (before, after)]
    assert versions == ["1", "2"]
    assert gone is None
    assert bench.gateway.residents.num_loaded == 1


def test_requests_of_one_moment_share_a_run_where_the_package_says_so(bench: Bench) -> None:
    """Each gets its own scores, and one that does not fit fails alone."""

    async def story() -> Any:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1")))
        snapshot = bench.gateway.policies.snapshot
        assert snapshot is not None
        predictor = snapshot.models["shapes"].stable.resident.predictor
        batcher = Batcher(predictor, max_rows=64, wait_s=0.0)
        columns = [{"size": [n / 10], "colour": ["red"]} for n in range(20)]
        jobs = [batcher.predict(item, 1) for item in columns]
        jobs.append(batcher.predict({"size": [1.0, 2.0], "colour": ["red", "blue"]}, 2))
        jobs.append(batcher.predict({"size": ["x"], "colour": ["red"]}, 1))
        found = await asyncio.gather(*jobs, return_exceptions=True)
        full = Batcher(predictor, max_rows=4, wait_s=60.0)
        await asyncio.gather(*(full.predict(item, 1) for item in columns))
        return found, batcher.num_batches, full.num_batches, pays(predictor)

    found, num_batches, num_full, worth = asyncio.run(story())

    def score(size: float, code: int) -> float:
        return 1 / (1 + math.exp(-(1 + size + 0.01 * code)))

    assert [scores[0] for scores in found[:20]] == pytest.approx(
        [score(n / 10, 2) for n in range(20)], abs=1e-6
    )
    assert found[20] == pytest.approx([score(1.0, 2), score(2.0, 3)], abs=1e-6)
    assert "must be a number" in str(found[21])
    assert (num_batches, num_full) == (1, 5)
    assert isinstance(worth, bool)


def test_a_package_says_how_it_is_served_and_older_ones_say_nothing(tmp_path: Path) -> None:
    """A device that this machine lacks is an error, never a silent fallback."""
    import json

    from heliostat.errors import ConfigError
    from heliostat.inference.predictor import Predictor
    from heliostat.registry.package import PackageDescription
    from heliostat.testing import packages
    from tests.unit.serving.conftest import INPUTS

    description = packages.write_package(tmp_path, model="shapes", inputs=INPUTS)
    options = ServingOptions(device="cuda", max_batch_rows=32, batch_wait_s=0.001)
    dataclasses.replace(description, serving=options).write(tmp_path)
    assert PackageDescription.read(tmp_path).serving == options
    with pytest.raises(ConfigError, match="must be one that ONNX Runtime or torch can use here"):
        Predictor.load(tmp_path, None)
    raw = json.loads((tmp_path / "model.json").read_text())
    del raw["serving"]
    (tmp_path / "model.json").write_text(json.dumps(raw))
    assert PackageDescription.read(tmp_path).serving == ServingOptions()


def test_features_that_cannot_be_read_hurt_only_who_needs_them(bench: Bench) -> None:
    """By keys 503, by inputs 200, and the time of reading is measured."""
    bench.features.rows["k"] = {"size": 1.0, "colour": "red"}

    async def story() -> Any:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1")))
        good = await ask(bench.gateway, "/v2/models/shapes/infer", by_key("k"))
        bench.features.broken = True
        return good, await ask(bench.gateway, "/v2/models/shapes/infer", by_key("k"))

    good, bad = asyncio.run(story())
    bench.gateway.measure()

    assert (good.status, bad.status) == (200, 503)
    assert len(bench.sink.observed["heliostat_feature_seconds", "shapes"]) == 1


def test_who_waits_for_a_variant_that_fell_silent_is_answered_at_once(bench: Bench) -> None:
    """Not at the deadline: the breaker that opens lets them fall back."""

    async def story() -> Any:
        candidate = await bench.candidate("2")
        await bench.gateway.policies.activate(
            bench.policy(3, bench.stable("1"), candidate, share=1.0, deadline_s=60.0)
        )
        for _ in range(10):
            await ask(bench.gateway, "/v2/models/shapes/infer", by_inputs(0.0, "red"))
        bench.wire.silent.add(candidate.url)
        waiting = [
            asyncio.create_task(
                ask(bench.gateway, "/v2/models/shapes/infer", by_inputs(0.0, "red"))
            )
            for _ in range(5)
        ]
        replies = []
        while not all(task.done() for task in waiting):
            await asyncio.sleep(0.02)
            if len(replies) < 100:
                task = asyncio.create_task(
                    ask(bench.gateway, "/v2/models/shapes/infer", by_inputs(0.0, "red"))
                )
                waiting.append(task)
                replies.append(task)
        return [task.result() for task in waiting]

    replies = asyncio.run(asyncio.wait_for(story(), 20.0))

    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["x-heliostat-fallback"] for reply in replies} == {"1"}


def test_who_waits_for_a_variant_that_fails_others_is_answered_at_once(bench: Bench) -> None:
    """Half of its processes hang, the other half is gone: five refusals release the rest."""

    async def story() -> Any:
        candidate = await bench.candidate("2")
        await bench.gateway.policies.activate(
            bench.policy(3, bench.stable("1"), candidate, share=1.0, deadline_s=60.0)
        )
        bench.wire.silent.add(candidate.url)
        waiting = [
            asyncio.create_task(
                ask(bench.gateway, "/v2/models/shapes/infer", by_inputs(0.0, "red"))
            )
            for _ in range(5)
        ]
        await asyncio.sleep(0.01)
        bench.wire.dead.add(candidate.url)
        for _ in range(5):
            await ask(bench.gateway, "/v2/models/shapes/infer", by_inputs(0.0, "red"))
        return await asyncio.gather(*waiting)

    replies = asyncio.run(asyncio.wait_for(story(), 20.0))

    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["x-heliostat-fallback"] for reply in replies} == {"1"}
