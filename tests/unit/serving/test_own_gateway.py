"""A model with a gateway of its own, and how replicas are scaled."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import ConfigError
from heliostat.registry.package import ServingOptions
from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Policy
from heliostat.serving.deployments import replica_options
from heliostat.serving.settings import GatewaySettings, VariantSettings, from_args
from tests.unit.serving.conftest import Bench, ask, by_inputs


def both(bench: Bench, epoch: int) -> Policy:
    return Policy(
        epoch=epoch,
        models={
            name: ModelPolicy(
                model=name, variants=(bench.stable(version, model=name),), slots=bytes(NUM_SLOTS)
            )
            for name, version in (("small", "1"), ("large", "2"))
        },
    )


def replies_of(bench: Bench, *paths: str) -> list[Any]:
    async def story() -> list[Any]:
        await bench.gateway.policies.activate(both(bench, 1))
        return [
            await ask(bench.gateway, path, by_inputs(0.0, None) if "infer" in path else None)
            for path in paths
        ]

    return asyncio.run(story())


def test_each_gateway_loads_and_answers_its_own_models_only(tmp_path: Path) -> None:
    """Memory holds a model once; the epoch is obeyed by both, so that nobody waits for either."""
    default = Bench(tmp_path / "a", settings={"elsewhere": ("large",)})
    own = Bench(tmp_path / "b", settings={"model": "large"})
    paths = ("/v2/models/small/infer", "/v2/models/large/infer", "/v2/health/ready")

    first, second = replies_of(default, *paths), replies_of(own, *paths)

    assert [reply.status for reply in first] == [200, 503, 200]
    assert [reply.status for reply in second] == [503, 200, 200]
    assert first[1].body == {"error": "model large has a gateway of its own, which is away"}
    assert first[1].headers["retry-after"] == "5"
    assert [bench.gateway.residents.num_loaded for bench in (default, own)] == [1, 1]
    assert [bench.gateway.policies.epoch for bench in (default, own)] == [1, 1]


def test_the_index_names_models_that_are_elsewhere(tmp_path: Path) -> None:
    """Their state is not this gateway's to tell; it says where to ask."""
    bench = Bench(tmp_path / "a", settings={"elsewhere": ("large",)})

    (reply,) = replies_of(bench, "/v2/models")

    assert reply.body == [
        {"name": "large", "version": "2", "state": "UNKNOWN", "variant": "stable",
         "reason": "ask /v2/models/large/ready"},
        {"name": "small", "version": "1", "state": "READY", "variant": "stable", "reason": ""},
    ]  # fmt: skip


def test_a_gateway_says_that_nobody_asks_for_its_own_models_only(tmp_path: Path) -> None:
    """Else a default gateway would speak for one that is gone."""
    bench = Bench(tmp_path / "a", settings={"elsewhere": ("large",)})

    async def story() -> None:
        policy = both(bench, 1)
        on_trial = {
            name: dataclasses.replace(model, rollout_id=f"ro-{name}")
            for name, model in policy.models.items()
        }
        await bench.gateway.policies.activate(Policy(epoch=1, models=on_trial))
        await bench.gateway.report()

    asyncio.run(story())

    assert [report["rollout_id"] for report in bench.wire.evidence] == ["ro-small"]


def test_a_number_of_replicas_is_fixed_unless_a_larger_one_is_allowed() -> None:
    """Serve takes the one or the other; surge and draining are set either way."""
    fixed = replica_options("gateway", GatewaySettings(home="/h", num_replicas=2))
    scaled = replica_options(
        "gateway", GatewaySettings(home="/h", num_replicas=2, max_replicas=6, num_gpus=0.5)
    )

    assert fixed["num_replicas"] == 2
    assert "autoscaling_config" not in fixed
    assert fixed["max_surge_percent"] == scaled["max_surge_percent"] == 100.0
    assert fixed["ray_actor_options"] == {"num_cpus": 0}
    assert scaled["ray_actor_options"] == {"num_cpus": 0, "num_gpus": 0.5}
    assert "num_replicas" not in scaled
    assert scaled["autoscaling_config"] == {
        "min_replicas": 2, "max_replicas": 6, "target_ongoing_requests": 16,
        "upscale_delay_s": 5.0, "downscale_delay_s": 120.0,
        "metrics_interval_s": 1.0, "look_back_period_s": 5.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_replicas": 3, "max_replicas": 2}, "gateway.max_replicas = 2: must be at least 3"),
        ({"max_replicas": "2"}, "args.max_replicas = '2': must be int | None"),
        (
            {"model": "m", "elsewhere": ["n"]},
            "gateway.elsewhere = ('n',): must be empty where model is set",
        ),
        (
            {"rate_store": "plain"},
            "gateway.rate_store = 'plain': must be plane or a URL of Redis",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(args: dict[str, Any], message: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError) as caught:
        from_args(GatewaySettings, {"home": "/h", **args})

    assert str(caught.value) == message


def test_a_version_on_trial_joins_rows_where_its_package_says_so(
    tmp_path: Path,
) -> None:
    """As the gateway would once it is stable; scores are those of single runs."""
    bench = Bench(tmp_path / "a")
    options = ServingOptions(max_batch_rows=8, batch_wait_s=0.01)

    async def story() -> tuple[Any, list[Any]]:
        stable = bench.stable("1")
        candidate = await bench.candidate("2", serving=options)
        await bench.gateway.policies.activate(bench.policy(1, stable, candidate, share=1.0))
        app = bench.wire.apps["http://ingress/variants/shapes/2"]
        asked = [
            ask(bench.gateway, "/v2/models/shapes/infer", by_inputs(float(n), None))
            for n in range(8)
        ]
        return app, list(await asyncio.gather(*asked))

    app, replies = asyncio.run(story())

    assert [reply.headers["x-heliostat-version"] for reply in replies] == ["2"] * 8
    assert len({reply.body["outputs"][0]["data"][0] for reply in replies}) == 8
    assert app._batcher is None or app._batcher.num_batches < 8


def test_settings_of_a_variant_take_what_scales_it() -> None:
    """The controller hands over a most number of processes, and a GPU where the package asks."""
    settings = from_args(
        VariantSettings,
        {"home": "/h", "model": "m", "version": "1", "package_path": "/p", "package_digest": "d",
         "max_replicas": 3, "num_gpus": 1.0},
    )  # fmt: skip
    options = replica_options("variant", settings)

    assert options["autoscaling_config"]["max_replicas"] == 3
    assert options["ray_actor_options"] == {"num_cpus": 0, "num_gpus": 1.0}
