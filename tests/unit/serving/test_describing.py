"""What the gateway tells about itself, and MLflow's way of asking it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from heliostat import telemetry
from heliostat.serving import metrics, openapi, routes
from tests.unit.serving.conftest import Bench, ask, by_inputs, by_key

PREDICTIONS = {"predictions": pytest.approx([0.7350, 0.8839], abs=1e-3)}


def run(bench: Bench, *asked: tuple[Any, ...], **options: Any) -> list[Any]:
    async def story() -> list[Any]:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1"), **options))
        return [
            await ask(bench.gateway, path, *more[:1], **(more[1] if more[1:] else {}))
            for path, *more in asked
        ]

    return asyncio.run(story())


@pytest.mark.parametrize(
    "payload",
    [
        {"dataframe_split": {"columns": ["size", "colour"], "data": [[0, "red"], [1, "blue"]]}},
        {"dataframe_split": {"index": [0, 1], "columns": ["colour", "size"],
                             "data": [["red", 0], ["blue", 1.0]]}},
        {"dataframe_records": [{"size": 0, "colour": "red"}, {"colour": "blue", "size": 1}]},
        {"instances": [{"size": 0, "colour": "red"}, {"size": 1, "colour": "blue"}]},
        {"instances": [[0, "red"], [1, "blue"]]},
        {"inputs": {"size": [0, 1], "colour": ["red", "blue"]}},
        {"inputs": {"size": [[0], [1]], "colour": [["red"], ["blue"]]}},
        {"inputs": [[0, "red"], [1, "blue"]], "params": {"x": 1}},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("path", ["/invocations", "/v2/models/shapes/invocations"])
def test_mlflows_payloads_are_answered_as_mlflow_does(
    bench: Bench, payload: Any, path: str
) -> None:
    """In each of its forms; the two rows score the same in all of them."""
    [reply] = run(bench, (path, payload))

    assert (reply.status, reply.body) == (200, PREDICTIONS)
    assert reply.headers["x-heliostat-version"] == "1"


def test_mlflows_payloads_may_hold_entity_keys_alone(bench: Bench) -> None:
    """Features then come from the online store."""
    bench.features.rows = {
        "a": {"size": 0.0, "colour": "red"},
        "b": {"size": 1.0, "colour": "blue"},
    }
    [reply] = run(bench, ("/invocations", {"dataframe_records": [{"shape_id": k} for k in "ab"]}))

    assert (reply.status, reply.body) == (200, PREDICTIONS)


def test_the_header_for_a_version_is_the_versioned_path(bench: Bench) -> None:
    """Both answer without split, and say which version they asked."""
    replies = run(
        bench,
        (
            "/v2/models/shapes/infer",
            by_inputs(0.0, "red"),
            {"headers": {"x-heliostat-version": "1"}},
        ),
        ("/v2/models/shapes/versions/1/infer", by_inputs(0.0, "red")),
    )
    asyncio.run(bench.gateway.report())

    assert [reply.status for reply in replies] == [200, 200]
    assert bench.wire.evidence == []


def test_the_index_lists_every_version(bench: Bench) -> None:
    """For people by GET, for Triton's client by POST."""
    listed, triton = run(bench, ("/v2/models",), ("/v2/repository/index", {}))

    assert listed.body == triton.body == [
        {"name": "shapes", "version": "1", "state": "READY", "reason": "", "variant": "stable"}
    ]  # fmt: skip


def test_the_document_lists_every_route_and_only_declared_answers(bench: Bench) -> None:
    """It is made from the table that also finds the routes."""
    [reply] = run(bench, ("/v2/openapi.json",))
    document = reply.body

    found = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert found == {(route.path, route.method) for route in routes.ROUTES}
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert set(map(int, infer["responses"])) == openapi.statuses(
        routes.find("/v2/models/m/infer", "POST").route
    )
    assert infer["security"] == [{}, {"bearer": []}, {"key": []}]
    names = set(document["components"]["schemas"])
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert referred <= names


def test_the_document_asks_for_credentials_where_the_gateway_does(tmp_path: Path) -> None:
    """A client that is made from it then sends them; what is open to all says so."""
    [reply] = run(Bench(tmp_path / "home", settings={"admission": "on"}), ("/v2/openapi.json",))
    paths = reply.body["paths"]

    assert paths["/v2/models/{model}/infer"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert paths["/v2/health/ready"]["get"]["security"] == []


def test_requests_are_answered_while_measurements_are_handed_over(bench: Bench) -> None:
    """Those of a second are many, and Ray takes microseconds for each."""
    turns, seen_in_turn = 0, []

    class Slow:
        def add(self, *_: Any) -> None: ...

        def set(self, *_: Any) -> None: ...

        def observe(self, *_: Any) -> None:
            seen_in_turn.append(turns)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def story() -> None:
        gateway = bench.new_gateway("g2", sink=Slow())
        for number in range(1_000):
            gateway.meter.observe("heliostat_request_seconds", ("shapes", "1", "stable"), number)
        beside = asyncio.create_task(others())
        await gateway.report()
        beside.cancel()

    asyncio.run(story())

    assert len(seen_in_turn) == 1_000
    assert max(map(seen_in_turn.count, set(seen_in_turn))) <= 50


def test_every_request_is_measured_once(bench: Bench) -> None:
    """Counts, times and gauges carry the labels that the table declares."""
    run(
        bench,
        *[("/v2/models/shapes/infer", by_inputs(0.0, "red"))] * 5,
        ("/v2/models/shapes/infer", {}),
        ("/nothing",),
    )
    bench.gateway.measure()
    sink = bench.sink

    assert sink.counters == {
        ("heliostat_requests", "shapes", "1", "stable", "200"): 5,
        ("heliostat_refusals", "infer", "400"): 1,
        ("heliostat_refusals", "unknown", "404"): 1,
    }
    assert len(sink.observed["heliostat_request_seconds", "shapes", "1", "stable"]) == 5
    assert len(sink.observed["heliostat_model_load_seconds", "shapes"]) == 1
    assert sink.gauges["heliostat_policy_epoch",] == 1
    assert sink.gauges["heliostat_split_ratio", "shapes", "1", "stable"] == 1.0
    assert sink.gauges["heliostat_models_resident",] == 1
    bench.gateway.measure()
    assert sink.counters["heliostat_requests", "shapes", "1", "stable", "200"] == 5


def test_metrics_are_declared_with_their_unit_and_few_labels() -> None:
    """A label that a client could fill would fill the memory of whoever scrapes it."""
    allowed = {"model", "version", "variant", "status", "action"}
    for metric in metrics.METRICS.values():
        assert set(metric.labels) <= allowed
        assert (metric.kind == "histogram") == metric.name.endswith("_seconds") or (
            metric.name == "heliostat_loop_lag_seconds"
        )
        assert bool(metric.edges) == (metric.kind == "histogram")


def test_the_access_log_is_sampled_and_never_holds_a_body(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Good answers by their ratio, refusals up to ten a second."""
    bench = Bench(tmp_path / "home", settings={"access_log_ratio": 0.1})
    bench.features.rows["secret-key"] = {"size": 1.0, "colour": "red"}
    good = ("/v2/models/shapes/infer", by_key("secret-key"))
    telemetry.configure("gateway", json=True)
    run(bench, *[good] * 50, *[("/v2/models/shapes/infer", {"inputs": "secret-value"})] * 30)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    telemetry.configure("heliostat")
    logged = [line for line in lines if line["event"] == "request.answered"]

    assert [line["status"] for line in logged] == [200] * 5 + [400] * 10
    assert "secret" not in json.dumps(logged)
    assert set(logged[0]) == {
        "event", "service", "action", "model", "status", "request_id", "took_ms", "timestamp",
    }  # fmt: skip
