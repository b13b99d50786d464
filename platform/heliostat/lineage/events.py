"""OpenLineage events of every stage, appended to one local file and sent to a server if told."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from heliostat import telemetry
from heliostat.config import require

_NAMESPACE = uuid.UUID("8c1f0f5e-3f6e-5c0b-9a77-6d0a3f4f2f11")
_PRODUCER = "https://github.com/heliostat/heliostat"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One thing of one version that a stage reads or makes."""

    kind: Literal[
        "table",
        "run",
        "model",
        "package",
        "file",
        "source",
        "sink",
        "index",
        "deployment",
        "view",
        "online",
    ]
    name: str
    version: str
    """Table version, run id, model version, content or definition digest, the version that is
    deployed, or up to when values are online."""

    def __post_init__(self) -> None:
        require(bool(self.name and self.version), "lineage.node", self.name, "must be named")

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}@{self.version}"


class Lineage:
    """Writes START, COMPLETE and FAIL of stages as JSON lines that OpenLineage tools read."""

    def __init__(
        self,
        folder: Path,
        *,
        namespace: str = "heliostat",
        revision: str | None = None,
        url: str | None = None,
        tables: Path | str | None = None,
    ) -> None:
        """Append to ``events.jsonl`` in `folder`; it is made at the first event.

        Args:
            folder: Where the file is.
            namespace: First part of every dataset's namespace.
            revision: Code revision that runs, told with each event.
            url: An OpenLineage server that gets each event too, as ``http://host:5000``. One that
                does not answer is told in the log and stops no stage: the file has the event.
            tables: Folder or URL below which tables are named; others go by their whole place.
        """
        self._path = folder / "events.jsonl"
        self._namespace = namespace
        self._revision = revision
        self._url = url
        self._tables = None if tables is None else str(tables).rstrip("/")
        self._client: Any = None
        self._server: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files and connections here: tasks open their own."""
        return {**self.__dict__, "_client": None, "_server": None}

    def table(self, place: str, version: int) -> Node:
        """Name a version of a table by where it lies."""
        inside = self._tables is not None and place.startswith(f"{self._tables}/")
        name = place[len(str(self._tables)) + 1 :] if inside else place
        return Node(kind="table", name=name, version=str(version))

    @contextmanager
    def stage(self, name: str, run_id: str, inputs: Collection[Node] = ()) -> Iterator[list[Node]]:
        """Record a stage around a block; put what it made into the list that it is given.

        The block's error is recorded as FAIL and goes on.
        """
        outputs: list[Node] = []
        self.emit("START", name, run_id, inputs=inputs)
        try:
            yield outputs
        except BaseException:
            self.emit("FAIL", name, run_id, inputs=inputs, outputs=outputs)
            raise
        self.emit("COMPLETE", name, run_id, inputs=inputs, outputs=outputs)

    def emit(
        self,
        state: Literal["START", "RUNNING", "COMPLETE", "FAIL"],
        stage: str,
        run_id: str,
        *,
        inputs: Collection[Node] = (),
        outputs: Collection[Node] = (),
        now: datetime | None = None,
        is_stream: bool = False,
    ) -> None:
        """Append one event; `run_id` is any text that names this run of the stage.

        A stage that is a stream makes a version every second, and tells of one now and then: what
        it told of holds for the versions since the one before.
        """
        from openlineage.client import event_v2

        when = (now or datetime.now(UTC)).isoformat()
        event = event_v2.RunEvent(
            eventTime=when,
            eventType=getattr(event_v2.RunState, state),
            run=event_v2.Run(runId=run_uuid(stage, run_id)),
            job=event_v2.Job(namespace=self._namespace, name=stage, facets=self._about(is_stream)),
            inputs=[self._dataset(event_v2.InputDataset, node) for node in inputs],
            outputs=[self._dataset(event_v2.OutputDataset, node) for node in outputs],
            producer=_PRODUCER,
        )
        self._transport().emit(event)
        self._send(event)

    def _about(self, is_stream: bool) -> dict[str, Any]:
        from openlineage.client.generated.job_type_job import JobTypeJobFacet
        from openlineage.client.generated.source_code_location_job import (
            SourceCodeLocationJobFacet,
        )

        facets: dict[str, Any] = {}
        if self._revision is not None:
            facets["sourceCodeLocation"] = SourceCodeLocationJobFacet(
                type="git", url=_PRODUCER, version=self._revision, producer=_PRODUCER
            )
        if is_stream:
            facets["jobType"] = JobTypeJobFacet(
                processingType="STREAMING", integration="RAY", producer=_PRODUCER
            )
        return facets

    def _send(self, event: Any) -> None:
        if self._url is None:
            return
        if self._server is None:
            from openlineage.client.transport.http import HttpConfig, HttpTransport

            self._server = HttpTransport(
                HttpConfig.from_dict({"url": self._url, "timeout": 5, "retry": {"total": 1}})
            )
        try:
            self._server.emit(event)
        except Exception as error:  # noqa: BLE001 - whatever its client raises, the file has it
            telemetry.event("lineage.not_sent", url=self._url, problem=type(error).__name__)

    def _dataset(self, kind: Any, node: Node) -> Any:
        from openlineage.client.generated.dataset_version_dataset import (
            DatasetVersionDatasetFacet,
        )

        version = DatasetVersionDatasetFacet(datasetVersion=node.version, producer=_PRODUCER)
        return kind(
            namespace=f"{self._namespace}/{node.kind}",
            name=node.name,
            facets={"version": version},
        )

    def _transport(self) -> Any:
        if self._client is None:
            from openlineage.client.transport.file import FileConfig, FileTransport

            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._client = FileTransport(FileConfig(log_file_path=str(self._path), append=True))
        return self._client


def run_uuid(stage: str, run_id: str) -> str:
    """Id of a stage's run in the form OpenLineage wants: equal for equal texts."""
    return str(uuid.uuid5(_NAMESPACE, f"{stage}/{run_id}"))
