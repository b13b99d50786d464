"""Ray tasks fill Redis and the platform's file; what failed in the middle goes on."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, Unavailable
from heliostat.features import stores
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.materialize import MaterializeReport
from heliostat.features.materialize_ray import last_end, materialize_on_ray
from heliostat.features.redis_client import RedisAddress, RedisConnection
from heliostat.features.stores import Store
from heliostat.pipeline.bring import bring
from heliostat.pipeline.progress import Reporter
from heliostat.registry.package import FeatureViewReference
from heliostat.testing.redis import RedisServer, is_installed

pytestmark = pytest.mark.usefixtures("ray_session")

T0 = datetime(2026, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
FILES = 9


def compute(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Stand in for a view's function; its table is written directly."""
    return tables["t"]


def _view(name: str) -> FeatureView:
    return FeatureView(
        name=name,
        keys=("user",),
        features=(Feature(name=f"{name}_n", dtype="int64"),),
        inputs=("t",),
        compute=compute,
        ttl_s=100 * 3600.0,
    )


VIEWS = (_view("one"), _view("two"))
SERVICE = FeatureService(project="shop", name="churn", views=VIEWS)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Two views of nine files each, every user in most of them, in no order."""
    catalog = Catalog(tmp_path / "tables")
    source = random.Random(5)
    for view in VIEWS:
        files, schema = [], None
        for part in range(FILES):
            rows = [
                (f"u{source.randrange(50)}", T0 + source.randrange(150) * HOUR, source.randrange(10**9))
                for _ in range(60)
            ]  # fmt: skip
            frame = pl.DataFrame(
                rows,
                schema={
                    "user": pl.String, "event_timestamp": pl.Datetime("us", "UTC"),
                    f"{view.name}_n": pl.Int64,
                },
                orient="row",
)  # fmt: skip
            files.append(catalog.stage(view.table, frame, run_id="made", part=part))
            schema = frame.schema
        assert schema is not None
        catalog.commit(view.table, files, schema, run_id="made", mode="overwrite")
    return catalog


def _truth(catalog: Catalog, view: FeatureView, end: datetime) -> dict[str, set[int]]:
    """Values of each user's newest event up to `end`; several rows may hold one."""
    found: dict[str, tuple[datetime, set[int]]] = {}
    for user, at, number in catalog.read(view.table).iter_rows():
        if at > end or end - at > timedelta(seconds=view.ttl_s or 0):
            continue
        if user not in found or at > found[user][0]:
            found[user] = (at, {number})
        elif at == found[user][0]:
            found[user][1].add(number)
    return {user: numbers for user, (_, numbers) in found.items()}


def _read(store: Store, end: datetime) -> dict[str, list[Any]]:
    views = [FeatureViewReference(**view) for view in SERVICE.describe()["views"]]
    reader = stores.open_reader(store.where, store.file, "shop", views)
    return reader.read({"user": [f"u{n}" for n in range(51)]}, end)


def _check(catalog: Catalog, store: Store, end: datetime) -> None:
    for view in VIEWS:
        truth, read = _truth(catalog, view, end), _read(store, end)[f"{view.name}_n"]
        for number, value in enumerate(read):
            wanted = truth.get(f"u{number}")
            assert value is None if wanted is None else value in wanted, (view.name, number)
    assert any(value is not None for value in read)


@pytest.mark.parametrize("kind", ["redis", "file"])
def test_the_newest_event_of_every_entity_arrives_and_the_interval_is_recorded(
    kind: str, redis: RedisServer, catalog: Catalog, tmp_path: Path
) -> None:
    """In full, then the next hours; equal to looking at every row."""
    where = redis.url if kind == "redis" else stores.FILE
    store = Store(where=where, file=tmp_path / "online.db", project="shop")
    first, second = T0 + 90 * HOUR, T0 + 140 * HOUR
    assert last_end(SERVICE, store) is None

    report = materialize_on_ray(
        SERVICE, catalog, store, start=None, end=first, now=second, rows_per_task=150
    )
    _check(catalog, store, first)
    assert report.checked > 60
    assert last_end(SERVICE, store) == first

    materialize_on_ray(
        SERVICE, catalog, store, start=first, end=second, now=second, rows_per_task=150
    )
    _check(catalog, store, second)
    entries = [
        json.loads(entry) for entry in stores.open_writer(where, store.file, "shop").recorded()
    ]
    assert [(entry["start"], entry["end"]) for entry in entries] == [
        (None, first.isoformat()), (first.isoformat(), second.isoformat()),
    ]  # fmt: skip
    assert stores.open_writer(where, store.file, "shop").notes() == {}


def test_the_job_goes_on_where_the_last_one_ended(
    redis: RedisServer, catalog: Catalog, tmp_path: Path
) -> None:
    """In full the first time, then what came since; a moment that is reached is refused."""
    store = Store(where=redis.url, file=tmp_path / "unused", project="shop")
    first, second = T0 + 90 * HOUR, T0 + 140 * HOUR

    def run(until: datetime) -> MaterializeReport:
        return bring(
            SERVICE, catalog, store, until=until, full=False, now=second, reporter=Reporter()
        )

    assert (run(first).start, run(second).start) == (None, first)
    _check(catalog, store, second)
    with pytest.raises(ConfigError, match="--full begins anew"):
        run(second)


def test_a_run_that_failed_in_the_middle_goes_on_with_what_is_missing(
    redis: RedisServer, catalog: Catalog, tmp_path: Path
) -> None:
    """Nothing is recorded for it; shares that were written are not written again."""
    store = Store(where=redis.url, file=tmp_path / "unused", project="shop")
    end = T0 + 140 * HOUR
    lost = Path(str(catalog.files(VIEWS[1].table)[-1]))
    lost.rename(lost.with_suffix(".away"))

    with pytest.raises(Exception, match=lost.name):
        materialize_on_ray(SERVICE, catalog, store, start=None, end=end, now=end, rows_per_task=150)

    writer = stores.open_writer(store.where, store.file, "shop")
    assert last_end(SERVICE, store) is None
    before = writer.notes()
    assert len(before) == 4, "every share of the first view"
    lost.with_suffix(".away").rename(lost)
    report = materialize_on_ray(
        SERVICE, catalog, store, start=None, end=end, now=end, rows_per_task=150
    )
    _check(catalog, store, end)
    assert report.rows["one"] == sum(before.values())
    assert last_end(SERVICE, store) == end


def test_a_server_that_is_gone_is_told_and_nothing_is_recorded(
    redis: RedisServer, catalog: Catalog, tmp_path: Path
) -> None:
    """The same call works once it is back, and brings everything."""
    store = Store(where=redis.url, file=tmp_path / "unused", project="shop")
    end = T0 + 140 * HOUR
    redis.kill()
    with pytest.raises(Unavailable):
        materialize_on_ray(SERVICE, catalog, store, start=None, end=end, now=end, rows_per_task=150)
    redis.start()

    assert last_end(SERVICE, store) is None
    materialize_on_ray(SERVICE, catalog, store, start=None, end=end, now=end, rows_per_task=150)
    _check(catalog, store, end)


def test_a_server_killed_in_the_middle_of_writing_is_told_and_all_is_there_in_the_end(
    tmp_path: Path,
) -> None:
    """Half of the values are in it and stay; no interval is recorded before all are."""
    if not is_installed():
        pytest.skip("redis-server is not installed")
    users, view = 8_000, _view("one")
    service = FeatureService(project="shop", name="churn", views=(view,))
    catalog = Catalog(tmp_path / "tables")
    rows = pl.DataFrame(
        {
            "user": [f"u{n}" for n in range(users)],
            "event_timestamp": pl.Series([T0] * users, dtype=pl.Datetime("us", "UTC")),
            "one_n": range(users),
        }
    )
    catalog.write(view.table, rows, run_id="made")
    redis = RedisServer(tmp_path, keeps_data=True)
    redis.start()
    store = Store(where=redis.url, file=tmp_path / "unused", project="shop")

    def run() -> Any:
        return materialize_on_ray(
            service, catalog, store, start=None, end=T0, now=T0, rows_per_task=1_000
        )

    def kill() -> None:
        connection = RedisConnection(RedisAddress.parse(redis.url), timeout_s=5.0)
        while connection.call([(b"DBSIZE",)])[0] < users // 2:
            time.sleep(0.001)
        redis.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        with pytest.raises(Unavailable):
            run()
        killer.join()
        redis.start()
        kept = RedisConnection(RedisAddress.parse(redis.url), timeout_s=5.0).call([(b"DBSIZE",)])
        assert users // 2 <= kept[0] < 2 * users, "the writing was cut in the middle"
        assert last_end(service, store) is None

        assert run().rows == {"one": users}

        assert last_end(service, store) == T0
        views = [FeatureViewReference(**item) for item in service.describe()["views"]]
        reader = stores.open_reader(store.where, store.file, "shop", views)
        asked = {"user": rows["user"].to_list()}
        assert reader.read(asked, T0)["one_n"] == list(range(users))
    finally:
        redis.kill()
