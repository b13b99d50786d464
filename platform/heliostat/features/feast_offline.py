"""An offline store for Feast: right to the nanosecond, and on Ray when the rows are many.

Any Feast project takes it with one line in ``feature_store.yaml``::

    offline_store:
      type: heliostat.features.feast_offline.HeliostatOfflineStore

It reads Feast's file sources (Parquet and Delta). Feast imports this module by its name.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import feast
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast import utils
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.file_source import (
    FileLoggingDestination,
    SavedDatasetFileStorage,
)
from feast.infra.offline_stores.offline_store import (
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel

from heliostat.errors import ConfigError
from heliostat.features import feast_files
from heliostat.features.definitions import EVENT_TIMESTAMP
from heliostat.features.ray_memory import object_store_bytes
from heliostat.features.retrieval import ROWS_PER_PART, Retrieval, newest_of

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig

Engine = Literal["auto", "process", "ray"]


class HeliostatOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """What may stand under ``offline_store`` beside ``type``; all of it may be left out."""

    type: str = "heliostat.features.feast_offline.HeliostatOfflineStore"

    engine: Engine = "auto"
    """``process`` joins in this process, ``ray`` by Ray tasks, ``auto`` by size."""

    in_process_rows: int = 8_000_000
    """``auto`` takes Ray when entity rows and files together have more rows than this."""

    rows_per_part: int = ROWS_PER_PART
    """Rows that one Ray task joins; a core needs about 400 bytes of memory for each."""

    respect_created: bool = True
    """False lets values that were written after an entity row's time into it, which is Feast's
    own default; ``filter_by_created_timestamp=True`` of a call is always obeyed."""

    ray_address: str | None = None
    """Cluster to join if Ray was not started before; None starts one on this machine."""

    object_store_gib: float = 3.0
    """Of a Ray that is started here: memory for pieces on their way; the rest goes to disk. Never
    more than half of what is free."""


class HeliostatRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A retrieval that runs when its answer is asked for, each time anew."""

    def __init__(
        self,
        table: Callable[[], pa.Table],
        blocks: Callable[[], list[Any]] | None = None,
        *,
        repo_path: Path | None,
        full_feature_names: bool = False,
        on_demand: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._table = table
        self._blocks = blocks
        self._repo_path = repo_path
        self._full_feature_names = full_feature_names
        self._on_demand = list(on_demand)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features carry their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes from the answer."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata

    def to_ray_dataset(self) -> Any:
        """Give the answer as a Ray Dataset; on Ray it never passes through this process."""
        if self._blocks is None or self._on_demand:
            return super().to_ray_dataset()
        import ray.data

        return ray.data.from_arrow_refs(self._blocks())

    def persist(
        self,
        storage: SavedDatasetFileStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Write the answer to a file, or as one file of a folder."""
        where = storage.file_options
        if not allow_overwrite and Path(where.uri).exists():
            raise SavedDatasetLocationAlreadyExists(location=where.uri)
        filesystem, path = feast_files.place(self._repo_path, where.uri, where.s3_endpoint_override)
        if path.endswith(".parquet"):
            pq.write_table(self.to_arrow(timeout=timeout), path, filesystem=filesystem)
        else:
            pq.write_to_dataset(self.to_arrow(timeout=timeout), path, filesystem=filesystem)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._table()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._table().to_pandas()


class HeliostatOfflineStore(OfflineStore):  # type: ignore[misc]
    """Feast's offline store interface over `heliostat.features.retrieval`."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[feast.FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Look up features as they were known at each entity row's time.

        All entity rows come back, in their order and as they were given. Without `entity_df`,
        the rows are the entities with an event from `start_date` to `end_date`, as of
        `end_date`; the views must then have the same keys.
        """
        settings = config.offline_store
        requested, _ = utils._get_requested_feature_views_to_features_dict(
            feature_refs,
            feature_views,
            utils._get_requested_on_demand_feature_views(feature_refs, project, registry),
        )
        lookups = [
            feast_files.lookup_of(config, view, list(dict.fromkeys(names)), full_feature_names)
            for view, names in requested.items()
        ]
        if entity_df is None:
            start, end = utils.compute_non_entity_date_range(feature_views, start_date, end_date)
            event, entities = EVENT_TIMESTAMP, feast_files.entities_between(lookups, start, end)
        elif isinstance(entity_df, pd.DataFrame):
            event = offline_utils.infer_event_timestamp_from_entity_df(
                dict(zip(entity_df.columns, entity_df.dtypes, strict=True))
            )
            entities = feast_files.entities_of(entity_df, event)
        else:
            raise ConfigError(
                "entity_df", type(entity_df).__name__,
                "must be a pandas.DataFrame or None; file sources have no SQL",
            )  # fmt: skip
        retrieval = Retrieval(
            lookups=tuple(lookups),
            event=event,
            hide_until_created=settings.respect_created or filter_by_created_timestamp,
            rows_per_part=settings.rows_per_part,
        )
        for lookup in lookups:
            lookup.check()
        on_ray = _takes_ray(
            settings, entities.num_rows + sum(item.dataset.count_rows() for item in lookups)
        )
        moments = entities.column(event).combine_chunks()
        bounds = pa.compute.min_max(moments).as_py() if entities.num_rows else {}
        return HeliostatRetrievalJob(
            (lambda: _gathered(settings, retrieval, entities))
            if on_ray
            else (lambda: retrieval.in_process(entities)),
            (lambda: _blocks(settings, retrieval, entities)) if on_ray else None,
            repo_path=config.repo_path,
            full_feature_names=full_feature_names,
            on_demand=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != event],
                min_event_timestamp=bounds.get("min"),
                max_event_timestamp=bounds.get("max"),
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Each entity's row with the latest event of an interval, both of its ends included."""
        lookup = feast_files.pulled(
            config, data_source, join_key_columns, feature_name_columns, timestamp_field,
            created_timestamp_column,
        )  # fmt: skip
        settings = config.offline_store

        def table() -> pa.Table:
            if not _takes_ray(settings, lookup.dataset.count_rows()):
                rows = feast_files.between(
                    lookup, lookup.dataset.to_table(columns=lookup.columns), start_date, end_date
                )
                return feast_files.with_dummy(newest_of(lookup, rows), join_key_columns)
            ray = _ray(settings)
            task = ray.remote(feast_files.newest_of_part)
            parts = [
                task.remote(lookup, fragment, start_date, end_date)
                for fragment in lookup.dataset.get_fragments()
            ]
            found = newest_of(lookup, pa.concat_tables(ray.get(parts)))
            return feast_files.with_dummy(found, join_key_columns)

        return HeliostatRetrievalJob(table, repo_path=config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row of an interval, both of its ends included."""
        lookup = feast_files.pulled(
            config, data_source, join_key_columns, feature_name_columns, timestamp_field,
            created_timestamp_column,
        )  # fmt: skip

        def table() -> pa.Table:
            rows = lookup.dataset.to_table(columns=lookup.columns)
            return feast_files.with_dummy(
                feast_files.between(lookup, rows, start_date, end_date), join_key_columns
            )

        return HeliostatRetrievalJob(table, repo_path=config.repo_path)

    @staticmethod
    def write_logged_features(
        config: RepoConfig, data: pa.Table | Path, source: Any, logging_config: Any, registry: Any
    ) -> None:
        """Add a file of logged features to the destination's folder."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise ConfigError(
                "logging destination", type(destination).__name__, "must be a file destination"
            )
        filesystem, path = feast_files.place(
            config.repo_path, destination.path, destination.s3_endpoint_override
        )
        ds.write_dataset(
            pq.read_table(data) if isinstance(data, Path) else data,
            base_dir=path,
            basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
            partitioning=destination.partition_by,
            filesystem=filesystem,
            format="parquet",
            existing_data_behavior="overwrite_or_ignore",
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: feast.FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Add rows to a view's Parquet source: a file more in a folder, or the file anew."""
        source = feature_view.batch_source
        dataset = feast_files.dataset_of(config, source)
        if isinstance(source.file_format, DeltaFormat):
            raise ConfigError("view", feature_view.name, "must have a Parquet source to be written")
        names = dataset.schema.names
        if table.column_names != names:
            raise ConfigError(
                f"rows for view {feature_view.name}",
                table.column_names,
                f"must have columns {names}",
            )
        options = source.file_options
        filesystem, path = feast_files.place(
            config.repo_path, options.uri, options.s3_endpoint_override
        )
        rows = table.cast(dataset.schema)
        if dataset.files == [path]:
            # A reader meets the old file or the new one, never a half.
            whole = pa.concat_tables([dataset.to_table(), rows])
            if filesystem is None:
                draft = f"{path}.{uuid.uuid4().hex}"
                pq.write_table(whole, draft)
                Path(draft).replace(path)
            else:
                pq.write_table(whole, path, filesystem=filesystem)
        else:
            pq.write_table(rows, f"{path}/{uuid.uuid4().hex}.parquet", filesystem=filesystem)
        if progress is not None:
            progress(table.num_rows)


def _takes_ray(settings: HeliostatOfflineStoreConfig, rows: int) -> bool:
    if settings.engine == "auto":
        return rows > settings.in_process_rows
    return settings.engine == "ray"


def _ray(settings: HeliostatOfflineStoreConfig) -> Any:
    import ray

    if not ray.is_initialized():
        local: dict[str, Any] = {}
        if settings.ray_address is None:
            meminfo = Path("/proc/meminfo")
            local["object_store_memory"] = object_store_bytes(
                settings.object_store_gib, meminfo.read_text() if meminfo.exists() else ""
            )
        ray.init(
            address=settings.ray_address or "local",
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **local,
        )
    return ray


def _blocks(
    settings: HeliostatOfflineStoreConfig, retrieval: Retrieval, entities: pa.Table
) -> list[Any]:
    _ray(settings)
    return retrieval.on_ray(entities)


def _gathered(
    settings: HeliostatOfflineStoreConfig, retrieval: Retrieval, entities: pa.Table
) -> pa.Table:
    _ray(settings)
    return retrieval.gathered(entities)
