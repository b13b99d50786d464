"""What the gates say and what is decided, on evidence built by hand or by simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from heliostat.rollout import decide as rules
from heliostat.rollout import gates
from heliostat.rollout.allowed import ErrorsGate, LatencyGate, LossGate
from heliostat.rollout.decide import (
    DecideOutcome,
    DecideStep,
    MoveTraffic,
    PublishStep,
    StartCandidate,
    StopCandidate,
    decide,
)
from heliostat.rollout.evidence import LATENCY_EDGES_MS
from heliostat.rollout.known import Evidence, SplitCount, Tally
from heliostat.rollout.plan import RolloutPlan
from heliostat.rollout.policy import Variant
from heliostat.rollout.state import RolloutState
from heliostat.stats import harm
from heliostat.stats.means import Moments

NOW = 1_000.0
CANDIDATE = Variant(
    version="2",
    role="candidate",
    placement="isolated",
    package_path="/p",
    package_digest="sha256:2",
    url="http://127.0.0.1:8000/variants/m/2",
)
AT_FIRST_STEP = RolloutState(
    rollout_id="m-3",
    plan=RolloutPlan(model="m", candidate="2"),
    stable="1",
    started_at=NOW - 60,
    candidate=CANDIDATE,
    wanted_step=0,
    reached_step=0,
    step_epoch=2,
    step_since=NOW - 30,
    shares={2: 0.05},
)


def tally(requests, errors=0, latency_ms=5.0):
    latency = [0] * (len(LATENCY_EDGES_MS) + 1)
    bucket = next(i for i, edge in enumerate(LATENCY_EDGES_MS) if edge >= latency_ms)
    latency[bucket] = requests - errors
    return Tally(requests=requests, errors=errors, latency=tuple(latency))


def moments(count, mean, deviation):
    return Moments(count=count, mean=mean, squares=deviation**2 * (count - 1))


GOOD = Evidence(
    stable=tally(6_650),
    candidate=tally(350),
    candidate_requests={2: 350},
    splits=(SplitCount(epoch=2, gateway="g", stable=6_650, candidate=350),),
    stable_loss=moments(2_000, 0.60, 0.4),
    candidate_loss=moments(2_000, 0.55, 0.4),
    loss_difference=moments(2_000, -0.05, 0.3),
    last_report_at=NOW - 1,
    last_label_at=NOW - 1,
)


def verdicts(decision):
    return {verdict.gate: verdict.verdict for verdict in decision.verdicts}


def test_a_good_candidate_takes_the_next_step_and_only_that():
    """The demo's first step: 350 candidate requests decide everything."""
    decision = decide(AT_FIRST_STEP, GOOD, NOW)

    assert decision.actions == (DecideStep(step=1),)
    assert decision.because == "all gates pass at 5 % after 350 requests"
    assert verdicts(decision) == {
        "split": "pass",
        "errors": "pass",
        "latency": "pass",
        "loss": "pass",
    }
    assert [verdict.because for verdict in decision.verdicts] == [
        "350 of 7000 units at the candidate, 350 planned",
        "0 errors in 350 requests, stable 0 in 6650; at most 1.80% more than stable, margin 2.00%",
        "p95 4.85 to 5.34 ms, stable 4.85 to 5.34 ms; within the allowed 29.9 ms",
        (
            "2000 labelled pairs, log loss 0.5500, stable 0.6000; difference -0.0500, between "
            "-0.0725 and -0.0275, margin +0.0100"
        ),
    ]


def test_only_the_last_step_leads_to_promotion():
    """After the gates have passed at 100 %, with new requests there."""
    last = replace(
        AT_FIRST_STEP, wanted_step=3, reached_step=3, step_epoch=5, shares={2: 0.05, 5: 1.0}
    )
    few = replace(GOOD, candidate_requests={2: 350, 5: 299})
    enough = replace(GOOD, candidate_requests={2: 350, 5: 300})

    assert decide(last, few, NOW).actions == ()
    assert decide(last, few, NOW).because == "299 of 300 requests at this step"
    assert decide(last, enough, NOW).actions == (DecideOutcome(outcome="promoted"),)


NAN = math.nan


@pytest.mark.parametrize(
    ("evidence", "gate"),
    [
        (Evidence(), "errors"),
        (replace(GOOD, last_report_at=NOW - 11), "errors"),
        (replace(GOOD, last_report_at=NOW - 11), "latency"),
        (replace(GOOD, last_report_at=None), "loss"),
        (replace(GOOD, last_label_at=NOW - 601), "loss"),
        (replace(GOOD, loss_difference=moments(499, -0.05, 0.3)), "loss"),
        (replace(GOOD, loss_difference=Moments(count=900, mean=NAN, squares=1.0)), "loss"),
        (replace(GOOD, loss_difference=Moments(count=900, mean=-0.5, squares=NAN)), "loss"),
        (replace(GOOD, dropped=replace(GOOD.dropped, invalid_pairs=100)), "loss"),
        (replace(GOOD, stable=Tally()), "latency"),
        (replace(GOOD, stable=Tally()), "errors"),
        (replace(GOOD, candidate=tally(30)), "errors"),
        (replace(GOOD, candidate=tally(30)), "latency"),
    ],
)
def test_missing_stale_or_impossible_evidence_never_moves_anything(evidence, gate):
    """Neither forward nor, before its time, back."""
    decision = decide(AT_FIRST_STEP, evidence, NOW)

    assert decision.actions == ()
    assert verdicts(decision)[gate] == "inconclusive"


def test_time_alone_only_ever_leads_back():
    """A day at a step with everything but the labels."""
    plan = replace(AT_FIRST_STEP.plan, max_inconclusive_s=86_400.0)
    state = replace(AT_FIRST_STEP, plan=plan)
    unlabelled = replace(GOOD, loss_difference=Moments(), last_label_at=None)

    day = replace(unlabelled, last_report_at=NOW + 86_369)
    assert decide(state, day, NOW + 86_369).actions == ()
    decision = decide(state, day, NOW + 86_371)

    assert decision.actions == (DecideOutcome(outcome="rolled_back"),)
    assert decision.because == (
        "no verdict at 5 % within 86400 s: loss is inconclusive: no labelled pair yet, at most "
        "600 s count as fresh"
    )


def erring(times_s):
    """A candidate that errs at these moments, at 5 % of 100 requests a second."""
    seen = harm.Thinned.none()
    for second in range(60):
        seen = seen.add(
            float(second),
            requests=5,
            errors=int(second in times_s),
            stable_requests=95,
            stable_errors=0,
        )
    return seen


HARM = erring(range(0, 60, 6))


@pytest.mark.parametrize(
    ("evidence", "because"),
    [
        (
            replace(GOOD, candidate=tally(350, 9), harm=HARM),
            "errors: 9 errors in 350 requests, stable 0 in 6650; more than stable",
        ),
        (
            replace(GOOD, candidate=tally(350, latency_ms=80.0)),
            "latency: p95 76.9 to 84.6 ms, stable 4.85 to 5.34 ms; above the allowed 30.3 ms",
        ),
        (
            replace(GOOD, loss_difference=moments(1_500, 0.06, 0.3)),
            "loss: 1500 labelled pairs, log loss 0.5500, stable 0.6000; difference +0.0600",
        ),
        (
            replace(GOOD, splits=(SplitCount(epoch=2, gateway="g", stable=900, candidate=100),)),
            "split: 100 of 1000 units at the candidate, 50 planned: units do not split by the",
        ),
    ],
)
@pytest.mark.parametrize("requests", [3, 400])
def test_harm_is_acted_on_at_once_whatever_the_step_still_waits_for(evidence, because, requests):
    """Also while the step has not had its requests, and when reports have stopped."""
    evidence = replace(evidence, candidate_requests={2: requests}, last_report_at=NOW - 3_600)

    decision = decide(AT_FIRST_STEP, evidence, NOW)

    assert decision.actions == (DecideOutcome(outcome="rolled_back"),)
    assert decision.because.startswith(because)


def test_one_burst_of_errors_holds_and_returning_errors_are_harm():
    """A hiccup of the machine makes many errors with one cause."""
    burst = replace(GOOD, candidate=tally(350, 60), harm=erring([10, 11, 12]))
    returning = replace(GOOD, candidate=tally(350, 60), harm=erring(range(4, 60, 6)))

    decision = decide(AT_FIRST_STEP, burst, NOW)

    assert (decision.actions, verdicts(decision)["errors"]) == ((), "inconclusive")
    assert decide(AT_FIRST_STEP, returning, NOW).actions == (DecideOutcome(outcome="rolled_back"),)


def test_errors_of_few_units_weigh_less():
    """Twenty requests of each unit: a unit that always fails makes twenty errors with one cause."""
    few = replace(GOOD, candidate=tally(350, 9), harm=HARM, units=350, counted_requests=7_000)
    unnamed = replace(few, unnamed_reports=1)

    assert verdicts(decide(AT_FIRST_STEP, unnamed, NOW))["errors"] != "fail"
    # Where gateways name the units that failed, `harm` has counted units already.
    assert verdicts(decide(AT_FIRST_STEP, few, NOW))["errors"] == "fail"


def test_an_optional_gate_need_not_pass_but_may_still_fail():
    """Labels that come too late to wait for."""
    state = replace(AT_FIRST_STEP, plan=replace(AT_FIRST_STEP.plan, optional=("loss",)))
    without = replace(GOOD, loss_difference=Moments(), last_label_at=None)
    worse = replace(GOOD, loss_difference=moments(1_500, 0.06, 0.3))

    assert decide(state, without, NOW).actions == (DecideStep(step=1),)
    assert decide(state, worse, NOW).actions == (DecideOutcome(outcome="rolled_back"),)


def test_a_gate_that_cannot_be_computed_holds():
    """An error in our own arithmetic is neither a pass nor a fail."""
    wrong = replace(GOOD, candidate=replace(GOOD.candidate, latency=(1, 2, 3)))

    with pytest.raises(Exception, match="needs one more than edges"):
        gates._latency(LatencyGate(), wrong)
    decision = decide(AT_FIRST_STEP, wrong, NOW)

    assert (decision.actions, verdicts(decision)["latency"]) == ((), "error")


def test_a_rollout_begins_with_capacity_and_ends_without():
    """Capacity before traffic, traffic off before capacity goes, each once."""
    new = RolloutState(rollout_id="m-3", plan=AT_FIRST_STEP.plan, stable="1", started_at=NOW)
    up = replace(new, candidate=CANDIDATE)
    decided = replace(up, wanted_step=0)
    over = replace(AT_FIRST_STEP, outcome="promoted")
    moved = replace(over, traffic_moved_at=NOW - 1)
    told = [
        decide(state, Evidence(), NOW).actions
        for state in (
            new,
            up,
            decided,
            over,
            replace(over, outcome="rolled_back"),
            moved,
            replace(moved, traffic_moved_at=NOW - rules.DRAIN_S),
            replace(moved, ended_at=NOW),
        )
    ]

    assert told == [
        (StartCandidate(),),
        (DecideStep(step=0),),
        (PublishStep(step=0),),
        (MoveTraffic(version="2"),),
        (MoveTraffic(version="1"),),
        (),
        (StopCandidate(),),
        (),
    ]


def test_an_abort_comes_before_everything_but_an_outcome():
    """Even when all gates pass."""
    asked = replace(AT_FIRST_STEP, abort_reason="lunch")

    assert decide(asked, GOOD, NOW).actions == (DecideOutcome(outcome="aborted"),)


def test_a_crash_between_publishing_and_recording_a_step_raises_no_false_alarm():
    """Units under the unrecorded epoch are not compared with the weights before it."""
    moving = replace(AT_FIRST_STEP, wanted_step=1)
    later = SplitCount(epoch=3, gateway="g", stable=750, candidate=250)
    evidence = replace(GOOD, splits=(*GOOD.splits, later))

    assert decide(moving, evidence, NOW).actions == (PublishStep(step=1),)


def pairs_needed(random, mean, deviation, margin, verdict):
    """Labelled pairs until the loss gate says so, asked after every 50."""
    values = random.normal(mean, deviation, size=6_000)
    gate = LossGate(margin=margin)
    for count in range(500, 6_001, 50):
        difference = Moments.of(values[:count])
        known = replace(GOOD, loss_difference=difference)
        if gates._loss(gate, known).verdict == verdict:
            return count
    return math.inf


def test_the_methods_are_sharp_enough_for_the_demos_traffic():
    """Its numbers: 350 candidate requests, loss differences of sd 0.3, 2,000 pairs to refuse."""
    random = np.random.default_rng(1)
    good = [pairs_needed(random, -0.05, 0.3, 0.01, "pass") for _ in range(40)]
    shuffled = [pairs_needed(random, 0.06, 0.3, 0.01, "fail") for _ in range(40)]
    wrongly = [pairs_needed(random, -0.05, 0.3, 0.01, "fail") for _ in range(40)]
    errors = gates._errors(ErrorsGate(margin_ratio=0.02), GOOD).verdict
    latencies = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        sides = []
        for number, median in ((6_650, 4.0), (350, 5.0)):
            times = median * np.exp(0.5 * random.standard_normal(number))
            buckets = np.searchsorted(LATENCY_EDGES_MS, times)
            latency = np.bincount(buckets, minlength=len(LATENCY_EDGES_MS) + 1)
            sides.append(Tally(requests=number, latency=tuple(latency.tolist())))
        known = replace(GOOD, stable=sides[0], candidate=sides[1])
        latencies.append(gates._latency(LatencyGate(), known).verdict)

    assert errors == "pass"
    assert latencies.count("pass") == 40
    assert np.quantile(good, 0.95) <= 1_500
    assert np.quantile(shuffled, 0.95) <= 2_000
    assert set(wrongly) == {math.inf}
