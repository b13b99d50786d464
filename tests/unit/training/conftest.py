"""Tracking without a server for each test that asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.registry.tracking import Tracking
from tests.unit.registry.mlflow_database import tracking_in


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    return tracking_in(tmp_path, monkeypatch)
