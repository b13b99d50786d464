"""Epoch metrics reach MLflow once each, however often it was away."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.errors import Unavailable
from heliostat.registry.tracking import Tracking
from heliostat.training.spool import KeepReports, MetricSpool


def test_metrics_reported_while_mlflow_is_away_arrive_later(
    tmp_path: Path, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, none lost, none twice; a repeated epoch counts once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    present = tracking
    run_id = present.start_run("exp", "n", {})
    away = Tracking("http://127.0.0.1:9")
    folder = tmp_path / "spool"
    folder.mkdir()

    spool, reports = MetricSpool(folder), KeepReports(folder)
    reports.report([{"epoch": 1.0, "loss": 0.5}, {"epoch": 1.0}])
    with pytest.raises(Unavailable):
        spool.send(away, run_id)
    for epoch, loss in ((2, 0.4), (2, 0.39), (3, 0.3)):
        reports.report([{"epoch": float(epoch), "loss": loss}])
        spool.send(present, run_id)

    assert present.metric_history(run_id, "loss") == [(1, 0.5), (2, 0.4), (3, 0.3)]
