"""Kubernetes' own schemas, of the versions that the package `kubernetes-validate` carries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import resources, util
from pathlib import Path
from typing import Any

from heliostat.clusters import structural
from heliostat.clusters.structural import Fault, Schema
from heliostat.config import require
from heliostat.errors import ConfigError

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
"""Minor versions of Kubernetes that manifests are held against."""

_PREFIXES = ("/api/_definitions.json#/$defs/", "#/$defs/", "core:")


@lru_cache(maxsize=len(VERSIONS))
def definitions(version: str) -> Mapping[str, Schema]:
    """Load all definitions of one minor version, closed against unknown fields.

    Raises:
        ConfigError: Not one of `VERSIONS`, or the package with the schemas is not installed.
    """
    require(version in VERSIONS, "--kubernetes", version, "must be one of " + ", ".join(VERSIONS))
    if util.find_spec("kubernetes_validate") is None:
        raise ConfigError(
            "kubernetes-validate", None, "must be installed: it holds Kubernetes' schemas",
            next_step="pip install 'heliostat[dev]'",
        )  # fmt: skip
    root = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    folder = Path(str(root)) / f"v{version}.0-local-strict"
    raw = json.loads((folder / "_definitions.json").read_bytes())
    found: Mapping[str, Schema] = raw["$defs"]
    return found


@lru_cache(maxsize=len(VERSIONS))
def kinds(version: str) -> Mapping[tuple[str, str], str]:
    """Map (apiVersion, kind) to the definition's name."""
    found = {}
    for name, schema in definitions(version).items():
        for item in schema.get("x-kubernetes-group-version-kind", ()):
            group = f"{item['group']}/" if item["group"] else ""
            found[f"{group}{item['version']}", item["kind"]] = name
    return found


def resolver(version: str) -> structural.Resolve:
    """Give the function that follows references within one version."""
    known = definitions(version)

    def resolve(reference: str) -> Schema:
        for prefix in _PREFIXES:
            if reference.startswith(prefix):
                return known[reference.removeprefix(prefix)]
        raise KeyError(reference)

    return resolve


def object_faults(version: str, body: Mapping[str, Any]) -> Iterator[Fault]:
    """Hold an object of Kubernetes against its schema; none for kinds that are not built in."""
    name = kinds(version).get((str(body.get("apiVersion")), str(body.get("kind"))))
    if name is not None:
        yield from structural.faults(definitions(version)[name], body, resolver(version))


def is_builtin(version: str, api_version: str, kind: str) -> bool:
    """Say whether Kubernetes itself knows the kind."""
    return (api_version, kind) in kinds(version)
