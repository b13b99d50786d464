"""A recipe is checked when it is built and can be printed and changed by name."""

from __future__ import annotations

from typing import Any

import pytest

from heliostat import config
from heliostat.errors import ConfigError
from heliostat.training.recipe import TrainRecipe, Validation


def test_a_recipe_prints_and_takes_typed_changes() -> None:
    """The network factory prints as its import path."""
    recipe = config.override(
        TrainRecipe(label="y", numeric=("a",)), ["epochs=2", "validation.share=0.2"]
    )

    assert (recipe.epochs, recipe.validation) == (2, Validation(share=0.2))
    assert config.to_dict(recipe)["model"] == "heliostat.training.models:tabular"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"numeric": ()}, "train.numeric = (): must name inputs, or categorical must"),
        ({"numeric": ("a", "a")}, "train inputs = ['a']: must be named once"),
        ({"numeric": ("y",)}, "train.label = 'y': must not be an input too"),
        ({"epochs": 0}, "train.epochs = 0: must be > 0"),
        ({"batch_size": 1}, "train.batch_size = 1: must give each worker a row"),
        ({"learning_rate": 0.0}, "train.learning_rate = 0.0: must be > 0"),
        ({"unknown_ratio": 1.0}, "train.unknown_ratio = 1.0: must be in [0, 1)"),
        ({"model": lambda inputs: inputs}, "config = 'test_recipe"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    """With the field, the value and the rule."""
    with pytest.raises(ConfigError) as error:
        TrainRecipe(**{"label": "y", "numeric": ("a",), **fields})
    assert str(error.value).startswith(message.partition("test_recipe")[0])
