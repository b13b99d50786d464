"""Read a CSV file as text, with its delimiter and its words for missing values told from itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.config import require
from heliostat.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")
"""Texts that are taken for a missing value."""

DATE_FORMS = (
    "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%d %b %Y", "%b %d, %Y",
    "%Y%m%d", "%Y/%m/%d %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%d.%m.%Y %H:%M",
)  # fmt: skip
"""Ways of writing a date that are tried besides ISO 8601, in this order."""

_MIN_ROWS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTable:
    """A file's cells as text, null where one is missing."""

    frame: pl.DataFrame
    delimiter: str
    missing: tuple[str, ...]
    """Words for missing that the file has, the empty one always."""
    multiline: bool
    """Whether a quoted cell holds a line end."""


def read(path: Path) -> TextTable:
    """Read the whole file.

    Raises:
        ConfigError: It is no CSV file with a header, or has too few rows to learn from.
    """
    import polars as pl

    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        delimiter = max(",;\t|", key=header.count)
        require(delimiter in header, "--from", str(path), "must have at least two columns")
        frame = pl.read_csv(path, separator=delimiter, infer_schema=False, null_values=[""])
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            "--from", str(path), "must be a readable CSV file in UTF-8",
            breaks=str(error).splitlines()[0],
        ) from error  # fmt: skip
    require(
        frame.height >= _MIN_ROWS, "--from", f"{frame.height} rows",
        f"must have at least {_MIN_ROWS}: two versions are trained, measured and replayed on them",
    )  # fmt: skip
    words = [
        word
        for word in MISSING
        if not word or any((frame[name] == word).any() for name in frame.columns)
    ]
    cells = [
        pl.when(~pl.col(name).is_in(words)).then(pl.col(name)).alias(name) for name in frame.columns
    ]
    spans = any(frame[name].str.contains("\n", literal=True).any() for name in frame.columns)
    return TextTable(
        frame=frame.select(cells), delimiter=delimiter, missing=tuple(words), multiline=spans
    )


def date_form(values: pl.Series) -> tuple[str, bool] | None:
    """Find the way in which every text of a column writes a date.

    Returns:
        The form, and whether day and month could be swapped; None if no form fits all.
    """
    import polars as pl

    known = values.drop_nulls()
    if not len(known) or values.dtype != pl.String:
        return None
    fitting = [
        form
        for form in DATE_FORMS
        if known.str.len_chars().max() <= 20  # type: ignore[operator]
        and parse_dates(known, form).null_count() == 0
    ]
    if not fitting:
        return None
    swapped = fitting[0].replace("%m/%d", "%d/%m")
    return fitting[0], swapped != fitting[0] and swapped in fitting


def parse_dates(values: pl.Series, form: str) -> pl.Series:
    """Read dates or moments as UTC microseconds; what does not fit becomes null."""
    import polars as pl

    if "%H" in form:
        found = values.str.to_datetime(form, time_unit="us", strict=False)
    else:
        found = values.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    return found.dt.replace_time_zone("UTC")
