"""Make one version of the model: train, evaluate, gate, package, register."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat import config
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError
from heliostat.features.definitions import FeatureService
from heliostat.inference.predictor import Predictor
from heliostat.pipeline import examples
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe, VersionRecipe
from heliostat.pipeline.stages import Result
from heliostat.registry.package import FeatureServiceReference, FeatureViewReference
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import Registry
from heliostat.training import export, record, scoring
from heliostat.training.evaluate import Evaluation, EvaluationPlan, evaluate
from heliostat.training.fit import FitResult, fit
from heliostat.training.gates import GateReport, judge

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A registered version that may be deployed."""

    version: str
    path: Path
    """Verified package."""
    metrics: dict[str, float]
    """What was measured on `evaluated_on`."""
    evaluated_on: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Maker:
    """Makes versions for one run."""

    recipe: PipelineRecipe
    connection: Connection
    catalog: Catalog
    tracking: Tracking
    reporter: Reporter
    owner: tuple[str, str]
    """Tag that names the job, so that its runs are ended when it is killed."""

    def make(self, role: str, recipe: VersionRecipe, tables: dict[str, int], key: str) -> Result:
        """Train, evaluate, gate and register one version; its MLflow run ends in any case.

        Args:
            role: ``stable`` or ``candidate``, for people.
            recipe: How.
            tables: Versions of the tables that its rows were made from.
            key: Names the stage's run.

        Returns:
            The version, or why it was refused, as plain values.
        """
        rows = self.catalog.read(examples.TABLE, tables[examples.TABLE])
        train_rows = examples.within(rows, recipe.train)
        if recipe.prepare is not None:
            train_rows = recipe.prepare(train_rows)
        stage = f"train {role}"
        self.reporter.line(
            stage,
            f"{train_rows.height:,} rows, {recipe.train.start[:10]} to {recipe.train.end[:10]}",
        )
        tags = {
            self.owner[0]: self.owner[1],
            "role": role,
            "stage": key,
        }
        with self.tracking.run(self.recipe.model, f"{role}-{key[:6]}", tags) as run_id:
            record.record(
                self.tracking,
                run_id,
                recipe,
                data_versions=tables,
                revision=self.connection.revision,
            )
            self.tracking.log_text(run_id, config.to_json(self.recipe) + "\n", "pipeline.json")
            fitted = fit(
                recipe.training,
                train_rows,
                tracking=self.tracking,
                run_id=run_id,
                storage_path=self.connection.home.root / "training",
                progress=lambda done, total, text: self.reporter.progress(
                    stage, done, total, f"{done} {text}"
                ),
            )
            evaluated = examples.within(rows, recipe.evaluate)
            result = self._judge(stage, recipe, fitted, evaluated, run_id, tables)
        shutil.rmtree(self.connection.home.root / "training" / run_id, ignore_errors=True)
        return result

    def exists(self, result: Result) -> bool:
        """Say whether a stored result still holds: refused, or registered and whole."""
        if result["refused"]:
            return True
        try:
            self._registry().get(self.recipe.model, result["version"])
        except ConfigError:
            return False
        return True

    def restore(self, result: Result) -> Trained:
        """Turn a stored result into a version with its package present and verified."""
        found = self._registry().get(self.recipe.model, result["version"])
        return Trained(
            version=found.version,
            path=found.path,
            metrics=result["metrics"],
            evaluated_on=result["evaluated_on"],
        )

    def _registry(self) -> Registry:
        return Registry(self.tracking, self.connection.home)

    def _judge(
        self,
        stage: str,
        recipe: VersionRecipe,
        fitted: FitResult,
        rows: pl.DataFrame,
        run_id: str,
        tables: dict[str, int],
    ) -> Result:
        package = self.connection.home.root / "training" / run_id / "package"
        export.write_network(
            fitted, recipe.training, package,
            model=self.recipe.model, features=reference(self.recipe.service), sample=rows.head(500),
        )  # fmt: skip
        evaluation = self._evaluate(recipe, package, rows)
        gates = judge(evaluation.metrics, recipe.gates)
        self.tracking.log_metrics(
            run_id, {f"evaluate.{name}": value for name, value in evaluation.metrics.items()}
        )
        period = f"{recipe.evaluate.start[:10]} to {recipe.evaluate.end[:10]}"
        self.reporter.line(stage, f"on {period}: {_said(evaluation, gates)}")
        lineage = {
            "run": run_id,
            "recipe": config.to_dict(self.recipe),
            "tables": tables,
            "revision": self.connection.revision,
            "environment": record.environment(),
        }
        digest = export.finish(
            package, self.connection.home.keys, fitted=fitted,
            evaluations={period: evaluation}, gates=gates, lineage=lineage,
        )  # fmt: skip
        result: Result = {
            "version": None,
            "digest": digest,
            "run": run_id,
            "metrics": dict(evaluation.metrics),
            "evaluated_on": period,
            "refused": None,
        }
        refusal = gates.refusal(f"{self.recipe.model}, {stage.removeprefix('train ')} version")
        if refusal is not None:
            names = ("subject", "check", "saw", "need")
            return {**result, "refused": {name: getattr(refusal, name) for name in names}}
        version = self._registry().register(
            package,
            self.recipe.model,
            run_id,
            {"digest": digest, "revision": self.connection.revision},
        )
        self.reporter.line(stage, f"registered as version {version.version}, {digest[:19]}")
        return {**result, "version": version.version}

    def _evaluate(self, recipe: VersionRecipe, package: Path, rows: pl.DataFrame) -> Evaluation:
        scores = scoring.score(Predictor.load(package, None), rows)
        return evaluate(
            rows[recipe.training.label].to_numpy(),
            scores,
            task=recipe.training.task,
            slices={name: rows[name].to_list() for name in recipe.training.categorical},
            plan=EvaluationPlan(slices=recipe.training.categorical, num_resamples=20),
        )


def reference(service: FeatureService) -> FeatureServiceReference:
    """Describe a feature service as a package stores it."""
    plain = service.describe()
    views = tuple(FeatureViewReference(**view) for view in plain["views"])
    return FeatureServiceReference(**{**plain, "views": views})


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
