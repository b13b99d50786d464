"""The report of a rollout for people: Markdown, and a picture of what was compared, as SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliostat.control import explain

_WIDTH, _ROW, _LEFT, _RIGHT = 640, 34, 150, 130


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Two files that belong together."""

    markdown: str
    picture: str
    """An SVG document; the Markdown names it ``picture.svg``."""


def report(rollout: Mapping[str, Any]) -> Report:
    """Write the report.

    Args:
        rollout: What ``GET /v1/rollouts/ID`` answers.
    """
    plan = rollout["plan"]
    lines = [f"# {rollout['id']}: version {rollout['candidate']} of {rollout['model']}", ""]
    lines += [explain.standing(rollout), "", "![What was compared](picture.svg)", ""]
    comparison = plan.get("comparison")
    if comparison is not None:
        lines += _registered(comparison, plan) + _looks(comparison, rollout["looks"])
    lines += ["## Gates", "", "| gate | verdict | why |", "|---|---|---|"]
    lines += [
        f"| {_cell(gate['gate'])} | {gate['verdict']} | {_cell(gate['because'])} |"
        for gate in rollout["gates"]
    ]
    lines += ["", "## Events", "", "| after | what | who | why |", "|--:|---|---|---|"]
    lines += [
        f"| {event['seconds']:.1f} s | {_cell(event['kind'])} | {_cell(event.get('by') or '')} "
        f"| {_cell(event['reason'] or '')} |"
        for event in rollout["events"]
    ]
    return Report(markdown="\n".join(lines) + "\n", picture=picture(rollout))


def picture(rollout: Mapping[str, Any]) -> str:
    """Draw the interval of each look of an A/B test, or of each gate that has one."""
    bars = _bars(rollout)
    if not bars:
        return _svg(60, ['<text x="10" y="34">Nothing was compared yet.</text>'])
    ends = [0.0, *(end for _, low, high, _ in bars for end in (low, high))]
    least, most = min(ends), max(ends)
    scale = (_WIDTH - _LEFT - _RIGHT) / ((most - least) or 1.0)

    def x(value: float) -> float:
        return round(_LEFT + (value - least) * scale, 1)

    height = _ROW * len(bars) + 40
    drawn = [
        (
            f'<line x1="{x(0)}" y1="6" x2="{x(0)}" y2="{height - 30}" stroke="#999" '
            'stroke-dasharray="3 3"/>'
        ),
        f'<text x="{x(0)}" y="{height - 12}" text-anchor="middle">no difference</text>',
    ]
    for number, (name, low, high, value) in enumerate(bars):
        y = 20 + _ROW * number
        drawn += [
            f'<text x="8" y="{y + 4}">{html.escape(name)}</text>',
            (
                f'<line x1="{x(low)}" y1="{y}" x2="{x(high)}" y2="{y}" stroke="#1f5fa8" '
                'stroke-width="3"/>'
            ),
            f'<circle cx="{x(value)}" cy="{y}" r="5" fill="#1f5fa8"/>',
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{y + 4}">{value:+.4g}</text>',
        ]
    return _svg(height, drawn)


def _bars(rollout: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """Name, lower and upper end and middle of each interval."""
    looks = rollout["looks"]
    if looks:
        return [
            (f"look {number}", look["low"], look["high"], look["difference"])
            for number, look in enumerate(looks, start=1)
        ]
    found = []
    for gate in rollout["gates"]:
        numbers = gate["numbers"]
        for low, high in (
            ("difference_least", "difference_most"), ("difference_low", "difference_high"),
        ):  # fmt: skip
            if numbers.get(low) is not None and numbers.get(high) is not None:
                middle = numbers.get("difference")
                value = (numbers[low] + numbers[high]) / 2 if middle is None else middle
                found.append((gate["gate"], numbers[low], numbers[high], value))
    return found


def _registered(comparison: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    better = "higher" if comparison["higher_is_better"] else "lower"
    per = "mean per unit, adjusted by what the unit did before (CUPED)"
    if comparison["per"] == "event":
        per = "sum over events, its error by unit (delta method)"
    rule = (
        "one look at the end" if comparison["stop"] == "fixed"
        else f"{comparison['looks']} looks, {comparison['stop'].replace('_', '-')} bounds"
    )  # fmt: skip
    return [
        "## Registered before it began",
        "",
        f"- metric: {comparison['metric']}, {better} is better; {per}",
        f"- split: {plan['steps_percent'][0]:g} % of the units, fixed",
        (
            f"- smallest difference that matters: {comparison['effect']:g}, of which "
            f"{comparison['power']:.0%} are found; alpha {comparison['alpha']:g}, two-sided"
        ),
        f"- stop rule: {rule}",
        "",
    ]


def _looks(comparison: Mapping[str, Any], looks: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Looks",
        "",
        (
            f"| look | units | {_cell(comparison['metric'])}: candidate less stable | interval | z "
            "| bound |"
        ),
        "|--:|--:|--:|---|--:|--:|",
    ]
    lines += [
        f"| {number} | {look['units']:,} | {look['difference']:+.4g} "
        f"| {look['low']:+.4g} to {look['high']:+.4g} | {look['z']:.2f} | {look['bound']:.2f} |"
        for number, look in enumerate(looks, start=1)
    ]
    level = 1 - float(comparison["alpha"])
    return [*lines, "", f"All intervals together hold the true difference at {level:.0%}.", ""]


def _cell(text: object) -> str:
    """Text inside a table of Markdown; what people wrote must not break it or become markup."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")


def _svg(height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13"><rect width="{_WIDTH}" height="{height}" '
        f'fill="white"/>{"".join(parts)}</svg>\n'
    )
