"""Carry out a contract on a block of text rows: typed good rows, and a reason for each other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from heliostat.data.contract import KINDS, Column, Contract
from heliostat.data.rows import LINE

if TYPE_CHECKING:
    from collections.abc import Iterator


_FORMS = (
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
)
"""Of a moment; those of fixed length are four times as quick as those that look for a zone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A row that breaks the contract."""

    line: int

    kind: str
    """Its first broken rule, without the value: what reports count by."""

    reason: str
    """Every broken rule with the value, as ``column = 'value': rule``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    mask: pl.Expr
    """True where the row breaks the rule."""
    columns: tuple[str, ...]
    rule: str


def check(
    rows: pl.DataFrame, contract: Contract, now: datetime
) -> tuple[pl.DataFrame, list[Refused]]:
    """Type every column and test every rule; uniqueness is not tested here.

    Args:
        rows: Text columns by source name, and `LINE`.
        contract: What rows must keep.
        now: The run's time, for moments that must not lie in the future; with time zone.

    Returns:
        Good rows with the contract's columns and `LINE`, in order; refused rows.
        Together they are all rows.
    """
    # Where each row names its own columns, a chunk may hold none of one.
    absent = [item.source_name for item in contract.columns if item.source_name not in rows.columns]
    rows = rows.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in absent)
    texts = rows.select(
        *(pl.col(column.source_name).alias(_text(column.name)) for column in contract.columns)
    )
    typed = rows.select(
        LINE, *(_typed(rows[column.source_name], column) for column in contract.columns)
    )
    both = pl.concat([typed, texts], how="horizontal")
    checks = list(_checks(contract, now))
    masks = both.select(
        item.mask.fill_null(value=False).alias(str(index)) for index, item in enumerate(checks)
    )
    broken = masks.select(broken=pl.any_horizontal(pl.all()))["broken"]
    good = typed.filter(~broken)
    return good, _explain(both.filter(broken), masks.filter(broken), checks)


def _text(name: str) -> str:
    return f"{name} (text)"


def _typed(text: pl.Series, column: Column) -> pl.Series:
    """Cast; a value that does not parse becomes null and is told apart by its text."""
    if text.dtype != pl.String:
        return _fitting(text, column).alias(column.name)
    if column.dtype == "int64":
        typed = text.cast(pl.Int64, strict=False)
    elif column.dtype == "float64":
        typed = text.cast(pl.Float64, strict=False)
        typed = typed.to_frame().select(
            pl.when(pl.col(text.name).is_finite()).then(pl.col(text.name))
        )[text.name]
    elif column.dtype == "bool":
        typed = text.str.to_lowercase().replace_strict(
            {"true": True, "false": False, "1": True, "0": False},
            default=None,
            return_dtype=pl.Boolean,
        )
    elif column.dtype == "date":
        typed = text.str.to_date("%Y-%m-%d", strict=False)
    elif column.dtype == "timestamp":
        typed = moment(text)
    else:
        typed = text
    return typed.alias(column.name)


def _fitting(values: pl.Series, column: Column) -> pl.Series:
    """Cast values that a source has typed already; one that would change becomes null."""
    wanted = KINDS[column.dtype]
    if values.dtype == wanted:
        fits = values
    elif column.dtype == "string":
        fits = values.cast(pl.String, strict=False)
    elif values.dtype.is_numeric() and wanted.is_numeric():
        cast = values.cast(wanted, strict=False)
        same = cast.cast(pl.Float64) == values.cast(pl.Float64)
        fits = cast.to_frame().select(pl.when(same).then(pl.col(values.name)))[values.name]
    elif column.dtype == "timestamp" and values.dtype == pl.Datetime:
        zone = getattr(values.dtype, "time_zone", None)
        utc = values.dt.replace_time_zone("UTC") if zone is None else values
        fits = utc.cast(wanted)
    elif column.dtype == "date" and values.dtype == pl.Datetime:
        whole = values == values.dt.truncate("1d")
        days = values.dt.date()
        fits = days.to_frame().select(pl.when(whole).then(pl.col(values.name)))[values.name]
    else:
        fits = pl.Series(values.name, [None] * len(values), dtype=wanted)
    if column.dtype == "float64":
        finite = pl.when(pl.col(fits.name).is_finite()).then(pl.col(fits.name))
        fits = fits.to_frame().select(finite)[fits.name]
    return fits


def moment(text: pl.Series) -> pl.Series:
    """ISO 8601 to UTC; a text is the same moment in every form that it has."""
    # Most files hold one form only: that of their first value saves a look for all others.
    first = text.drop_nulls().head(1)
    forms = sorted(_FORMS, key=lambda form: bool(_moment(first, form).is_null().any()))
    typed = _moment(text, forms[0])
    for form in forms[1:]:
        left = typed.is_null() & text.is_not_null()
        if not left.any():
            break
        places = left.arg_true()
        typed = typed.scatter(places, _moment(text.gather(places), form))
    return typed


def _moment(text: pl.Series, form: str) -> pl.Series:
    # Forms of fixed length are read quicker than it is looked up what a text was before.
    found = text.str.to_datetime(form, time_unit="us", strict=False, cache="%." in form)
    if found.dtype == pl.Datetime("us"):
        return found.dt.replace_time_zone("UTC")
    return found.cast(pl.Datetime("us", "UTC"))


def _checks(contract: Contract, now: datetime) -> Iterator[_Check]:
    newest = None if contract.freshness is None else contract.freshness.column
    for column in contract.columns:
        value, text, name = pl.col(column.name), pl.col(_text(column.name)), (column.name,)
        if column.dtype != "string":
            yield _Check(
                mask=value.is_null() & text.is_not_null(),
                columns=name,
                rule=f"must be {column.dtype}",
            )
        if not column.nullable:
            yield _Check(mask=text.is_null(), columns=name, rule="must not be missing")
        if column.minimum is not None:
            yield _Check(
                mask=value < column.minimum,
                columns=name,
                rule=f"must be at least {column.minimum:g}",
            )
        if column.maximum is not None:
            yield _Check(
                mask=value > column.maximum,
                columns=name,
                rule=f"must be at most {column.maximum:g}",
            )
        if column.values:
            yield _Check(
                mask=~value.is_in(list(column.values)),
                columns=name,
                rule="must be one of " + ", ".join(column.values),
            )
        if column.pattern is not None:
            yield _Check(
                mask=~value.str.contains(f"^(?:{column.pattern})$"),
                columns=name,
                rule=f"must match {column.pattern}",
            )
        # One row from a clock that is ahead would make an old source look fresh.
        if column.not_in_future or column.name == newest:
            limit = pl.lit(now.date()) if column.dtype == "date" else pl.lit(now)
            yield _Check(
                mask=value > limit, columns=name, rule=f"must not be after now, {now.isoformat()}"
            )
    for rule in contract.rules:
        yield _Check(
            mask=~pl.sql_expr(rule.expression),
            columns=rule.columns,
            rule=f"must keep {rule.name}, {rule.expression}",
        )


def _explain(rows: pl.DataFrame, masks: pl.DataFrame, checks: list[_Check]) -> list[Refused]:
    refused = []
    for row, broken in zip(rows.iter_rows(named=True), masks.iter_rows(), strict=True):
        failed = [item for item, breaks in zip(checks, broken, strict=True) if breaks]
        refused.append(
            Refused(
                line=row[LINE],
                kind=f"{', '.join(failed[0].columns)}: {failed[0].rule}",
                reason="; ".join(f"{_values(row, item)}: {item.rule}" for item in failed),
            )
        )
    return refused


def _values(row: dict[str, Any], item: _Check) -> str:
    return ", ".join(f"{name} = {row[_text(name)]!r}" for name in item.columns)
