"""Make one version of the model in three steps: train, evaluate, register."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat import config
from heliostat.data.origins import files_digest
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError
from heliostat.features.definitions import FeatureService
from heliostat.inference import columns
from heliostat.inference.predictor import Predictor
from heliostat.lineage import changes
from heliostat.lineage.events import Node
from heliostat.pipeline import examples, tables
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe, VersionRecipe
from heliostat.pipeline.stages import Result
from heliostat.registry import mlmodel
from heliostat.registry.package import FeatureServiceReference, service_of
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import Registry
from heliostat.training import baseline, export, record, runs, trials, tuning
from heliostat.training.evaluate import Evaluation, EvaluationPlan, evaluate
from heliostat.training.fit import FitResult, FitSummary, fit
from heliostat.training.gates import GateReport, judge
from heliostat.training.search import SearchRecipe

if TYPE_CHECKING:
    import polars as pl


RESAMPLES = 100
"""Bootstrap repetitions of an interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A registered version that may be deployed."""

    version: str
    path: Path
    """Verified package."""
    metrics: dict[str, float]
    """What was measured on `evaluated_on`."""
    evaluated_on: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Maker:
    """Makes one version for one run; each step's result is plain values that a later run reuses."""

    role: str
    """``stable`` or ``candidate``, for people."""
    version: VersionRecipe
    recipe: PipelineRecipe
    connection: Connection
    catalog: Catalog
    tables: dict[str, int]
    """Versions of the tables that its rows were made from."""
    tracking: Tracking
    reporter: Reporter
    owner: tuple[str, str]
    """Tag that names the job, so that its runs are ended when it is killed."""

    def train(self, key: str) -> Result:
        """Train and keep the exported network; its MLflow run ends in any case.

        Args:
            key: Names the stage's run.

        Returns:
            The MLflow run, the digest of the network's files, and the training in numbers.
        """
        rows = examples.within(self._examples(), self.version.train)
        if self.version.prepare is not None:
            rows = self.version.prepare(rows)
        stage = f"train {self.role}"
        period = f"{self.version.train.start[:10]} to {self.version.train.end[:10]}"
        self.reporter.line(stage, f"{rows.height:,} rows, {period}")
        tags = {self.owner[0]: self.owner[1], "role": self.role, "stage": key}
        name = f"{self.role}-{key[:6]}"
        with runs.tracked(self.tracking, self.recipe.model, name, tags, self._storage) as run_id:
            record.record(
                self.tracking,
                run_id,
                self.version,
                data_versions=self.tables,
                revision=self.connection.revision,
                changes=changes.of_copy(Path.cwd()),
            )
            self.tracking.log_text(run_id, config.to_json(self.recipe) + "\n", "pipeline.json")
            fitted = fit(
                self.version.training,
                rows,
                tracking=self.tracking,
                run_id=run_id,
                storage_path=self._storage,
                progress=lambda done, total, text: self.reporter.progress(
                    stage, done, total, f"{done} {text}"
                ),
            )
            network = self._keep(run_id, fitted, rows)
        return {"run": run_id, "network": network, "fit": asdict(fitted.summary)}

    def search(self, plan: SearchRecipe) -> tuning.Found:
        """Try a search's trials on the version's training rows."""
        rows = examples.within(self._examples(), self.version.train)
        if self.version.prepare is not None:
            rows = self.version.prepare(rows)
        key = config.digest(
            {"version": self.version, "search": plan, "examples": self.tables[examples.TABLE]}
        )
        self.reporter.line("search", f"{plan.num_trials} trials on {rows.height:,} rows")
        learned_from = tables.nodes(self.recipe, self.tables)
        with self.connection.lineage().stage(f"search-{self.role}", key, learned_from) as made:
            found = tuning.run(
                self.version.training, plan, rows,
                tracking=self.tracking, experiment=self.recipe.model, name=f"search-{key}",
                tags={self.owner[0]: self.owner[1], "role": self.role},
                storage_path=self._storage,
                progress=lambda done, total, text: self.reporter.progress(
                    "search", done, total, f"{done} {text}"
                ),
            )  # fmt: skip
            made += [
                Node(kind="run", name=self.recipe.model, version=run_id)
                for run_id in (found.run_id, *(trial.run_id for trial in found.trials))
            ]
        best = min(found.trials, key=lambda trial: trial.best_loss)
        values = ", ".join(f"{name}={value}" for name, value in best.values.items())
        self.reporter.line("search", f"best loss {best.best_loss:.4f} with {values}")
        return found

    def is_trained(self, result: Result) -> bool:
        """Say whether a stored training's network is still there, byte for byte."""
        digest: str = result["network"]
        return self._network_digest(result["run"]) == digest

    def evaluate(self, trained: Result, production: Result | None = None) -> Result:
        """Measure a trained network on the version's period and ask its gates.

        Args:
            trained: What `train` returned.
            production: The same of the version that serves until this one has earned its
                traffic; both are measured on the same rows. None if this is the first.

        Returns:
            The period, the evaluation, and why it was refused, or None.
        """
        rows = examples.within(self._examples(), self.version.evaluate)
        found = self._measured(trained, production, rows)
        gates = judge(found.judged, self.version.gates)
        self.tracking.log_metrics(
            trained["run"], {f"evaluate.{name}": value for name, value in found.metrics.items()}
        )
        period = f"{self.version.evaluate.start[:10]} to {self.version.evaluate.end[:10]}"
        self.reporter.line(f"evaluate {self.role}", f"on {period}: {_said(found, gates)}")
        refusal = gates.refusal(f"{self.recipe.model}, {self.role} version")
        parts = ("subject", "check", "saw", "need")
        return {
            "period": period,
            "evaluation": found.to_dict(),
            "refused": refusal and {name: getattr(refusal, name) for name in parts},
        }

    def _measured(
        self, trained: Result, production: Result | None, rows: pl.DataFrame
    ) -> Evaluation:
        training = self.version.training
        labels = rows[training.label].to_numpy()
        predictor = Predictor.load(self._network(trained["run"]), None)
        scores = columns.score(predictor, rows)
        plan = EvaluationPlan(
            slices=training.categorical, num_resamples=RESAMPLES,
            slice_min_rows=min(200, max(20, rows.height // 5)),
        )  # fmt: skip
        found = evaluate(
            labels, scores, task=training.task, plan=plan,
            slices={name: rows[name].to_list() for name in training.categorical},
        )  # fmt: skip
        tried = trials.run(
            lambda frame: columns.score(predictor, frame), rows, labels,
            inputs=(*training.numeric, *training.categorical), numeric=training.numeric,
            task=training.task, behaviours=self.version.behaviours,
        )  # fmt: skip
        compared = {}
        if production is not None:
            other = Predictor.load(self._network(production["run"]), None)
            compared = trials.against(
                labels, scores, columns.score(other, rows), training.task, plan
            )
        metrics = {**found.metrics, **tried.metrics, **compared}
        return replace(found, metrics=metrics, inputs=tried.inputs)

    def register(self, trained: Result, evaluated: Result) -> Result:
        """Package, sign and register a network that its gates let pass.

        Returns:
            The version and the digest of its package.
        """
        found = Evaluation.from_dict(evaluated["evaluation"])
        lineage = {
            "run": trained["run"],
            "recipe": config.to_dict(self.recipe),
            "tables": self.tables,
            "revision": self.connection.revision,
            "environment": record.environment(),
            "baseline": baseline.cited(self._network(trained["run"])),
        }
        gates = judge(found.judged, self.version.gates)
        with tempfile.TemporaryDirectory(dir=self._storage) as scratch:
            package = Path(scratch) / "package"
            shutil.copytree(self._network(trained["run"]), package)
            digest = export.finish(
                package, self.connection.home.keys, fitted=FitSummary(**trained["fit"]),
                evaluations={evaluated["period"]: found},
                gates=gates, lineage=lineage, serving=self.version.serving,
            )  # fmt: skip
            made = self._registry().register(
                package,
                self.recipe.model,
                trained["run"],
                {"digest": digest, "revision": self.connection.revision, **gates.tags()},
            )
        self.reporter.line(f"register {self.role}", f"version {made.version}, {digest[:19]}")
        return {"version": made.version, "digest": digest}

    def is_registered(self, result: Result) -> bool:
        """Say whether a stored version is still registered and whole."""
        try:
            self._registry().get(self.recipe.model, result["version"])
        except ConfigError:
            return False
        return True

    def restore(self, registered: Result, evaluated: Result) -> Registered:
        """Turn stored results into a version with its package present and verified."""
        found = self._registry().get(self.recipe.model, registered["version"])
        return Registered(
            version=found.version,
            path=found.path,
            metrics=dict(Evaluation.from_dict(evaluated["evaluation"]).metrics),
            evaluated_on=evaluated["period"],
        )

    @property
    def _storage(self) -> Path:
        return self.connection.home.root / "training"

    def _network(self, run_id: str) -> Path:
        return self._storage / run_id / "network"

    def _network_digest(self, run_id: str) -> str:
        folder = self._network(run_id)
        return files_digest([str(path) for path in sorted(folder.glob("*"))])

    def _keep(self, run_id: str, fitted: FitResult, rows: pl.DataFrame) -> str:
        """Write the network, drop rows and checkpoints, and return the network's digest."""
        network = self._network(run_id)
        export.write_network(
            fitted, self.version.training, network,
            model=self.recipe.model, features=reference(self.recipe.service), sample=rows.head(500),
        )  # fmt: skip
        signature = (network / mlmodel.FILE).read_text(encoding="utf-8")
        self.tracking.log_text(run_id, signature, f"model/{mlmodel.FILE}")
        training = self.version.training
        baseline.of(
            rows, numeric=(*training.numeric, training.label), categorical=training.categorical,
            tables=self.tables,
        ).write(network)  # fmt: skip
        for path in network.parent.iterdir():
            if path.is_dir() and path != network:
                shutil.rmtree(path, ignore_errors=True)
        return self._network_digest(run_id)

    def _examples(self) -> pl.DataFrame:
        return self.catalog.read(examples.TABLE, self.tables[examples.TABLE])

    def _registry(self) -> Registry:
        return Registry(self.tracking, self.connection.home)


def reference(service: FeatureService | None) -> FeatureServiceReference | None:
    """Describe a feature service as a package stores it."""
    return None if service is None else service_of(service.describe())


def _said(evaluation: Evaluation, gates: GateReport) -> str:
    metrics = ", ".join(
        f"{name} {evaluation.metrics[name]:.3f}"
        for name in ("auc", "log_loss", "mse")
        if name in evaluation.metrics
    )
    verdict = "gates passed" if gates.passed else "a gate says no"
    for result in gates.waived:
        verdict += f"; {result.gate.name} waived: {result.gate.waived}"
    return f"{metrics}; {verdict}"
