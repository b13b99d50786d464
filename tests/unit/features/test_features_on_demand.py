"""One function of a row, from its text: the same values in a training set and in a gateway."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.features import offline
from heliostat.features.definitions import Feature, FeatureService, FeatureView, OnDemandView
from heliostat.features.on_demand import compiled, transforms
from heliostat.pipeline.versions import reference

T0 = datetime(2026, 1, 10, tzinfo=UTC)


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function."""
    return tables["t"]


def spending(row: dict[str, Any]) -> dict[str, Any]:
    """How a purchase compares with the user's usual one."""
    if row["amount"] is None or not row["usual"]:
        return {"ratio": None, "is_large": None, "label": "unknown"}
    ratio = row["amount"] / row["usual"]
    words = [word.upper() for word in ("small", "large")]
    return {"ratio": math.log1p(ratio), "is_large": int(ratio > 2), "label": words[ratio > 2]}


def other(row: dict[str, Any]) -> dict[str, Any]:
    """Another text."""
    return {"ratio": row["amount"], "is_large": 1, "label": ""}


VIEW = FeatureView(
    name="user", keys=("user_id",), features=(Feature(name="usual", dtype="float64"),),
    inputs=("t",), compute=compute, ttl_s=None,
)  # fmt: skip
SPENDING = OnDemandView(
    name="spending",
    inputs=("usual",),
    requested=(Feature(name="amount", dtype="float64"),),
    features=(
        Feature(name="ratio", dtype="float64"), Feature(name="is_large", dtype="int64"),
        Feature(name="label", dtype="string"),
    ),
    compute=spending,
)  # fmt: skip
SERVICE = FeatureService(project="shop", name="fraud", views=(VIEW,), on_demand=(SPENDING,))


def test_a_training_set_and_a_package_compute_the_same() -> None:
    """The package holds the text; missing and NaN inputs are None; integers count as floats."""
    rows = pl.DataFrame(
        {
            "user_id": ["a", "b", "c", "d"],
            "amount": pl.Series([30.0, 5.0, float("nan"), None], dtype=pl.Float64),
            "usual": pl.Series([10.0, 10.0, 1.0, None], dtype=pl.Float64),
        }
    )
    made = reference(SERVICE)
    assert made is not None
    (transform,) = transforms(made.on_demand)
    online = transform.columns({"amount": [30, 5, None, None], "usual": [10.0, 10.0, 1.0, None]})

    assert online == {
        "ratio": [math.log1p(3.0), math.log1p(0.5), None, None],
        "is_large": [1, 0, None, None],
        "label": ["LARGE", "SMALL", "unknown", "unknown"],
    }
    trained = offline.with_on_demand(rows, SERVICE)
    assert trained.select(list(online)).to_dict(as_series=False) == online
    assert trained.schema["is_large"] == pl.Int64
    assert (made.requested, sorted(made.delivered)) == (
        ("amount",), ["is_large", "label", "ratio", "usual"],
    )  # fmt: skip


def test_the_text_is_part_of_the_definition() -> None:
    """Another function is another version of the service; words about it are not."""
    changed = replace(SERVICE, on_demand=(replace(SPENDING, compute=other),))
    reworded = replace(SERVICE, on_demand=(replace(SPENDING, description="more words"),))
    without = replace(SERVICE, on_demand=())

    assert len({SERVICE.digest(), changed.digest(), without.digest()}) == 3
    assert reworded.digest() == SERVICE.digest()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("import os\n return {}", "Import"),
        ("while True: pass", "While"),
        ("return open('/etc/passwd')", "open"),
        ("return row.__class__", "__class__"),
        ("return '{0.__class__}'.format(row)", "format"),
        ("return math.__loader__", "__loader__"),
        ("return (lambda: 1)()", "Lambda"),
        ("math = 1\n return math", "math"),
        ("return eval('1')", "eval"),
        ("return T0", "T0"),
        ("def inner(): pass\n return {}", "FunctionDef"),
        ("return (x := 1)", "NamedExpr"),
        ("raise ValueError", "Raise"),
        ("try:\n  pass\n except: pass", "Try"),
    ],
)
def test_a_text_that_reaches_outside_is_refused(body: str, problem: str) -> None:
    """Whoever signs a package should not be able to run just anything in a gateway."""
    text = "def compute(row):\n " + body + "\n"

    with pytest.raises(ConfigError) as caught:
        compiled(text, "on-demand view v")

    assert str(caught.value).startswith(f"on-demand view v = {problem!r}: must ")


@pytest.mark.parametrize(
    "text",
    ["x = 1", "def f(row): return {}\ndef g(row): return {}", "def f(a, b): return {}",
     "def f(row=__import__('os')): return {}", "@print\ndef f(row): return {}", "def f("],
)  # fmt: skip
def test_anything_but_one_function_of_a_row_is_refused(text: str) -> None:
    """Nothing of it is run."""
    with pytest.raises(ConfigError, match="must "):
        compiled(text, "on-demand view v")


@pytest.mark.parametrize(
    ("view", "given", "message"),
    [
        (SPENDING, {"usual": [1.0]}, "on-demand view spending = 'amount': must be given"),
        (
            SPENDING, {"usual": [1.0], "amount": ["much"]},
            "on-demand view spending: amount = 'much': must be float64",
        ),
        (
            SPENDING, {"usual": [1.0], "amount": [-9.0]},
            ("on-demand view spending = {'usual': 1.0, 'amount': -9.0}: must be computed; "
            "ValueError: math domain error"),
        ),
        (
            replace(SPENDING, features=SPENDING.features[:1]), {"usual": [1.0], "amount": [1.0]},
            "on-demand view spending = ['is_large', 'label', 'ratio']: must return exactly ratio",
        ),
        (
            replace(
                SPENDING,
                features=(Feature(name="ratio", dtype="int64"), *SPENDING.features[1:]),
            ),
            {"usual": [1.0], "amount": [1.0]},
            "on-demand view spending: ratio = 0.6931471805599453: must be int64",
        ),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_computed_says_which(
    view: OnDemandView, given: dict[str, list[Any]], message: str
) -> None:
    """Never a silent null: the author sees it in training, the client in its answer."""
    made = reference(FeatureService(project="p", name="s", views=(VIEW,), on_demand=(view,)))
    assert made is not None
    (transform,) = transforms(made.on_demand)

    with pytest.raises(ConfigError) as caught:
        transform.columns(given)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: replace(SERVICE, on_demand=(replace(SPENDING, inputs=("usal",)),)),
            "on-demand view spending.inputs = 'usal': must be a feature of a view of the service",
        ),
        (
            lambda: replace(
                SERVICE,
                on_demand=(
                    replace(SPENDING, requested=(Feature(name="user_id", dtype="string"),)),
                ),
            ),
            "on-demand view spending.requested = 'user_id': must be no key and no feature",
        ),
        (
            lambda: replace(SERVICE, on_demand=(SPENDING, replace(SPENDING, name="again"))),
            "service fraud.features = ('is_large', 'label', 'ratio'): must each have an own name",
        ),
    ],
)
def test_definitions_that_cannot_be_meant_are_refused(build: Any, message: str) -> None:
    """When the value is built."""
    with pytest.raises(ConfigError) as caught:
        build()

    assert str(caught.value).startswith(message)
