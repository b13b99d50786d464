"""What rows of a table must keep, declared; `checks` carries it out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import polars as pl

from heliostat.config import digest, require, require_name

DType = Literal["int64", "float64", "string", "bool", "date", "timestamp"]

_DTYPES = ("int64", "float64", "string", "bool", "date", "timestamp")


KINDS: dict[str, pl.DataType] = {
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "string": pl.String(),
    "bool": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
}
"""The Polars type of each of a contract's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column: its type and what each value must keep, on its own."""

    name: str

    dtype: DType
    """A ``timestamp`` is ISO 8601 and is stored as UTC microseconds; text without an offset is
    taken as UTC."""

    header: str | None = None
    """The column's name in the source; None where it is the same."""

    nullable: bool = False
    """Whether a value may be missing."""

    minimum: float | None = None

    maximum: float | None = None

    values: tuple[str, ...] = ()
    """The only values allowed (of a string column); empty allows all."""

    pattern: str | None = None
    """Regular expression that the whole text must match."""

    not_in_future: bool = False
    """Refuse moments after the run's ``now``."""

    max_null_ratio: float | None = None
    """Share of missing values (0 to 1) above which the run stops; None sets no limit."""

    pii: str | None = None
    """Kind of personal data, as ``email``. The tag goes with the column into every table made
    from this one."""

    description: str = ""

    def __post_init__(self) -> None:
        require_name("column.name", self.name)
        where = f"column {self.name}"
        require(self.dtype in _DTYPES, f"{where}.dtype", self.dtype, f"must be one of {_DTYPES}")
        number = self.dtype in ("int64", "float64")
        require(
            self.max_null_ratio is None or (self.nullable and 0 <= self.max_null_ratio < 1),
            f"{where}.max_null_ratio", self.max_null_ratio,
            "must be at least 0 and below 1, and belongs to a nullable column",
        )  # fmt: skip
        if self.pii is not None:
            require_name(f"{where}.pii", self.pii)
        for bound in ("minimum", "maximum"):
            value = getattr(self, bound)
            require(
                value is None or number, f"{where}.{bound}", value, "belongs to int64 and float64"
            )
        if self.minimum is not None and self.maximum is not None:
            require(
                self.minimum <= self.maximum,
                f"{where}.minimum",
                self.minimum,
                f"must be at most maximum, {self.maximum}",
            )
        require(
            not self.values or self.dtype == "string",
            f"{where}.values",
            self.values,
            "belongs to a string column",
        )
        if self.pattern is not None:
            require(
                self.dtype == "string",
                f"{where}.pattern",
                self.pattern,
                "belongs to a string column",
            )
            try:
                re.compile(self.pattern)
            except re.error as error:
                require(
                    False, f"{where}.pattern", self.pattern, "must be a regular expression",
                    breaks=str(error),
                )  # fmt: skip
        require(
            not self.not_in_future or self.dtype in ("date", "timestamp"),
            f"{where}.not_in_future",
            self.not_in_future,
            "belongs to a date or timestamp column",
        )

    @property
    def source_name(self) -> str:
        """The column's name in the source."""
        return self.header if self.header is not None else self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Freshness:
    """How old the newest row of a source may be when it is ingested."""

    column: str
    """A timestamp column; a row after the run's ``now`` goes to quarantine, as one row from a clock
    that is ahead would make an old source look fresh."""

    max_age_s: float
    """Above this many seconds before the run's ``now``, the run stops."""

    def __post_init__(self) -> None:
        require(self.max_age_s > 0, "freshness.max_age_s", self.max_age_s, "must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One condition over several columns of a row."""

    name: str

    expression: str
    """An SQL condition on the table's columns, as ``arrived >= departed``. As in an SQL CHECK,
    a row where it is NULL passes."""

    columns: tuple[str, ...]
    """Columns whose values the reason names."""

    def __post_init__(self) -> None:
        require_name("rule.name", self.name)
        require(bool(self.columns), f"rule {self.name}.columns", self.columns, "must name a column")
        try:
            pl.sql_expr(self.expression)
        except pl.exceptions.PolarsError as error:
            require(
                False, f"rule {self.name}.expression", self.expression, "must be SQL",
                breaks=str(error).splitlines()[0],
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """Everything that the rows of one table must keep; a row that does not is quarantined."""

    table: str

    columns: tuple[Column, ...]

    keys: tuple[str, ...] = ()
    """Columns that together name a row; of rows with equal keys the first is kept."""

    rules: tuple[Rule, ...] = ()

    max_quarantined_ratio: float = 0.01
    """Share of quarantined rows (0 to 1) above which the run stops and nothing is visible."""

    freshness: Freshness | None = None

    min_rows: int = 0
    """Fewer good rows than this stop the run."""

    partition_by: tuple[str, ...] = ()
    """Columns whose values each have files of their own; set when the table is made."""

    description: str = ""

    def __post_init__(self) -> None:
        for part in self.table.split("/"):
            require_name("contract.table", part)
        where = f"contract {self.table}"
        require(bool(self.columns), f"{where}.columns", self.columns, "must name a column")
        names = [column.name for column in self.columns]
        for kind, items in (
            ("columns", names),
            ("headers", [column.source_name for column in self.columns]),
            ("rules", [rule.name for rule in self.rules]),
        ):
            twice = sorted({item for item in items if items.count(item) > 1})
            require(not twice, f"{where}.{kind}", tuple(twice), "must each have an own name")
        for key in self.keys:
            require(key in names, f"{where}.keys", key, "must be one of the columns")
        for column in self.partition_by:
            require(column in names, f"{where}.partition_by", column, "must be one of the columns")
        if self.freshness is not None:
            moments = [item.name for item in self.columns if item.dtype == "timestamp"]
            require(
                self.freshness.column in moments, f"{where}.freshness.column",
                self.freshness.column, "must be one of the timestamp columns",
            )  # fmt: skip
        for rule in self.rules:
            for column in rule.columns:
                require(
                    column in names,
                    f"rule {rule.name}.columns",
                    column,
                    f"must be one of the columns of {self.table}",
                )
            self._require_boolean(rule)
        require(
            0 <= self.max_quarantined_ratio <= 1,
            f"{where}.max_quarantined_ratio",
            self.max_quarantined_ratio,
            "must be between 0 and 1",
        )

    @property
    def quarantine_table(self) -> str:
        """Where refused rows go, with source, line, reason and raw text."""
        return f"{self.table}_quarantine"

    def schema(self) -> pl.Schema:
        """Columns and types of the table."""
        return pl.Schema({column.name: KINDS[column.dtype] for column in self.columns})

    @property
    def pii(self) -> dict[str, str]:
        """Kind of personal data by column; only the columns that hold some."""
        return {column.name: column.pii for column in self.columns if column.pii is not None}

    def digest(self) -> str:
        """Name the contract by content: 16 hexadecimal digits."""
        return digest(self)

    def _require_boolean(self, rule: Rule) -> None:
        empty = pl.DataFrame(schema=self.schema())
        try:
            kind = empty.select(held=pl.sql_expr(rule.expression)).schema["held"]
        except pl.exceptions.PolarsError as error:
            require(
                False, f"rule {rule.name}.expression", rule.expression,
                f"must read the columns of {self.table}", breaks=str(error).splitlines()[0],
            )  # fmt: skip
        else:
            require(
                kind == pl.Boolean, f"rule {rule.name}.expression", rule.expression,
                "must be true or false", breaks=f"it is {kind}",
            )  # fmt: skip
