"""Points reach MLflow once each, however often it was away or a process was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.errors import HeliostatError, Unavailable
from heliostat.registry.tracking import Tracking
from heliostat.training.spool import EPOCH, STEP, MetricLog, MetricSpool


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def test_points_made_while_mlflow_is_away_arrive_later(
    tmp_path: Path, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, none lost, none twice, even if a kill forgot that they were sent."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_id = tracking.start_run("exp", "n", {})
    away = Tracking("http://127.0.0.1:9")
    folder = _folder(tmp_path)

    log, spool = MetricLog(folder), MetricSpool(folder)
    log.add(EPOCH, 1, {"loss": 0.5}, 1000)
    log.flush()
    with pytest.raises(Unavailable):
        spool.send(away, run_id)
    log.add(EPOCH, 2, {"loss": 0.4}, 2000)
    log.add(STEP, 600, {"step/loss": 0.6}, 2000)
    log.flush()
    assert spool.num_waiting() == 3
    spool.send(tracking, run_id)
    (folder / "metrics.sent").unlink()
    log.add(EPOCH, 3, {"loss": 0.3}, 3000)
    log.close()
    spool.send(tracking, run_id)

    assert tracking.metric_history(run_id, "loss") == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert tracking.metric_history(run_id, "step/loss") == [(600, 0.6)]
    assert (spool.num_waiting(), list(spool.epochs())) == (0, [1, 2, 3])


def test_a_repeated_step_keeps_its_first_report_and_a_cut_line_is_dropped(tmp_path: Path) -> None:
    """What a killed writer left half-written would spoil the next line too."""
    folder = _folder(tmp_path)
    log = MetricLog(folder)
    for step in (1, 2):
        log.add(EPOCH, step, {"loss": 1 / step}, 0)
    log.close()
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"series": "epoch", "st')

    log = MetricLog(folder)
    for step in (2, 3):
        log.add(EPOCH, step, {"loss": 9.0}, 0)
    log.close()

    assert MetricSpool(folder).epochs() == {1: {"loss": 1.0}, 2: {"loss": 0.5}, 3: {"loss": 9.0}}


def test_only_one_process_writes_a_training(tmp_path: Path) -> None:
    """A second one says so instead of mixing its points in."""
    folder = _folder(tmp_path)
    first = MetricLog(folder)
    with pytest.raises(HeliostatError) as error:
        MetricLog(folder, patience_s=0)
    first.close()
    MetricLog(folder, patience_s=0).close()

    assert str(error.value) == (
        f"training {folder} is written by another process; end that one first"
    )
