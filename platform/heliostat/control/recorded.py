"""Reads exposures that gateways have written as traffic on which a plan can be played."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heliostat.errors import ConfigError
from heliostat.rollout.simulated import Effects, Rows, changed
from heliostat.stats.slots import slot


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """Requests of one model, second by second, as the gateways answered them."""

    model: str
    seconds: tuple[Rows, ...]
    num_requests: int
    num_labelled: int

    def replay(self, effects: Effects, seed: int) -> Iterator[Rows]:
        """The same requests, with a candidate that answers with these effects."""
        random = np.random.default_rng(seed)
        for rows in self.seconds:
            yield changed(rows, effects, random)


def read(folder: Path, model: str, labels: Mapping[str, float] | None = None) -> Recording:
    """Read every exposure of a model; each second between the first and the last is there.

    Whoever answered then, its answer stands for the stable version's: an answer by fallback
    or with another status than 200 is an error. Requests that asked for a version are left
    out. Units are split anew from their names.

    Args:
        folder: Where gateways write ``*.jsonl``.
        model: Whose.
        labels: True outcomes by request id, where there are any.

    Raises:
        ConfigError: There is no exposure of the model, or a line is no exposure.
    """
    known = labels or {}
    by_second: dict[int, list[tuple[int, int, bool, float, float, float]]] = {}
    units: dict[str, int] = {}
    labelled = total = 0
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.open(encoding="utf-8"), start=1):
            record = _record(path, number, line)
            if record["model"] != model or record["slot"] is None:
                continue
            unit = record["unit"]
            score = record["scores"][0] if record["scores"] else 0.5
            label = known.get(record["request_id"], math.nan)
            total, labelled = total + 1, labelled + math.isfinite(label)
            by_second.setdefault(int(record["ts"]), []).append(
                (
                    slot(unit, model),
                    units.setdefault(unit, len(units)),
                    record["status"] != 200 or record["fallback"],
                    record["latency_ms"],
                    min(1.0, max(0.0, score)),
                    label,
                )
            )
    if not by_second:
        raise ConfigError("--exposures", str(folder), f"must hold exposures of {model}")
    seconds = range(min(by_second), max(by_second) + 1)
    return Recording(
        model=model,
        seconds=tuple(_rows(by_second.get(second, [])) for second in seconds),
        num_requests=total,
        num_labelled=labelled,
    )


def read_labels(path: Path) -> dict[str, float]:
    """Read labels: lines ``{"request_id": text, "label": 0 or 1}``.

    Raises:
        ConfigError: A line is not of that form.
    """
    found = {}
    for number, line in enumerate(path.open(encoding="utf-8"), start=1):
        try:
            raw = json.loads(line)
            found[str(raw["request_id"])] = float(raw["label"])
        except (ValueError, KeyError, TypeError) as error:
            rule = 'must be {"request_id": text, "label": 0 or 1}'
            raise ConfigError(f"{path}:{number}", line[:80], rule) from error
    return found


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
        for name in ("model", "slot", "unit", "ts", "status", "latency_ms", "fallback"):
            record[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}:{number}", line[:80], "must be an exposure") from error
    return record


def _rows(records: list[tuple[int, int, bool, float, float, float]]) -> Rows:
    columns = list(zip(*records, strict=True)) if records else [()] * 6
    errors, times, scores = (np.array([column, column]).reshape(2, -1) for column in columns[2:5])
    return Rows(
        slots=np.array(columns[0], dtype=np.int64),
        units=np.array(columns[1], dtype=np.int64),
        errors=errors.astype(bool),
        times_ms=times.astype(float),
        scores=scores.astype(float),
        labels=np.array(columns[5], dtype=float),
    )
