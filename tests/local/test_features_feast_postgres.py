"""Feast's own PostgreSQL client reads what we write; it runs in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.features import feast_repository
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.postgres_store import PostgresWriter
from tests.unit.postgres import Server

EVENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function."""
    return tables["t"]


VIEW = FeatureView(
    name="one",
    keys=("zone", "user"),
    features=(
        Feature(name="number", dtype="float64"), Feature(name="whole", dtype="int64"),
        Feature(name="word", dtype="string"),
    ),
    inputs=("t",), compute=compute, ttl_s=None,
)  # fmt: skip
SERVICE = FeatureService(project="shop", name="churn", views=(VIEW,))

PROGRAM = """
import json, sys
import feast
store = feast.FeatureStore(repo_path=sys.argv[1])
rows = json.loads(sys.argv[2])
print(json.dumps(store.get_online_features(
    features=store.get_feature_service("churn"), entity_rows=rows).to_dict()))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    """A PostgreSQL server."""
    if importlib.util.find_spec("psycopg_pool") is None:
        pytest.skip("Feast's client needs psycopg-pool; pip install psycopg-pool")
    made = Server()
    yield made
    made.remove()


@pytest.mark.slow
def test_feast_reads_what_we_write_to_postgresql(
    server: Server, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """Same tables, same bytes: keys, values and nulls."""
    repository = tmp_path / "repository"
    feast_repository.apply([SERVICE], repository, tmp_path / "tables")
    url = urllib.parse.urlsplit(server.url)
    config = json.loads((repository / "feature_store.yaml").read_text())
    config["online_store"] = {
        "type": "postgres", "host": url.hostname, "port": url.port, "database": "postgres",
        "db_schema": "public", "user": "heliostat", "password": "any", "sslmode": "disable",
    }  # fmt: skip
    (repository / "feature_store.yaml").write_text(json.dumps(config))
    rows = [{"zone": "1", "user": "x"}, {"zone": "2", "user": "ü"}, {"zone": "1", "user": "no"}]
    frame = pl.DataFrame(rows[:2]).with_columns(
        pl.lit(EVENT).alias("event_timestamp"),
        pl.Series("number", [1.5, None], dtype=pl.Float64),
        pl.Series("whole", [-3, 2**40], dtype=pl.Int64),
        pl.Series("word", [None, "é"], dtype=pl.String),
    )
    PostgresWriter(server.url.replace("+psycopg", ""), "shop").write(VIEW, frame)

    pool = importlib.util.find_spec("psycopg_pool")
    assert pool is not None
    assert pool.origin is not None
    path = f"{child_environment.get('PYTHONPATH', '')}:{Path(pool.origin).parents[1]}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(repository), json.dumps(rows)],
        env={**child_environment, "TZ": "UTC", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    assert {name: read[name] for name in ("number", "whole", "word")} == {
        "number": [1.5, None, None],
        "whole": [-3, 2**40, None],
        "word": [None, "é", None],
    }
