from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.features.definitions import Feature, FeatureService, FeatureView


def compute(tables: Any) -> pl.DataFrame:
    """Give a table as it is."""
    return tables["t"]


def other(tables: Any) -> pl.DataFrame:
    """Give a table as it is, by another function."""
    return tables["t"]


VIEW = FeatureView(
    name="user",
    keys=("user_id",),
    features=(Feature(name="age", dtype="int64"), Feature(name="city", dtype="string")),
    inputs=("t",),
    compute=compute,
    ttl_s=60.0,
)
SERVICE = FeatureService(project="shop", name="churn", views=(VIEW,))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Feature(name="age", dtype="int32"),  # type: ignore[arg-type]
            "feature age.dtype = 'int32': must be float64, int64 or string",
        ),
        (
            lambda: replace(VIEW, keys=()),
            "view user.keys = (): must name at least one key",
        ),
        (
            lambda: replace(VIEW, keys=("age",)),
            "view user.columns = ('age',): must each have an own name",
        ),
        (
            lambda: replace(VIEW, ttl_s=0.0),
            "view user.ttl_s = 0.0: must be above 0 seconds, or None to keep values for ever",
        ),
        (
            lambda: replace(VIEW, partition_by=("age",)),
            "view user.partition_by = 'age': must be one of the keys",
        ),
        (
            lambda: replace(VIEW, compute=lambda tables: tables["t"]),
            (
                "config = '<lambda>.<locals>.<lambda>': must be a function of a module, importable by name in "
                "another process"
            ),
        ),
        (
            lambda: FeatureService(project="shop", name="s", views=(VIEW, replace(VIEW, name="b"))),
            "service s.features = ('age', 'city'): must each have an own name",
        ),
    ],
)
def test_definitions_that_cannot_be_meant_are_refused(build: Any, message: str) -> None:
    """The error comes when the value is built and names the field."""
    with pytest.raises(ConfigError) as caught:
        build()

    assert str(caught.value) == message


def test_a_service_is_described_by_plain_values() -> None:
    """The shape that a model package stores."""
    assert SERVICE.describe() == {
        "project": "shop",
        "name": "churn",
        "digest": SERVICE.digest(),
        "views": [
            {
                "name": "user",
                "keys": ("user_id",),
                "features": ("age", "city"),
                "ttl_s": 60.0,
                "version": SERVICE.views[0].digest(),
                "dtypes": ("int64", "string"),
                "defaults": None,
            }
        ],
        "on_demand": [],
    }


def test_the_digest_changes_with_what_is_computed() -> None:
    """Another function or time to live is another definition; another description is not."""
    digests = {
        view.digest() for view in (VIEW, replace(VIEW, compute=other), replace(VIEW, ttl_s=61.0))
    }

    assert len(digests) == 3
    assert replace(VIEW, description="who", owner="me").digest() == VIEW.digest()
