"""Plans played on made-up and on recorded traffic, by the code that decides real rollouts."""

from __future__ import annotations

import json
import math

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.control import recorded
from heliostat.errors import ConfigError
from heliostat.rollout.plan import RolloutPlan
from heliostat.rollout.simulated import Effects, Version, play, synthetic
from heliostat.serving.exposures import Spool

PLAN = RolloutPlan(model="m", candidate="2")
EQUAL = Version(error_ratio=0.005)


def traffic(candidate, seconds=300, seed=3, requests_per_s=240.0):
    return synthetic(EQUAL, candidate, requests_per_s=requests_per_s, seconds=seconds, seed=seed)


def test_an_equal_candidate_is_promoted_through_every_step_and_its_cost_is_counted():
    """The same seed plays the same rollout."""
    first, again = (play(PLAN, traffic(EQUAL), salt="a") for _ in range(2))

    assert first == again
    assert first.outcome == "promoted"
    assert [percent for _, percent in first.steps] == [5, 25, 50, 100]
    assert 1_000 < first.affected_units == first.affected_requests < 240 * first.seconds


@pytest.mark.parametrize(
    ("candidate", "gate"),
    [
        (Version(error_ratio=0.2), "errors: "),
        (Version(error_ratio=0.005, latency_ms=50.0), "latency: "),
        (Version(error_ratio=0.005, noise=3.0), "loss: "),
    ],
)
def test_harm_is_rolled_back_with_few_units_affected(candidate, gate):
    """Five times the latency, a fifth of errors, a worse fit."""
    found = play(PLAN, traffic(candidate), salt="a")

    assert found.outcome == "rolled_back"
    assert found.because.startswith(gate)
    assert found.affected_units < 0.06 * 240 * found.seconds + 100


def test_every_kind_but_ab_can_be_played():
    """A bake, blue and green, a twin and a shadow go their way; an A/B test needs outcomes."""

    def ends(**plan):
        built = RolloutPlan.from_dict({"model": "m", "candidate": "2", **plan})
        return play(built, traffic(EQUAL), salt="a")

    baked = ends(bake_s=20.0)
    assert (baked.outcome, baked.steps[-1][1]) == ("promoted", 95.0)
    assert ends(kind="blue_green", bake_s=60.0).outcome == "promoted"
    assert ends(twin=True).outcome == "promoted"
    shadow = ends(kind="shadow")
    assert (shadow.outcome, shadow.affected_units) == ("concluded", 0)
    with pytest.raises(ConfigError, match="cannot be simulated: it needs outcomes"):
        ends(kind="ab", comparison={"metric": "x", "effect": 1, "deviation": 1})


def test_traffic_that_ends_too_soon_says_what_was_missing():
    """Nothing is promoted for want of traffic."""
    found = play(PLAN, traffic(EQUAL, seconds=5), salt="a")
    assert found.outcome == "unfinished"
    assert found.because.startswith("the traffic ended first: ")


@pytest.fixture
def exposures(tmp_path):
    """What a gateway writes, by its own code: 100 s at 40 requests a second, 1 % errors."""
    spool = Spool(tmp_path / "exposures", "g")
    labels = []
    for number in range(4_000):
        failed = number % 100 == 7
        score = 0.1 + 0.8 * ((number * 37) % 100) / 100
        record = {
            "request_id": f"r{number}", "ts": 1_000.0 + number / 40, "model": "m", "unit": f"u{number}",
            "slot": 1, "fallback": False, "status": 500 if failed else 200,
            "latency_ms": 5.0 + number % 10, "scores": [] if failed else [score],
        }  # fmt: skip
        spool.add(record)
        labels.append({"request_id": f"r{number}", "label": int((number * 53) % 100 < 100 * score)})
    spool.add({**record, "model": "other"})
    spool.add({**record, "slot": None})
    spool.flush()
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)) + "\n")
    return tmp_path


def test_a_recorded_stream_is_replayed_as_it_was_with_effects_on_the_candidate_alone(exposures):
    """Its errors, times, scores and labels; other models and asked-for versions are left out."""
    known = recorded.read_labels(exposures / "labels.jsonl")
    found = recorded.read(exposures / "exposures", "m", known)
    assert (found.num_requests, found.num_labelled, len(found.seconds)) == (4_000, 4_000, 100)

    plain = next(iter(found.replay(Effects(), 0)))
    assert (plain.errors[0] == plain.errors[1]).all()
    assert (plain.scores[0] == plain.scores[1]).all()
    worse = next(iter(found.replay(Effects(error_ratio_more=1.0, latency_factor=2.0), 0)))
    assert worse.errors[1].all()
    assert (worse.times_ms[1] == 2 * worse.times_ms[0]).all()
    assert (worse.errors[0] == plain.errors[0]).all()
    assert math.isfinite(plain.labels.sum())


def run(*words):
    done = CliRunner().invoke(app, ["rollout", "simulate", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_plays_an_aa_test_on_own_traffic_and_a_worse_candidate(exposures):
    """Many runs without an effect tell how often an equal version is rolled back."""
    plan = exposures / "plan.json"
    own = {"model": "m", "candidate": "2", "steps_percent": [50, 100], "min_requests_per_step": 50}
    plan.write_text(json.dumps({**own, "errors": {"margin_ratio": 0.05}}))
    folder = exposures / "exposures"

    equal = run(plan, "--exposures", folder, "--runs", 5)
    assert "no labels, so the loss gate was left out" in equal
    assert "rolled back: 0.00%, between 0.00% and 65.34% (99 %)" in equal
    labels = exposures / "labels.jsonl"
    worse = run(plan, "--exposures", folder, "--labels", labels, "--more-errors", 0.5, "--json")
    (found,) = json.loads(worse)["runs"]
    assert (found["outcome"], found["because"][:8]) == ("rolled_back", "errors: ")


def test_a_line_that_is_no_exposure_is_refused_with_its_place(tmp_path):
    """The file and the line."""
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"a\.jsonl:1"):
        recorded.read(tmp_path, "m")
