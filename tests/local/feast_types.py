"""A plain Feast project with types that only Feast decodes, as its owner would write it.

Run as a program, in a process of its own: ``feast_types.py FOLDER [REDIS]``; applies the project, writes
values online with Feast's own tools, and prints the descriptions of its services, or why there is none,
as one JSON object. ``changed.db`` is the registry with another definition of a view. With the address
of a Redis it writes the values there too, by the same project in a second repository.
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import feast
import pandas as pd
from feast import types
from feast.on_demand_feature_view import on_demand_feature_view

from heliostat.errors import ConfigError
from heliostat.features import feast_services
from heliostat.features.definitions import Feature, OnDemandView

YAML = """\
project: shop
provider: local
registry: registry.db
online_store:
  type: sqlite
  path: values/online.db
entity_key_serialization_version: 3
"""
EVENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def likeness(row: dict[str, Any]) -> dict[str, Any]:
    """Bring a list to the one number that the model takes; without one it is a half."""
    if row["embedding"] is None:
        return {"size": 0.5}
    return {"size": sum(a * b for a, b in zip(row["embedding"], [1.0, 2.0, 4.0], strict=True))}


LIKENESS = OnDemandView(
    name="likeness", inputs=("embedding",), features=(Feature(name="size", dtype="float64"),),
    compute=likeness,
)  # fmt: skip


def main(folder: Path, redis: str | None) -> dict[str, Any]:
    """Apply, write, describe."""
    repository = folder / "repo"
    (repository / "values").mkdir(parents=True)
    (repository / "feature_store.yaml").write_text(YAML, encoding="utf-8")
    store = feast.FeatureStore(repo_path=str(repository))
    pd.DataFrame({"customer": ["x"], "at": [EVENT]}).to_parquet(folder / "rows.parquet")
    store.apply(_definitions(folder, types.Float64))
    shutil.copy(repository / "registry.db", repository / "changed.db")
    store.apply(_definitions(folder, types.Float32))
    _write(store)
    if redis is not None:
        _write(_on_redis(folder, repository, redis))
    return {
        "typed": feast_services.describe(
            repository, "typed", defaults={"profile": {}, "plain": {"colour": "red"}},
            on_demand=[LIKENESS],
        ),
        "plain": feast_services.describe(repository, "plain"),
        "refused": [
            _refusal(repository, "pickled"),
            _refusal(repository, "nothing"),
            _refusal(folder, "typed"),
        ],
    }  # fmt: skip


def _definitions(folder: Path, number: Any) -> list[Any]:
    customer = feast.Entity(
        name="customer", join_keys=["customer"], value_type=feast.ValueType.STRING
    )
    profile = _view(
        customer, folder, "profile", timedelta(days=1),
        embedding=types.Array(number), seen=types.UnixTimestamp, photo=types.Bytes,
        words=types.Array(types.String), price=types.Decimal, mark=types.Uuid,
    )  # fmt: skip
    plain = _view(
        customer, folder, "plain", timedelta(0),
        colour=types.String, height=types.Float32, visits=types.Int32, is_new=types.Bool,
    )  # fmt: skip

    @on_demand_feature_view(
        sources=[plain], schema=[feast.Field(name="twice", dtype=types.Float64)], mode="python"
    )
    def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"twice": [2.0 * value for value in inputs["height"]]}

    services = [
        feast.FeatureService(name="typed", features=[profile, plain[["colour"]]]),
        feast.FeatureService(name="plain", features=[plain]),
        feast.FeatureService(name="pickled", features=[plain, doubled]),
    ]
    return [customer, profile, plain, doubled, *services]


def _view(customer: Any, folder: Path, name: str, ttl: timedelta, **features: Any) -> Any:
    return feast.FeatureView(
        name=name,
        entities=[customer],
        ttl=ttl,
        schema=[
            feast.Field(name="customer", dtype=types.String),
            *(feast.Field(name=feature, dtype=kind) for feature, kind in features.items()),
        ],
        source=feast.FileSource(
            name=f"{name}_rows", path=str(folder / "rows.parquet"), timestamp_field="at"
        ),
    )


def _on_redis(folder: Path, repository: Path, redis: str) -> Any:
    other = folder / "repo on redis"
    other.mkdir(exist_ok=True)
    store = f"  type: redis\n  connection_string: {redis},db=1"
    text = YAML.replace("registry.db", str(repository / "registry.db"))
    text = text.replace("  type: sqlite\n  path: values/online.db", store)
    (other / "feature_store.yaml").write_text(text, encoding="utf-8")
    return feast.FeatureStore(repo_path=str(other))


def _write(store: Any) -> None:
    keys = {"customer": ["a", "b"], "at": [EVENT] * 2}
    store.write_to_online_store("profile", pd.DataFrame({
        **keys,
        "embedding": [[0.5, 1.0, -0.25], None],
        "seen": [EVENT - timedelta(seconds=1), EVENT],
        "photo": [b"\x00\xff", b""],
        "words": [["ü", ""], []],
        "price": [Decimal("1.10"), Decimal(2)],
        "mark": [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))],
    }))  # fmt: skip
    store.write_to_online_store("plain", pd.DataFrame({
        **keys, "colour": ["blue", "red"], "height": [0.1, None], "visits": [3, -3],
        "is_new": [True, False],
    }))  # fmt: skip


def _refusal(repository: Path, service: str) -> str:
    try:
        feast_services.describe(repository, service)
    except ConfigError as error:
        return str(error)
    return "accepted"


if __name__ == "__main__":
    given = [*sys.argv[2:], None]
    print(json.dumps(main(Path(sys.argv[1]), given[0])))
