"""A version tells what it was made of, from its own signed files."""

from __future__ import annotations

import json
from pathlib import Path

from heliostat.registry.package import ModelInput
from heliostat.registry.summary import Difference, VersionSummary, compare, summarise
from heliostat.registry.versions import ModelVersion
from heliostat.testing.packages import write_package

GATE = {"name": "ranks", "metric": "auc", "saw": 0.8, "met": True, "waived": None}


def _version(
    folder: Path, number: str, metrics: dict[str, dict[str, float | None]]
) -> ModelVersion:
    inputs = [
        ModelInput(name="a", kind="numeric"),
        ModelInput(name="b", kind="categorical", vocabulary=("x",)),
    ]
    path = folder / number
    write_package(path, model="tiny", inputs=inputs)
    evidence = {
        "evaluations": {name: {"metrics": item} for name, item in metrics.items()},
        "gates": [GATE],
        "passed": True,
    }
    (path / "gates.json").write_text(json.dumps(evidence))
    lineage = {"revision": "abc", "tables": {"rows": 4, "labels": 2}}
    (path / "lineage.json").write_text(json.dumps(lineage))
    return ModelVersion(
        model="tiny", version=number, digest="sha256:0", run_id="r", path=path, tags={},
        aliases=("stable",),
    )  # fmt: skip


def test_a_summary_holds_what_the_package_says(tmp_path: Path) -> None:
    """Inputs, tables, code, metrics and gates."""
    assert summarise(_version(tmp_path, "1", {"july": {"auc": 0.8}})) == VersionSummary(
        model="tiny",
        version="1",
        digest="sha256:0",
        run_id="r",
        aliases=("stable",),
        revision="abc",
        tables={"labels": 2, "rows": 4},
        num_numeric=1,
        num_categorical=1,
        features=None,
        metrics={"july": {"auc": 0.8}},
        gates=[GATE],
        passed=True,
    )


def test_metrics_that_one_version_lacks_have_no_change(tmp_path: Path) -> None:
    """Nothing is taken for zero; of several measurements the newest counts."""
    one = summarise(_version(tmp_path, "1", {"2024-01": {"auc": 0.5}, "2024-02": {"auc": 0.75}}))
    two = summarise(_version(tmp_path, "2", {"2024-03": {"auc": 0.5, "brier": None}}))

    found = compare(one, two)

    assert found == [
        Difference(metric="auc", first=0.75, second=0.5),
        Difference(metric="brier", first=None, second=None),
    ]
    assert [item.change for item in found] == [-0.25, None]
