"""A gateway computes on-demand features from what is stored and what a request carries."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from heliostat.errors import ConfigError
from heliostat.registry.package import OnDemandReference
from tests.unit.serving.conftest import SERVICE, Bench, ask

INFER = "/v2/models/shapes/infer"
DOUBLED = OnDemandReference(
    name="doubled",
    inputs=(("stored", "float64"), ("factor", "float64")),
    requested=("factor",),
    features=(("size", "float64"),),
    source="def compute(row):\n    return {'size': row['stored'] * row['factor']}\n",
    version="o1",
)
"""The model's input ``size`` is no stored feature here: it is computed."""

COMPUTED = dataclasses.replace(
    SERVICE,
    views=(dataclasses.replace(SERVICE.views[0], features=("stored", "colour")),),
    on_demand=(DOUBLED,),
)


class Stored:
    """Every shape has one stored number; one has none."""

    def read(self, keys: Any, at: Any) -> dict[str, list[Any]]:
        return {
            "stored": [None if key == "none" else 3.0 for key in keys["shape_id"]],
            "colour": ["red" for _ in keys["shape_id"]],
        }


def _asked(key: str, **more: Any) -> dict[str, Any]:
    tensors = [{"name": "shape_id", "shape": [1], "datatype": "BYTES", "data": [key]}]
    tensors += [
        {"name": name, "shape": [1], "datatype": "FP64", "data": [value]}
        for name, value in more.items()
    ]
    return {"inputs": tensors}


def test_what_is_computed_scores_and_is_logged(bench: Bench) -> None:
    """By key and factor it is the same as with the product given; what fails counts as an error."""
    gateway = bench.new_gateway("g", lambda _: Stored())

    async def story() -> list[Any]:
        await gateway.policies.activate(bench.policy(1, bench.stable("1", features=COMPUTED)))
        given = {
            "inputs": [
                {"name": "size", "shape": [1], "datatype": "FP64", "data": [7.5]},
                {"name": "colour", "shape": [1], "datatype": "BYTES", "data": ["red"]},
            ]
        }
        bodies = [_asked("a", factor=2.5), given, _asked("a"), _asked("none", factor=2.5)]
        return [await ask(gateway, INFER, body) for body in bodies]

    computed, given, without, failed = asyncio.run(story())

    assert computed.status == given.status == 200
    assert computed.body["outputs"] == given.body["outputs"]
    gateway.spool.flush()
    assert bench.exposures()[0]["features"] == {"stored": 3.0, "colour": "red", "size": 7.5}
    assert without.status == 400
    assert "factor" in without.body["error"]
    assert failed.status == 500
    assert failed.body == {"error": "version 1 could not answer; see the gateway's log"}
    assert (bench.exposures()[-1]["status"], bench.exposures()[-1]["features"]) == (500, {})


def test_a_text_that_may_not_run_makes_the_version_unusable(bench: Bench) -> None:
    """It is refused when the version is loaded, not when somebody asks."""
    evil = dataclasses.replace(DOUBLED, source="def compute(row):\n    return open('x')\n")
    service = dataclasses.replace(COMPUTED, on_demand=(evil,))
    gateway = bench.new_gateway("g", lambda _: Stored())

    async def story() -> Any:
        await gateway.policies.activate(bench.policy(1, bench.stable("1", features=service)))
        return await ask(gateway, INFER, _asked("a", factor=2.5))

    with pytest.raises(ConfigError, match="'open': must be a name of the function itself"):
        asyncio.run(story())
