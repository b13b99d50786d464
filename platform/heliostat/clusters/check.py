"""Run every rule over files that anybody wrote; each gets a verdict, none a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heliostat.clusters import document
from heliostat.clusters.checks import (
    cluster_rules,
    encryption,
    kueue_rules,
    object_rules,
    operator_rules,
    pod_rules,
    reach,
    references,
    serve_rules,
    shape,
)
from heliostat.clusters.checks.bundle import Bundle
from heliostat.clusters.document import Document, mapping, mappings
from heliostat.clusters.finding import Finding
from heliostat.errors import ConfigError

Rule = Callable[[Bundle], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    shape.objects,
    shape.builtin,
    shape.kuberay_kinds,
    shape.custom,
    shape.quantities,
    operator_rules.clusters,
    object_rules.names,
    object_rules.jobs,
    object_rules.services,
    kueue_rules.ray_objects,
    kueue_rules.quotas,
    serve_rules.serve_configs,
    serve_rules.runtime_environments,
    serve_rules.start_parameters,
    pod_rules.pods,
    cluster_rules.clusters,
    encryption.volumes,
    references.budgets,
    references.names,
    references.monitors,
    references.services,
    reach.guarded,
)

SKIPPED_FOLDERS = frozenset({"values", "overlays", "terraform"})
"""Folders of a rendered target that hold no objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one check found."""

    findings: tuple[Finding, ...]
    num_files: int
    num_objects: int

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that must be mended before anything is applied."""
        return tuple(item for item in self.findings if item.level == "error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How strictly to judge."""

    kubernetes: str = "1.35"
    is_whole: bool = False
    """The files are all there is: names that none of them has are errors."""

    ray_version: str | None = None
    crds: Path | None = None
    """Folder of CRD files, for kinds that are neither Kubernetes' nor KubeRay's."""

    source_roots: tuple[str, ...] = ()
    """Folders in which import paths of Serve applications must be found."""


def check_paths(paths: Sequence[Path], options: Options) -> Report:
    """Check files and folders together, since they may name each other's objects.

    Raises:
        ConfigError: A path does not exist, or holds no YAML file.
    """
    files = list(_files(paths))
    if not files:
        raise ConfigError("PATH", [str(path) for path in paths], "must hold a file *.yaml or *.yml")
    documents: list[Document] = []
    findings: list[Finding] = []
    for shown, path in files:
        read, faults = document.read_file(path, shown)
        documents += read
        findings += faults
    for path in paths:
        if (path / "recipe.json").is_file():
            findings += encryption.recipe(path / "recipe.json", "recipe.json")
    gates = _gates(paths)
    report = check_documents(documents, options, gates=gates)
    return Report(
        findings=(*findings, *report.findings),
        num_files=len(files),
        num_objects=report.num_objects,
    )


def read_bundle(paths: Sequence[Path]) -> Bundle:
    """Read files and folders that must all be readable.

    Raises:
        ConfigError: A path does not exist or a file cannot be read; the message is its finding.
    """
    documents: list[Document] = []
    for shown, path in _files(paths):
        read, faults = document.read_file(path, shown)
        for fault in faults:
            raise ConfigError(fault.where, fault.value, fault.rule, breaks=fault.breaks)
        documents += read
    return Bundle(documents=documents)


def check_documents(
    documents: Iterable[Document], options: Options, *, gates: Mapping[str, bool] | None = None
) -> Report:
    """Check documents that were read already."""
    kept = [
        item for item in documents if not item.api_version.startswith("kustomize.config.k8s.io")
    ]
    bundle = Bundle(
        documents=kept,
        kubernetes=options.kubernetes,
        gates=gates,
        crds=read_crds(options.crds) if options.crds else {},
        is_whole=options.is_whole,
        ray_version=options.ray_version,
        source_roots=options.source_roots,
    )
    findings: list[Finding] = []
    for rule in RULES:
        findings += _judged(rule, bundle)
    return Report(findings=tuple(findings), num_files=0, num_objects=len(kept))


def _judged(rule: Rule, bundle: Bundle) -> list[Finding]:
    """Run a rule; our own mistake becomes a finding that says so, and the others still run."""
    try:
        return list(rule(bundle))
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - a verdict for every file, whatever is in it
        name = f"{rule.__module__.rsplit('.', 1)[-1]}.{rule.__name__}"
        return [
            Finding(
                check="check.fault", where=name, value=f"{type(error).__name__}: {error}"[:200],
                rule="must judge any manifest; this is a bug of Heliostat's",
            )
        ]  # fmt: skip


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        if path.is_file():
            yield str(path), path
        elif path.is_dir():
            for file in sorted(path.rglob("*")):
                inner = file.relative_to(path)
                is_skipped = bool(SKIPPED_FOLDERS & set(inner.parts[:-1]))
                if file.suffix in (".yaml", ".yml") and file.is_file() and not is_skipped:
                    yield str(inner), file
        else:
            raise ConfigError("PATH", str(path), "must exist")


def _gates(paths: Sequence[Path]) -> Mapping[str, bool] | None:
    """Read the operator's gates from the Helm values of a rendered folder, if they are there."""
    for path in paths:
        values = path / "values" / "kuberay-operator.yaml"
        if values.is_file():
            try:
                content = mapping(document.read_value(values.read_text(encoding="utf-8")))
            except (ValueError, OSError):
                return None
            gates = mappings(content.get("featureGates"))
            return {str(item.get("name")): item.get("enabled") is True for item in gates}
    return None


def read_crds(folder: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Read the schemas of custom resources from CRD files, also in subfolders.

    These come from the projects themselves and are large, so they are read without the limits
    for manifests; a file that is no CRD is skipped.

    Raises:
        ConfigError: There is no CRD in it.
    """
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        try:
            for crd in yaml.load_all(path.read_bytes(), Loader=yaml.CSafeLoader):
                spec = mapping(mapping(crd).get("spec"))
                kind = str(mapping(spec.get("names")).get("kind"))
                for version in mappings(spec.get("versions")):
                    api_version = f"{spec.get('group')}/{version.get('name')}"
                    content = mapping(mapping(version.get("schema")).get("openAPIV3Schema"))
                    if content:
                        found[api_version, kind] = content
        except (yaml.YAMLError, ValueError, OSError):
            continue
    if not found:
        raise ConfigError("--crds", str(folder), "must be a folder with a CRD in it",
                          breaks="nothing would be checked by it")  # fmt: skip
    return found
