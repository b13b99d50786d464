"""Which columns may follow which: widening is taken, anything that would lose values is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from heliostat.config import require
from heliostat.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

_WIDER = {
    "Int8": ("Int16", "Int32", "Int64", "Float32", "Float64"),
    "Int16": ("Int32", "Int64", "Float32", "Float64"),
    "Int32": ("Int64", "Float64"),
    "UInt8": ("Int16", "Int32", "Int64", "Float32", "Float64"),
    "UInt16": ("Int32", "Int64", "Float32", "Float64"),
    "UInt32": ("Int64", "Float64"),
    "Float32": ("Float64",),
    "Categorical": ("String",),
}
"""What each Polars type becomes without losing a value."""


def require_appendable(
    table: str, have: Mapping[str, str], come: Mapping[str, str]
) -> tuple[str, ...]:
    """Check the columns of rows that are added, and return those that the table lacks.

    A column that the table lacks is taken, and null in all older rows. A column that the rows
    lack is refused: filling it with nulls would hide a loss.

    Args:
        table: Its name, for the error.
        have: The table's columns and types, as Delta names them.
        come: The rows' columns and types.

    Raises:
        ConfigError: A column is missing or of another type.

    >>> require_appendable("t", {"id": "long"}, {"id": "long", "note": "string"})
    ('note',)
    """
    for column, kind in come.items():
        require(
            have.get(column, kind) == kind, f"table {table}.{column}", kind,
            f"must be {have.get(column)} to be appended",
        )  # fmt: skip
    for column, kind in have.items():
        if column not in come:
            raise ConfigError(
                f"table {table}.{column}", None, f"must be {kind} to be appended",
                breaks="the rows lack it", next_step="Add it as nulls if its values are unknown",
            )  # fmt: skip
    return tuple(column for column in come if column not in have)


def widen(frame: pl.DataFrame, have: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Cast columns to the table's wider types, where no value is lost; others stay as they are.

    >>> import polars as pl
    >>> frame = pl.DataFrame({"n": [1]}, schema={"n": pl.Int32})
    >>> widen(frame, {"n": pl.Int64()}).schema
    Schema([('n', Int64)])
    """
    import polars as pl

    casts = []
    for name, kind in frame.schema.items():
        wanted = have.get(name)
        if wanted is None or wanted == kind:
            continue
        if kind == pl.Null or str(wanted) in _WIDER.get(str(kind).split("(", maxsplit=1)[0], ()):
            casts.append(pl.col(name).cast(wanted))
    return frame.with_columns(casts)
