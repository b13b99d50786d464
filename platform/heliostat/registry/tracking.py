"""Training runs in MLflow: parameters, metrics, artifacts, and an end for every run."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from heliostat.errors import ConfigError, HeliostatError, Interrupted, Unavailable

Status = Literal["FINISHED", "FAILED", "KILLED"]

PARAM_LIMIT_CHARACTERS = 6000
"""MLflow's bound on a parameter's text; the whole recipe is an artifact, so longer ones are cut."""

_PARAMS_PER_CALL = 100
_METRICS_PER_CALL = 1000


def is_stop(error: BaseException) -> bool:
    """Whether somebody stopped the work; Ray turns the SIGTERM of a job's stop into SystemExit."""
    return isinstance(error, KeyboardInterrupt | SystemExit | Interrupted | GeneratorExit)


class Tracking:
    """Talks to one MLflow server, or to its database directly; connects at first use.

    Every method raises `Unavailable` when MLflow does not answer, after two short retries.
    Pickling keeps the address only, so an instance may travel to Ray workers.
    """

    def __init__(self, uri: str) -> None:
        """Use the MLflow at `uri`: ``http://...``, or ``sqlite:///...`` without a server."""
        self.uri = uri
        self._connected: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Tracking, (self.uri,)

    def start_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Create a run that is RUNNING and return its id; the experiment is made if needed."""
        with self._answering() as client:
            experiment_id = _experiment_id(client, experiment)
            run = client.create_run(experiment_id, run_name=name, tags=_texts(tags))
            return str(run.info.run_id)

    @contextlib.contextmanager
    def run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """Start a run and end it however the block is left.

        FINISHED after a plain end, KILLED after an interrupt, FAILED after any other error.
        If MLflow is away when the block fails, the block's own error is the one that is
        raised; `reap` ends the run later.
        """
        run_id = self.start_run(experiment, name, tags)
        try:
            yield run_id
        except BaseException as error:
            with contextlib.suppress(Unavailable):
                self.finish(run_id, "KILLED" if is_stop(error) else "FAILED")
            raise
        self.finish(run_id, "FINISHED")

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted names, sequences JSON, long texts are cut.

        Logging the same value again changes nothing; another value for a name is refused.
        """
        from mlflow.entities import Param

        flat = [Param(name, text) for name, text in _flat("", params)]
        with self._answering() as client:
            for start in range(0, len(flat), _PARAMS_PER_CALL):
                client.log_batch(run_id, params=flat[start : start + _PARAMS_PER_CALL])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the values of one step in one call."""
        self.log_metric_steps(run_id, [(step, metrics)])

    def log_metric_steps(
        self, run_id: str, steps: Collection[tuple[int, Mapping[str, float]]]
    ) -> None:
        """Log the values of many steps in as few calls as MLflow allows."""
        now_ms = int(time.time() * 1000)
        self.log_timed_metrics(run_id, [(step, now_ms, metrics) for step, metrics in steps])

    def log_timed_metrics(
        self, run_id: str, steps: Collection[tuple[int, int, Mapping[str, float]]]
    ) -> None:
        """Log (step, time in ms, values) of many steps; repeating a call adds nothing."""
        from mlflow.entities import Metric

        points = [
            Metric(name, float(value), at_ms, step)
            for step, at_ms, metrics in steps
            for name, value in metrics.items()
        ]
        with self._answering() as client:
            for start in range(0, len(points), _METRICS_PER_CALL):
                client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_CALL])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, such as data versions."""
        from mlflow.entities import RunTag

        with self._answering() as client:
            client.log_batch(run_id, tags=[RunTag(name, text) for name, text in tags.items()])

    def log_datasets(self, run_id: str, versions: Mapping[str, str | int]) -> None:
        """Log what the run reads, by name and version; MLflow lists it as the run's datasets."""
        from mlflow.entities import Dataset, DatasetInput

        read = [
            DatasetInput(
                Dataset(
                    name=name,
                    digest=str(version),
                    source_type="delta_table",
                    source=json.dumps({"delta_table_name": name, "delta_table_version": version}),
                )
            )
            for name, version in sorted(versions.items())
        ]
        with self._answering() as client:
            client.log_inputs(run_id, read)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Store a text as the run's artifact `path`."""
        with self._answering() as client:
            client.log_text(run_id, text, path)

    def log_artifacts(self, run_id: str, folder: Path, path: str) -> str:
        """Store a folder under the run's artifact `path` and return where it lies."""
        with self._answering() as client:
            client.log_artifacts(run_id, str(folder), path)
            return f"{client.get_run(run_id).info.artifact_uri}/{path}"

    def finish(self, run_id: str, status: Status) -> None:
        """End a run. A run that has ended keeps its first end."""
        with self._answering() as client:
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, status)

    def reopen(self, run_id: str) -> None:
        """Make a run that has ended RUNNING again, because its work goes on."""
        with self._answering() as client:
            client.update_run(run_id, status="RUNNING")

    def status(self, run_id: str) -> str:
        """Return RUNNING or how the run ended."""
        with self._answering() as client:
            return str(client.get_run(run_id).info.status)

    def tagged(self, tag: str, value: str) -> dict[str, str]:
        """Status of each run that carries a tag with this value, by its id."""
        with self._answering() as client:
            found = _found(client, None, f"tags.`{tag}` = '{value}'")
            return {str(run.info.run_id): str(run.info.status) for run in found}

    def log_dict(self, run_id: str, content: Any, path: str) -> None:
        """Store plain JSON values as the run's artifact `path`."""
        self.log_text(run_id, json.dumps(content, indent=2, sort_keys=True) + "\n", path)

    def metric_history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """All (step, value) pairs of a metric, in the order of their steps."""
        with self._answering() as client:
            points = client.get_metric_history(run_id, name)
        return sorted((point.step, point.value) for point in points)

    def reap(self, tag: str, alive: Collection[str], *, experiment: str | None = None) -> list[str]:
        """End as KILLED every RUNNING run whose owner is gone, and return their ids.

        Args:
            tag: The tag that names the owner of a run, such as its job's id. Runs without
                this tag are not ours and stay as they are.
            alive: Owners that still work.
            experiment: Look only here; None looks everywhere.
        """
        with self._answering() as client:
            reaped = []
            for run in _found(client, experiment, "attributes.status = 'RUNNING'"):
                owner = run.data.tags.get(tag)
                if owner is not None and owner not in alive:
                    client.set_terminated(run.info.run_id, "KILLED")
                    reaped.append(str(run.info.run_id))
            return reaped

    @contextlib.contextmanager
    def _answering(self) -> Iterator[Any]:
        """Hand out the client; turn a silent server into `Unavailable`."""
        from mlflow.exceptions import MlflowException

        try:
            yield self._client()
        except MlflowException as error:
            if error.error_code in {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}:
                raise self._unavailable(error) from error
            raise ConfigError("mlflow", self.uri, "refused the call", breaks=str(error)) from error
        except OSError as error:
            if not type(error).__module__.startswith("requests."):
                raise
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"MLflow at {self.uri}",
            (str(error).strip() or type(error).__name__).splitlines()[0],
            next_step="Look at `heliostat status`; the same call may be repeated",
        )

    def _client(self) -> Any:
        if self._connected is None:
            # MLflow's own default of 7 growing retries keeps a caller for minutes.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            _load_header_plugins()
            self._connected = MlflowClient(self.uri, self.uri)
        return self._connected


def _load_header_plugins() -> None:
    """Load MLflow's request header plugins but for Feast's.

    Feast installs one, and MLflow would load it at the first request of every process:
    importing Feast costs 10 s of CPU. The plugin only passes on the login of Feast's own
    MLflow integration, which is not used here.
    """
    from mlflow.utils import plugins

    every = plugins._get_entry_points
    plugins._get_entry_points = lambda group: [
        item for item in every(group) if not item.value.startswith("feast.")
    ]
    try:
        importlib.import_module("mlflow.tracking.request_header.registry")
    finally:
        plugins._get_entry_points = every


def _experiment_id(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise HeliostatError(
            f"experiment = {name!r}: must be active; it was deleted in MLflow. Restore it there"
        )
    return str(found.experiment_id)


def _found(client: Any, experiment: str | None, which: str) -> Iterator[Any]:
    experiments = client.search_experiments(
        filter_string=None if experiment is None else f"name = '{experiment}'"
    )
    ids = [item.experiment_id for item in experiments]
    token: str | None = None
    while ids:
        page = client.search_runs(ids, which, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _texts(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value) for name, value in tags.items()}


def _flat(prefix: str, params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{prefix}{name}.", value)
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) > PARAM_LIMIT_CHARACTERS:
            text = text[: PARAM_LIMIT_CHARACTERS - 1] + "…"
        yield f"{prefix}{name}", text
