"""Tags of personal data: they stay with a column in every table that is made from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from heliostat.data.tables import Catalog

KEY = "heliostat.pii"
"""Name of the tag in a Delta column's metadata."""

SAMPLE = 1_000
"""Distinct values of a column that are compared."""

MIN_DISTINCT = 20
"""Fewer distinct values than this say nothing about where a column comes from."""


def tags(catalog: Catalog, name: str, version: int | None = None) -> dict[str, str]:
    """Kind of personal data by column, of a version (the newest if None)."""
    fields = catalog._existing(name, version).schema().fields
    return {field.name: str(field.metadata[KEY]) for field in fields if KEY in field.metadata}


def tagged(columns: Any, known: Mapping[str, str]) -> Any:
    """Put tags on columns of a Delta schema; others stay as they are."""
    from deltalake import Field, Schema

    if not known:
        return columns
    return Schema(
        [
            Field(
                item.name,
                item.type,
                nullable=item.nullable,
                metadata={**item.metadata, KEY: known[item.name]},
            )
            if item.name in known
            else item
            for item in columns.fields
        ]
    )


def carried(catalog: Catalog, columns: Iterable[str], inputs: Mapping[str, int]) -> dict[str, str]:
    """Tags that columns get from equally named ones of the tables that they were made from."""
    known: dict[str, str] = {}
    for name, version in inputs.items():
        known |= tags(catalog, name, version)
    return {column: known[column] for column in columns if column in known}


def renamed(catalog: Catalog, frame: pl.DataFrame, inputs: Mapping[str, int]) -> dict[str, str]:
    """Tags of columns that hold a tagged column's values under another name.

    A column is taken for a copy if more than half of its distinct values, of at least 20, occur
    in a tagged column of its type. A copy that changes each value, as a hash does, is none.
    """
    found: dict[str, str] = {}
    for name, version in inputs.items():
        for tagged, kind in tags(catalog, name, version).items():
            values = catalog.read(name, version, columns=[tagged])[tagged].unique()
            for column in frame.columns:
                if column in found or frame[column].dtype != values.dtype:
                    continue
                sample = frame[column].drop_nulls().unique().head(SAMPLE)
                enough = len(sample) >= min(MIN_DISTINCT, len(values.drop_nulls()))
                if enough and len(sample) and sample.is_in(values.implode()).mean() > 0.5:  # type: ignore[operator]
                    found[column] = kind
    return found
