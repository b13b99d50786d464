"""MLflow's own tools read a model's signature, of a run and of a registered version."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from heliostat.registry import mlmodel, signing
from heliostat.registry.package import ModelInput, PackageDescription
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import Registry
from heliostat.store.home import Home

DESCRIPTION = PackageDescription(
    model="shop",
    inputs=(
        ModelInput(name="spent", kind="numeric"),
        ModelInput(name="shop", kind="categorical", vocabulary=("north", "west")),
    ),
    output="score",
    features=None,
)


def test_mlflow_knows_the_inputs_of_a_run_and_of_a_version(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, types and that each may be missing; one line, and no library loads it unverified."""
    from mlflow.exceptions import MlflowException

    with warnings.catch_warnings():
        # Of its own type hints, when it is loaded.
        warnings.simplefilter("ignore")
        from mlflow.models import get_model_info
        from mlflow.pyfunc import load_model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    run_id = tracking.start_run("exp", "n", {})
    tracking.log_text(run_id, mlmodel.render(DESCRIPTION), f"model/{mlmodel.FILE}")
    home, package = Home(root=tmp_path / "home"), tmp_path / "package"
    package.mkdir()
    DESCRIPTION.write(package)
    mlmodel.write(DESCRIPTION, package)
    signing.sign(package, home.keys)
    made = Registry(tracking, home).register(package, "shop", run_id, {})

    for uri in (f"runs:/{run_id}/model", f"models:/shop/{made.version}"):
        found = get_model_info(uri).signature
        assert found is not None
        assert [(item.name, item.type.name, item.required) for item in found.inputs] == [
            ("spent", "double", False),
            ("shop", "string", False),
        ]
        assert found.outputs.input_names() == ["score"]
        with pytest.raises(MlflowException, match="python_function"):
            load_model(uri)
