"""Shadow scoring: what differs, less the noise; and what a hop may take off a latency."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.serving.forward import Hop
from heliostat.serving.shadowing import Differences, compare, rank_distance
from tests.unit.serving.conftest import Bench, ask, by_inputs

SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=50)


def test_differences_are_counted_row_by_row() -> None:
    """Beyond the tolerance, on different sides of one half, and by how much."""
    seen = Differences(tolerance=0.01)
    assert seen.add([0.4, 0.49], [0.4, 0.51]) == (1, 1)
    assert seen.add([0.9], [0.905], latency_s=0.002) == (0, 0)

    summary = seen.summary()
    assert {name: summary[name] for name in ("rows", "beyond_ratio", "flip_ratio")} == {
        "rows": 3, "beyond_ratio": 1 / 3, "flip_ratio": 1 / 3,
    }  # fmt: skip
    assert summary["mean_gap"] == pytest.approx(0.025 / 3)
    assert summary["max_gap"] == pytest.approx(0.02)
    assert summary["latency_ms_per_row"] == pytest.approx(2.0)
    assert summary["rank_distance"] == 0.0


@given(SCORES)
def test_a_version_never_differs_from_itself(pairs: list[tuple[float, float]]) -> None:
    """And the distance of orders lies between 0 and 1 for any two versions."""
    stable = [left for left, _ in pairs]
    seen = Differences()
    seen.add(stable, stable)

    summary = seen.summary()
    assert (summary["beyond_ratio"], summary["flip_ratio"], summary["mean_gap"]) == (0, 0, 0)
    assert summary["drift"] == 0
    distance = rank_distance(pairs)
    assert distance is not None
    assert 0 <= distance <= 1


def test_what_a_twin_shows_as_well_is_noise() -> None:
    """The excess is what only the candidate shows, never below 0."""
    candidate, twin = Differences(tolerance=0.01), Differences(tolerance=0.01)
    candidate.add([0.1, 0.2, 0.6, 0.7], [0.2, 0.3, 0.4, 0.7])
    twin.add([0.1, 0.2, 0.6, 0.7], [0.2, 0.2, 0.6, 0.7])

    excess = compare(candidate, twin)["excess"]
    assert excess["beyond_ratio"] == pytest.approx(0.5)
    assert excess["flip_ratio"] == pytest.approx(0.25)
    assert compare(twin, candidate)["excess"]["flip_ratio"] == 0
    alone = compare(Differences(), None)
    assert alone["excess"] == dict.fromkeys(
        (
            "beyond_ratio", "flip_ratio", "mean_gap", "rank_distance", "drift",
            "latency_ms_per_row",
        )
    )  # fmt: skip
    json.dumps(alone)


def test_drift_and_latency_are_cancelled_against_the_twin_too() -> None:
    """Drift counts in either direction; without a twin nobody can say what is slow."""
    candidate, twin = Differences(), Differences()
    candidate.add([0.2, 0.8], [0.1, 0.7], latency_s=0.005)
    twin.add([0.2, 0.8], [0.23, 0.83], latency_s=0.002)

    excess = compare(candidate, twin)["excess"]
    assert excess["drift"] == pytest.approx((0.1 - 0.03) / 0.3)
    assert excess["latency_ms_per_row"] == pytest.approx(3.0)
    assert compare(twin, candidate)["excess"]["latency_ms_per_row"] == 0
    alone = compare(candidate, None)["excess"]
    assert (alone["drift"], alone["latency_ms_per_row"]) == (pytest.approx(1 / 3), None)


def test_drift_counts_in_standard_deviations_of_the_stable_scores() -> None:
    """A constant model that moves has drifted wholly."""
    seen, constant = Differences(), Differences()
    seen.add([0.0, 1.0], [0.5, 1.5])
    constant.add([0.5, 0.5], [0.6, 0.6])

    assert seen.summary()["drift"] == pytest.approx(1.0)
    assert constant.summary()["drift"] == 1.0


def test_a_shadow_without_traffic_is_diffed_against_its_twin(bench: Bench) -> None:
    """Candidate and twin in apps of their own score each row; only the candidate is evidence."""

    async def story() -> Any:
        stable, candidate = bench.stable("1"), await bench.candidate("2")
        twin = dataclasses.replace(await bench.candidate("1"), role="baseline")
        policy = bench.policy(3, stable, paired=True, rollout_id="ro")
        model = dataclasses.replace(policy.models["shapes"], variants=(stable, candidate, twin))
        await bench.gateway.policies.activate(dataclasses.replace(policy, models={"shapes": model}))
        replies = [
            await ask(bench.gateway, "/v2/models/shapes/infer", by_inputs(n / 10, "red"))
            for n in range(-20, 0)
        ]
        await bench.gateway.pairs.run_once()
        await bench.gateway.report()
        shown = await ask(bench.gateway, "/v2/models/shapes/versions/2/shadow")
        return replies, shown.body

    replies, shown = asyncio.run(story())

    assert {reply.headers["x-heliostat-version"] for reply in replies} == {"1"}
    [report] = bench.wire.evidence
    assert len(report["pairs"]) == 20
    assert all(stable < candidate for _, stable, candidate in report["pairs"])
    assert (shown["model"], shown["version"]) == ("shapes", "2")
    assert shown["candidate"]["rows"] == shown["twin"]["rows"] == 20
    assert shown["twin"]["beyond_ratio"] == 0
    assert shown["excess"]["beyond_ratio"] == 1.0
    assert shown["candidate"]["latency_ms_per_row"] > 0
    assert bench.sink.counters["heliostat_shadow_rows", "shapes", "2"] == 20
    assert bench.sink.counters["heliostat_shadow_rows", "shapes", "1 baseline"] == 20


def test_only_the_least_cost_of_a_hop_is_taken_off() -> None:
    """Waiting in the variant's queue still counts against it, and old costs are forgotten."""
    hop = Hop()
    costs = [hop.least_ms(second, 5.0 + cost, 5.0) for second, cost in enumerate((3, 1, 9, 1))]
    later = [hop.least_ms(second, 5.0 + 4.0, 5.0) for second in (11.0, 25.0, 36.0)]

    assert costs == [3, 1, 1, 1]
    assert later == [1, 4.0, 4.0]
    assert hop.least_ms(37.0, 1.0, 5.0) == 0.0
