"""The process beside a gateway that holds Feast, with a scripted program in Feast's place."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heliostat.errors import ConfigError, Unavailable
from heliostat.features import feast_project, stores
from heliostat.features.feast_project import FeastProject
from heliostat.features.feast_reader import FeastProcess, FeastReader
from heliostat.features.online import OnlineReader
from heliostat.features.redis_store import RedisHashReader

VIEW = SimpleNamespace(
    name="v", keys=("id",), features=("f",), ttl_s=None, version="feast:1",
    dtypes=("Array(Float32)",), defaults=None,
)  # fmt: skip
REPOSITORY = Path("/of/features")


@pytest.fixture
def process() -> Iterator[FeastProcess]:
    made = FeastProcess(
        REPOSITORY, restart_s=0.01, hung_s=0.05, module="tests.unit.features.scripted_feast"
    )
    made.start()
    made.start()
    _wait(lambda: made.is_ready)
    yield made
    made.close()


def _wait(done: Any) -> None:
    while not done():
        time.sleep(0.01)


def _problem(answer: Any) -> str:
    with pytest.raises(Unavailable) as caught:
        answer.result(30)
    return str(caught.value)


def test_answers_come_to_their_questions_in_any_number(process: FeastProcess) -> None:
    """More than the process has at a time, each its own."""
    asked = [process.ask({"say": number}) for number in range(100)]

    assert [answer.result(30) for answer in asked] == list(range(100))


def test_who_gives_up_in_the_queue_costs_the_process_nothing(process: FeastProcess) -> None:
    """Only what it already has is worked on; what waits behind comes as soon as it can."""
    busy = [process.ask({"wait_s": 0.02}) for _ in range(4)]
    waiting = [process.ask({"end": 9}) for _ in range(50)]
    last = process.ask({"say": "last"})

    assert all(answer.cancel() for answer in waiting)
    assert [answer.result(30) for answer in busy] == ["waited"] * 4
    assert last.result(30) == "last"
    with pytest.raises(CancelledError):
        waiting[0].result(0)


def test_a_process_that_ends_is_replaced_and_its_questions_are_told(process: FeastProcess) -> None:
    """Nobody waits for an answer that cannot come."""
    ended = process.ask({"end": 3})
    lost = process.ask({"say": "x"})

    assert _problem(ended) == f"Feast's reader of {REPOSITORY}: ended with 3"
    assert _problem(lost) == _problem(ended)
    _wait(lambda: process.is_ready)
    assert process.ask({"say": "again"}).result(30) == "again"


def test_a_process_that_hangs_is_ended(process: FeastProcess) -> None:
    """The next question after a while of silence ends it; then there is another one."""
    hung = process.ask({"wait_s": 3600})
    time.sleep(0.1)
    next_one = process.ask({"say": "x"})

    assert _problem(hung) == f"Feast's reader of {REPOSITORY}: has not answered for 0.05 s"
    assert _problem(next_one) == _problem(hung)
    _wait(lambda: process.is_ready)


def test_before_it_is_ready_and_after_its_end_questions_fail_at_once(
    process: FeastProcess,
) -> None:
    """A gateway answers with defaults meanwhile, and says so."""
    new = FeastProcess(REPOSITORY, module="tests.unit.features.scripted_feast")
    assert _problem(new.ask({})) == f"Feast's reader of {REPOSITORY}: has not been started"

    process.close()
    assert _problem(process.ask({})) == f"Feast's reader of {REPOSITORY}: was closed"


def test_a_reader_asks_for_the_versions_that_the_model_was_trained_on(
    process: FeastProcess,
) -> None:
    """In threads and in an event loop; a wrong key is the caller's fault, a changed view is not."""
    at = datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)
    reader = FeastReader(process, "s", [VIEW])
    other = FeastReader(process, "s", [SimpleNamespace(**{**vars(VIEW), "version": "feast:other"})])

    assert reader.read({"id": ["a", "bb"]}, None) == {"f": [[1, None], [2, None]]}
    assert asyncio.run(reader.fetch({"id": ["a"]}, at)) == {"f": [[1, 2_000_000]]}
    with pytest.raises(ConfigError, match="entity key id = 7: must be text"):
        reader.read({"id": [7]}, None)
    with pytest.raises(ConfigError, match="entity keys = 'id': must be given"):
        reader.read({}, None)
    with pytest.raises(Unavailable, match="Unavailable: changed"):
        other.read({"id": ["a"]}, None)


YAML = """\
project: shop
entity_key_serialization_version: {version}
online_store:
  type: {store}
"""


@pytest.mark.parametrize(
    ("dtypes", "store", "version", "reader"),
    [
        (("float32", "bool", "string"), "sqlite", 3, OnlineReader),
        (("float32", "bool", "string"), "redis", 3, RedisHashReader),
        (("float32", "bool", "string"), "redis\n  redis_type: redis_cluster", 3, FeastReader),
        (("float32", "bool", "string"), "dynamodb", 3, FeastReader),
        (("float32", "bool", "string"), "sqlite", 2, FeastReader),
        (("float32", "bool", "Bytes"), "sqlite", 3, FeastReader),
        (("Array(Float32)", "bool", "string"), "redis", 3, FeastReader),
    ],
)
def test_feasts_reader_is_taken_only_where_ours_cannot_read(
    tmp_path: Path, dtypes: tuple[str, ...], store: str, version: int, reader: type
) -> None:
    """Our own for every store and type that it decodes; neither loads Feast into this process."""
    loaded = "feast" in sys.modules
    (tmp_path / "feature_store.yaml").write_text(YAML.format(store=store, version=version))
    view = SimpleNamespace(**{**vars(VIEW), "features": ("a", "b", "c"), "dtypes": dtypes})
    project = FeastProject(
        tmp_path, FeastProcess(tmp_path, module="tests.unit.features.scripted_feast")
    )

    assert type(project.open_reader("shop", "s", [view])) is reader
    project.process.close()
    assert ("feast" in sys.modules) == loaded


def test_a_folder_without_the_models_project_is_refused(tmp_path: Path) -> None:
    """So that values of another project are never read."""
    project = FeastProject(tmp_path)
    with pytest.raises(ConfigError, match="must hold a feature_store"):
        project.open_reader("shop", "s", [VIEW])
    (tmp_path / "feature_store.yaml").write_text("project: other\n")

    with pytest.raises(ConfigError, match=r"project = 'other': must be shop, which the model"):
        project.open_reader("shop", "s", [VIEW])


def test_a_stream_or_another_gateway_says_that_it_cannot_read_the_service(tmp_path: Path) -> None:
    """Looked up among the platform's own values it would be missing in silence."""
    with pytest.raises(ConfigError) as caught:
        stores.open_reader("redis://127.0.0.1:1/0", tmp_path, "shop", [VIEW])

    assert str(caught.value) == (
        "feature service = 'shop': must be of this platform; a Feast project brings these values "
        "online, and only a gateway that is told of it reads them"
    )


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"connection_string": "r:6380,db=3,ssl=true"}, "rediss://r:6380/3"),
        ({"connection_string": "r:6380,password=x"}, "redis://r:6380/0"),
        ({"connection_string": "a:1,b:2"}, "None"),
        ({"connection_string": "a:1,socket_timeout=3"}, "None"),
        ({"redis_type": "redis_sentinel"}, "None"),
        ({"type": "postgres"}, "None"),
    ],
)
def test_a_store_of_which_more_is_said_than_ours_reads_is_left_to_feast(
    told: dict[str, str], address: str
) -> None:
    """Nothing that the project says of its server is passed over."""
    assert str(feast_project.redis_of({"type": "redis", **told})) == address
