"""Columns of a view's files, brought to the form in which they can be joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from heliostat.config import require
from heliostat.errors import ConfigError, nearest
from heliostat.features.definitions import CREATED_TIMESTAMP, EVENT_TIMESTAMP

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

Unit = Literal["us", "ns"]

ROWS_PER_BATCH = 500_000
"""Rows that are in memory at once while a file is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookup:
    """One view's values: where they lie, what they are called, and how long they count."""

    view: str
    """For messages."""

    dataset: ds.Dataset
    """The files; an Arrow dataset, so that any file system and partitioning of it can serve."""

    keys: Mapping[str, str]
    """Column of the entity rows to column of the files; empty if there is one entity only."""

    features: Mapping[str, str]
    """Column of the answer to column of the files."""

    event: str
    created: str | None
    ttl_us: int | None

    @property
    def columns(self) -> list[str]:
        """What is read of the files."""
        wanted = [*self.keys.values(), *self.features.values(), self.event]
        return list(dict.fromkeys([*wanted, *([self.created] if self.created else [])]))

    @property
    def empty(self) -> pa.Table:
        """The files' columns that are read, without rows."""
        return self.dataset.schema.empty_table().select(self.columns)

    def check(self) -> None:
        """Look at the files' columns.

        Raises:
            ConfigError: One does not exist.
        """
        for column in self.columns:
            require(
                column in self.dataset.schema.names, f"view {self.view}.source", column,
                "must be a column", breaks=nearest(column, self.dataset.schema.names),
            )  # fmt: skip

    def kinds(self) -> pl.Schema:
        """Polars' types of the columns."""
        frame = pl.from_arrow(self.empty)
        assert isinstance(frame, pl.DataFrame)
        return frame.schema


def unit_of(kinds: Sequence[pl.DataType]) -> Unit:
    """Name the time unit in which all these moments can be compared: ns if one of them is."""
    return "ns" if any(getattr(kind, "time_unit", None) == "ns" for kind in kinds) else "us"


def moment(values: pl.Series, unit: Unit, where: str) -> pl.Series:
    """Bring moments to UTC in this unit: of any zone, without one (then UTC), dates or text.

    Raises:
        ConfigError: They are no moments.
    """
    kind = values.dtype
    target = pl.Datetime(unit, "UTC")
    try:
        if isinstance(kind, pl.Datetime):
            aware = values.dt.replace_time_zone("UTC") if kind.time_zone is None else values
            utc = aware.dt.convert_time_zone("UTC")
            if unit == "ns" and kind.time_unit != "ns":
                years = utc.dt.year()
                require(
                    not ((years < 1678) | (years > 2261)).any(), where, str(kind),
                    "must lie in the years 1678 to 2261, because others hold nanoseconds",
                )  # fmt: skip
            return utc.cast(target)
        if kind in (pl.Date, pl.Null):
            return values.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(target)
        if kind == pl.String:
            return values.str.to_datetime(time_zone="UTC", time_unit=unit)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(where, str(kind), "must be moments", breaks=str(error)[:200]) from error
    raise ConfigError(where, str(kind), "must be moments: a datetime, a date or ISO 8601 text")


def key(values: pl.Series, where: str) -> pl.Series:
    """Bring a key to the one type of its kind; NaN becomes null, which matches nothing."""
    kind = values.dtype
    if kind.is_integer():
        return values.cast(pl.Int64)
    if kind.is_float():
        return values.cast(pl.Float64).fill_nan(None)
    if kind in (pl.Categorical, pl.Enum):
        return values.cast(pl.String)
    if kind in (pl.String, pl.Boolean, pl.Binary, pl.Date, pl.Null) or kind.is_temporal():
        return values
    raise ConfigError(where, str(kind), "must be text, a number, a bool or a time")


def key_as(values: pl.Series, target: pl.DataType, where: str) -> pl.Series:
    """Bring an entity row's key to the type that the files have.

    pandas turns whole numbers with a gap into floats: 7.0 is 7, NaN is null, 7.5 matches nothing.

    Raises:
        ConfigError: One is text and the other a number, or alike.
    """
    values = key(values, where)
    kind = values.dtype
    if kind in (target, pl.Null()):
        return values.cast(target)
    if kind.is_float() and target == pl.Int64:
        whole = values.is_finite() & (values == values.floor()) & (values.abs() < 2.0**63)
        return values.set(~whole.fill_null(value=False), None).cast(pl.Int64)
    if kind == pl.Int64 and target.is_float():
        return values.cast(target)
    raise ConfigError(where, str(kind), f"must be of the kind that the view's files have: {target}")


def key_kind(kind: pl.DataType, where: str) -> pl.DataType:
    """The type to which `key` brings a column of this type."""
    return key(pl.Series([], dtype=kind), where).dtype


def joinable(table: Any, lookup: Lookup, unit: Unit, outputs: Sequence[str]) -> pl.DataFrame:
    """Give rows of the files the names and types that `point_in_time.as_of` wants.

    Args:
        table: Arrow rows with the lookup's columns.
        lookup: Names them.
        unit: Time unit of moments.
        outputs: Features to keep, by the names in the answer.
    """
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    where = f"view {lookup.view}.source"
    columns = [
        key(frame[column], f"{where}.{column}").alias(name) for name, column in lookup.keys.items()
    ]
    columns += [frame[lookup.features[name]].alias(name) for name in outputs]
    columns.append(
        moment(frame[lookup.event], unit, f"{where}.{lookup.event}").alias(EVENT_TIMESTAMP)
    )
    if lookup.created is not None:
        created = moment(frame[lookup.created], unit, f"{where}.{lookup.created}")
        columns.append(created.alias(CREATED_TIMESTAMP))
    return pl.DataFrame(columns)


def batches(fragment: ds.Fragment, lookup: Lookup) -> Iterator[Any]:
    """Read a part of the files in Arrow tables of bounded size."""
    import pyarrow as pa

    for batch in fragment.to_batches(
        schema=lookup.dataset.schema, columns=lookup.columns, batch_size=ROWS_PER_BATCH
    ):
        if batch.num_rows:
            yield pa.Table.from_batches([batch])
