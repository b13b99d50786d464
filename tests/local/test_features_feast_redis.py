"""Feast's own Redis client reads what we write, by the file that we write for it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.features import feast_repository
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.redis_client import RedisAddress, RedisConnection
from heliostat.features.redis_store import RedisWriter

EVENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
PASSWORD = "p-4_x.y"


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function."""
    return tables["t"]


VIEW = FeatureView(
    name="one", keys=("user",), features=(Feature(name="number", dtype="float64"),),
    inputs=("t",), compute=compute, ttl_s=None,
)  # fmt: skip
SERVICE = FeatureService(project="shop", name="churn", views=(VIEW,))

PROGRAM = """
import json, sys
import feast
store = feast.FeatureStore(repo_path=sys.argv[1])
print(json.dumps(store.get_online_features(
    features=store.get_feature_service("churn"),
    entity_rows=[{"user": "x"}, {"user": "nobody"}]).to_dict()))
"""


def test_only_a_redis_server_has_a_config_of_feasts() -> None:
    """The password stays in the environment; a file and PostgreSQL keep Feast's file."""
    assert feast_repository.server_of("file") is None
    assert feast_repository.server_of("postgresql://h:5432/d") is None
    assert feast_repository.server_of("rediss://me:secret@h:6380/2") == {
        "type": "redis",
        "connection_string": "h:6380,db=2,username=me,password=${HELIOSTAT_REDIS_PASSWORD},ssl=true",
    }


@pytest.mark.slow
def test_feast_reads_what_we_write_to_redis(
    redis: Any, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """By the file as it was written, with the password of the environment; no file store appears."""
    pytest.importorskip("redis", reason="Feast's client needs redis; pip install redis")
    address = RedisAddress.parse(redis.url)
    RedisConnection(address, timeout_s=5).call(
        [(b"CONFIG", b"SET", b"requirepass", PASSWORD.encode())]
    )
    url = f"redis://:{PASSWORD}@{address.host}:{address.port}/{address.database}"
    repository = tmp_path / "repository"
    online = feast_repository.server_of(url)
    feast_repository.apply([SERVICE], repository, tmp_path / "tables", online_server=online)
    frame = pl.DataFrame({"user": ["x"], "event_timestamp": [EVENT], "number": [1.5]})
    RedisWriter(RedisAddress.parse(url), "shop").write(VIEW, frame)

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(repository)],
        env={**child_environment, "TZ": "UTC", "HELIOSTAT_REDIS_PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["number"] == [1.5, None]
    text = (repository / "feature_store.yaml").read_text()
    assert PASSWORD not in text
    assert sorted(path.name for path in tmp_path.rglob("*.db")) == ["registry.db"]
