"""The parts of the data plane, each by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from heliostat.access.seal import Seal
from heliostat.errors import ConfigError, HeliostatError
from heliostat.rollout.evidence import (
    LATENCY_EDGES_MS,
    EvidenceReport,
    PairedScore,
    VariantCounts,
)
from heliostat.rollout.policy import ModelPolicy, Policy, Variant
from heliostat.serving import deployments, plane, source
from heliostat.serving.breaker import Breaker
from heliostat.serving.evidence import Gatherer, Outbox
from heliostat.serving.exposures import Spool
from heliostat.serving.forward import sealed
from heliostat.serving.plane import Plane
from heliostat.serving.settings import GatewaySettings, VariantSettings, from_args
from heliostat.stats.slots import assign
from tests.unit.serving.conftest import Bench, ask

STABLE = Variant(
    version="1", role="stable", placement="in_process", package_path="/p/1", package_digest="d1"
)
CANDIDATE = Variant(
    version="2",
    role="candidate",
    placement="isolated",
    package_path="/p/2",
    package_digest="d2",
    url="http://i/variants/shapes/2",
)
MODEL = ModelPolicy(
    model="shapes",
    variants=(STABLE, CANDIDATE),
    slots=assign(None, [0.9, 0.1]),
    rollout_id="ro",
    paired=True,
)
POLICY = Policy(epoch=4, models={"shapes": MODEL})


def test_a_breaker_opens_after_failures_in_a_row_and_tries_one_request_at_a_time() -> None:
    """A success in between starts the count again."""
    breaker = Breaker(failures=3, open_s=2.0)
    for outcome in (False, False, True, False, False, False):
        assert breaker.allow(10.0)
        if outcome:
            breaker.succeeded(10.0, 0.01)
        else:
            breaker.failed(10.0)

    assert breaker.is_open
    assert [breaker.allow(now) for now in (10.1, 11.9, 12.0, 12.1)] == [False, False, True, False]
    breaker.failed(12.2)
    assert [breaker.allow(now) for now in (14.1, 14.3)] == [False, True]
    breaker.succeeded(14.35, 0.05)
    assert [breaker.allow(14.4), breaker.allow(14.4), breaker.is_open] == [True, True, False]


def test_a_trial_that_never_reports_does_not_keep_the_breaker_open_for_ever() -> None:
    """Its request may have been cancelled with its client."""
    breaker = Breaker(failures=1, open_s=2.0)
    assert breaker.allow(0.0)
    breaker.failed(0.0)

    assert [breaker.allow(now) for now in (2.0, 3.9, 4.1)] == [True, False, True]


def test_a_variant_that_falls_silent_is_left_long_before_the_deadline() -> None:
    """Silent for twenty times its usual answer time while requests wait; at least 0.25 s."""
    breaker = Breaker(failures=5)
    assert breaker.stall_s is None
    for _ in range(50):
        assert breaker.allow(1.0)
        breaker.succeeded(1.0, 0.02)
    assert breaker.stall_s == pytest.approx(0.4)
    waiting = [breaker.allow(now) for now in (100.0, 100.2, 100.39, 100.41, 100.5)]

    assert waiting == [True, True, True, False, False]
    assert breaker.is_open
    assert [breaker.allow(102.5), breaker.allow(102.6)] == [True, False]
    breaker.succeeded(102.7, 0.02)
    assert breaker.allow(102.8)


def test_a_steady_variant_under_load_is_never_taken_for_silent() -> None:
    """Answers that keep coming prove life, however many wait."""
    breaker = Breaker(failures=5, max_ongoing=1_000)
    for tick in range(1_000):
        now = tick / 100
        assert breaker.allow(now)
        if tick >= 200:
            breaker.succeeded(now, 2.0)


def test_a_variant_gets_no_more_than_its_limit_at_once() -> None:
    """What ends, well or not, makes room."""
    breaker = Breaker(max_ongoing=3)
    assert [breaker.allow(0.0) for _ in range(4)] == [True, True, True, False]
    breaker.gave_up()
    breaker.failed(0.0)
    breaker.succeeded(0.0, 0.1)
    assert [breaker.allow(0.0) for _ in range(4)] == [True, True, True, False]
    assert not breaker.is_open


def test_evidence_adds_up_per_epoch_and_begins_again_when_taken() -> None:
    """Counts, first-seen units, the latency histogram and pairs."""
    gatherer = Gatherer("g")
    for unit, version, latency_ms, failed in (
        ("u1", "1", 0.04, False),
        ("u1", "1", 1.0, False),
        ("u2", "2", None, True),
        ("u3", "2", 1e9, True),
        ("u3", "2", 1e9, True),
    ):
        gatherer.count(MODEL, 4, version, unit=unit, latency_ms=latency_ms, failed=failed)
    pair = PairedScore(request_id="r", stable=0.1, candidate=0.2)
    gatherer.pair(MODEL, 5, pair)

    def histogram(*buckets: int) -> tuple[int, ...]:
        return tuple(buckets.count(index) for index in range(len(LATENCY_EDGES_MS) + 1))

    one_ms = next(index for index, edge in enumerate(LATENCY_EDGES_MS) if edge >= 1.0)
    assert gatherer.take() == [
        EvidenceReport(
            gateway="g",
            sequence=0,
            model="shapes",
            rollout_id="ro",
            epoch=4,
            stable=MODEL.stable.version,
            counts=(
                VariantCounts(
                    version="1", requests=2, errors=0, units=1, latency=histogram(0, one_ms),
                    failed_units=0,
                ),
                VariantCounts(
                    version="2", requests=3, errors=3, units=2,
                    latency=histogram(*[len(LATENCY_EDGES_MS)] * 2),
                    failed_units=2,
                    # The same in every process: fixed here, so that gateways of two releases agree.
                    failed_names=(4_417_364_080_424_316_247, 140_758_742_880_010_895),
                ),
            ),
        ),
        EvidenceReport(
            gateway="g", sequence=1, model="shapes", rollout_id="ro", epoch=5,
            counts=(), pairs=(pair,), stable=MODEL.stable.version,
        ),
    ]  # fmt: skip
    assert gatherer.take() == []
    gatherer.count(MODEL, 4, "1", unit="u1", latency_ms=1.0, failed=False)
    [report] = gatherer.take()
    assert (report.sequence, report.counts[0].units) == (2, 0)
    gatherer.count(MODEL, 4, "2", unit="u2", latency_ms=None, failed=True)
    [report] = gatherer.take()
    assert (report.counts[0].errors, report.counts[0].failed_units) == (1, 0)


def test_a_model_that_nobody_asks_is_told_from_a_gateway_that_is_gone() -> None:
    """Each running rollout gets a report, an empty one where nothing came; others get none."""
    gatherer = Gatherer("g")
    quiet = dataclasses.replace(MODEL, model="quiet", rollout_id="quiet-1")
    settled = dataclasses.replace(MODEL, model="settled", rollout_id=None)
    policy = Policy(epoch=7, models={each.model: each for each in (MODEL, quiet, settled)})
    gatherer.count(MODEL, 7, "1", unit="u1", latency_ms=1.0, failed=False)

    assert gatherer.idle(7, policy.models.values(), gatherer.take()) == [
        EvidenceReport(
            gateway="g", sequence=1, model="quiet", rollout_id="quiet-1", epoch=7,
            stable=MODEL.stable.version, counts=(),
        )
    ]  # fmt: skip
    assert [report.model for report in gatherer.idle(7, policy.models.values(), [])] == [
        "shapes",
        "quiet",
    ]


def test_an_outbox_keeps_the_newest_reports_and_forgets_what_was_taken() -> None:
    """The receiver sees the gap in the sequence numbers."""
    outbox = Outbox(max_reports=3, batch=2)
    reports = [
        EvidenceReport(gateway="g", sequence=n, model="m", rollout_id=None, epoch=1, counts=())
        for n in range(5)
    ]
    outbox.put(reports)

    sent = []
    while (batch := outbox.next_batch()) is not None:
        body, last = batch
        sent.append([raw["sequence"] for raw in json.loads(body)])
        outbox.acknowledged(last)

    assert sent == [[2, 3], [4]]
    assert outbox.num_dropped == 2


def test_exposures_are_whole_lines_in_files_of_bounded_size(tmp_path: Path) -> None:
    """Each record once, in order."""
    spool = Spool(tmp_path / "s", "g", max_file_bytes=30)
    for number in range(5):
        spool.add({"n": number, "x": float("nan")})
        spool.flush()
    spool.flush()

    lines = {path.name: path.read_text() for path in sorted((tmp_path / "s").iterdir())}
    assert lines == {
        "g-0.jsonl": '{"n":0,"x":null}\n',
        "g-1.jsonl": '{"n":1,"x":null}\n',
        "g-2.jsonl": '{"n":2,"x":null}\n',
        "g-3.jsonl": '{"n":3,"x":null}\n',
        "g-4.jsonl": '{"n":4,"x":null}\n',
    }
    assert (spool.num_written, spool.num_dropped) == (5, 0)


def test_exposures_wait_while_the_disk_refuses(tmp_path: Path) -> None:
    """Up to a bound; then the oldest are dropped and counted."""
    blocker = tmp_path / "s"
    blocker.write_text("a file where the folder should be")
    spool = Spool(blocker, "g", max_waiting=3)
    for number in range(5):
        spool.add({"n": number})
        spool.flush()
    blocker.unlink()
    spool.flush()

    assert (tmp_path / "s" / "g-0.jsonl").read_text() == '{"n":2}\n{"n":3}\n{"n":4}\n'
    assert (spool.num_written, spool.num_dropped) == (3, 2)


def test_a_published_policy_reaches_all_who_wait_at_once() -> None:
    """And those who ask later; asking says which epoch a gateway obeys."""

    async def story() -> Any:
        now = [0.0]
        actor = Plane(clock=lambda: now[0])
        waiting = [asyncio.create_task(actor.wait(-1, 60.0, name)) for name in ("g1", "g2")]
        await asyncio.sleep(0)
        await actor.publish(4, plane.encode(POLICY))
        got = [await task for task in waiting]
        later = await actor.wait(3, 0.0, "g1")
        none = await actor.wait(4, 0.01, "g2")
        active = await actor.active()
        now[0] = 61.0
        return got, later, none, active, await actor.active()

    got, later, none, active, after_a_minute = asyncio.run(story())

    assert [(epoch, plane.decode(payload)) for epoch, payload in [*got, later]] == [(4, POLICY)] * 3
    assert none is None
    assert (active, after_a_minute) == ({"g1": 3, "g2": 4}, {})


def test_an_older_epoch_is_never_published() -> None:
    """The same one may be, since the controller repeats what it is not sure of."""

    async def story() -> None:
        actor = Plane()
        await actor.publish(4, b"a")
        await actor.publish(4, b"a")
        await actor.publish(3, b"b")

    with pytest.raises(ConfigError) as caught:
        asyncio.run(story())

    assert str(caught.value) == "policy.epoch = 3: must not be below 4"


def test_a_kept_policy_is_read_without_its_candidates(tmp_path: Path) -> None:
    """An unreadable one is as good as none."""
    path = tmp_path / "policy.json"
    source.save(path, POLICY)

    stable = ModelPolicy(model="shapes", variants=(STABLE,), slots=bytes(10_000))
    assert source.load_stable_only(path) == Policy(epoch=4, models={"shapes": stable})
    assert source.load_stable_only(tmp_path / "none.json") is None
    path.write_text(path.read_text()[:-20])
    assert source.load_stable_only(path) is None
    assert os.listdir(tmp_path) == ["policy.json"]  # noqa: PTH208 - names are what is compared


def test_a_variant_answers_gateways_only(bench: Bench) -> None:
    """A seal is good for its own body and with our key."""

    async def story() -> Any:
        variant = await bench.candidate("2")
        app = bench.wire.apps[variant.url]
        body = json.dumps({"columns": {"size": [1.0], "colour": ["red"]}}).encode()
        ours = Seal((bench.root / "keys" / "gateway.key").read_bytes())
        headers = sealed(ours, "r", 3, body)
        return [
            await ask(app, "/variants/shapes/2/infer", body, headers=headers),
            await ask(app, "/variants/shapes/2/score", body, headers=headers),
            await ask(app, "/variants/shapes/2/infer", body),
            await ask(app, "/variants/shapes/2/infer", body + b" ", headers=headers),
            await ask(
                app, "/variants/shapes/2/infer", body, headers={**headers, "x-heliostat-epoch": "x"}
            ),
            await ask(app, "/variants/shapes/2/infer", body, headers=sealed(Seal(b"k" * 32), "r", 3, body)),
            await ask(app, "/variants/shapes/2/ready"),
            await ask(app, "/variants/shapes/2"),
        ]  # fmt: skip

    replies = asyncio.run(story())

    assert [reply.status for reply in replies] == [200, 200, 403, 403, 403, 403, 200, 404]
    assert replies[0].body["scores"] == replies[1].body["scores"]
    assert all(reply.body["own_ms"] > 0 for reply in replies[:2])
    assert replies[6].body == {"model": "shapes", "version": "2", "ready": True}


def test_a_variant_says_which_input_does_not_fit(bench: Bench) -> None:
    """With 400 and no traceback."""

    async def story() -> Any:
        variant = await bench.candidate("2")
        ours = Seal((bench.root / "keys" / "gateway.key").read_bytes())
        bodies = [b"{", b'{"columns":{"size":[1.0]}}', b'{"columns":{"size":[[]],"colour":[1]}}']
        return [
            await ask(bench.wire.apps[variant.url], "/infer", body, headers=sealed(ours, "r", 3, body))
            for body in bodies
        ]  # fmt: skip

    assert [(reply.status, reply.body["error"]) for reply in asyncio.run(story())] == [
        (400, "Input data was truncated"),
        (400, "inputs of shapes = ['colour']: must be given"),
        (400, "input size = []: must be a number or missing"),
    ]


def test_a_variant_whose_package_was_changed_does_not_start(bench: Bench) -> None:
    """The replica fails, and its app never becomes ready."""
    with pytest.raises(HeliostatError):
        asyncio.run(bench.candidate("2", keys_dir=None))


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        (GatewaySettings, {"hme": "/h"}, "args = 'hme': is not a setting; did you mean 'home'?"),
        (GatewaySettings, {}, "args = []: must have 'home'"),
        (GatewaySettings, {"home": 3}, "args.home = 3: must be str"),
        (GatewaySettings, {"home": "h"}, "gateway.home = 'h': must be an absolute path"),
        (
            GatewaySettings,
            {"home": "/h", "num_replicas": 0},
            "gateway.num_replicas = 0: must be above 0",
        ),
        (
            GatewaySettings,
            {"home": "/h", "endpoint": "localhost:1"},
            "gateway.endpoint = 'localhost:1': must begin with http:// or https:// and not end with /",
        ),
        (VariantSettings, {"home": "/h", "model": "m"}, "args = ['home', 'model']: must have 'version'"),
    ],
)  # fmt: skip
def test_arguments_of_an_application_are_checked(
    kind: type[Any], args: dict[str, Any], message: str
) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError) as caught:
        from_args(kind, args)

    assert str(caught.value) == message


def test_names_that_would_break_out_of_a_route_are_refused() -> None:
    """A version becomes part of a path."""
    with pytest.raises(ConfigError) as caught:
        deployments.stop_variant("m", "../1")

    assert str(caught.value) == "version = '../1': must be at most 32 letters and digits"
