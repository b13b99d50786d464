"""A gateway serves a model whose features only Feast decodes; Feast stays in its own process."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from heliostat.features.feast_project import FeastProject
from heliostat.features.feast_reader import FeastProcess
from heliostat.features.redis_store import RedisHashReader
from heliostat.registry.package import service_of
from heliostat.testing.redis import RedisServer, is_installed
from tests.unit.serving.conftest import Bench, Reply, ask


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A home, packages, and what a gateway is joined to."""
    return Bench(tmp_path / "home")


pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]

PROGRAM = Path(__file__).with_name("feast_types.py")
INFER = "/v2/models/shapes/infer"
EVENT = "2026-01-02T03:04:05+00:00"
RED, BLUE = 2, 3
"""Codes of categories: 0 is missing, 1 unknown."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | None]:
    """A server for what Feast writes; None where it, or Feast's client of it, is missing."""
    if not is_installed() or importlib.util.find_spec("redis") is None:
        yield None
        return
    started = RedisServer(tmp_path_factory.mktemp("redis"))
    started.start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory,
    child_environment: dict[str, str],
    server: RedisServer | None,
) -> Any:
    """What the project says of its services, once it is applied and its values are online."""
    folder = tmp_path_factory.mktemp("typed") / "a feast project"
    redis = [] if server is None else [f"127.0.0.1:{server.port}"]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *redis],
        env=child_environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "repository": folder / "repo"}


@pytest.fixture(scope="module")
def project(told: Any) -> Iterator[FeastProject]:
    """The project as a gateway holds it."""
    made = FeastProject(told["repository"], FeastProcess(told["repository"], check_s=0.2))
    yield made
    made.process.close()


def test_a_service_is_described_as_a_package_stores_it(told: Any) -> None:
    """Feast's own names stand for the types that only Feast decodes."""
    views = {view["name"]: view for view in told["typed"]["views"]}
    assert views["profile"]["dtypes"] == [
        "Array(Float32)", "UnixTimestamp", "Bytes", "Array(String)", "Decimal", "Uuid",
    ]  # fmt: skip
    assert [views[name]["ttl_s"] for name in ("profile", "plain")] == [86_400.0, None]
    assert told["plain"]["views"][0]["dtypes"] == ["string", "float32", "int32", "bool"]
    assert all(view["version"].startswith("feast:") for view in views.values())
    assert told["refused"][:2] == [
        (
            "feast service pickled.views = 'doubled': must be a feature view; an on-demand view is a "
            "pickle in Feast's registry, which no gateway opens. Leave it out of the service, and "
            "give an OnDemandView instead"
        ),
        "feast service nothing = 'shop': must be in this project's registry",
    ]
    assert "must hold a feature_store.yaml that Feast opens" in told["refused"][2]


def test_plain_types_that_feast_wrote_are_read_without_feast(
    told: Any, project: FeastProject
) -> None:
    """Numbers of both widths, texts, truths and nulls; no process is started for them."""
    reference = service_of(told["plain"])
    unused = FeastProject(project.repository)

    reader = unused.open_reader("shop", "plain", reference.views)
    found = reader.read({"customer": ["a", "b", "nobody", None]}, None)

    assert found == {
        "colour": ["blue", "red", None, None],
        "height": [pytest.approx(0.1), None, None, None],
        "visits": [3, -3, None, None],
        "is_new": [1, 0, None, None],
    }
    with pytest.raises(Exception, match="has not been started"):
        unused.process.ask({}).result()


def test_what_feast_wrote_to_redis_is_read_without_feast(
    told: Any, server: RedisServer | None
) -> None:
    """The same values out of Feast's own hashes, at the moment that it says and from then on."""
    if server is None:
        pytest.skip("redis-server, or Feast's client of it, is not installed")
    reference = service_of(told["plain"])
    project = FeastProject(told["repository"].with_name("repo on redis"))

    reader = project.open_reader("shop", "plain", reference.views)
    at = datetime.fromisoformat(EVENT)
    found = reader.read({"customer": ["a", "b", "nobody", None]}, at)
    before = reader.read({"customer": ["a"]}, at - timedelta(seconds=1))

    assert isinstance(reader, RedisHashReader)
    assert found == {
        "colour": ["blue", "red", None, None],
        "height": [pytest.approx(0.1), None, None, None],
        "visits": [3, -3, None, None],
        "is_new": [1, 0, None, None],
    }
    assert before == {"colour": [None], "height": [None], "visits": [None], "is_new": [None]}


def _asked(*customers: str | None, **fields: Any) -> dict[str, Any]:
    tensor = {
        "name": "customer", "shape": [len(customers)], "datatype": "BYTES", "data": list(customers),
    }  # fmt: skip
    return {"inputs": [tensor], **fields}


def _scores(reply: Reply) -> Any:
    return reply.body["outputs"][0]["data"]


def _score(size: float, colour: int) -> Any:
    """What the test model answers: bias 1, weights 1 and 0.01."""
    return pytest.approx(1 / (1 + math.exp(-(1.0 + size + 0.01 * colour))), abs=1e-6)


async def _until(gateway: Any, is_default: bool, body: dict[str, Any] | None = None) -> Reply:
    while True:
        reply = await ask(gateway, INFER, body or _asked("a"), headers={"x-heliostat-at": EVENT})
        if (reply.headers.get("x-heliostat-features") == "default") == is_default:
            return reply
        await asyncio.sleep(0.1)


def test_a_gateway_serves_lists_by_feasts_reader_and_labels_what_it_does(
    bench: Bench, told: Any, project: FeastProject
) -> None:
    """Values, and defaults while Feast starts and once a definition changed."""
    loaded = {name for name in ("feast", "pandas") if name in sys.modules}
    reference = service_of(told["typed"])
    bench.settings = {"feature_deadline_s": 20.0, "feature_failures": 2}
    gateway = bench.new_gateway(
        "g", lambda wanted: project.open_reader(wanted.project, wanted.name, wanted.views)
    )
    no_defaults = dataclasses.replace(
        reference,
        views=tuple(dataclasses.replace(view, defaults=None) for view in reference.views),
    )

    async def story() -> dict[str, Any]:
        stable = bench.stable("1", features=reference)
        await gateway.policies.activate(bench.policy(1, stable))
        seen: dict[str, Any] = {"starting": await ask(gateway, INFER, _asked("a"))}
        seen["values"] = await _until(gateway, is_default=False)
        seen["several"] = await ask(
            gateway, INFER, _asked("b", "a", "nobody", None), headers={"x-heliostat-at": EVENT}
        )
        too_old = {"x-heliostat-at": "2026-01-03T03:04:06+00:00"}
        too_new = {"x-heliostat-at": "2026-01-02T03:04:04+00:00"}
        seen["old"] = await ask(gateway, INFER, _asked("a"), headers=too_old)
        seen["new"] = await ask(gateway, INFER, _asked("a"), headers=too_new)
        seen["metadata"] = await ask(gateway, "/v2/models/shapes")
        number = {"inputs": [{"name": "customer", "shape": [1], "datatype": "INT64", "data": [7]}]}
        seen["wrong key"] = await ask(gateway, INFER, number)
        # The project changes under the running gateway.
        registry = told["repository"] / "registry.db"
        registry.with_name("changed.db").replace(registry)
        seen["changed"] = await _until(gateway, is_default=True)
        await gateway.policies.activate(bench.policy(2, bench.stable("2", features=no_defaults)))
        seen["without defaults"] = await ask(gateway, INFER, _asked("a"))
        return seen

    seen = asyncio.run(story())

    assert seen["starting"].status == 200
    assert seen["starting"].headers["x-heliostat-features"] == "default"
    like_a = 0.5 + 2.0 - 1.0
    assert _scores(seen["values"]) == [_score(like_a, BLUE)]
    assert _scores(seen["several"]) == [
        _score(0.5, RED), _score(like_a, BLUE), _scores(seen["several"])[2], _scores(seen["several"])[3],
    ]  # fmt: skip
    # Beyond a day the profile is gone, and the view without a time to live is not.
    assert _scores(seen["old"]) == [_score(0.5, BLUE)]
    assert _scores(seen["new"]) == _scores(seen["several"])[2:3] == _scores(seen["several"])[3:]
    assert seen["metadata"].body["parameters"]["feature_reader"] == "feast"
    assert seen["wrong key"].status == 400
    assert "entity key customer = 7: must be text" in seen["wrong key"].body["error"]
    default = [_score(0.5, RED)]
    assert _scores(seen["starting"]) == _scores(seen["changed"]) == default
    assert seen["without defaults"].status == 503
    gateway.spool.flush()
    known = next(r for r in bench.exposures() if r["rows"] == 1 and r["features"]["embedding"])
    assert known["features"] == {
        "embedding": [0.5, 1.0, -0.25],
        "seen": 1_767_323_044_000_000,
        "photo": "00ff",
        "words": ["ü", ""],
        "price": "1.10",
        "mark": "00000000-0000-0000-0000-000000000001",
        "colour": "blue",
        "size": like_a,
    }
    gateway.measure()
    assert bench.sink.counters["heliostat_feature_feast_reads", "shapes"] >= 5
    assert bench.sink.counters["heliostat_feature_defaults", "shapes"] >= 2
    assert {name for name in ("feast", "pandas") if name in sys.modules} == loaded
