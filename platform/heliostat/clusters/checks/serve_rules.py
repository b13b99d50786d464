"""Serve configs, runtime environments and `ray start` parameters, as strictly as Ray should be.

Ray 2.60 drops keys that it does not know and takes a least number of replicas above the most; a
config that "worked" may have done nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heliostat.clusters.checks.bundle import Bundle, mapping, mappings, number, say
from heliostat.clusters.checks.ray_names import (
    ACTOR,
    APPLICATION,
    AUTOSCALING,
    DEPLOY,
    DEPLOYMENT,
    HTTP,
    LOGGING,
    RUNTIME_ENV,
    START,
)
from heliostat.clusters.document import Document, read_value
from heliostat.clusters.finding import Finding
from heliostat.errors import nearest

_IMPORT = re.compile(r"^[A-Za-z_][\w.]*[:.][A-Za-z_][\w.]*$")
_REMOTE = ("http://", "https://", "s3://", "gs://", "azure://", "abfss://", "file://", "gcs://")


def serve_configs(bundle: Bundle) -> Iterator[Finding]:
    """The ``serveConfigV2`` of every RayService."""
    for item in bundle.ray():
        if item.kind != "RayService":
            continue
        text = item.spec.get("serveConfigV2")
        if not isinstance(text, str) or not text.strip():
            yield say(item, "serve.config", "spec.serveConfigV2", text, "must be set",
                      "the service would have no application and never become ready")  # fmt: skip
            continue
        try:
            config = read_value(text)
        except ValueError as error:
            yield say(item, "serve.config", "spec.serveConfigV2", str(error), "must be valid YAML")
            continue
        if not isinstance(config, Mapping):
            yield say(item, "serve.config", "spec.serveConfigV2", config, "must be a mapping")
            continue
        yield from config_faults(item, "spec.serveConfigV2", config, bundle.source_roots)


def config_faults(
    item: Document, where: str, config: Mapping[str, Any], source_roots: Any = ()
) -> Iterator[Finding]:
    """Check one Serve config; `source_roots` are folders for its import paths."""
    yield from _known(item, where, config, DEPLOY)
    yield from _known(item, f"{where}.http_options", mapping(config.get("http_options")), HTTP)
    yield from _known(
        item, f"{where}.logging_config", mapping(config.get("logging_config")), LOGGING
    )
    if config.get("proxy_location", "EveryNode") not in ("EveryNode", "HeadOnly", "Disabled"):
        yield say(item, "serve.value", f"{where}.proxy_location", config["proxy_location"],
                  "must be EveryNode, HeadOnly or Disabled")  # fmt: skip
    applications = mappings(config.get("applications"))
    if not applications:
        yield say(item, "serve.config", f"{where}.applications", config.get("applications"),
                  "must have at least one application")  # fmt: skip
    for key in ("name", "route_prefix"):
        default = "default" if key == "name" else "/"
        values = [app.get(key, default) for app in applications]
        for value in {str(v) for v in values if v is not None and values.count(v) > 1}:
            yield say(item, "serve.value", f"{where}.applications", value, f"{key} must be unique")
    for index, app in enumerate(applications):
        at = f"{where}.applications[{app.get('name', index)}]"
        yield from _application(item, at, app, source_roots)


def _application(
    item: Document, where: str, app: Mapping[str, Any], source_roots: Any
) -> Iterator[Finding]:
    yield from _known(item, where, app, APPLICATION)
    path = app.get("import_path")
    if not isinstance(path, str) or not _IMPORT.match(path):
        yield say(item, "serve.import", f"{where}.import_path", path, "must be written module:name")
    elif source_roots:
        yield from _importable(item, f"{where}.import_path", path, source_roots)
    prefix = app.get("route_prefix", "/")
    if prefix is not None and (not isinstance(prefix, str) or not _is_route(prefix)):
        yield say(item, "serve.value", f"{where}.route_prefix", prefix,
                  "must begin with /, not end with one, and hold no braces")  # fmt: skip
    yield from runtime_env_faults(item, f"{where}.runtime_env", app.get("runtime_env"))
    seen: list[Any] = []
    for index, deployment in enumerate(mappings(app.get("deployments"))):
        at = f"{where}.deployments[{deployment.get('name', index)}]"
        if deployment.get("name") in seen:
            yield say(item, "serve.value", at, deployment.get("name"), "name must be unique")
        seen.append(deployment.get("name"))
        yield from _deployment(item, at, deployment)


def _is_route(prefix: str) -> bool:
    return prefix.startswith("/") and not (len(prefix) > 1 and prefix.endswith("/")) and not (
        set("{}") & set(prefix)
    )  # fmt: skip


def _deployment(item: Document, where: str, deployment: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _known(item, where, deployment, DEPLOYMENT)
    if not isinstance(deployment.get("name"), str):
        yield say(item, "serve.value", f"{where}.name", deployment.get("name"), "must be set")
    options = mapping(deployment.get("ray_actor_options"))
    yield from _known(item, f"{where}.ray_actor_options", options, ACTOR)
    yield from runtime_env_faults(item, f"{where}.ray_actor_options.runtime_env",
                                  options.get("runtime_env"))  # fmt: skip
    for key in ("num_cpus", "num_gpus", "memory"):
        value = options.get(key)
        if value is not None and not (_is_number(value) and value >= 0):
            yield say(item, "serve.value", f"{where}.ray_actor_options.{key}", value,
                      "must be a number of 0 or more")  # fmt: skip
    num_replicas = deployment.get("num_replicas")
    autoscaling = deployment.get("autoscaling_config")
    if autoscaling is not None and num_replicas not in (None, "auto"):
        yield say(item, "serve.value", f"{where}.num_replicas", num_replicas,
                  "must not be combined with autoscaling_config")  # fmt: skip
    if num_replicas not in (None, "auto") and (number(num_replicas) is None or num_replicas < 1):
        yield say(item, "serve.value", f"{where}.num_replicas", num_replicas,
                  "must be 1 or more, or auto")  # fmt: skip
    most = number(deployment.get("max_ongoing_requests"))
    if most is not None and most < 1:
        yield say(item, "serve.value", f"{where}.max_ongoing_requests", most, "must be 1 or more")
    queued = number(deployment.get("max_queued_requests"))
    if queued is not None and queued < -1:
        yield say(item, "serve.value", f"{where}.max_queued_requests", queued, "must be -1 or more")
    if isinstance(autoscaling, Mapping):
        yield from _autoscaling(item, f"{where}.autoscaling_config", autoscaling)


def _autoscaling(item: Document, where: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _known(item, where, config, AUTOSCALING)
    low, high = number(config.get("min_replicas", 1)), number(config.get("max_replicas", 1))
    for key, value in (("min_replicas", low), ("max_replicas", high)):
        least = 0 if key == "min_replicas" else 1
        if value is None or value < least:
            yield say(item, "serve.autoscaling", f"{where}.{key}", config.get(key),
                      f"must be {least} or more")  # fmt: skip
    if low is not None and high is not None and low > high:
        yield say(item, "serve.autoscaling", f"{where}.min_replicas", low,
                  f"must be at most max_replicas {high}")  # fmt: skip
    first = number(config.get("initial_replicas"))
    if first is not None and low is not None and high is not None and not low <= first <= high:
        yield say(item, "serve.autoscaling", f"{where}.initial_replicas", first,
                  f"must lie in {low} to {high}")  # fmt: skip
    target = config.get("target_ongoing_requests")
    if target is not None and not (_is_number(target) and target > 0):
        yield say(item, "serve.autoscaling", f"{where}.target_ongoing_requests", target,
                  "must be above 0")  # fmt: skip


def _importable(item: Document, where: str, path: str, source_roots: Any) -> Iterator[Finding]:
    """Find the module's file and the name in it without running either."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    relative = Path(*module.split("."))
    for root in source_roots:
        for candidate in (
            Path(root, relative).with_suffix(".py"),
            Path(root, relative, "__init__.py"),
        ):
            if candidate.is_file():
                if name.split(".")[0] not in _names(candidate):
                    yield say(item, "serve.import", where, path, f"{module} must define {name}")
                return
    yield say(item, "serve.import", where, path, "must be importable",
              f"no module {module} below {', '.join(map(str, source_roots))}")  # fmt: skip


def _names(path: Path) -> set[str]:
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return set()
    found: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


def runtime_environments(bundle: Bundle) -> Iterator[Finding]:
    """The ``runtimeEnvYAML`` of jobs."""
    for item in bundle.ray():
        for path in (("spec",), ("spec", "jobTemplate")):
            spec: Any = item.body
            for step in path:
                spec = mapping(mapping(spec).get(step))
            text = spec.get("runtimeEnvYAML")
            if isinstance(text, str):
                try:
                    value = read_value(text)
                except ValueError:
                    continue  # the operator's own rule names it
                yield from runtime_env_faults(item, ".".join((*path, "runtimeEnvYAML")), value)


def runtime_env_faults(item: Document, where: str, value: Any) -> Iterator[Finding]:
    """Check one runtime environment; None and an empty one are fine."""
    if not isinstance(value, Mapping):
        if value is not None:
            yield say(item, "serve.runtime-env", where, value, "must be a mapping")
        return
    yield from _known(item, where, value, RUNTIME_ENV, check="serve.runtime-env")
    folder = value.get("working_dir")
    if folder is not None and not (isinstance(folder, str) and folder.startswith(_REMOTE)):
        yield say(item, "serve.runtime-env", f"{where}.working_dir", folder,
                  "must be a remote address", "a cluster cannot see a folder of yours")  # fmt: skip
    for key, content in mapping(value.get("env_vars")).items():
        if not isinstance(content, str):
            yield say(item, "serve.runtime-env", f"{where}.env_vars.{key}", content, "must be text")
    if value.get("pip") and value.get("conda"):
        yield say(item, "serve.runtime-env", where, ["pip", "conda"], "must not have both")


def start_parameters(bundle: Bundle) -> Iterator[Finding]:
    """``rayStartParams``: names that ``ray start`` has, values that are text."""
    for cluster in bundle.clusters():
        for group in cluster.groups:
            for key, value in group.params.items():
                path = f"{group.path}.rayStartParams.{key}".removeprefix(f"{cluster.path}.")
                if key not in START:
                    yield cluster.say("ray.start", path, value, "is no option of `ray start`",
                                      nearest(str(key), START)[:200])  # fmt: skip
                if key in ("num-cpus", "num-gpus", "memory", "object-store-memory") and not (
                    isinstance(value, str) and value.isdecimal()
                ):
                    yield cluster.say("ray.start", path, value, "must be a whole number as text")


def _known(
    item: Document, where: str, value: Mapping[str, Any], known: frozenset[str], *,
    check: str = "serve.unknown",
) -> Iterator[Finding]:  # fmt: skip
    for key in value:
        if key not in known:
            yield say(item, check, f"{where}.{key}", value[key],
                      "is no key here; Ray drops it without a word", nearest(str(key), known)[:200])  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
