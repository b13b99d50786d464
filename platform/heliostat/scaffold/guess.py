"""Guess what each column of a file is: label, time, entity, number, category, date, or a trap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from heliostat.config import require
from heliostat.data.contract import Column
from heliostat.data.infer import infer
from heliostat.errors import ConfigError, nearest
from heliostat.scaffold.reading import TextTable, date_form, parse_dates
from heliostat.training import leaks

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

Role = Literal["label", "time", "entity", "id", "numeric", "categorical", "date", "left out"]

MAX_CATEGORIES = 1_000
_YES = ("1", "true", "yes", "y", "t", "positive", "on")
_EPOCH_SECONDS = (1e9, 4e9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """What one column is taken for."""

    column: Column
    """Its name, type and header in the file."""
    role: Role
    why: str
    form: str | None = None
    """How a text column writes dates; None for ISO 8601."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What is predicted."""

    task: Literal["binary", "regression"]
    positive: str | None
    """The text that counts as 1, of a label that is text; None for numbers and booleans."""
    why: str
    values_B: NDArray[np.float64]  # noqa: N815 - shape letters
    """NaN where the label is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guesses:
    """Everything that was guessed of one file."""

    columns: tuple[Guess, ...]
    label: Label
    at: pl.Series | None
    """Prediction times, whole seconds in UTC; None where the order of rows stands for time."""
    num_rows: int

    def of(self, *roles: Role) -> tuple[Guess, ...]:
        """Columns with one of these roles, in the file's order."""
        return tuple(item for item in self.columns if item.role in roles)

    def one(self, role: Role) -> Guess | None:
        """The column with a role that only one can have."""
        return next(iter(self.of(role)), None)


def guess(
    table: TextTable, *, label: str, time: str | None, entity: str | None, positive: str | None
) -> Guesses:
    """Look at every column.

    Args:
        table: The file.
        label: Header of the column to predict.
        time: Header of the prediction time; None takes the order of rows.
        entity: Header of whom a row is about; None where requests carry the inputs.
        positive: Value of the label that counts as 1, all others as 0.

    Raises:
        ConfigError: A named column is not there or cannot be what it is named for.
    """
    frame = table.frame
    for option, header in (("--label", label), ("--time", time), ("--entity", entity)):
        require(
            header is None or header in frame.columns, option, header,
            "must be a column of the file", breaks=nearest(header or "", frame.columns),
        )  # fmt: skip
    named = [name for name in (label, time, entity) if name is not None]
    require(len(set(named)) == len(named), "--label", label, "must differ from time and entity")
    contract = infer(frame, "raw/rows")
    headers = dict(zip(frame.columns, contract.columns, strict=True))
    # Bounds and sets of one file are no rule for the next one.
    columns = {
        header: replace(item, minimum=None, maximum=None, values=())
        for header, item in headers.items()
    }
    found = _label(frame[label], columns[label], label, positive)
    at, timed = _time(frame, columns, time)
    guesses = []
    known_B = np.isfinite(found.values_B)
    for header, column in columns.items():
        if header == label:
            # A value to compare with is text, whatever the others look like.
            dtype = column.dtype if found.positive is None else "string"
            column = replace(column, dtype=dtype)  # noqa: PLW2901
            guesses.append(Guess(column=column, role="label", why=found.why))
        elif header == time and timed is not None:
            guesses.append(timed)
        elif header == entity:
            kind = column.dtype if column.dtype == "int64" else "string"
            required = replace(column, nullable=False, dtype=kind)
            why = "whom a row is about: requests name it, and the store knows the rest"
            guesses.append(Guess(column=required, role="entity", why=why))
        else:
            guesses.append(_input(header, frame[header], column, at, found, known_B))
    guesses = _one_id(guesses)
    if entity is not None:
        _require_once(frame[entity], at, entity)
    require(
        any(item.role in ("numeric", "categorical", "date") for item in guesses),
        "--from", label, "must leave at least one input besides the label",
        breaks="; ".join(f"{item.column.name}: {item.why}" for item in guesses)[:400],
    )  # fmt: skip
    return Guesses(columns=tuple(guesses), label=found, at=at, num_rows=frame.height)


def _require_once(entities: pl.Series, at: pl.Series | None, header: str) -> None:
    """Check that an entity has at most one row at a time; else a request could mean two."""
    if at is None:
        return
    twice = len(entities) - entities.to_frame("entity").with_columns(at=at).n_unique()
    require(
        twice <= 0.01 * len(entities), "--entity", header,
        "must have at most one row at each time",
        breaks=f"{twice:,} of {len(entities):,} rows have the entity and time of another",
        next_step="Leave --entity out: requests then carry all inputs",
    )  # fmt: skip


def _label(values: pl.Series, column: Column, header: str, positive: str | None) -> Label:
    import polars as pl

    text = values.drop_nulls()
    counts = dict(text.value_counts(sort=True).iter_rows())
    require(len(counts) > 1, "--label", header, "must have more than one value")
    if positive is not None:
        require(
            positive in counts, "--positive", positive, f"must be a value of {header}",
            breaks=nearest(positive, list(counts)),
        )  # fmt: skip
        return _binary(values, positive, f"{positive!r} against all others, as asked")
    number = column.dtype in ("int64", "float64")
    if number and len(counts) > 2:
        why = "a number: regression"
        if len(counts) <= 10:
            why += f"; it has only {len(counts)} values: for one against the rest use --positive"
        return Label(
            task="regression", positive=None, why=why,
            values_B=values.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy(),
        )  # fmt: skip
    if number and {float(item) for item in counts} != {0.0, 1.0}:
        chosen = max(counts, key=float)
        return _binary(values, chosen, f"two numbers: {chosen} counts as 1; or use --positive")
    if len(counts) > 2:
        listed = ", ".join(f"{item!r} ({count} rows)" for item, count in list(counts.items())[:6])
        raise ConfigError(
            "--label", header, "must be a number or have two values", breaks=f"it has {listed}",
            next_step=f"Predict one against the rest: --positive {min(counts, key=len)!r}",
        )  # fmt: skip
    if number:
        numbers = values.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        return Label(task="binary", positive=None, why="0 and 1: binary", values_B=numbers)
    if column.dtype == "bool":
        return replace(_binary(values, "true", "true and false: binary"), positive=None)
    chosen = next((item for item in counts if item.lower() in _YES), list(counts)[-1])
    return _binary(values, chosen, f"{chosen!r} counts as 1; another choice: --positive")


def _binary(values: pl.Series, positive: str, why: str) -> Label:
    known = values.is_not_null().to_numpy()
    ones = (values.str.to_lowercase() == positive.lower()).fill_null(value=False).to_numpy()
    labels = np.where(known, ones.astype(np.float64), np.nan)
    return Label(task="binary", positive=positive, why=why, values_B=labels)


def _time(
    frame: pl.DataFrame, columns: dict[str, Column], header: str | None
) -> tuple[pl.Series | None, Guess | None]:
    import polars as pl

    if header is None:
        return None, None
    values, column = frame[header], replace(columns[header], nullable=False)
    why, form = "when a prediction is due; ISO 8601, UTC where it names no zone", None
    if column.dtype == "timestamp":
        from heliostat.data.checks import moment

        at = moment(values)
    elif column.dtype == "date":
        at = parse_dates(values, "%Y-%m-%d")
    elif column.dtype in ("int64", "float64"):
        numbers = values.cast(pl.Float64, strict=False)
        low: Any = numbers.min()
        if not (low is not None and _EPOCH_SECONDS[0] <= low <= _EPOCH_SECONDS[1]):
            raise ConfigError(
                "--time", header, "must be dates, moments, or seconds since 1970",
                next_step="Leave --time out: the order of rows then stands for time",
            )  # fmt: skip
        at = (numbers * 1e6).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
        why = "when a prediction is due, in seconds since 1970"
    else:
        found = date_form(values)
        if found is None:
            raise ConfigError(
                "--time", header, "must be dates or moments that can be read",
                breaks=f"such as {values.drop_nulls()[0]!r}",
                next_step="Write them as 2024-03-01 or 2024-03-01T12:00:00+00:00",
            )  # fmt: skip
        form, at = found[0], parse_dates(values, found[0])
        why = f"when a prediction is due, written {form}" + (_swap(form) if found[1] else "")
    return at.dt.truncate("1s"), Guess(column=column, role="time", why=why, form=form)


def _input(
    header: str,
    values: pl.Series,
    column: Column,
    at: pl.Series | None,
    label: Label,
    known_B: NDArray[np.bool_],
) -> Guess:
    import polars as pl

    known = values.drop_nulls()
    distinct = known.n_unique()
    if distinct <= 1:
        return Guess(column=column, role="left out", why="one value everywhere, or none at all")
    if column.dtype in ("date", "timestamp") or date_form(values) is not None:
        return _date(values, column, at)
    number = column.dtype in ("int64", "float64", "bool")
    if number:
        typed = (
            (values.str.to_lowercase() == "true").cast(pl.Float64)
            if column.dtype == "bool"
            else values.cast(pl.Float64, strict=False)
        )
    else:
        typed = values
    if column.dtype in ("int64", "string") and distinct == len(values):
        plain = column.dtype == "string" or header.lower() in ("", "id", "index", "unnamed: 0")
        if plain or typed.is_sorted():
            return Guess(column=column, role="id", why="another value in each row: it names rows")
    why = leaks.suspicion(typed.filter(known_B), label.values_B[known_B], label.task)
    if why is not None:
        return Guess(column=column, role="left out", why=f"looks like a leak: {why}")
    if number:
        few = f"; only {distinct} values: a category?" if distinct <= 5 < len(known) else ""
        return Guess(column=column, role="numeric", why=f"{column.dtype}{few}")
    if distinct > min(MAX_CATEGORIES, len(known) / 2):
        why = f"text with {distinct:,} values in {len(known):,} rows: too many for categories"
        return Guess(column=column, role="left out", why=why)
    return Guess(column=column, role="categorical", why=f"text with {distinct} values")


def _date(values: pl.Series, column: Column, at: pl.Series | None) -> Guess:
    found = date_form(values)
    form = None if found is None else found[0]
    if form is not None:
        moments = parse_dates(values, form)
    elif column.dtype == "date":
        moments = parse_dates(values, "%Y-%m-%d")
    else:
        from heliostat.data.checks import moment

        moments = moment(values)
    if at is not None:
        later = int((moments > at).sum())
        if later:
            why = f"looks like a leak: it lies after the prediction time in {later:,} rows"
            return Guess(column=column, role="left out", why=why, form=form)
    told = "days before the prediction" if at is not None else "days since 2000-01-01"
    why = f"a date: {told}, month and weekday become inputs"
    if form is not None:
        why += f"; written {form}" + (_swap(form) if found is not None and found[1] else "")
    return Guess(column=column, role="date", why=why, form=form)


def _swap(form: str) -> str:
    return f" (day and month fit either way: {form} was taken)"


def _one_id(guesses: list[Guess]) -> list[Guess]:
    """Keep the first column that names rows; another one is left out."""
    seen = False
    found = []
    for item in guesses:
        again = item.role == "id" and (seen or item.column.nullable)
        seen = seen or item.role == "id"
        found.append(replace(item, role="left out") if again else item)
    return found
