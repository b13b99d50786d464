"""An empty MLflow database without a server; made once per MLflow version, copied for each test."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from heliostat.registry.tracking import Tracking


def tracking_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """Return tracking on a fresh database in the folder."""
    # Without a server, MLflow puts artifacts below the working directory.
    monkeypatch.chdir(folder)
    shutil.copy(_migrated(), folder / "mlflow.db")
    return Tracking(f"sqlite:///{folder / 'mlflow.db'}")


def _migrated() -> Path:
    """A database after MLflow's migrations, which take 5 seconds."""
    cache = Path(sys.prefix) / ".cache"
    path = cache / f"mlflow-{importlib.metadata.version('mlflow')}.db"
    if not path.exists():
        cache.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            new = Path(scratch) / "mlflow.db"
            Tracking(f"sqlite:///{new}").reap("nobody", ())
            os.replace(new, path)  # noqa: PTH105 - atomic, and another session may be first
    return path
