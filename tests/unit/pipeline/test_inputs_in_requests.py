"""A recipe without a feature service: requests carry the inputs, and a short replay repeats."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.pipeline import canary
from heliostat.pipeline.recipe import PipelineRecipe
from tests.e2e import machines


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineRecipe:
    (tmp_path / "machines").mkdir()
    for name in ("readings", "machines", "checks"):
        (tmp_path / "machines" / f"{name}.csv").touch()
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    return machines.recipe()


INPUTS = ("temperature", "vibration", "kind")


def _without_service(recipe: PipelineRecipe, rounds: int = 1) -> PipelineRecipe:
    return replace(
        recipe,
        service=None,
        examples=replace(recipe.examples, inputs=INPUTS),
        replay=replace(recipe.replay, rounds=rounds),
    )


def test_each_request_carries_all_inputs_and_each_round_has_names_of_its_own(
    recipe: PipelineRecipe,
) -> None:
    """NaN is missing; what a repeated request is about stays known."""
    at = datetime(2024, 2, 25, tzinfo=UTC)
    rows = pl.DataFrame(
        {"check": [2, 1], "at": [at, at], "temperature": [float("nan"), 60.5],
         "vibration": [0.5, None], "kind": ["mill", None]}
    )  # fmt: skip

    given = canary.examples(_without_service(recipe, rounds=2), rows)

    assert [(item.id, item.row) for item in given] == [
        ("1", "1"), ("2", "2"), ("1~2", "1"), ("2~2", "2"),
    ]  # fmt: skip
    assert given[0].values == {"temperature": 60.5, "vibration": None, "kind": None}
    assert given[1].values == {"temperature": None, "vibration": 0.5, "kind": "mill"}


def test_a_recipe_names_its_inputs_once(recipe: PipelineRecipe) -> None:
    """Either a service delivers them or requests do; a label is never among them."""
    with pytest.raises(ConfigError, match="must name columns where there is no service"):
        replace(recipe, service=None)
    with pytest.raises(ConfigError, match="must be empty where a service delivers them"):
        replace(recipe, examples=replace(recipe.examples, inputs=INPUTS))
    with pytest.raises(ConfigError, match=r"version.training inputs = 'kind': must be among"):
        replace(recipe, service=None, examples=replace(recipe.examples, inputs=INPUTS[:2]))
    with pytest.raises(ConfigError, match=r"examples\.inputs = 'failed': must not be the label"):
        replace(recipe, service=None, examples=replace(recipe.examples, inputs=(*INPUTS, "failed")))


def test_features_read_online_are_replayed_once(recipe: PipelineRecipe) -> None:
    """The online store does not go back in time."""
    with pytest.raises(ConfigError, match=r"replay.rounds = 2: must be 1 where features are read"):
        replace(recipe, replay=replace(recipe.replay, rounds=2))
