"""Score a whole table with one model version, on many workers, and go on after a kill."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat import config
from heliostat.config import require
from heliostat.data.slices import SlicedTable, cut
from heliostat.data.staging import StagedFile
from heliostat.data.tables import Catalog
from heliostat.inference.columns import score
from heliostat.inference.predictor import Predictor, read_verified
from heliostat.telemetry import Progress

if TYPE_CHECKING:
    import polars as pl

SCORE = "score"
"""Column of the answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchModel:
    """A signed package that every worker can read."""

    name: str
    version: str
    package: Path
    keys: Path
    digest: str
    """Content digest that the package must have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReport:
    """What became of every row: as many are written as were read."""

    table: str
    version: int
    """Version of `table` with the answers."""
    rows: int
    rows_kept: int
    """Of them, rows that an earlier, killed try had scored."""
    source_version: int


def predict(
    model: BatchModel,
    catalog: Catalog,
    source: str,
    into: str,
    *,
    source_version: int | None = None,
    keep: Sequence[str] = (),
    num_workers: int | None = None,
    num_gpus_per_worker: float = 0.0,
    rows_per_part: int = 500_000,
    progress: Progress | None = None,
) -> BatchReport:
    """Score every row of a table's version and make the answers a version of another table.

    Runs on the Ray that this process is connected to. Called again with equal arguments after a
    kill, it scores only what is missing; after it has ended, it gives its report again.

    Args:
        model: What scores; each worker verifies it before loading.
        catalog: Where both tables live.
        source: Table with a column for each input of the model.
        into: Table of answers: the columns to keep and ``score``; its rows are replaced.
        source_version: Version of `source`; None takes the newest.
        keep: Columns of `source` that go along, such as the ids.
        num_workers: Processes; None takes one for each CPU of the cluster.
        num_gpus_per_worker: Share of a GPU that each is given; the package says whether its
            network runs there.
        rows_per_part: Rows that a worker holds at once; one file of answers each.
        progress: Called with (rows done, rows, ``rows``).

    Raises:
        UntrustedModel: The package is not what a trusted key signed.
        ConfigError: A column is missing or of the wrong kind.
    """
    require(SCORE not in keep, "batch.keep", SCORE, "must not be kept: it is the answers' column")
    # First of all: they load while this process looks at the table.
    pool = Pool(model, num_workers=num_workers, num_gpus=num_gpus_per_worker)
    try:
        inputs = [
            item.name for item in read_verified(model.package, model.keys, model.digest).inputs
        ]
        rows = cut(
            catalog, source, source_version,
            columns=list(dict.fromkeys([*keep, *inputs])), max_rows=rows_per_part,
        )  # fmt: skip
        run_id = "predict-" + config.digest(
            {
                "model": model.digest,
                "source": source,
                "version": rows.version,
                "keep": list(keep),
                "rows_per_part": rows_per_part,
            }
        )
        done = catalog.commit_of(into, run_id)
        if done is not None:
            return BatchReport(**{**done.details["batch"], "version": done.version})
        work = BatchWork(model=model, rows=rows, keep=tuple(keep), into=into, run_id=run_id)
        files = catalog.staged(into, run_id)
        kept = sum(file.num_rows for file in files.values())
        files |= _score_missing(pool, work, set(files), kept, progress)
    finally:
        pool.close()
    report = BatchReport(
        table=into, version=-1, rows=rows.num_rows, rows_kept=kept, source_version=rows.version
    )
    version = catalog.commit(
        into,
        [files[part] for part in sorted(files)],
        work.schema(),
        run_id=run_id,
        mode="overwrite",
        details={
            "batch": asdict(report),
            "model": f"{model.name}@{model.version}",
            "digest": model.digest,
        },
    )
    catalog.sweep(into, run_id)
    return BatchReport(**{**asdict(report), "version": version})


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchWork:
    """What every worker of one batch needs to know."""

    model: BatchModel
    rows: SlicedTable
    keep: tuple[str, ...]
    into: str
    run_id: str

    def schema(self) -> pl.Schema:
        """Columns of the answers."""
        import polars as pl

        kept = {name: self.rows.columns[name] for name in self.keep}
        return pl.Schema({**kept, SCORE: pl.Float32()})


class Scorer:
    """One worker: a verified model in memory that scores slices and stages the answers."""

    def __init__(self, model: BatchModel) -> None:
        """Verify and load the model."""
        self._predictor = Predictor.load(model.package, model.keys, digest=model.digest)

    def ready(self) -> None:
        """Answer once the model is loaded."""

    def score(self, work: BatchWork, part: int) -> tuple[int, StagedFile]:
        """Score one slice and stage its answers; returns its number and the file."""
        import polars as pl

        frame = work.rows.read(part)
        answers = frame.select(work.keep).with_columns(
            pl.Series(SCORE, score(self._predictor, frame), dtype=pl.Float32)
        )
        file = work.rows.catalog.stage(work.into, answers, run_id=work.run_id, part=part)
        return part, file


class Pool:
    """Workers that load the model from the moment this is made, beside whatever else is done.

    Plain actors: parts are numbers, and files are read and written by the workers, so there is
    nothing for Ray Data to move (adr/0050). A worker that dies is started again, and its part
    scored again.
    """

    def __init__(self, model: BatchModel, *, num_workers: int | None, num_gpus: float) -> None:
        """Start the workers; returns at once."""
        import ray

        cpus = int(ray.cluster_resources().get("CPU", 1))
        self.num_workers = num_workers or max(1, cpus)
        actor: Any = ray.remote(Scorer)
        self._actors = [
            actor.options(
                num_cpus=1, num_gpus=num_gpus, max_restarts=-1, max_task_retries=-1
            ).remote(model)
            for _ in range(self.num_workers)
        ]

    def score(self, work: BatchWork, parts: Sequence[int]) -> Iterator[tuple[int, StagedFile]]:
        """Score parts, in no particular order, and yield each when its answers are on disk."""
        import ray

        shared = ray.put(work)
        waiting = deque(parts)
        # A worker for which there is no room yet must be given nothing: it may never come.
        starting = {actor.ready.remote(): actor for actor in self._actors}
        running: dict[Any, Any] = {}
        while waiting or running:
            (done,), _ = ray.wait([*running, *starting], num_returns=1)
            answer = ray.get(done)
            actor = running.pop(done, None)
            # A second part waits at each worker, so that none idles while its answer travels.
            num_more = 1
            if actor is None:
                actor, num_more = starting.pop(done), 2
            for _ in range(min(num_more, len(waiting))):
                running[actor.score.remote(shared, waiting.popleft())] = actor
            if answer is not None:
                yield answer

    def close(self) -> None:
        """End the workers."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


def _score_missing(
    pool: Pool,
    work: BatchWork,
    present: set[int],
    kept: int,
    progress: Progress | None,
) -> dict[int, StagedFile]:
    missing = [part for part in range(len(work.rows.slices)) if part not in present]
    files: dict[int, StagedFile] = {}
    rows = kept
    began = time.monotonic()
    for part, file in pool.score(work, missing):
        files[part] = file
        rows += file.num_rows
        if progress is not None:
            rate = (rows - kept) / max(time.monotonic() - began, 1e-9)
            left_s = (work.rows.num_rows - rows) / rate
            progress(rows, work.rows.num_rows, f"rows, {rate:,.0f} rows/s, {left_s:.0f} s left")
    return files
