"""The status page: what serves, rollouts with their evidence and events, as one HTML document."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliostat.control import explain, report

HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"refresh", b"5"),
]
"""The page runs no script and loads nothing."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
tr { border-bottom: 1px solid #ddd; }
section { border: 1px solid #bbb; border-radius: 6px; padding: 0 1rem; margin: 1rem 0; }
.pass { color: #176b2c; } .fail { color: #b00020; } .error { color: #b00020; }
"""
_WIDTH, _HEIGHT = 560, 90


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A whole document."""

    html: str


def render(status: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]]) -> Page:
    """Draw the page; every text from outside is escaped.

    Args:
        status: What ``GET /v1/status`` answers.
        rollouts: What ``GET /v1/rollouts/ID`` answers, for each that is shown.
    """
    models = "".join(
        _row(name, model["stable"], _shares(model["shares_percent"]), model["rollout"] or "-")
        for name, model in status["models"].items()
    )
    leads = "leads" if status["leads"] else "does not lead"
    body = (
        f"<h1>Rollouts</h1><p>Policy epoch {_text(status['epoch'])}; this controller {leads}.</p>"
        f"<table>{_row('Model', 'Stable', 'Traffic', 'Rollout', tag='th')}{models}</table>"
        + "".join(_rollout(rollout) for rollout in rollouts)
    )
    return Page(
        html="<!doctype html><html lang=en><meta charset=utf-8><title>Rollouts</title>"
        f"<style>{_STYLE}</style>{body}</html>"
    )


def _rollout(rollout: Mapping[str, Any]) -> str:
    gates = "".join(
        f"<tr><td>{_text(gate['gate'])}<td class={_text(gate['verdict'])}>{_text(gate['verdict'])}"
        f"<td>{_text(gate['because'])}</tr>"
        for gate in rollout["gates"]
    )
    events = "".join(
        _row(
            f"{event['seconds']:.1f} s",
            event["kind"],
            event.get("by") or "",
            event["reason"] or "",
        )
        for event in rollout["events"]
    )
    return (
        f"<section><h2>{_text(rollout['id'])}</h2><p>{_text(explain.standing(rollout))}</p>"
        f"{_weights(rollout)}<h3>Evidence</h3><table>{gates}</table>{report.picture(rollout)}"
        f"<h3>Events</h3><table>{events}</table></section>"
    )


def _weights(rollout: Mapping[str, Any]) -> str:
    """The candidate's share over time, as steps."""
    moves = [(0.0, 0.0)]
    for event in rollout["events"]:
        if event["kind"] == "rollout.step_reached":
            moves.append((event["seconds"], event["percent"]))
        elif event["kind"] == "rollout.bake_reached":
            moves.append((event["seconds"], 100.0 - rollout["plan"]["bake_percent"]))
        elif event["kind"] == "rollout.traffic_moved":
            moves.append((event["seconds"], 100.0 if rollout["outcome"] == "promoted" else 0.0))
    ends = max(1.0, *(event["seconds"] for event in rollout["events"]))
    points, height = [], 0.0
    for at, percent in [*moves, (ends, moves[-1][1])]:
        x = at / ends * _WIDTH
        points += [f"{x:.1f},{_y(height)}", f"{x:.1f},{_y(percent)}"]
        height = percent
    return (
        f"<svg width={_WIDTH + 60} height={_HEIGHT + 26} role=img>"
        f"<title>Share of the candidate over {ends:.0f} seconds</title>"
        f'<polyline points="{" ".join(points)}" fill="none" stroke="#1f5fa8" stroke-width="2"/>'
        f'<text x="{_WIDTH + 6}" y="14" font-size="12">100 %</text>'
        f'<text x="{_WIDTH + 6}" y="{_HEIGHT + 8}" font-size="12">0 %</text>'
        f'<text x="0" y="{_HEIGHT + 24}" font-size="12">0 s</text>'
        f'<text x="{_WIDTH - 30}" y="{_HEIGHT + 24}" font-size="12">{ends:.0f} s</text></svg>'
    )


def _y(percent: float) -> str:
    return f"{4 + _HEIGHT * (1 - percent / 100):.1f}"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"version {version} {share:g} %" for version, share in shares.items())


def _row(*cells: object, tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"


def _text(value: object) -> str:
    return html.escape(str(value))
