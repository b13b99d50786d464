"""A plain Feast project that knows nothing of Heliostat but one line of its YAML.

Run as a program, in a process of its own: ``plain_feast.py FOLDER``; prints one JSON object.
"""

from __future__ import annotations

import json
import math
import random
import sys
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import feast
import pandas as pd
from feast import types
from feast.on_demand_feature_view import on_demand_feature_view

YAML = """\
project: plain
provider: local
registry: {registry}
online_store:
  type: sqlite
  path: {online}
offline_store:
  type: heliostat.features.feast_offline.HeliostatOfflineStore
entity_key_serialization_version: 3
"""
ON_RAY = "  engine: ray\n  rows_per_part: 1500\n"

T0 = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
"""Half an hour before clocks go forward in Berlin; in New York they went three weeks before."""

DAY = timedelta(days=1)
MICRO = timedelta(microseconds=1)
ROWS = 2_400

Row = dict[str, Any]


def main(folder: Path) -> dict[str, Any]:
    """Make the project, retrieve with both engines and materialize."""
    folder.mkdir()
    stores = {
        "process": _store(folder, folder / "repo", ""),
        "ray": _store(folder, folder / "repo on ray", ON_RAY),
    }
    written = _apply(stores["process"], folder)
    answer: dict[str, Any] = {}
    for engine, store in stores.items():
        store.refresh_registry()
        answer[engine] = {
            "cases": _cases(store),
            "without_created": _ties_as_feast_does(folder) if engine == "process" else None,
            "random": _random(store, written),
        }
    answer["on_demand"] = _on_demand(stores["process"])
    answer["without_rows"] = _without_rows(stores["process"])
    answer["materialized"] = _materialized(stores["process"])
    answer["refused"] = _refused(stores["process"])
    return answer


def _store(folder: Path, repository: Path, more: str) -> Any:
    repository.mkdir()
    text = YAML.format(registry=folder / "registry.db", online=folder / "online.db")
    head, line, tail = text.partition("HeliostatOfflineStore\n")
    (repository / "feature_store.yaml").write_text(head + line + more + tail, encoding="utf-8")
    return feast.FeatureStore(repo_path=str(repository))


def _apply(store: Any, folder: Path) -> dict[str, list[Row]]:
    source = random.Random(7)
    written = {
        "created": _created_rows(source),
        "pairs": _pair_rows(source),
        "plain": _plain_rows(source),
    }
    created = pd.DataFrame(written["created"])
    # Local times of New York, in nanoseconds; keys as small integers.
    created["at"] = pd.to_datetime(created["at"], utc=True).dt.tz_convert("America/New_York")
    created["written"] = pd.to_datetime(created["written"], utc=True)
    created["driver"] = created["driver"].astype("int32")
    _save(created, folder / "created.parquet")
    pairs = pd.DataFrame(written["pairs"])
    # Moments without a zone are UTC.
    pairs["at"] = pd.to_datetime(pairs["at"], utc=True).dt.tz_localize(None).dt.as_unit("us")
    (folder / "pairs").mkdir()
    for number in range(3):
        _save(pairs[number::3], folder / "pairs" / f"{number}.parquet")
    plain = pd.DataFrame(written["plain"])
    plain["at"] = pd.to_datetime(plain["at"], utc=True).dt.as_unit("us")
    _save(plain, folder / "plain.parquet")
    _save(pd.DataFrame(CASE_A, columns=["id", "event", "made", "fa"]), folder / "a.parquet")
    _save(pd.DataFrame(CASE_B, columns=["id", "event", "fb"]), folder / "b.parquet")

    driver = feast.Entity(name="driver", join_keys=["driver"], value_type=feast.ValueType.INT64)
    shop = feast.Entity(name="shop", join_keys=["shop"], value_type=feast.ValueType.STRING)
    thing = feast.Entity(name="id", join_keys=["id"], value_type=feast.ValueType.INT64)
    views = [
        _view("created", [driver], 5 * DAY, ["speed"], types.Float64, folder / "created.parquet",
              timestamp_field="at", created_timestamp_column="written",
              field_mapping={"raw_speed": "speed"}),
        _view("pairs", [driver, shop], timedelta(0), ["visits"], types.Int64, folder / "pairs",
              timestamp_field="at"),
        _view("plain", [shop], 12 * timedelta(hours=1), ["city"], types.String,
              folder / "plain.parquet", timestamp_field="at"),
        _view("a", [thing], 3 * DAY, ["fa"], types.Float64, folder / "a.parquet",
              timestamp_field="event", created_timestamp_column="made"),
        _view("b", [thing], timedelta(0), ["fb"], types.Float64, folder / "b.parquet",
              timestamp_field="event"),
    ]  # fmt: skip
    request = feast.RequestSource(
        name="request", schema=[feast.Field(name="factor", dtype=types.Float64)]
    )

    @on_demand_feature_view(
        sources=[views[4], request],
        schema=[feast.Field(name="scaled", dtype=types.Float64)],
        mode="python",
    )
    def scaled(inputs: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(inputs["fb"], inputs["factor"], strict=True)
        return {"scaled": [None if b is None else b * factor for b, factor in pairs]}

    store.apply([driver, shop, thing, *views, scaled])
    return written


def _view(
    name: str, entities: list[Any], ttl: timedelta, names: list[str], kind: Any, path: Path,
    **source: Any,
) -> Any:  # fmt: skip
    keys = [
        feast.Field(name=item.name, dtype=types.String if item.name == "shop" else types.Int64)
        for item in entities
    ]
    return feast.FeatureView(
        name=name,
        entities=entities,
        ttl=ttl,
        schema=[*keys, *(feast.Field(name=item, dtype=kind) for item in names)],
        source=feast.FileSource(name=f"{name}_source", path=str(path), **source),
    )


def _save(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path, index=False)


# The ten cases: what lies in the files, then what is asked for.
AT = datetime(2026, 1, 10, 12, tzinfo=UTC)
SECOND = AT + timedelta(milliseconds=100)
CASE_A = [
    (1, AT - 9 * DAY, AT - 9 * DAY, 10.0),
    (2, AT - 3 * DAY, AT - 3 * DAY, 15.0),
    (3, AT, AT, 20.0),
    (4, AT - DAY, AT - DAY, 30.0),
    (4, AT - DAY, AT - DAY / 2, 31.0),
    (4, AT - DAY, AT + DAY, 32.0),
    (5, AT - DAY, AT - DAY, 40.0),
    (5, AT + timedelta(milliseconds=900), AT + timedelta(milliseconds=900), 41.0),
    (6, AT + DAY, AT + DAY, 50.0),
    (8, AT - DAY, AT - DAY, 80.0),
]
CASE_B = [(1, AT - 900 * DAY, 1.5), (8, AT - DAY, 8.5)]
ENTITIES = [
    (8, AT, "duplicate"), (1, AT, "older than ttl"), (2, AT, "as old as ttl"),
    (3, AT, "same time"), (4, AT, "created tie"), (5, SECOND, "later in the second"),
    (6, AT, "only future"), (7, AT, "unknown"), (8, AT, "duplicate"), (None, AT, "null key"),
]  # fmt: skip


def _cases(store: Any, **options: Any) -> list[list[Any]]:
    """Ask the ten cases; entity keys are floats then, since pandas knows no other null."""
    entities = pd.DataFrame(ENTITIES, columns=["id", "event_timestamp", "case"])
    found = store.get_historical_features(entities, ["a:fa", "b:fb"], **options).to_df()
    same = pd.to_datetime(found["event_timestamp"], utc=True).tolist() == [
        pd.Timestamp(row[1]) for row in ENTITIES
    ]
    return [["times kept", same, None]] + [
        [case, *(None if math.isnan(value) else value for value in values)]
        for case, *values in found[["case", "fa", "fb"]].itertuples(index=False)
    ]


def _ties_as_feast_does(folder: Path) -> Any:
    store = _store(folder, folder / "repo with leaks", "  respect_created: false\n")
    leaking = {row[0]: row[1] for row in _cases(store)}["created tie"]
    asked = _cases(store, filter_by_created_timestamp=True)
    return [leaking, {row[0]: row[1] for row in asked}["created tie"]]


def _moment(source: random.Random) -> datetime:
    """Whole quarters of an hour, so that many are equal, around a change of the clocks."""
    return T0 + timedelta(minutes=15) * source.randrange(-800, 800)


def _created_rows(source: random.Random) -> list[Row]:
    return [
        {
            "driver": source.randrange(40), "at": at, "raw_speed": source.random(),
            "written": at + source.choice([timedelta(0), 2 * MICRO, DAY, -DAY]),
        }
        for at in (_moment(source) for _ in range(3_000))
    ]  # fmt: skip


def _pair_rows(source: random.Random) -> list[Row]:
    return [
        {
            "driver": source.randrange(12), "shop": source.choice(["n", "s", "ö", ""]),
            "at": _moment(source), "visits": number,
        }
        for number in range(1_500)
    ]  # fmt: skip


def _plain_rows(source: random.Random) -> list[Row]:
    # One row per moment and shop: with equal ones no store can know which was meant.
    places = [(shop, minutes) for shop in ("n", "s", "ö") for minutes in range(-900, 900)]
    return [
        {
            "shop": shop, "at": T0 + timedelta(minutes=15) * minutes,
            "city": source.choice(["x", "y", None]),
        }
        for shop, minutes in source.sample(places, 900)
    ]  # fmt: skip


def _random(store: Any, written: dict[str, list[Row]]) -> dict[str, Any]:
    """Compare with the definition carried out word by word, for every random row."""
    source = random.Random(11)
    asked = [
        {
            "row": number, "driver": source.choice([*range(42), 3, 3]),
            "shop": source.choice(["n", "s", "ö", "", "nowhere", None]),
            "when": _moment(source) + source.choice([timedelta(0), MICRO, -MICRO]),
        }
        for number in range(ROWS)
    ]  # fmt: skip
    frame = pd.DataFrame(asked)
    # The day on which Berlin's clocks change has 23 hours.
    frame["when"] = pd.to_datetime(frame["when"], utc=True).dt.tz_convert("Europe/Berlin")
    job = store.get_historical_features(
        frame, ["created:speed", "pairs:visits", "plain:city"], full_feature_names=True
    )
    table = job.to_arrow()
    found = table.to_pandas()
    on_ray = store.config.offline_store.engine == "ray"
    wrong = 0
    for row, got in zip(asked, found.to_dict("records"), strict=True):
        want = {
            "created__speed": _as_of(written["created"], row, ["driver"], "raw_speed", 5 * DAY),
            "pairs__visits": _as_of(written["pairs"], row, ["driver", "shop"], "visits", None),
            "plain__city": _as_of(written["plain"], row, ["shop"], "city", DAY / 2),
        }
        wrong += any(not _equal(got[name], value) for name, value in want.items())
    return {
        "rows": len(found),
        "wrong": wrong,
        "in_order": found["row"].tolist() == list(range(ROWS)),
        "blocks_equal": _blocks(job) == table.to_pylist() if on_ray else True,
        "null_shares": {
            name: round(float(found[name].isna().mean()), 2)
            for name in ("created__speed", "pairs__visits", "plain__city")
        },
    }


def _blocks(job: Any) -> list[Row]:
    """The rows of the answer as a Ray Dataset, which promises no order."""
    import ray

    tables = ray.get(job.to_ray_dataset().to_arrow_refs())
    return sorted((row for table in tables for row in table.to_pylist()), key=itemgetter("row"))


def _as_of(rows: list[Row], asked: Row, keys: list[str], name: str, ttl: timedelta | None) -> Any:
    at = asked["when"].astimezone(ZoneInfo("UTC"))
    known = [
        (row["at"], row.get("written", row["at"]), number, row[name])
        for number, row in enumerate(rows)
        if all(row[key] == asked[key] for key in keys)
        and row["at"] <= at
        and row.get("written", row["at"]) <= at
    ]
    if not known:
        return None
    event, written, _, value = max(known, key=lambda item: item[:3])
    ties = {item[3] for item in known if item[:2] == (event, written)}
    if ttl is not None and at - event > ttl:
        return None
    return ties if len(ties) > 1 else value


def _equal(got: Any, want: Any) -> bool:
    if isinstance(want, set):
        return got in want
    return bool(pd.isna(got)) if want is None else got == want


def _on_demand(store: Any) -> list[Any]:
    entities = pd.DataFrame(
        {"thing": [8, 1], "event_timestamp": [AT, AT], "factor": [2.0, 3.0], "id": [1, 8]}
    )
    found = store.get_historical_features(entities, ["b:fb", "scaled:scaled"]).to_df()
    return found[["id", "fb", "scaled"]].to_numpy().tolist()


def _without_rows(store: Any) -> list[Any]:
    found = store.get_historical_features(
        features=["a:fa"], start_date=AT - 2 * DAY, end_date=AT
    ).to_df()
    return sorted(found[["id", "fa"]].to_numpy().tolist())


def _materialized(store: Any) -> Any:
    store.materialize(AT - 1_000 * DAY, AT, feature_views=["a", "b"])
    read = store.get_online_features(
        ["a:fa", "b:fb"], [{"id": number} for number in (1, 3, 4, 5, 6, 8)]
    ).to_dict()
    return [read["fa"], read["fb"]]


def _refused(store: Any) -> dict[str, str]:
    """What wrong entity rows are answered."""
    wrong = {
        "text for a number": pd.DataFrame({"id": ["1"], "event_timestamp": [AT]}),
        "no time": pd.DataFrame({"id": [1], "event_timestamp": pd.to_datetime([None], utc=True)}),
        "no key": pd.DataFrame({"ids": [1], "event_timestamp": [AT]}),
        "sql": "SELECT 1",
    }
    told = {}
    for name, entities in wrong.items():
        try:
            store.get_historical_features(entities, ["a:fa"]).to_df()
            told[name] = "accepted"
        except Exception as error:  # noqa: BLE001
            told[name] = str(error)
    return told


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
