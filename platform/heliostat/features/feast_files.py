"""Feast's file sources and entity rows as what `heliostat.features.retrieval` takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from feast import utils
from feast.data_format import DeltaFormat
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.file_source import FileSource

from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError
from heliostat.features import sources
from heliostat.features.definitions import EVENT_TIMESTAMP
from heliostat.features.retrieval import newest_of
from heliostat.features.sources import Lookup

if TYPE_CHECKING:
    import feast
    from feast.repo_config import RepoConfig


def lookup_of(
    config: RepoConfig, view: feast.FeatureView, names: list[str], full_names: bool
) -> Lookup:
    """What to look up of a view: its files, and its columns' names there and in the answer."""
    source = view.batch_source
    column_of = {new: old for old, new in source.field_mapping.items()}
    aliases = view.projection.join_key_map
    prefix = view.projection.name_alias or view.name
    return Lookup(
        view=view.projection.name_to_use(),
        dataset=dataset_of(config, source),
        keys={
            aliases.get(entity.name, entity.name): column_of.get(entity.name, entity.name)
            for entity in view.entity_columns
            if entity.name != DUMMY_ENTITY_ID
        },
        features={
            f"{prefix}__{name}" if full_names else name: column_of.get(name, name) for name in names
        },
        event=source.timestamp_field,
        created=source.created_timestamp_column or None,
        ttl_us=_microseconds(view.ttl),
    )


def pulled(
    config: RepoConfig,
    source: Any,
    keys: Sequence[str],
    features: Sequence[str],
    event: str,
    created: str | None,
) -> Lookup:
    """A source by the names of its own columns.

    Raises:
        ConfigError: One does not exist.
    """
    names = [name for name in features if name not in keys]
    lookup = Lookup(
        view=source.name,
        dataset=dataset_of(config, source),
        keys={name: name for name in keys},
        features={name: name for name in names},
        event=event,
        created=created or None,
        ttl_us=None,
    )
    lookup.check()
    return lookup


def _microseconds(ttl: timedelta | None) -> int | None:
    return ttl // timedelta(microseconds=1) if ttl else None


def dataset_of(config: RepoConfig, source: Any) -> ds.Dataset:
    """Open a source's files.

    Raises:
        ConfigError: It is no file source.
    """
    if not isinstance(source, FileSource):
        raise ConfigError(
            f"source {getattr(source, 'name', source)}", type(source).__name__,
            "must be a Feast FileSource of Parquet or Delta files",
        )  # fmt: skip
    options = source.file_options
    if isinstance(source.file_format, DeltaFormat):
        folder = FileSource.get_uri_for_file_path(config.repo_path, options.uri)
        parent, _, name = str(folder).rstrip("/").rpartition("/")
        catalog = Catalog(parent if "://" in parent else Path(parent))
        schema = catalog.schema(name).to_frame(eager=True).to_arrow().schema
        return ds.dataset([str(file) for file in catalog.files(name)], schema=schema)
    filesystem, path = place(config.repo_path, options.uri, options.s3_endpoint_override)
    return ds.dataset(path, format="parquet", filesystem=filesystem, partitioning="hive")


def place(repo_path: Path | None, uri: str, endpoint: str) -> tuple[Any, str]:
    """The file system of a source's path, None for this machine's, and the path there."""
    whole = FileSource.get_uri_for_file_path(repo_path, uri)
    filesystem, path = FileSource.create_filesystem_and_path(str(whole), endpoint)
    return filesystem, str(path)


def entities_of(frame: pd.DataFrame, event: str) -> pa.Table:
    """Bring entity rows to Arrow; moments of several zones in one column become UTC.

    Raises:
        ConfigError: A column holds several types.
    """
    if not isinstance(frame[event].dtype, pd.DatetimeTZDtype) and frame[event].dtype.kind != "M":
        # Text, or moments of several zones in one column: Feast takes those without one for UTC.
        frame = frame.assign(**{event: pd.to_datetime(frame[event], utc=True, format="ISO8601")})
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise ConfigError("entity_df", str(error)[:200], "must have one type per column") from error


def entities_between(lookups: Sequence[Lookup], start: datetime, end: datetime) -> pa.Table:
    """The entities with an event in an interval, as of its end.

    Raises:
        ConfigError: The views have different keys.
    """
    keys = {tuple(sorted(lookup.keys)) for lookup in lookups}
    if len(keys) != 1:
        raise ConfigError(
            "entity_df", None, "must be given, because the views have different keys",
            breaks=str(sorted(keys)),
        )  # fmt: skip
    frames = []
    for lookup in lookups:
        rows = between(lookup, lookup.dataset.to_table(columns=lookup.columns), start, end)
        frame = pl.from_arrow(rows)
        assert isinstance(frame, pl.DataFrame)
        frames.append(
            pl.DataFrame(
                [
                    sources.key(frame[lookup.keys[name]], name).alias(name)
                    for name in sorted(lookup.keys)
                ]
            )
        )
    seen = pl.concat(frames).unique(maintain_order=True).drop_nulls()
    at = pl.lit(end.astimezone(UTC)).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIMESTAMP)
    return seen.with_columns(at).to_arrow() if seen.width else pl.select(at).to_arrow()


def between(
    lookup: Lookup, table: pa.Table, start: datetime | None, end: datetime | None
) -> pa.Table:
    """Keep the rows with an event in an interval, both of its ends included."""
    frame = pl.from_arrow(table.select([lookup.event]))
    assert isinstance(frame, pl.DataFrame)
    unit = sources.unit_of(frame.dtypes)
    at = sources.moment(frame[lookup.event], unit, f"view {lookup.view}.source")
    inside = pl.Series([True], dtype=pl.Boolean).new_from_index(0, len(at))
    if start is not None:
        inside &= at >= utils.make_tzaware(start)
    if end is not None:
        inside &= at <= utils.make_tzaware(end)
    return table.filter(inside.to_arrow())


def newest_of_part(lookup: Lookup, fragment: Any, start: datetime, end: datetime) -> pa.Table:
    """Reduce batch by batch, so that a file of any size fits."""
    found = lookup.dataset.schema.empty_table().select(lookup.columns)
    for table in sources.batches(fragment, lookup):
        found = newest_of(lookup, pa.concat_tables([found, between(lookup, table, start, end)]))
    return found


def with_dummy(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Add the key that Feast gives to views without an entity."""
    if keys or DUMMY_ENTITY_ID in table.column_names:
        return table
    return table.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * table.num_rows))
