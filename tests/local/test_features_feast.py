"""Feast itself reads what we write and writes what we read; it runs in a process of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.features import feast_repository
from heliostat.features.definitions import Feature, FeatureService, FeatureView, OnDemandView
from heliostat.features.on_demand import transforms
from heliostat.features.online import OnlineReader, OnlineWriter
from heliostat.pipeline.versions import reference
from heliostat.registry.package import FeatureServiceReference

EVENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
LATER = datetime(2026, 1, 3, tzinfo=UTC)


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function."""
    return tables["t"]


def _view(name: str, keys: tuple[str, ...], integer_keys: tuple[str, ...] = ()) -> FeatureView:
    return FeatureView(
        name=name,
        keys=keys,
        integer_keys=integer_keys,
        features=(
            Feature(name=f"{name}_double", dtype="float64", description="A number"),
            Feature(name=f"{name}_int", dtype="int64"),
            Feature(name=f"{name}_text", dtype="string"),
        ),
        inputs=("t",),
        compute=compute,
        ttl_s=86_400.0 * 365,
        owner="the team",
    )


VIEWS = (_view("one", ("user",)), _view("two", ("zone", "user")), _view("num", ("n",), ("n",)))


def bought(row: dict[str, Any]) -> dict[str, Any]:
    """Combine what is stored with what is asked."""
    if row["one_int"] is None:
        return {"total": None, "size": "none"}
    total = math.sqrt(abs(row["one_int"])) + row["amount"]
    return {"total": total, "size": "large" if total > 100 else "small"}


BOUGHT = OnDemandView(
    name="bought",
    inputs=("one_int",),
    requested=(Feature(name="amount", dtype="float64"),),
    features=(Feature(name="total", dtype="float64"), Feature(name="size", dtype="string")),
    compute=bought,
    owner="the team",
)
SERVICE = FeatureService(project="shop", name="churn", views=VIEWS, on_demand=(BOUGHT,))
ROWS = [
    {"user": "x", "zone": "1", "n": 5, "amount": 0.5},
    {"user": "y", "zone": "2", "n": -7, "amount": 1.5},
    {"user": "ü", "zone": "3", "n": 2**40, "amount": 2.5},
    {"user": "nobody", "zone": "3", "n": 0, "amount": 3.5},
]


def _reference(service: FeatureService) -> FeatureServiceReference:
    made = reference(service)
    assert made is not None
    return made


PROGRAM = """
import json, sys
from datetime import datetime
import feast, pandas
repository, rows, later = sys.argv[1], json.loads(sys.argv[2]), datetime.fromisoformat(sys.argv[3])
store = feast.FeatureStore(repo_path=repository)
service = store.get_feature_service("churn")
print(json.dumps({
    "read": store.get_online_features(features=service, entity_rows=rows).to_dict(),
    "views": {view.name: view.owner for view in store.list_feature_views()},
    "on_demand": {view.name: view.owner for view in store.list_on_demand_feature_views()},
    "types": {field.name: str(field.dtype) for field in store.get_feature_view("num").schema},
}))
store.write_to_online_store("one", pandas.DataFrame({
    "user": ["x", "new"], "event_timestamp": [later] * 2,
    "one_double": [9.5, 1.25], "one_int": [-1, 7], "one_text": ["p", None],
}))
"""


@pytest.mark.slow
def test_feast_reads_what_we_write_and_we_read_what_feast_writes(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """Same registry, same tables, same bytes: keys of text and numbers, values and nulls."""
    repository = tmp_path / "of features"
    assert feast_repository.apply([SERVICE], repository, tmp_path / "tables") is True
    assert feast_repository.apply([SERVICE], repository, tmp_path / "tables") is False
    writer = OnlineWriter(repository / "online.db", "shop")
    frame = (
        pl.DataFrame(ROWS[:3]).drop("amount").with_columns(pl.lit(EVENT).alias("event_timestamp"))
    )
    for view in VIEWS:
        double, whole, text = (item.name for item in view.features)
        writer.write(
            view,
            frame.with_columns(
                pl.Series(double, [1.5, None, -0.0]),
                pl.Series(whole, [-3, 2**40, None]),
                pl.Series(text, ["é", None, ""]),
            ),
        )

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(repository), json.dumps(ROWS), LATER.isoformat()],
        env={**child_environment, "TZ": "UTC"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    feast = json.loads(done.stdout.splitlines()[-1])
    reader = OnlineReader(repository / "online.db", "shop", SERVICE.describe()["views"])

    assert feast["views"] == {"one": "the team", "two": "the team", "num": "the team"}
    assert feast["on_demand"] == {"bought": "the team"}
    assert feast["types"]["n"] == "Int64"
    keys = {"user": ["x", "new"], "zone": ["1", "1"], "n": [5, 5]}
    written = {
        f"{view.name}_{kind}": values
        for view in VIEWS
        for kind, values in (
            ("double", [1.5, None, -0.0, None]),
            ("int", [-3, 2**40, None, None]),
            ("text", ["é", None, "", None]),
        )
    }
    assert {name: feast["read"][name] for name in written} == written
    # The same text, run by Feast and by a gateway.
    (transform,) = transforms(_reference(SERVICE).on_demand)
    ours = transform.columns(
        {"one_int": written["one_int"], "amount": [row["amount"] for row in ROWS]}
    )
    assert {name: feast["read"][name] for name in ours} == ours
    assert ours["size"] == ["small", "large", "none", "none"]
    assert {
        key: reader.read(keys, LATER)[key] for key in ("one_double", "one_int", "one_text")
    } == {
        "one_double": [9.5, 1.25],
        "one_int": [-1, 7],
        "one_text": ["p", None],
    }


def test_services_of_two_projects_are_refused(tmp_path: Path) -> None:
    """A Feast repository is one project."""
    other = FeatureService(project="other", name="churn", views=VIEWS)

    with pytest.raises(ConfigError) as caught:
        feast_repository.apply([SERVICE, other], tmp_path, tmp_path)

    assert str(caught.value) == ("feast services = ['other', 'shop']: must all be of one project")
