"""Draft a contract from data: a start to edit, never a truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.data.contract import Column, Contract, DType
from heliostat.data.rows import LINE
from heliostat.data.typed_rows import parse_json
from heliostat.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

MAX_VALUES = 12
"""Texts with at most so many different values, in three times as many rows, are taken for a set."""

_PII = {
    "email": r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}",
    "phone": r"\+?\d[\d\s()/-]{6,}\d",
    "ip-address": r"\d{1,3}(?:\.\d{1,3}){3}",
    "iban": r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}",
}
"""Kinds of personal data that are told by their form; every value must match."""

_NAMES = {"name", "first-name", "last-name", "surname", "street", "address", "birthday", "ssn"}


def infer(frame: pl.DataFrame, table: str) -> Contract:
    """Draft the contract that all of these rows keep.

    Types come from the values, also where a file holds only text; bounds and sets are those seen,
    nullable is what has nulls, and the key is the first column without repeats. Personal data is
    guessed by form and name. Column names are made fit: ``Tail Num`` is ``tail_num``.

    Args:
        frame: Rows, as many as are at hand: what they do not show is not in the draft.
        table: The table's name.
    """
    columns = []
    keys: tuple[str, ...] = ()
    for header in frame.columns:
        values = _typed(frame[header])
        column = _column(header, values)
        columns.append(column)
        exact = column.dtype in ("int64", "string")
        if not keys and exact and not column.nullable and values.is_unique().all():
            keys = (column.name,)
    return Contract(table=table, columns=tuple(columns), keys=keys)


def head(path: Path, num_rows: int) -> pl.DataFrame:
    """Read the first rows of a file as text or in its own types.

    Args:
        path: CSV with a header, JSON lines or Parquet, told by its ending.
        num_rows: At most so many.

    Raises:
        ConfigError: It cannot be read.
    """
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, n_rows=num_rows)
        if path.suffix in (".json", ".jsonl", ".ndjson"):
            with path.open("rb") as file:
                raw = b"".join(line for line, _ in zip(file, range(num_rows), strict=False))
            return parse_json(raw, ()).rows.drop(LINE)
        return pl.read_csv(path, n_rows=num_rows, infer_schema=False, null_values=["", "NA"])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            "file", str(path), "must be CSV, JSON lines or Parquet",
            breaks=str(error).splitlines()[0],
        ) from error  # fmt: skip


def source_text(contract: Contract) -> str:
    """Write a contract as the Python that builds it; fields with default values are left out."""
    lines = ["Contract(", f"    table={contract.table!r},"]
    if contract.keys:
        lines.append(f"    keys={contract.keys!r},")
    lines.append("    columns=(")
    for column in contract.columns:
        given = [f"name={column.name!r}", f"dtype={column.dtype!r}"]
        for field in ("header", "nullable", "minimum", "maximum", "values", "not_in_future", "pii"):
            value = getattr(column, field)
            if value is not None and value is not False and value != ():
                given.append(f"{field}={value!r}")
        lines.append(f"        Column({', '.join(given)}),")
    return "\n".join([*lines, "    ),", ")"])


def _column(header: str, values: pl.Series) -> Column:
    import polars as pl

    name = re.sub(r"[^a-z0-9]+", "_", header.lower()).strip("_") or "column"
    name = name if name[0].isalpha() else f"c_{name}"
    kind = _dtype(values)
    number = kind in ("int64", "float64")
    known = values.drop_nulls()
    distinct = known.unique().sort() if kind == "string" else None
    pii = _pii(name, known) if kind == "string" else None
    few = distinct is not None and pii is None and 0 < len(distinct) <= MAX_VALUES <= len(known) / 3
    return Column(
        name=name[:63],
        dtype=kind,
        header=None if name == header else header,
        nullable=values.null_count() > 0,
        minimum=known.cast(pl.Float64).min() if number and len(known) else None,  # type: ignore[arg-type]
        maximum=known.cast(pl.Float64).max() if number and len(known) else None,  # type: ignore[arg-type]
        values=tuple(distinct) if few and distinct is not None else (),
        pii=pii,
    )


def _typed(values: pl.Series) -> pl.Series:
    """Give text the narrowest type that loses no value."""
    import polars as pl

    if values.dtype != pl.String or not len(values.drop_nulls()):
        return values
    # Leading zeros are part of a code, not of a number.
    if not values.str.contains(r"^-?0\d").any():
        for kind in (pl.Int64, pl.Float64):
            cast = values.cast(kind, strict=False)
            if cast.null_count() == values.null_count():
                return cast
    if values.drop_nulls().str.to_lowercase().is_in(["true", "false"]).all():
        return values.str.to_lowercase() == "true"
    if values.drop_nulls().str.contains(r"^\d{4}-\d{2}-\d{2}$").all():
        return values.str.to_date("%Y-%m-%d", strict=False)
    if values.drop_nulls().str.contains(r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}").all():
        from heliostat.data.checks import moment

        cast = moment(values)
        return cast if cast.null_count() == values.null_count() else values
    return values


def _dtype(values: pl.Series) -> DType:
    import polars as pl

    kind = values.dtype
    if kind.is_integer():
        return "int64"
    if kind.is_float() or kind.is_decimal():
        return "float64"
    if kind == pl.Boolean:
        return "bool"
    if kind == pl.Date:
        return "date"
    return "timestamp" if kind == pl.Datetime else "string"


def _pii(name: str, known: pl.Series) -> str | None:
    if not len(known):
        return None
    for kind, form in _PII.items():
        if known.str.contains(f"^(?:{form})$").all():
            return kind
    plain = name.replace("_", "-")
    return plain if plain in _NAMES else None
