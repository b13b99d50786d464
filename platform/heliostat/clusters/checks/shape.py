"""Schemas and CEL rules: what the API server itself refuses or silently drops."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.clusters import cel, kuberay, kubernetes_schemas, schema, structural
from heliostat.clusters.checks.bundle import Bundle, mapping, mappings, say
from heliostat.clusters.document import Document
from heliostat.clusters.finding import Finding

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
_QUANTITY = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$")
_METADATA = "core:io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def objects(bundle: Bundle) -> Iterator[Finding]:
    """Every document is an object with a name, and no two have the same."""
    seen: dict[tuple[str, str, str, str], str] = {}
    for item in bundle.documents:
        for key in ("apiVersion", "kind"):
            if not isinstance(item.body.get(key), str) or not item.body[key]:
                yield say(item, "object.kind", key, item.body.get(key), "must be set")
        name = item.metadata.get("name")
        has_generated = isinstance(item.metadata.get("generateName"), str)
        if not isinstance(name, str) and not has_generated:
            yield say(item, "object.name", "metadata.name", name, "must be set")
        elif isinstance(name, str) and (not _NAME.match(name) or len(name) > 253):
            yield say(item, "object.name", "metadata.name", name,
                      "must be lower-case letters, digits, - and .")  # fmt: skip
        identity = (item.api_version, item.kind, item.namespace, item.name)
        if item.name and identity in seen:
            yield say(item, "object.unique", "metadata.name", item.name, "must be unique",
                      f"also in {seen[identity]}; the last one applied wins")  # fmt: skip
        seen[identity] = item.file


def builtin(bundle: Bundle) -> Iterator[Finding]:
    """Kubernetes' own kinds follow its schema, unknown fields refused."""
    for item in bundle.documents:
        for fault in kubernetes_schemas.object_faults(bundle.kubernetes, item.body):
            yield _finding(item, "schema.core", fault, "")


def kuberay_kinds(bundle: Bundle) -> Iterator[Finding]:
    """KubeRay's kinds follow our typed models, defaults applied as the API server does."""
    resolve = kubernetes_schemas.resolver(bundle.kubernetes)
    for item in bundle.ray():
        cls = kuberay.SPECS.get(item.kind)
        if cls is None:
            yield say(item, "schema.kuberay", "kind", item.kind, "must be one of KubeRay's kinds",
                      ", ".join(sorted(kuberay.SPECS)))  # fmt: skip
            continue
        if item.api_version != kuberay.API_VERSION:
            yield say(item, "schema.version", "apiVersion", item.api_version, "must be ray.io/v1",
                      "KubeRay 1.7 deprecates v1alpha1", "warning")  # fmt: skip
        unknown = set(item.body) - {"apiVersion", "kind", "metadata", "spec", "status"}
        for key in sorted(map(str, unknown)):
            rule = "is no field here; the API server drops it without a word"
            yield say(item, "schema.kuberay", key, item.body[key], rule)
        if not isinstance(item.body.get("spec"), Mapping):
            yield say(item, "schema.kuberay", "spec", item.body.get("spec"), "must be a mapping")
            continue
        model = schema.structural(cls)
        filled = structural.with_defaults(model, item.spec)
        for fault in structural.faults(model, filled, resolve):
            yield _finding(item, "schema.kuberay", fault, "spec.")
        for fault in structural.faults({"$ref": _METADATA}, item.metadata, resolve):
            yield _finding(item, "schema.metadata", fault, "metadata.")
        yield from _rules(item, filled)


def custom(bundle: Bundle) -> Iterator[Finding]:
    """Other custom resources follow the CRDs that the user gave; so do KubeRay's."""
    if bundle.crds and bundle.documents and not cel.is_available():
        yield say(bundle.documents[0], "cel.left-out", "", None, "its CRD's rules were not evaluated",
                  "the extra 'cel' is not installed", "warning")  # fmt: skip
    for item in bundle.documents:
        found = bundle.crds.get((item.api_version, item.kind))
        if found is not None:
            filled = structural.with_defaults(found, dict(item.body))
            shape_faults = list(structural.faults(found, filled))
            for fault in shape_faults:
                yield _finding(item, "schema.crd", fault, "")
            if not shape_faults and cel.is_available():
                for fault in cel.faults(found, filled):
                    yield _finding(item, "cel.rule", fault, "")


def quantities(bundle: Bundle) -> Iterator[Finding]:
    """Amounts of resources can be read, and a limit is not below its request."""
    for item in bundle.documents:
        yield from _quantities(item, item.body, "")


def _quantities(item: Document, value: Any, path: str) -> Iterator[Finding]:
    """Walk without recursion limits in mind: documents nest at most 64 levels."""
    if isinstance(value, Mapping):
        resources = value.get("resources")
        if isinstance(resources, Mapping) and (set(resources) & {"limits", "requests"}):
            yield from _amounts(item, resources, f"{path}.resources".lstrip("."))
        for key, inner in value.items():
            yield from _quantities(item, inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _quantities(item, inner, f"{path}[{index}]")


def _amounts(item: Document, resources: Mapping[str, Any], path: str) -> Iterator[Finding]:
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    for word, amounts in (("limits", limits), ("requests", requests)):
        for key, amount in amounts.items():
            if quantity(amount) is None:
                yield say(item, "schema.quantity", f"{path}.{word}.{key}", amount,
                          "must be an amount such as 2, 500m or 4Gi")  # fmt: skip
    for key, amount in requests.items():
        low, high = quantity(amount), quantity(limits.get(key))
        if low is not None and high is not None and low > high:
            yield say(item, "schema.quantity", f"{path}.requests.{key}", amount,
                      f"must be at most the limit {limits[key]}")  # fmt: skip


_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
             "E": 1e18, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
             "Pi": 2.0**50, "Ei": 2.0**60}  # fmt: skip


def quantity(value: Any) -> float | None:
    """Read a Kubernetes quantity.

    >>> quantity("500m"), quantity("4Gi"), quantity(2), quantity("many")
    (0.5, 4294967296.0, 2.0, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str) or len(value) > 40 or not _QUANTITY.match(value):
        return None
    for suffix, factor in sorted(_SUFFIXES.items(), key=lambda pair: -len(pair[0])):
        if value.endswith(suffix):
            return float(value.removesuffix(suffix)) * factor
    return float(value)


def _rules(item: Document, spec: Mapping[str, Any]) -> Iterator[Finding]:
    """The CRDs' CEL rules that hold at creation."""
    managers = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
    places = {"spec.managedBy": spec.get("managedBy")}
    for key in ("rayClusterSpec", "rayClusterConfig", "jobTemplate"):
        places[f"spec.{key}.managedBy"] = mapping(spec.get(key)).get("managedBy")
    inner = mapping(mapping(spec.get("jobTemplate")).get("rayClusterSpec"))
    places["spec.jobTemplate.rayClusterSpec.managedBy"] = inner.get("managedBy")
    for path, value in places.items():
        if value is not None and value not in managers:
            yield say(item, "cel.managed-by", path, value, "must be one of " + ", ".join(managers))
    for path, job in (("spec", spec), ("spec.jobTemplate", mapping(spec.get("jobTemplate")))):
        yield from _deletion(item, path, job.get("deletionStrategy"))


def _deletion(item: Document, path: str, strategy: Any) -> Iterator[Finding]:
    if not isinstance(strategy, Mapping):
        return
    where = f"{path}.deletionStrategy"
    has_rules = strategy.get("deletionRules") is not None
    legacy = [strategy.get(key) is not None for key in ("onSuccess", "onFailure")]
    if has_rules and any(legacy):
        yield say(item, "cel.deletion", where, sorted(strategy),
                  "must not mix deletionRules with onSuccess and onFailure")  # fmt: skip
    if not has_rules and not all(legacy):
        yield say(item, "cel.deletion", where, sorted(strategy),
                  "must have deletionRules, or both onSuccess and onFailure")  # fmt: skip
    for index, rule in enumerate(mappings(strategy.get("deletionRules"))):
        condition = mapping(rule.get("condition"))
        statuses = [key for key in ("jobStatus", "jobDeploymentStatus") if condition.get(key)]
        if len(statuses) != 1:
            yield say(item, "cel.deletion", f"{where}.deletionRules[{index}].condition", statuses,
                      "must have exactly one of jobStatus and jobDeploymentStatus")  # fmt: skip


def _finding(item: Document, check: str, fault: structural.Fault, prefix: str) -> Finding:
    path = prefix + fault.path
    return say(item, check, path.rstrip("."), fault.value, fault.rule, fault.breaks)
