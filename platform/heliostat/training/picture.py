"""A picture of a search: each trial's validation loss by epoch, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _EDGE, _LINE = 640, 320, 48, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial of a search, as far as it got."""

    name: str
    run_id: str
    values: Mapping[str, Any]
    losses: tuple[float, ...]
    """Validation loss of each epoch."""

    status: str

    @property
    def best_loss(self) -> float:
        """The least loss; infinite if there is none."""
        return min((loss for loss in self.losses if math.isfinite(loss)), default=math.inf)


def draw(trials: Sequence[Trial]) -> str:
    """Draw all trials; the best one is dark and named first."""
    ranked = sorted(trials, key=lambda trial: trial.best_loss)
    finite = [loss for trial in trials for loss in trial.losses if math.isfinite(loss)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    epochs = max((len(trial.losses) for trial in trials), default=1)

    def place(epoch: int, loss: float) -> str:
        x = _EDGE + (_WIDTH - 2 * _EDGE) * (epoch / max(1, epochs - 1))
        y = _EDGE + (_HEIGHT - 2 * _EDGE) * ((high - loss) / ((high - low) or 1.0))
        return f"{x:.1f},{y:.1f}"

    lines = []
    for rank, trial in reversed(list(enumerate(ranked))):
        points = [place(n, loss) for n, loss in enumerate(trial.losses) if math.isfinite(loss)]
        colour = "#0b4f8a" if rank == 0 else "#b8c4ce"
        lines.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>'
        )
        lines += [
            f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
            for x, y in (point.split(",") for point in points)
        ]
    texts = [f'<text x="{_EDGE}" y="24">validation loss by epoch, {low:.4f} to {high:.4f}</text>']
    for row, trial in enumerate(ranked):
        values = ", ".join(f"{name}={value}" for name, value in trial.values.items())
        text = f"{row + 1}. {trial.best_loss:.4f} {trial.status} {trial.name} {values}"
        texts.append(f'<text x="{_EDGE}" y="{_HEIGHT + _LINE * (row + 1)}">{escape(text)}</text>')
    height = _HEIGHT + _LINE * (len(ranked) + 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="monospace" font-size="11">\n' + "\n".join([*lines, *texts]) + "\n</svg>\n"
    )
