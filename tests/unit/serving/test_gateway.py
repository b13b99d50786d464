"""The gateway's answers, its split, its fallback and what it records."""

from __future__ import annotations

import asyncio
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from heliostat.stats.slots import slot
from tests.unit.serving.conftest import Bench, ask, by_inputs, by_key

INFER = "/v2/models/shapes/infer"


def score(bias: float, size: float, code: int) -> float:
    return 1 / (1 + math.exp(-(bias + size + 0.01 * code)))


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_all_inputs_are_scored_in_process(bench: Bench) -> None:
    """The answer has the protocol's form and says who gave it."""

    async def story() -> Any:
        await bench.gateway.policies.activate(bench.policy(7, bench.stable("1")))
        return await ask(
            bench.gateway, INFER, by_inputs(0.5, "blue"), headers={"x-heliostat-request-id": "r1"}
        )

    reply = run(story())

    assert reply.status == 200
    assert reply.body == {
        "model_name": "shapes",
        "model_version": "1",
        "id": "r1",
        "outputs": [
            {
                "name": "score",
                "shape": [1],
                "datatype": "FP32",
                "data": [pytest.approx(score(1, 0.5, 3), abs=1e-6)],
            }
        ],
    }
    assert {k: v for k, v in reply.headers.items() if k.startswith("x-")} == {
        "x-heliostat-request-id": "r1",
        "x-heliostat-variant": "stable",
        "x-heliostat-version": "1",
        "x-heliostat-epoch": "7",
        "x-heliostat-fallback": "0",
    }


def test_entity_keys_alone_bring_features_from_the_online_store(bench: Bench) -> None:
    """They are read as of the time the client names, and logged as they were read."""
    bench.features.rows["k1"] = {"size": 2.0, "colour": "red"}

    async def story() -> Any:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1")))
        return await ask(
            bench.gateway,
            INFER,
            by_key("k1"),
            headers={"x-heliostat-at": "2013-12-01T05:00:00Z", "x-heliostat-request-id": "r1"},
        )

    reply = run(story())

    scores = reply.body["outputs"][0]["data"]
    assert scores == [pytest.approx(score(1, 2.0, 2), abs=1e-6)]
    assert bench.features.asked_at == [datetime(2013, 12, 1, 5, tzinfo=UTC)]
    [record] = bench.exposures()
    assert record.pop("latency_ms") > 0
    assert record == {
        "request_id": "r1",
        "ts": 1_700_000_000.0,
        "model": "shapes",
        "version": "1",
        "variant": "stable",
        "epoch": 1,
        "unit": "k1",
        "slot": slot("k1", "shapes"),
        "fallback": False,
        "status": 200,
        "rows": 1,
        "keys": {"shape_id": "k1"},
        "features": {"size": 2.0, "colour": "red"},
        "scores": scores,
    }


def test_units_are_answered_by_the_variant_that_owns_their_slot(bench: Bench) -> None:
    """And both variants see the same features, read once."""
    bench.features.rows = {f"k{n}": {"size": n / 100, "colour": "red"} for n in range(200)}

    async def story() -> tuple[Any, list[Any]]:
        policy = bench.policy(
            3, bench.stable("1"), await bench.candidate("2"), share=0.3, deadline_s=5.0
        )
        await bench.gateway.policies.activate(policy)
        replies = [await ask(bench.gateway, INFER, by_key(f"k{n}")) for n in range(200)]
        return policy, replies

    policy, replies = run(story())

    owners = policy.models["shapes"].slots
    expected = ["12"[owners[slot(f"k{n}", "shapes")]] for n in range(200)]
    assert [reply.headers["x-heliostat-version"] for reply in replies] == expected
    assert expected.count("2") > 30
    scores = [reply.body["outputs"][0]["data"][0] for reply in replies]
    assert scores == pytest.approx(
        [score(int(expected[n]), n / 100, 2) for n in range(200)], abs=1e-6
    )
    assert len(bench.features.asked_at) == 200
    assert [record["version"] for record in bench.exposures()] == expected


@pytest.mark.parametrize("fault", ["dead", "hangs"])
def test_a_candidate_that_does_not_answer_costs_nobody_a_request(bench: Bench, fault: str) -> None:
    """The stable version answers, labelled; the candidate has the error; then it is not asked."""

    async def story() -> list[Any]:
        candidate = await bench.candidate("2")
        await bench.gateway.policies.activate(
            bench.policy(3, bench.stable("1"), candidate, share=1.0, rollout_id="ro")
        )
        getattr(bench.wire, fault).add(candidate.url)
        replies = [await ask(bench.gateway, INFER, by_inputs(0.0, "red")) for _ in range(20)]
        await bench.gateway.report()
        return replies

    replies = run(story())

    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["x-heliostat-fallback"] for reply in replies} == {"1"}
    assert {reply.headers["x-heliostat-version"] for reply in replies} == {"1"}
    assert len(bench.wire.asked) == 5
    [report] = bench.wire.evidence
    [counts] = report["counts"]
    assert (counts["version"], counts["requests"], counts["errors"]) == ("2", 20, 20)
    assert sum(counts["latency"]) == 0
    assert report["rollout_id"] == "ro"
    assert [record["fallback"] for record in bench.exposures()] == [True] * 20


def test_a_candidate_whose_scores_are_no_numbers_has_failed(bench: Bench) -> None:
    """NaN never reaches a client."""

    async def story() -> Any:
        candidate = await bench.candidate("2", fails_above=1.0)
        await bench.gateway.policies.activate(
            bench.policy(3, bench.stable("1"), candidate, share=1.0)
        )
        return [
            (await ask(bench.gateway, INFER, by_inputs(size, "red"))).headers["x-heliostat-version"]
            for size in (0.5, 1.5)
        ]

    assert run(story()) == ["2", "1"]


def test_a_stable_version_that_fails_is_an_error_without_a_traceback(bench: Bench) -> None:
    """Nobody can answer in its place."""

    async def story() -> Any:
        await bench.gateway.policies.activate(bench.policy(3, bench.stable("1", fails_above=1.0)))
        return await ask(bench.gateway, INFER, by_inputs(2.0, "red"))

    reply = run(story())

    assert reply.status == 500
    assert reply.body == {"error": "version 1 could not answer; see the gateway's log"}


def test_a_candidate_that_cannot_be_verified_never_stops_a_policy(bench: Bench) -> None:
    """Its requests are answered by the stable version and are its errors."""

    async def story() -> Any:
        candidate = await bench.candidate("2")
        (bench.root / "packages" / "2" / "card.md").write_text("added later")
        await bench.gateway.policies.activate(
            bench.policy(3, bench.stable("1"), candidate, share=1.0)
        )
        return await ask(bench.gateway, INFER, by_inputs(0.0, "red"))

    reply = run(story())

    assert (reply.status, reply.headers["x-heliostat-fallback"]) == (200, "1")
    assert bench.wire.asked == []


def test_a_candidate_may_read_other_features_than_the_stable_version(bench: Bench) -> None:
    """It gets a read of its own, and pairs are made of each version's own inputs."""
    import dataclasses

    from tests.unit.serving.conftest import INPUTS, SERVICE

    view = dataclasses.replace(SERVICE.views[0], features=("size",))
    bench.features.rows["k1"] = {"size": 2.0, "colour": "blue"}

    async def story() -> Any:
        stable = bench.stable(
            "1",
            inputs=INPUTS[:1],
            features=dataclasses.replace(SERVICE, digest="d0", views=(view,)),
        )
        await bench.gateway.policies.activate(
            bench.policy(3, stable, await bench.candidate("2"), paired=True, deadline_s=5.0)
        )
        reply = await ask(bench.gateway, INFER, by_key("k1"))
        await bench.gateway.pairs.run_once()
        await bench.gateway.report()
        return reply

    reply = run(story())

    assert reply.status == 200
    [[_, stable, candidate]] = bench.wire.evidence[0]["pairs"]
    assert stable == pytest.approx(score(1, 2.0, 0), abs=1e-6)
    assert candidate == pytest.approx(score(2, 2.0, 3), abs=1e-6)


def test_every_answered_row_is_scored_by_both_off_the_answer_path(bench: Bench) -> None:
    """A score that was the answer is used again, and one batch asks for all others."""

    async def story() -> list[Any]:
        await bench.gateway.policies.activate(
            bench.policy(
                3, bench.stable("1"), await bench.candidate("2"), share=0.5,
                paired=True, rollout_id="ro", deadline_s=5.0,
            )
        )  # fmt: skip
        replies = [
            await ask(
                bench.gateway,
                INFER,
                by_inputs(n / 10, "red"),
                headers={"x-heliostat-request-id": f"r{n}"},
            )
            for n in range(40)
        ]
        await bench.gateway.pairs.run_once()
        await bench.gateway.report()
        return replies

    replies = run(story())

    [report] = bench.wire.evidence
    assert {
        request_id: (stable, candidate) for request_id, stable, candidate in report["pairs"]
    } == {
        f"r{n}": (
            pytest.approx(score(1, n / 10, 2), abs=1e-6),
            pytest.approx(score(2, n / 10, 2), abs=1e-6),
        )
        for n in range(40)
    }
    by_candidate = [reply.headers["x-heliostat-version"] for reply in replies].count("2")
    assert 0 < by_candidate < 40
    asked = [url.rpartition("/")[2] for url in bench.wire.asked]
    assert (asked.count("infer"), asked.count("score")) == (by_candidate, 1)
    assert {c["version"]: (c["requests"], c["units"]) for c in report["counts"]} == {
        "1": (40 - by_candidate, 40 - by_candidate),
        "2": (by_candidate, by_candidate),
    }


def test_a_version_can_be_asked_directly(bench: Bench) -> None:
    """Without split and evidence, and without anybody answering in its place."""

    async def story() -> Any:
        candidate = await bench.candidate("2")
        await bench.gateway.policies.activate(bench.policy(3, bench.stable("1"), candidate))
        path = "/v2/models/shapes/versions/{}/infer"
        good = await ask(bench.gateway, path.format(2), by_inputs(0.0, "red"))
        unknown = await ask(bench.gateway, path.format(9), by_inputs(0.0, "red"))
        bench.wire.dead.add(candidate.url)
        dead = await ask(bench.gateway, path.format(2), by_inputs(0.0, "red"))
        await bench.gateway.report()
        return good, unknown, dead

    good, unknown, dead = run(story())

    assert (good.status, good.headers["x-heliostat-version"]) == (200, "2")
    assert (unknown.status, unknown.body) == (
        404,
        {"error": "version '9' is not served; known: ['1', '2']"},
    )
    assert dead.status == 503
    assert bench.wire.evidence == []


def test_reports_wait_until_the_controller_has_taken_them(bench: Bench) -> None:
    """Nothing is lost while it is away, and nothing is sent twice after it answered."""

    async def story() -> None:
        await bench.gateway.policies.activate(bench.policy(3, bench.stable("1")))
        bench.wire.evidence_status = 503
        for _ in range(3):
            await ask(bench.gateway, INFER, by_inputs(0.0, "red"))
            await bench.gateway.report()
        bench.wire.evidence_status = 200
        await bench.gateway.report()
        await bench.gateway.report()

    run(story())

    assert [
        (report["gateway"], report["sequence"], report["counts"][0]["requests"])
        for report in bench.wire.evidence
    ] == [("g1", 0, 1), ("g1", 1, 1), ("g1", 2, 1)]


def test_a_gateway_is_ready_when_a_policy_is_loaded(bench: Bench) -> None:
    """Alive before, and it says so without a model."""

    async def story() -> Any:
        paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/shapes/ready")
        before = [(await ask(bench.gateway, path)).status for path in paths]
        refused = await ask(bench.gateway, INFER, by_inputs(0.0, "red"))
        await bench.gateway.policies.activate(bench.policy(3, bench.stable("1")))
        return before, refused, [(await ask(bench.gateway, path)).status for path in paths]

    before, refused, after = run(story())

    assert before == [200, 503, 503]
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert after == [200, 200, 200]


def test_a_policy_whose_stable_version_is_broken_leaves_the_old_one_in_charge(
    bench: Bench,
) -> None:
    """The next good policy is followed again."""

    async def story() -> Any:
        task = asyncio.create_task(bench.gateway.policies.run())
        bench.policies.queue.put_nowait(bench.policy(1, bench.stable("1")))
        broken = bench.stable("2")
        (bench.root / "packages" / "2" / "model.onnx").write_bytes(b"other")
        await bench.policies.asked_after(1)
        bench.policies.queue.put_nowait(bench.policy(2, broken))
        await bench.policies.asked_after(1)
        reply = await ask(bench.gateway, INFER, by_inputs(0.0, "red"))
        bench.policies.queue.put_nowait(bench.policy(3, bench.stable("3")))
        await bench.policies.asked_after(3)
        task.cancel()
        return reply.headers["x-heliostat-epoch"], bench.gateway.policies.epoch

    assert run(story()) == ("1", 3)


def test_without_a_control_plane_only_the_kept_stable_version_serves(bench: Bench) -> None:
    """A version that was on trial when the file was written may have been rolled back since."""

    async def story() -> Any:
        first = asyncio.create_task(bench.gateway.policies.run())
        bench.policies.queue.put_nowait(
            bench.policy(5, bench.stable("1"), await bench.candidate("2"), share=1.0)
        )
        await bench.policies.asked_after(5)
        first.cancel()
        second = bench.new_gateway("g2")
        await second.policies.use_kept_policy()
        return await ask(second, INFER, by_inputs(0.0, "red"))

    reply = run(story())

    assert reply.status == 200
    assert reply.headers["x-heliostat-version"] == "1"
    assert json.loads((bench.root / "policy.json").read_text())["epoch"] == 5


def test_an_online_store_that_cannot_be_read_is_not_the_clients_fault(bench: Bench) -> None:
    """It may come again; full inputs are still answered."""
    bench.features.broken = True

    async def story() -> Any:
        await bench.gateway.policies.activate(bench.policy(3, bench.stable("1")))
        return (
            await ask(bench.gateway, INFER, by_key("k")),
            await ask(bench.gateway, INFER, by_inputs(0.0, "red")),
        )

    keys, inputs = run(story())

    assert (keys.status, keys.body) == (
        503,
        {"error": "features: the online store cannot be read now"},
    )
    assert inputs.status == 200
