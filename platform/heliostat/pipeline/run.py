"""One run of the pipeline: its stages in order, from source files to the end of a canary."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heliostat import config
from heliostat.data.citations import cite
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, GateRefused, nearest
from heliostat.features import catalogue, feast_repository
from heliostat.features.definitions import FeatureService
from heliostat.lineage.events import Node
from heliostat.pipeline import bring, entry, examples, feature_gate, live, report, tables, versions
from heliostat.pipeline.catalog import RunCatalog
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe
from heliostat.pipeline.stages import Result, Stages
from heliostat.pipeline.versions import Registered
from heliostat.registry.tracking import Tracking
from heliostat.store import address
from heliostat.store.stages import StageResults
from heliostat.training.record import code_digest
from heliostat.training.search import SearchRecipe

ORDER = (
    *("ingest", "features", "materialize", "train", "evaluate", "register"),
    *("deploy", "canary"),
)
"""Stages, each of which a job may end with; the last one is everything."""

OWNER_TAG = "heliostat.job"
"""Names the job that owns an MLflow run; runs of jobs that are gone are ended."""


class Run:
    """Runs stages of one recipe on one platform; results of finished ones are reused."""

    def __init__(
        self, recipe: PipelineRecipe, connection: Connection, reporter: Reporter, folder: Path
    ) -> None:
        """Prepare a run; nothing is contacted yet.

        Args:
            recipe: What to run.
            connection: Where.
            reporter: Told progress.
            folder: The uploaded working folder, whose code names the run's results.
        """
        self._recipe = recipe
        self._connection = connection
        self._reporter = reporter
        self._run_id = uuid.uuid4().hex[:12]
        self._serving: Result | None = None
        """The trained stable version, which is always made first."""
        self._tables = connection.home.tables / recipe.model
        self._tracking = Tracking(connection.tracking_uri)
        self._lineage = connection.lineage()
        self._stages = Stages(
            results=StageResults(address.state_url(os.environ) or connection.home.state_db),
            reporter=reporter,
            code=code_digest([folder / "platform" / "heliostat", folder / "jobs"]),
        )

    def until(self, stage: str) -> None:
        """Run every stage up to and including this one.

        Raises:
            ConfigError: There is no such stage.
            GateRefused: The evidence does not allow a stage to end well.
        """
        if stage not in ORDER:
            raise ConfigError(
                "stage", stage, "must be one of the pipeline's", breaks=nearest(stage, ORDER)
            )
        import ray

        entry.connect()
        self._reporter.line(
            "pipeline",
            f"run {self._run_id}, recipe {config.digest(self._recipe)}, "
            f"code {self._stages.code} (revision {self._connection.revision})",
        )
        self._end_orphans()
        # The online store is live: only what serves from it next may turn it back in time.
        serves = stage in {"materialize", "deploy", "canary"}
        service = self._recipe.service
        applying: Any = self._applying(service) if serves and service is not None else None
        ingested = self._ingest()
        if stage == "ingest":
            return
        built = self._features(ingested)
        if applying is not None and service is not None:
            ray.get(applying)
            online = live.fill_online(
                service, self._connection, self._sealed(built["versions"]), self._reporter,
                end=self._recipe.replay.period.start_at,
            )  # fmt: skip
            bring.tell(self._lineage, self._recipe, service, online)
        if stage in {"train", "evaluate", "register"}:
            for role in ("stable", "candidate"):
                self._version(role, ingested, built, until=stage)
        if stage in {"deploy", "canary"}:
            stable = self._registered("stable", ingested, built)
            live.deploy(self._recipe, self._connection, stable.version, self._reporter)
            self._deployed(stable.version, "deploy")
        if stage == "canary":
            pinned = {**ingested["versions"], **built["versions"]}
            self._canary(stable, self._registered("candidate", ingested, built), pinned)

    def search(self, role: str, plan: SearchRecipe) -> PipelineRecipe:
        """Search one version's training; return the recipe with what was found.

        A search that a kill stopped goes on when the same is asked for again.
        """
        entry.connect()
        self._end_orphans()
        built = self._features(self._ingest())
        found = self._maker(role, built).search(plan)
        version = replace(getattr(self._recipe, role), training=found.recipe)
        return replace(self._recipe, **{role: version})

    def _end_orphans(self) -> None:
        """End MLflow runs whose job was killed."""
        from ray.util.state import list_jobs

        alive = {str(job.job_id) for job in list_jobs() if job.status == "RUNNING"}
        alive.add(self._owner())
        for run_id in self._tracking.reap(OWNER_TAG, alive):
            shutil.rmtree(self._connection.home.root / "training" / run_id, ignore_errors=True)
            self._reporter.line("pipeline", f"MLflow run {run_id} ended as KILLED: its job is gone")

    def _owner(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_job_id())

    def _ingest(self) -> Result:
        inputs = {
            "sources": [config.to_dict(table) for table in self._recipe.sources],
            # A server's rows may be others by now: each run reads them.
            "files": [
                tables.state(table.source) or self._owner() for table in self._recipe.sources
            ],
            "derived": [config.to_dict(table) for table in self._recipe.derived],
            "sealed_from": self._recipe.replay.period.start,
        }

        def work(key: str) -> Result:
            with self._lineage.stage("ingest", key) as made:
                result = tables.fill(
                    self._recipe, Catalog(self._tables), key, datetime.now(UTC), self._reporter,
                    self._lineage,
                )  # fmt: skip
                made.extend(self._nodes(result["versions"]))
            return result

        return self._stages.run("ingest", inputs, work, still_there=self._tables_exist)

    def _features(self, ingested: Result) -> Result:
        inputs = {
            "tables": ingested["versions"],
            "service": self._digest(),
            "examples": config.to_dict(self._recipe.examples),
            "until": self._recipe.replay.period.start,
        }

        def work(key: str) -> Result:
            # What each table was made from is told one by one.
            with self._lineage.stage("features", key) as made:
                catalog = self._sealed(ingested["versions"])
                result = examples.build(self._recipe, catalog, key, self._reporter, self._lineage)
                made.extend(self._nodes(result["versions"]))
            return result

        built = self._stages.run("features", inputs, work, still_there=self._tables_exist)
        if self._recipe.service is not None:
            catalogue.record(
                self._recipe.service, self._connection.home.feast / self._recipe.service.project,
                tables=self._recipe.model, now=datetime.now(UTC),
            )  # fmt: skip
        return built

    def _digest(self) -> str | None:
        service = self._recipe.service
        return None if service is None else service.digest()

    def _applying(self, service: FeatureService) -> Any:
        """Bring Feast's registry up to date beside other work; importing Feast takes long."""
        import ray

        home = self._connection.home
        apply: Any = ray.remote(feast_repository.apply)
        return apply.options(name="feast apply").remote(
            [service], home.feast / service.project, self._tables, home.online_db,
            feast_repository.server_of(self._connection.online_store),
        )  # fmt: skip

    def _registered(self, role: str, ingested: Result, built: Result) -> Registered:
        maker = self._maker(role, built)
        return maker.restore(*self._version(role, ingested, built, until="register"))

    def _version(
        self, role: str, ingested: Result, built: Result, *, until: str
    ) -> tuple[Result, Result]:
        """Make a version up to a stage; return what registering and evaluating it left."""
        maker, examples_version = self._maker(role, built), built["versions"][examples.TABLE]
        plain = config.to_dict(maker.version)
        inputs = {
            "model": self._recipe.model,
            "service": self._digest(),
            "examples": examples_version,
            **{name: plain[name] for name in ("train", "training", "prepare")},
        }

        def train(key: str) -> Result:
            with self._lineage.stage(f"train-{role}", key, self._nodes(built["versions"])) as made:
                result = maker.train(key)
                made.append(Node(kind="run", name=self._recipe.model, version=result["run"]))
            return result

        trained = self._stages.run(f"train {role}", inputs, train, still_there=maker.is_trained)
        if role == "stable":
            self._serving = trained
        if until == "train":
            return {}, {}
        # A candidate is measured beside the version that it would replace.
        production = self._serving if role == "candidate" else None
        inputs = {
            "run": trained["run"],
            "network": trained["network"],
            "production": production and production["network"],
            "examples": examples_version,
            **{name: plain[name] for name in ("evaluate", "gates", "behaviours")},
        }
        evaluated = self._stages.run(
            f"evaluate {role}",
            inputs,
            lambda _: maker.evaluate(trained, production),
            still_there=lambda _: True,
        )
        if evaluated["refused"]:
            raise GateRefused(**evaluated["refused"])
        if until == "evaluate":
            return {}, evaluated

        def register(key: str) -> Result:
            run = Node(kind="run", name=self._recipe.model, version=trained["run"])
            with self._lineage.stage(f"register-{role}", key, [run]) as made:
                result = maker.register(trained, evaluated)
                made.append(Node(kind="model", name=self._recipe.model, version=result["version"]))
            return result

        registered = self._stages.run(
            f"register {role}",
            {**inputs, "evaluated": evaluated},
            register,
            still_there=maker.is_registered,
        )
        self._cite(registered["version"], {**ingested["versions"], **built["versions"]})
        return registered, evaluated

    def _maker(self, role: str, built: Result) -> versions.Maker:
        return versions.Maker(
            role=role,
            version=getattr(self._recipe, role),
            recipe=self._recipe,
            connection=self._connection,
            catalog=self._sealed(built["versions"]),
            tables=built["versions"],
            tracking=self._tracking,
            reporter=self._reporter,
            owner=(OWNER_TAG, self._owner()),
        )

    def _cite(self, version: str, tables: dict[str, int]) -> None:
        """Keep every table version that a registered model was made from, whatever vacuum runs."""
        catalog = Catalog(self._tables)
        for name, number in tables.items():
            cite(
                catalog, name, number,
                by=f"model {self._recipe.model}@{version}", now=datetime.now(UTC),
            )  # fmt: skip

    def _canary(self, stable: Registered, candidate: Registered, pinned: dict[str, int]) -> None:
        service = self._recipe.service
        if service is not None:
            feature_gate.require_parity(
                feature_gate.of_packages([stable, candidate]),
                self._sealed(pinned), self._connection, project=service.project,
                versions={view.name: pinned[view.table] for view in service.views},
                at=self._recipe.replay.period.start_at, stage="canary", reporter=self._reporter,
            )  # fmt: skip
        # On trial it answers requests too, whatever becomes of it.
        self._deployed(candidate.version, "canary")
        replayed = live.run_canary(
            self._recipe,
            self._connection,
            RunCatalog(self._tables, pinned=pinned),
            stable=stable,
            candidate=candidate,
            run_id=self._run_id,
            reporter=self._reporter,
        )
        task = self._recipe.candidate.training.task
        found = report.summary(replayed, stable, candidate, task)
        folder = self._connection.home.root / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self._run_id}.json").write_text(report.to_json(found))
        period = self._recipe.replay.period.start[:10]
        self._reporter.text(report.lines(found, stable, candidate, period))
        self._reporter.text(report.farewell(self._recipe, self._connection, found, replayed))
        report.judge(found)

    def _nodes(self, versions: dict[str, int]) -> list[Node]:
        return tables.nodes(self._recipe, versions)

    def _deployed(self, version: str, how: str) -> None:
        model = Node(kind="model", name=self._recipe.model, version=version)
        place = Node(kind="deployment", name=self._recipe.model, version=version)
        self._lineage.emit("COMPLETE", how, self._run_id, inputs=[model], outputs=[place])

    def _tables_exist(self, result: Result) -> bool:
        catalog = Catalog(self._tables)
        newest = {name: catalog.version(name) for name in result["versions"]}
        return all(
            found is not None and found >= result["versions"][name]
            for name, found in newest.items()
        )

    def _sealed(self, pinned: dict[str, int]) -> RunCatalog:
        return RunCatalog(self._tables, self._recipe.sealed, pinned)
