"""One page about one ingest, with pictures: what came, what was refused and what columns hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.data.contract import Column, Contract

if TYPE_CHECKING:
    from heliostat.data.profile import ColumnProfile, Profile

NUM_BINS = 24
_WIDTH = 240
_HEIGHT = 48

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:64em;padding:0 1em;"
    "color:#1c2733}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3em "
    ".8em;border-bottom:1px solid #dde3e9;vertical-align:middle}svg{display:block}code{font-size:"
    "13px}.bad{color:#a3261c}"
)


def path(run_id: str) -> str:
    """Where the page lies below the table's folder."""
    return f"_heliostat/reports/{run_id}.html"


def page(contract: Contract, report: Mapping[str, Any], found: Profile, now: datetime) -> str:
    """Write the page; it needs nothing from outside itself.

    Args:
        contract: What rows were checked by.
        report: The ingest's report as plain values.
        found: What the good rows hold.
        now: The run's time.
    """
    read, good, bad = (report[f"rows_{kind}"] for kind in ("read", "written", "quarantined"))
    parts = [
        f"<h1>{escape(contract.table)}, version {report['version']}</h1>",
        f"<p>{escape(now.isoformat())}; contract version {report['contract_version']}</p>",
        f"<p>{read:,} rows read = {good:,} written + {bad:,} quarantined</p>",
        _bar([("written", good, "#2f7d5b"), ("quarantined", bad, "#a3261c")]),
    ]
    if report["reasons"]:
        parts.append("<h2>Why rows were refused</h2><table>")
        most = max(report["reasons"].values())
        parts += [
            f"<tr><td>{escape(reason)}</td><td>{count:,}</td><td>{_meter(count / most)}</td></tr>"
            for reason, count in report["reasons"].items()
        ]
        parts.append("</table>")
    if report["contract_changes"]:
        items = "".join(f"<li>{escape(item)}</li>" for item in report["contract_changes"])
        parts.append(f"<h2>What this version of the contract changed</h2><ul>{items}</ul>")
    parts.append(
        "<h2>Columns</h2><p>Pictures show a sample of the good rows; numbers are of all.</p>"
        "<table><tr><th>column</th><th>type</th><th>missing</th><th>from</th><th>to</th>"
        "<th></th></tr>"
    )
    parts += [_row(item, found[item.name]) for item in contract.columns if item.name in found]
    parts.append("</table>")
    title = escape(f"{contract.table} {report['version']}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def histogram(values: Sequence[float]) -> str:
    """Draw how often values of equal ranges occur; an empty text without values.

    >>> histogram([])
    ''
    >>> histogram([1.0, 1.0, 2.0]).count("<rect")
    2
    """
    if not values:
        return ""
    counts, _ = np.histogram(np.asarray(values), bins=NUM_BINS)
    step = _WIDTH / NUM_BINS
    bars = "".join(
        f"<rect x='{index * step:.1f}' y='{_HEIGHT - height:.1f}' width='{step - 1:.1f}' "
        f"height='{height:.1f}' fill='#3b6ea5'/>"
        for index, count in enumerate(counts)
        if (height := max(1.0, _HEIGHT * count / counts.max()) if count else 0)
    )
    return f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img'>{bars}</svg>"


def _row(column: Column, item: ColumnProfile) -> str:
    limit = column.max_null_ratio
    missing = f"{item.null_ratio:.2%}" + (f" (at most {limit:.2%})" if limit is not None else "")
    tag = f" <code>{escape(column.pii)}</code>" if column.pii else ""
    # A page is passed around more freely than a table: it shows no value of a tagged column.
    low, high, sample = (None, None, ()) if column.pii else (item.low, item.high, item.sample)
    return (
        f"<tr><td>{escape(column.name)}{tag}</td><td>{column.dtype}</td><td>{missing}</td>"
        f"<td>{_value(low)}</td><td>{_value(high)}</td><td>{histogram(sample)}</td></tr>"
    )


def _value(value: object) -> str:
    return "" if value is None else escape(f"{value:g}" if isinstance(value, float) else str(value))


def _bar(parts: Sequence[tuple[str, int, str]]) -> str:
    total = sum(count for _, count, _ in parts) or 1
    drawn, left = [], 0.0
    for name, count, color in parts:
        width = 720 * count / total
        drawn.append(
            f"<rect x='{left:.1f}' width='{width:.1f}' height='18' fill='{color}'>"
            f"<title>{name}: {count:,}</title></rect>"
        )
        left += width
    return f"<svg width='720' height='18' role='img'>{''.join(drawn)}</svg>"


def _meter(ratio: float) -> str:
    return (
        f"<svg width='{_WIDTH}' height='10' role='img'>"
        f"<rect width='{_WIDTH * ratio:.1f}' height='10' fill='#a3261c'/></svg>"
    )
