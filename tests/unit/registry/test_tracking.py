"""Runs keep what is logged to them and always end."""

from __future__ import annotations

import math
import pickle
import sys

import pytest

from heliostat.errors import ConfigError, Interrupted, Unavailable
from heliostat.registry.tracking import PARAM_LIMIT_CHARACTERS, Tracking


def test_a_run_ends_as_its_block_does(tracking: Tracking) -> None:
    """Plainly, by an error, or by an interrupt: never RUNNING."""
    with tracking.run("exp", "good", {}) as good:
        assert tracking.status(good) == "RUNNING"
    with pytest.raises(ZeroDivisionError), tracking.run("exp", "bad", {}) as bad:
        raise ZeroDivisionError
    with pytest.raises(Interrupted), tracking.run("exp", "stopped", {}) as stopped:
        raise Interrupted("asked to stop")

    ends = [tracking.status(run_id) for run_id in (good, bad, stopped)]
    assert ends == ["FINISHED", "FAILED", "KILLED"]


def test_the_first_end_of_a_run_stays(tracking: Tracking) -> None:
    """A late second caller does not rewrite history."""
    run_id = tracking.start_run("exp", "n", {})
    tracking.finish(run_id, "FAILED")
    tracking.finish(run_id, "FINISHED")

    assert tracking.status(run_id) == "FAILED"


def test_only_runs_of_dead_owners_are_reaped(tracking: Tracking) -> None:
    """Runs of living owners, ended runs and runs that are not ours stay as they are."""
    dead = tracking.start_run("a", "n", {"heliostat.job": "job-1"})
    alive = tracking.start_run("b", "n", {"heliostat.job": "job-2"})
    foreign = tracking.start_run("b", "n", {})
    ended = tracking.start_run("a", "n", {"heliostat.job": "job-1"})
    tracking.finish(ended, "FINISHED")

    assert tracking.reap("heliostat.job", {"job-2"}, experiment="b") == []
    assert tracking.reap("heliostat.job", {"job-2"}) == [dead]
    ends = [tracking.status(run_id) for run_id in (dead, alive, foreign, ended)]
    assert ends == ["KILLED", "RUNNING", "RUNNING", "FINISHED"]


def test_metrics_come_back_as_logged_however_many(tracking: Tracking) -> None:
    """2,500 points need three calls and lose none; NaN stays NaN."""
    run_id = tracking.start_run("exp", "n", {})
    tracking.log_metric_steps(run_id, [(step, {"loss": step / 2}) for step in range(2500)])
    tracking.log_metrics(run_id, {"auc": math.nan}, step=3)

    assert tracking.metric_history(run_id, "loss") == [(step, step / 2) for step in range(2500)]
    ((step, value),) = tracking.metric_history(run_id, "auc")
    assert (step, math.isnan(value)) == (3, True)


def test_nested_and_long_parameters_are_logged_and_cannot_change(tracking: Tracking) -> None:
    """Mappings become dotted names; a text over MLflow's limit is cut, not refused."""
    run_id = tracking.start_run("exp", "n", {})
    params = {f"p{number}": number for number in range(150)}
    tracking.log_params(run_id, {**params, "train": {"layers": [1, 2], "opts": {}}})
    tracking.log_params(run_id, {"train": {"layers": [1, 2]}, "long": "x" * 9000})

    with tracking._answering() as client:
        logged = client.get_run(run_id).data.params
    assert len(logged) == 153
    assert (logged["train.layers"], logged["train.opts"], logged["p7"]) == ("[1, 2]", "{}", "7")
    assert logged["long"] == "x" * (PARAM_LIMIT_CHARACTERS - 1) + "…"
    with pytest.raises(ConfigError, match="Changing param values is not allowed"):
        tracking.log_params(run_id, {"p7": 8})


def test_an_instance_survives_the_trip_to_a_worker(tracking: Tracking) -> None:
    """Also after it has connected."""
    run_id = tracking.start_run("exp", "n", {})

    assert pickle.loads(pickle.dumps(tracking)).status(run_id) == "RUNNING"


def test_a_silent_server_is_unavailable_with_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the address and what to look at; asking loads no Feast (10 s)."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(Unavailable, match=r"^MLflow at http://127\.0\.0\.1:9: .*heliostat status"):
        Tracking("http://127.0.0.1:9").status("x")
    assert "feast" not in sys.modules
