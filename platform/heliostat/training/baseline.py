"""What a training set was like: a histogram of each input and of the label, in its package.

``baseline.json`` lies beside the network and under the same signature. Histograms of several
packages, or of days of live traffic, add up (`heliostat.stats.histograms`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.stats.histograms import Histogram, of_numbers, of_texts

if TYPE_CHECKING:
    import polars as pl

FILE = "baseline.json"

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """Histograms of one training set."""

    rows: int

    tables: Mapping[str, int]
    """Versions of the tables that the rows are of."""

    columns: Mapping[str, Histogram]
    """By input, and the label under its own name."""

    def write(self, folder: Path) -> None:
        """Write the file."""
        content = {
            "format": FORMAT,
            "rows": self.rows,
            "tables": dict(self.tables),
            "columns": {name: found.to_dict() for name, found in self.columns.items()},
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Baseline | None:
        """Read it from a verified package; None from one of before there were any.

        Raises:
            ConfigError: The file is of another format.
        """
        path = folder / FILE
        if not path.exists():
            return None
        raw = json.loads(path.read_text(encoding="utf-8"))
        require(
            raw.get("format") == FORMAT, f"{path}: format", raw.get("format"), f"must be {FORMAT}"
        )
        return Baseline(
            rows=raw["rows"],
            tables=raw["tables"],
            columns={name: Histogram.from_dict(item) for name, item in raw["columns"].items()},
        )


def of(
    rows: pl.DataFrame,
    *,
    numeric: Sequence[str],
    categorical: Sequence[str],
    tables: Mapping[str, int],
) -> Baseline:
    """Count every column of a training set that a model reads.

    Args:
        rows: The training set, as it was trained on.
        numeric: Columns of numbers, the label among them.
        categorical: Columns that are looked up by their text.
        tables: Versions of the tables that the rows are of.

    Raises:
        ConfigError: A column is missing, or a numeric one holds text.
    """
    import numpy as np
    import polars as pl

    from heliostat.inference.columns import column, texts

    found: dict[str, Histogram] = {}
    for name in numeric:
        values = column(rows, name)
        if not (values.dtype.is_numeric() or values.dtype in {pl.Boolean, pl.Null}):
            raise ConfigError(f"baseline {name}", str(values.dtype), "must be a number column")
        plain = values.cast(pl.Float64).to_numpy(allow_copy=True)
        found[name] = of_numbers(np.asarray(plain, np.float64))
    for name in categorical:
        counted = texts(rows, name).value_counts()
        found[name] = of_texts(dict(counted.iter_rows()))
    return Baseline(rows=rows.height, tables=tables, columns=found)


def cited(folder: Path) -> dict[str, Any] | None:
    """What a package's lineage says of the file; None where there is none."""
    path = folder / FILE
    if not path.exists():
        return None
    return {"file": FILE, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
