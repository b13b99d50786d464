"""The model card: what a person should know before using a model, in Markdown; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from heliostat.registry.package import PackageDescription
from heliostat.training.evaluate import Evaluation
from heliostat.training.gates import GateReport, GateResult

if TYPE_CHECKING:
    from heliostat.training.fit import FitSummary

_WORST_SLICES = 5
_NEEDED_INPUTS = 8
_PICKLED = (
    "**A pickle.** Opening it runs what its author wrote; only a locked process of its own does so."
)


def render(
    description: PackageDescription,
    fitted: FitSummary,
    evaluations: Mapping[str, Evaluation],
    gates: GateReport,
    lineage: Mapping[str, Any],
    about: str,
) -> str:
    """Write the card. The same arguments give the same text."""
    parts = [f"# {description.model}", about.strip()]
    parts += ["## Made from", _bullets(lineage)]
    trained = f"Trained on {fitted.num_train:,} rows, {fitted.num_validation:,} held back; "
    parts.append(f"{trained}epoch {fitted.best_epoch} of {fitted.num_epochs} was kept.")
    if description.network == "pickle":
        parts.append(_PICKLED)
    parts += [
        "## Gates",
        _table(("gate", "metric", "saw", "needs", "result", "why"), map(_gate, gates.results)),
    ]
    for name, item in evaluations.items():
        parts += [f"## Measured on {name} ({item.rows:,} rows)", _metrics(item)]
        if item.slices:
            rows = [
                (part.column, part.value, f"{part.rows:,}", f"{part.loss:.4f}")
                for part in item.slices[:_WORST_SLICES]
            ]
            parts += ["Worst slices:", _table(("column", "value", "rows", "loss"), rows)]
        if item.inputs:
            rows = [
                (
                    part.name, f"{part.shuffled_rise:+.4f}", f"{part.missing_rise:+.4f}",
                    f"{part.alone:.3f}",
                )
                for part in item.inputs[:_NEEDED_INPUTS]
            ]  # fmt: skip
            head = ("input", "loss if shuffled", "loss if missing", "alone")
            parts += ["Most needed inputs:", _table(head, rows)]
    parts += ["## Inputs", _table(("name", "kind", "known categories"), _inputs(description))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _gate(result: GateResult) -> tuple[str, ...]:
    gate = result.gate
    outcome = "met" if result.met else "refused"
    if not result.met and gate.waived is not None:
        outcome = f"refused, waived: {gate.waived}"
    saw = "not measured" if result.saw is None else f"{result.saw:.4f}"
    return gate.name, gate.metric, saw, gate.need, outcome, gate.why


def _metrics(item: Evaluation) -> str:
    rows = []
    for name, value in item.metrics.items():
        low, high = item.intervals.get(name, (None, None))
        between = "" if low is None else f"{low:.4f} to {high:.4f}"
        rows.append((name, f"{value:.4f}", between))
    return _table(("metric", "value", "95 % interval"), rows)


def _inputs(description: PackageDescription) -> Iterable[tuple[str, ...]]:
    for item in description.inputs:
        known = f"{len(item.vocabulary):,}" if item.kind == "categorical" else ""
        yield item.name, item.kind, known


def _bullets(values: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
    return "\n".join(f"- {name}: {value}" for name, value in sorted(plain.items()))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
