from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace

import pytest

from heliostat.errors import ConfigError
from heliostat.rollout.evidence import (
    LATENCY_EDGES_MS,
    EvidenceReport,
    PairedScore,
    VariantCounts,
)
from heliostat.rollout.gathered import Gathering
from heliostat.rollout.known import Dropped, Evidence
from heliostat.rollout.plan import LossGate, RolloutPlan
from heliostat.stats.means import Moments


def counts(version, requests, errors=0, slow=0):
    latency = [0] * (len(LATENCY_EDGES_MS) + 1)
    latency[40] = requests - errors - slow
    latency[90] = slow
    return VariantCounts(
        version=version, requests=requests, errors=errors, units=requests, latency=tuple(latency)
    )


def report(sequence, *items, epoch=1, gateway="g", pairs=(), rollout_id="r", model="m"):
    return EvidenceReport(
        gateway=gateway,
        sequence=sequence,
        model=model,
        rollout_id=rollout_id,
        epoch=epoch,
        counts=items,
        pairs=tuple(PairedScore(request_id=n, stable=s, candidate=c) for n, s, c in pairs),
    )


def gathering(**more):
    return Gathering(rollout_id="r", model="m", stable="1", candidate="2", **more)


def test_counts_add_up_over_gateways_and_epochs():
    """Requests of the candidate are known by epoch, so that each step can ask for new ones."""
    it = gathering()
    it.report(report(0, counts("1", 95, 1), counts("2", 5)), 10.0)
    it.report(report(0, counts("1", 50), counts("2", 50, 2, slow=3), epoch=2, gateway="h"), 11.0)
    it.report(report(5, counts("2", 7), epoch=3), 12.0)

    known = it.evidence()

    assert (known.stable.requests, known.stable.errors) == (145, 1)
    assert (known.candidate.requests, known.candidate.errors) == (62, 2)
    assert (known.candidate.latency[40], known.candidate.latency[90]) == (57, 3)
    assert [known.requests_since(epoch) for epoch in (1, 2, 3, 4)] == [62, 57, 7, 0]
    assert [(s.epoch, s.gateway, s.stable, s.candidate) for s in known.splits] == [
        (1, "g", 95, 5),
        (2, "h", 50, 50),
        (3, "g", 0, 7),
    ]
    assert known.last_report_at == 12.0


def test_errors_close_together_count_once():
    """At a small share: nothing for two seconds after an error, a part until five, for both."""
    it = gathering()
    for second, errors in enumerate([1, 5, 2, 0, 0, 3, 0]):
        it.report(report(second, counts("1", 95, 1), counts("2", 5, errors)), float(second))

    seen = it.evidence().harm
    assert (float(seen.events), float(seen.stable_events)) == pytest.approx((2.0, 3.0))


def test_what_is_delivered_again_or_for_others_or_makes_no_sense_is_not_counted():
    """Each is counted as dropped instead."""
    it = gathering()
    good = report(0, counts("2", 5))

    used = [
        it.report(item, 1.0)
        for item in (
            good,
            good,
            report(1, counts("2", 5), rollout_id="other"),
            report(2, counts("2", 5), model="other"),
            report(3, VariantCounts(version="2", requests=1, errors=2, units=1, latency=())),
        )
    ]

    assert used == [True, False, False, False, False]
    assert it.evidence().candidate.requests == 5
    assert it.evidence().dropped == Dropped(
        repeated_reports=1, foreign_reports=2, invalid_reports=1
    )


def test_pairs_and_labels_meet_in_any_order():
    """Oracle: log loss by hand."""
    results = set()
    for order in itertools.permutations(range(4)):
        it = gathering()
        acts = [
            lambda it: it.report(report(0, pairs=[("a", 0.5, 0.8)]), 1.0),
            lambda it: it.report(report(1, pairs=[("b", 0.5, 0.9), ("c", 0.1, 0.1)]), 2.0),
            lambda it: it.labels([("a", 1.0), ("x", 1.0), ("a", 1.0)], 3.0),
            lambda it: it.labels([("b", 0.0)], 4.0),
        ]
        for index in order:
            acts[index](it)
        known = it.evidence()
        results.add((known.loss_difference.count, round(known.loss_difference.mean, 12)))
        assert known.waiting_pairs == 1
        assert known.stable_loss.mean == pytest.approx(math.log(2))

    expected = (math.log(0.5) - math.log(0.8) + math.log(0.5) - math.log(0.1)) / 2
    assert results == {(2, round(expected, 12))}


def test_a_sure_mistake_costs_a_finite_loss():
    """A score of exactly 0 with the label 1."""
    it = gathering()
    it.report(report(0, pairs=[("a", 0.5, 0.0)]), 1.0)
    it.labels([("a", 1)], 1.0)

    assert it.evidence().candidate_loss.mean == pytest.approx(-math.log(1e-7))


def test_scores_and_labels_that_are_no_probability_are_counted_not_used():
    """NaN from a broken model must not hide in a mean."""
    it = gathering()
    it.report(report(0, pairs=[("a", 0.5, math.nan), ("b", 0.5, 1.5), ("c", 0.5, 0.5)]), 1.0)
    it.labels([("a", 1), ("b", 1), ("c", 0.3)], 1.0)

    known = it.evidence()

    assert known.loss_difference == Moments()
    assert known.dropped == Dropped(invalid_pairs=3)


def test_memory_is_bounded_and_what_is_forgotten_is_counted():
    """The oldest goes first."""
    it = gathering(max_waiting=3)
    it.report(report(0, pairs=[(f"p{n}", 0.5, 0.5) for n in range(5)]), 1.0)
    it.labels([(f"l{n}", 1) for n in range(7)], 1.0)

    assert it.evidence().dropped == Dropped(forgotten_pairs=2, forgotten_labels=4)
    assert it.labels([("p1", 1), ("p2", 1)], 2.0) == 1


def test_stored_evidence_goes_on_in_a_new_process():
    """Through JSON; what was counted before is not counted again."""
    it = gathering()
    first = report(0, counts("1", 95), counts("2", 5, 1), pairs=[("a", 0.4, 0.6)])
    second = report(1, counts("1", 95), counts("2", 5))
    it.report(first, 1.0)
    it.labels([("a", 1)], 2.0)
    stored = Evidence.from_dict(json.loads(json.dumps(it.evidence().to_dict())))
    assert stored == it.evidence()

    later = gathering(earlier=stored)
    used = [later.report(first, 3.0), later.report(second, 3.0)]
    it.report(second, 3.0)

    assert used == [False, True]
    assert later.evidence().candidate == it.evidence().candidate
    assert later.evidence().harm == it.evidence().harm
    assert later.evidence().loss_difference == it.evidence().loss_difference


def failing(requests, errors, names):
    """A version's counts, with the units that it failed for the first time at one gateway."""
    return replace(counts("2", requests, errors), failed_units=len(names), failed_names=names)


def test_a_unit_that_fails_again_and_again_counts_once():
    """At another gateway, in another epoch, and at its every request; all its errors are tallied."""
    it, once = gathering(), gathering()
    for now, (epoch, gateway) in enumerate([(1, "g"), (1, "h"), (2, "g")]):
        stable = replace(counts("1", 50), failed_units=0)
        it.report(
            report(now, stable, failing(50, 20, (7,)), epoch=epoch, gateway=gateway), 10.0 * now
        )
        names = (7,) if now == 0 else ()
        once.report(
            report(now, stable, failing(50, 20, names), epoch=epoch, gateway=gateway), 10.0 * now
        )

    known = it.evidence()

    assert known.candidate.errors == 60
    assert (float(known.harm.events), float(known.harm.stable_events)) == (1.0, 0.0)
    assert known.harm == once.evidence().harm
    assert known.unnamed_reports == 0


def test_a_gateway_that_names_no_units_is_counted_by_errors():
    """One of an older release, during an upgrade; the evidence says so."""
    it = gathering()
    it.report(report(0, counts("1", 95), counts("2", 5, 1)), 0.0)
    it.report(report(1, counts("1", 95), counts("2", 5)), 10.0)

    known = it.evidence()

    assert (float(known.harm.events), known.unnamed_reports) == (1.0, 1)
    assert Evidence.from_dict(json.loads(json.dumps(known.to_dict()))) == replace(
        known, waiting_pairs=0
    )


def test_more_failed_units_than_errors_are_no_report():
    """Such counts contradict themselves."""
    it = gathering()
    it.report(report(0, failing(5, 1, (1, 2))), 0.0)

    assert it.evidence().dropped == Dropped(invalid_reports=1)


def test_reports_in_any_order_give_the_same_counts():
    """At-least-once delivery over several connections."""
    reports = [
        report(n, counts("1", 90, n % 3), counts("2", 10, n % 2), epoch=1 + n // 5)
        for n in range(10)
    ]
    shuffled = reports * 2
    random.Random(1).shuffle(shuffled)
    one, two = gathering(), gathering()
    for item in reports:
        one.report(item, 1.0)
    for item in shuffled:
        two.report(item, 1.0)

    a, b = one.evidence(), two.evidence()

    assert (a.stable, a.candidate) == (b.stable, b.candidate)
    assert a.candidate_requests == b.candidate_requests
    assert a.requests_per_unit == b.requests_per_unit


def test_numbers_are_compared_by_squared_error_and_the_rest_is_refused():
    """Any finite label and score counts; the same pairs as probabilities would be invalid."""
    it = gathering(loss="squared_error")
    it.report(report(0, pairs=[("a", 10.0, 12.0), ("b", -3.0, math.nan)]), 1.0)
    it.labels([("a", 13.0), ("c", math.inf)], 2.0)

    known = it.evidence()

    assert (known.stable_loss.mean, known.candidate_loss.mean) == (9.0, 1.0)
    assert known.loss_difference == Moments(count=1, mean=-8.0, squares=0.0)
    assert known.dropped.invalid_pairs == 2


def test_a_plan_says_which_loss_it_compares():
    """It survives the way through JSON; another word is refused."""
    plan = RolloutPlan(model="m", candidate="2", loss=LossGate(of="squared_error", margin=3.0))

    assert RolloutPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    with pytest.raises(ConfigError, match=r"plan\.loss\.of = 'absolute': must be log_loss or squ"):
        RolloutPlan.from_dict({"model": "m", "candidate": "2", "loss": {"of": "absolute"}})
