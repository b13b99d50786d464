"""What a registered version is made of and how it did, read from its verified package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from heliostat.registry.package import PackageDescription
from heliostat.registry.versions import ModelVersion


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSummary:
    """One version in plain values."""

    model: str
    version: str
    digest: str
    run_id: str
    aliases: tuple[str, ...]
    revision: str
    """Of the code that trained it."""
    tables: Mapping[str, int]
    """Versions of the tables that its rows were made from."""
    num_numeric: int
    num_categorical: int
    features: str | None
    """Feature service with its digest; None where requests carry the inputs."""
    metrics: Mapping[str, Mapping[str, float | None]]
    """By the name of the rows that were measured."""
    gates: Sequence[Mapping[str, Any]]
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def summarise(version: ModelVersion) -> VersionSummary:
    """Read a version whose package is present and verified, as `Registry.get` returns it."""
    description = PackageDescription.read(version.path)
    evidence = json.loads((version.path / "gates.json").read_text(encoding="utf-8"))
    lineage = json.loads((version.path / "lineage.json").read_text(encoding="utf-8"))
    service = description.features
    return VersionSummary(
        model=version.model,
        version=version.version,
        digest=version.digest,
        run_id=version.run_id,
        aliases=version.aliases,
        revision=str(lineage.get("revision", "unknown")),
        tables=dict(sorted(lineage.get("tables", {}).items())),
        num_numeric=len(description.numeric),
        num_categorical=len(description.categorical),
        features=None if service is None else f"{service.project}/{service.name}@{service.digest}",
        metrics={name: item["metrics"] for name, item in evidence["evaluations"].items()},
        gates=evidence["gates"],
        passed=bool(evidence["passed"]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One metric of two versions; rows may differ, so the names of both are told."""

    metric: str
    first: float | None
    second: float | None

    @property
    def change(self) -> float | None:
        """Second minus first; None unless both are there."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first


def compare(first: VersionSummary, second: VersionSummary) -> list[Difference]:
    """Put the metrics of two versions side by side, each as measured on its newest rows.

    >>> Difference(metric="auc", first=0.5, second=0.75).change
    0.25
    """
    one, two = _newest(first), _newest(second)
    return [
        Difference(metric=name, first=one.get(name), second=two.get(name))
        for name in dict.fromkeys([*one, *two])
    ]


def _newest(summary: VersionSummary) -> Mapping[str, float | None]:
    return summary.metrics[max(summary.metrics)] if summary.metrics else {}
