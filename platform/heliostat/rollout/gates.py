"""What each gate makes of the evidence: pass, fail, inconclusive or error, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from heliostat.errors import HeliostatError
from heliostat.rollout.allowed import Check, ErrorsGate, LatencyGate, LossGate
from heliostat.rollout.evidence import LATENCY_EDGES_MS
from heliostat.rollout.known import Evidence, Verdict
from heliostat.rollout.plan import RolloutPlan
from heliostat.stats import means, proportions, quantiles, srm

SPLIT_ALPHA = 0.001
"""Chance that a correct split ever raises an alarm during one rollout."""

HARM_PART = 0.9
"""Part of an errors gate's alpha for harm at any size; the rest is for the margin."""

_MAX_INVALID_SHARE = 0.01
"""With more pairs unusable than this, the rest no longer stands for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    """One gate's answer at one moment."""

    gate: str
    verdict: Verdict
    because: str
    """The reason in words, with the numbers that matter."""

    numbers: Mapping[str, float | int | None]
    """Everything that was compared; None where nothing is known or a bound is infinite."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "gate": self.gate,
            "verdict": self.verdict,
            "because": self.because,
            "numbers": dict(self.numbers),
        }


def judge(
    plan: RolloutPlan, evidence: Evidence, candidate_shares: Mapping[int, float], now: float
) -> tuple[GateVerdict, ...]:
    """Ask every gate of the plan, and the split check that every rollout has.

    Args:
        plan: Which gates there are and what they allow.
        evidence: All that was gathered.
        candidate_shares: The candidate's planned share by the epoch from which it held.
        now: The moment of judgement; evidence that is too old decides nothing.
    """
    report_age_s = _age_s(evidence.last_report_at, now)
    verdicts = []
    if plan.errors is not None:
        verdicts.append(_guarded("errors", partial(_errors, plan.errors, evidence)))
    if plan.latency is not None:
        verdicts.append(_guarded("latency", partial(_latency, plan.latency, evidence)))
    if plan.loss is not None:
        verdict = _guarded("loss", partial(_loss, plan.loss, evidence))
        label_age_s = _age_s(evidence.last_label_at, now)
        verdicts.append(_unless_stale(verdict, label_age_s, plan.labels_stale_s, "labelled pair"))
    return (
        _guarded("split", partial(_split, evidence, candidate_shares)),
        *(
            _unless_stale(verdict, report_age_s, plan.evidence_stale_s, "gateway report")
            for verdict in verdicts
        ),
        *(_asked(check, evidence, now) for check in plan.checks),
    )


def _asked(check: Check, evidence: Evidence, now: float) -> GateVerdict:
    """What somebody outside said; too old an answer is none, except that harm stays harm."""
    result = evidence.checks.get(check.name)
    if result is None:
        return GateVerdict(
            gate=check.name, verdict="inconclusive", because="was not asked yet", numbers={}
        )
    verdict = GateVerdict(
        gate=check.name,
        verdict=result.verdict,
        because=result.because,
        numbers={} if result.value is None else {"value": result.value},
    )
    return _unless_stale(verdict, now - result.at, 3 * check.every_s, "answer")


def _age_s(at: float | None, now: float) -> float:
    return math.inf if at is None else now - at


def _guarded(name: str, check: Callable[[], GateVerdict]) -> GateVerdict:
    try:
        return check()
    except (ArithmeticError, ValueError, HeliostatError) as problem:
        return GateVerdict(
            gate=name, verdict="error", because=f"could not be judged: {problem}", numbers={}
        )


def _unless_stale(verdict: GateVerdict, age_s: float, limit_s: float, what: str) -> GateVerdict:
    if age_s <= limit_s or verdict.verdict in ("fail", "error"):
        return verdict
    words = f"no {what} yet" if math.isinf(age_s) else f"the last {what} is {age_s:.0f} s old"
    return GateVerdict(
        gate=verdict.gate,
        verdict="inconclusive",
        because=f"{words}, at most {limit_s:g} s count as fresh",
        numbers=verdict.numbers,
    )


def _split(evidence: Evidence, candidate_shares: Mapping[int, float]) -> GateVerdict:
    """Each gateway and epoch is tested on its own: a unit may come back in the next one.

    The k-th test to appear gets the share 6 / (pi k)^2 of alpha, which sums to one.
    """
    worst, seen, limit = 0.0, {"stable": 0, "candidate": 0}, -math.log(SPLIT_ALPHA)
    expected = 0.0
    for number, split in enumerate(evidence.splits, start=1):
        earlier = [epoch for epoch in candidate_shares if epoch <= split.epoch]
        share = candidate_shares[max(earlier)] if earlier else 0.0
        if not 0 < share < 1:
            continue
        seen["stable"] += split.stable
        seen["candidate"] += split.candidate
        expected += share * (split.stable + split.candidate)
        log_e = float(srm.log_e([split.stable, split.candidate], [1 - share, share]))
        worst = max(worst, log_e + math.log(6 / (math.pi * number) ** 2))
    failed = worst >= limit
    total = seen["stable"] + seen["candidate"]
    numbers = {
        "units_stable": seen["stable"],
        "units_candidate": seen["candidate"],
        "units_candidate_planned": round(expected, 1),
        "log_evidence": _finite(worst),
        "log_evidence_limit": _finite(limit),
    }
    words = f"{seen['candidate']} of {total} units at the candidate, {expected:.0f} planned"
    if failed:
        words += ": units do not split by the weights, so nothing else can be trusted"
    return GateVerdict(
        gate="split", verdict="fail" if failed else "pass", because=words, numbers=numbers
    )


def _errors(gate: ErrorsGate, evidence: Evidence) -> GateVerdict:
    stable, candidate = evidence.stable, evidence.candidate
    # Where gateways name the units that failed, each counts once already.
    per_unit = evidence.requests_per_unit if evidence.unnamed_reports else 1.0
    log_harm = float(evidence.harm.log_e(per_unit))
    limit = -math.log(HARM_PART * gate.alpha)
    # Errors that have one cause count once, in the fails; passes get no help from bursts.
    events, stable_events = float(evidence.harm.events), float(evidence.harm.stable_events)
    shrink = max(1.0, candidate.errors / max(1.0, events), 2 * per_unit - 1)
    part = (1 - HARM_PART) * gate.alpha / 2
    seen, stable_seen = float(candidate.requests), float(stable.requests)
    # One call: most of its time does not depend on how many bounds are asked for.
    lows, highs = proportions.bounds(
        [candidate.errors / shrink, stable.errors, candidate.errors, stable.errors],
        [seen / shrink, stable_seen, seen, stable_seen],
        [part, part, gate.alpha / 2, gate.alpha / 2],
    )
    least, most = float(lows[0] - highs[1]), float(highs[2] - lows[3])
    numbers = {
        "stable_errors": stable.errors,
        "stable_requests": stable.requests,
        "candidate_errors": candidate.errors,
        "candidate_requests": candidate.requests,
        "difference_least": _finite(least),
        "difference_most": _finite(most),
        "margin": gate.margin_ratio,
        "candidate_error_events": _finite(events),
        "stable_error_events": _finite(stable_events),
        "requests_per_unit": _finite(per_unit),
        "log_harm": _finite(log_harm),
        "log_harm_limit": _finite(limit),
    }
    words = (
        f"{candidate.errors} errors in {candidate.requests} requests, "
        f"stable {stable.errors} in {stable.requests}; "
    )
    verdict: Verdict
    if log_harm >= limit:
        odds = f"{math.exp(min(log_harm, 30)):.0f}"
        verdict, words = "fail", words + f"more than stable, at odds of {odds} to 1"
    elif least > gate.margin_ratio:
        verdict = "fail"
        words += f"at least {least:.2%} more than stable, margin {gate.margin_ratio:.2%}"
    else:
        verdict = "pass" if most <= gate.margin_ratio else "inconclusive"
        words += f"at most {most:.2%} more than stable, margin {gate.margin_ratio:.2%}"
    if verdict == "pass" and stable.requests == 0:
        verdict, words = "inconclusive", words + "; stable has not been seen"
    return GateVerdict(gate="errors", verdict=verdict, because=words, numbers=numbers)


def _latency(gate: LatencyGate, evidence: Evidence) -> GateVerdict:
    def bounds(counts: tuple[int, ...]) -> tuple[float, float]:
        return quantiles.bounds(counts, LATENCY_EDGES_MS, gate.quantile, gate.alpha / 4)

    def allowed(stable_ms: float) -> float:
        return max(stable_ms + gate.margin_ms, stable_ms * gate.margin_ratio)

    stable_low, stable_high = bounds(evidence.stable.latency)
    low, high = bounds(evidence.candidate.latency)
    name = f"p{gate.quantile * 100:g}"
    numbers = {
        "stable_ms_low": _finite(stable_low),
        "stable_ms_high": _finite(stable_high),
        "candidate_ms_low": _finite(low),
        "candidate_ms_high": _finite(high),
        "allowed_ms": _finite(allowed(stable_low)),
        "candidate_requests": sum(evidence.candidate.latency),
        "stable_requests": sum(evidence.stable.latency),
    }
    span, stable_span = _span(low, high), _span(stable_low, stable_high)
    words = f"{name} {span}, stable {stable_span}; "
    verdict: Verdict = "inconclusive"
    middle = [
        quantiles.bounds(counts, LATENCY_EDGES_MS, 0.5, gate.alpha / 4)
        for counts in (evidence.candidate.latency, evidence.stable.latency)
    ]
    if low > allowed(stable_high):
        verdict = "fail"
        words += f"above the allowed {allowed(stable_high):.3g} ms"
    elif middle[0][0] > allowed(middle[1][1]):
        # A version that is slower as a whole shows at its median long before its tail.
        verdict = "fail"
        words = (
            f"p50 {_span(*middle[0])}, stable {_span(*middle[1])}; "
            f"above the allowed {allowed(middle[1][1]):.3g} ms"
        )
    elif high <= allowed(stable_low) and sum(evidence.stable.latency) > 0:
        verdict = "pass"
        words += f"within the allowed {allowed(stable_low):.3g} ms"
    else:
        words += f"not yet known to be within {allowed(stable_low):.3g} ms"
    return GateVerdict(gate="latency", verdict=verdict, because=words, numbers=numbers)


def _loss(gate: LossGate, evidence: Evidence) -> GateVerdict:
    difference = evidence.loss_difference
    low, high = means.bounds(difference, gate.alpha)
    invalid = evidence.dropped.invalid_pairs
    numbers = {
        "pairs": difference.count,
        "pairs_needed": means.BURN_IN,
        "pairs_invalid": invalid,
        f"stable_{gate.of}": _mean(evidence.stable_loss),
        f"candidate_{gate.of}": _mean(evidence.candidate_loss),
        "difference": _mean(difference),
        "difference_low": _finite(low),
        "difference_high": _finite(high),
        "margin": gate.margin,
    }
    verdict: Verdict = "inconclusive"
    # Log losses are all of one size; squared errors have whatever size the label has.
    form = ".4f" if gate.of == "log_loss" else ".4g"
    words = f"{difference.count} labelled pairs, "
    if invalid > _MAX_INVALID_SHARE * (difference.count + invalid):
        words += f"and {invalid} that cannot be used: the rest does not stand for all"
    elif difference.count < means.BURN_IN:
        words += f"at least {means.BURN_IN} are needed"
    elif not math.isfinite(difference.mean) or not math.isfinite(low + high):
        words += "but their mean is no number"
    else:
        words += (
            f"{gate.of.replace('_', ' ')} {evidence.candidate_loss.mean:{form}}, "
            f"stable {evidence.stable_loss.mean:{form}}; difference {difference.mean:+{form}}, "
            f"between {low:+{form}} and {high:+{form}}, margin {gate.margin:+{form}}"
        )
        verdict = "fail" if low > gate.margin else "pass" if high <= gate.margin else verdict
    return GateVerdict(gate="loss", verdict=verdict, because=words, numbers=numbers)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _mean(moments: means.Moments) -> float | None:
    return _finite(moments.mean) if moments.count else None


def _span(low: float, high: float) -> str:
    if math.isinf(high):
        return "unknown" if low == 0 else f"above {low:.3g} ms"
    return f"{low:.3g} to {high:.3g} ms"
