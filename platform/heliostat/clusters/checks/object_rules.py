"""The operator's own validation of names, jobs, schedules and services (KubeRay 1.7), in our words."""

from __future__ import annotations

import itertools
import re
import zoneinfo
from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.clusters.checks.bundle import Bundle, mapping, mappings, number, say
from heliostat.clusters.document import Document, read_value
from heliostat.clusters.finding import Finding

LONGEST_NAME = {"RayCluster": 53, "RayService": 47, "RayJob": 47, "RayCronJob": 36}
_DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_DURATION = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*$")  # fmt: skip
_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_WORDS: tuple[dict[str, int], ...] = (
    {}, {}, {},
    {name: n for n, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)},
    {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])},
)  # fmt: skip
_DESCRIPTORS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}


def names(bundle: Bundle) -> Iterator[Finding]:
    """Names leave room for what the operator appends to them."""
    for item in bundle.ray():
        longest = LONGEST_NAME.get(item.kind)
        if longest is None or not item.name:
            continue
        if len(item.name) > longest:
            yield say(item, "operator.name", "metadata.name", item.name,
                      f"must have at most {longest} characters", f"it has {len(item.name)}")  # fmt: skip
        if not _DNS_1035.match(item.name):
            yield say(item, "operator.name", "metadata.name", item.name,
                      "must be lower-case letters, digits and -, beginning with a letter")  # fmt: skip


def jobs(bundle: Bundle) -> Iterator[Finding]:
    """RayJobs, and the templates of RayCronJobs."""
    for item in bundle.ray():
        if item.kind == "RayJob":
            yield from _job(item, "spec", item.spec)
        elif item.kind == "RayCronJob":
            yield from _job(item, "spec.jobTemplate", mapping(item.spec.get("jobTemplate")))
            yield from _schedule(item, bundle.gates)


def _job(item: Document, path: str, spec: Mapping[str, Any]) -> Iterator[Finding]:
    selector = mapping(spec.get("clusterSelector"))
    cluster = spec.get("rayClusterSpec")
    mode = spec.get("submissionMode", "K8sJobMode")
    retries = number(spec.get("backoffLimit")) or 0
    is_suspended = spec.get("suspend") is True
    if mode not in _MODES:
        yield say(item, "operator.job", f"{path}.submissionMode", mode,
                  "must be one of " + ", ".join(_MODES))  # fmt: skip
    if is_suspended and spec.get("shutdownAfterJobFinishes") is not True:
        yield say(item, "operator.job", f"{path}.suspend", True,
                  "needs shutdownAfterJobFinishes: true")  # fmt: skip
    if not isinstance(cluster, Mapping) and not selector:
        yield say(item, "operator.job", path, None, "must have rayClusterSpec or clusterSelector")
    if selector:
        if not selector.get("ray.io/cluster"):
            yield say(item, "operator.job", f"{path}.clusterSelector", dict(selector),
                      "must have ray.io/cluster with a name")  # fmt: skip
        refused = {"suspend": is_suspended, "submissionMode": mode == "SidecarMode",
                   "backoffLimit": retries > 0}  # fmt: skip
        for key, is_there in refused.items():
            if is_there:
                yield say(item, "operator.job", f"{path}.{key}", spec.get(key),
                          "must not be combined with clusterSelector")  # fmt: skip
    if mode == "InteractiveMode" and retries > 0:
        yield say(item, "operator.job", f"{path}.backoffLimit", retries,
                  "must be 0 in InteractiveMode")  # fmt: skip
    if mode == "SidecarMode":
        for key in ("submitterPodTemplate", "submitterConfig"):
            if spec.get(key) is not None:
                yield say(item, "operator.job", f"{path}.{key}", "...",
                          "must not be set in SidecarMode")  # fmt: skip
    positive = ("activeDeadlineSeconds", "preRunningDeadlineSeconds")
    for key in (*positive, "backoffLimit", "ttlSecondsAfterFinished"):
        value = number(spec.get(key))
        least = 1 if key in positive else 0
        if value is not None and value < least:
            yield say(item, "operator.job", f"{path}.{key}", value, f"must be at least {least}")
    if not spec.get("entrypoint") and mode != "InteractiveMode":
        yield say(item, "operator.job", f"{path}.entrypoint", spec.get("entrypoint"), "must be set",
                  "the submitter would run an empty command")  # fmt: skip
    yield from _deletion(item, path, spec, has_selector=bool(selector))
    yield from _runtime_env_text(item, path, spec)


def _deletion(
    item: Document, path: str, spec: Mapping[str, Any], *, has_selector: bool
) -> Iterator[Finding]:
    shuts_down = spec.get("shutdownAfterJobFinishes") is True
    if not shuts_down and (number(spec.get("ttlSecondsAfterFinished")) or 0) > 0:
        yield say(item, "operator.deletion", f"{path}.ttlSecondsAfterFinished",
                  spec.get("ttlSecondsAfterFinished"), "needs shutdownAfterJobFinishes: true")  # fmt: skip
    strategy = spec.get("deletionStrategy")
    if not isinstance(strategy, Mapping):
        return
    where = f"{path}.deletionStrategy"
    is_autoscaled = mapping(spec.get("rayClusterSpec")).get("enableInTreeAutoscaling") is True
    rules = mappings(strategy.get("deletionRules"))
    if rules and shuts_down:
        yield say(item, "operator.deletion", f"{where}.deletionRules", len(rules),
                  "must not be combined with shutdownAfterJobFinishes")  # fmt: skip
    ttls: dict[tuple[str, Any], dict[str, int]] = {}
    for index, rule in enumerate(rules):
        policy, condition = str(rule.get("policy")), mapping(rule.get("condition"))
        at = f"{where}.deletionRules[{index}]"
        yield from _policy(item, f"{at}.policy", policy, has_selector, is_autoscaled)
        key = ("job", str(condition.get("jobStatus"))) if condition.get("jobStatus") else (
            "deployment", str(condition.get("jobDeploymentStatus")))  # fmt: skip
        known = ttls.setdefault(key, {})
        if policy in known:
            yield say(item, "operator.deletion", at, policy, "must be one rule per condition")
        known[policy] = number(condition.get("ttlSeconds")) or 0
    for condition_key, known in ttls.items():
        ordered = [(name, known[name]) for name in _ORDER if name in known]
        for (before, early), (after, late) in itertools.pairwise(ordered):
            if late < early:
                yield say(item, "operator.deletion", where, {before: early, after: late},
                          f"{after} must not come before {before}", f"for {condition_key[1]}")  # fmt: skip
    for key_name in ("onSuccess", "onFailure"):
        legacy = mapping(strategy.get(key_name)).get("policy")
        if isinstance(strategy.get(key_name), Mapping) and legacy is None:
            yield say(item, "operator.deletion", f"{where}.{key_name}.policy", None, "must be set")
        if legacy is not None:
            yield from _policy(item, f"{where}.{key_name}.policy", str(legacy), has_selector,
                               is_autoscaled)  # fmt: skip
            if legacy == "DeleteNone" and shuts_down:
                yield say(item, "operator.deletion", f"{where}.{key_name}.policy", legacy,
                          "must not be combined with shutdownAfterJobFinishes")  # fmt: skip


def _policy(
    item: Document, where: str, policy: str, has_selector: bool, is_autoscaled: bool
) -> Iterator[Finding]:
    if has_selector and policy in ("DeleteCluster", "DeleteWorkers"):
        yield say(item, "operator.deletion", where, policy, "must not be set with clusterSelector")
    if is_autoscaled and policy == "DeleteWorkers":
        yield say(item, "operator.deletion", where, policy, "must not be set with autoscaling")


def _runtime_env_text(item: Document, path: str, spec: Mapping[str, Any]) -> Iterator[Finding]:
    text = spec.get("runtimeEnvYAML")
    if not isinstance(text, str) or not text.strip():
        return
    try:
        value = read_value(text)
    except ValueError as error:
        yield say(item, "operator.runtime-env", f"{path}.runtimeEnvYAML", str(error),
                  "must be valid YAML")  # fmt: skip
        return
    if not isinstance(value, Mapping):
        yield say(
            item, "operator.runtime-env", f"{path}.runtimeEnvYAML", value, "must be a mapping"
        )


def _schedule(item: Document, gates: Mapping[str, bool] | None) -> Iterator[Finding]:
    schedule = item.spec.get("schedule")
    if isinstance(schedule, str):
        if "TZ" in schedule:
            yield say(item, "operator.schedule", "spec.schedule", schedule,
                      "must not name a time zone; use timeZone")  # fmt: skip
        elif (problem := _cron_problem(schedule)) is not None:
            yield say(item, "operator.schedule", "spec.schedule", schedule,
                      "must be five cron fields", problem)  # fmt: skip
    zone = item.spec.get("timeZone")
    if isinstance(zone, str) and not _is_zone(zone):
        yield say(item, "operator.schedule", "spec.timeZone", zone, "must be an IANA time zone")
    job = mapping(item.spec.get("jobTemplate"))
    if job.get("shutdownAfterJobFinishes") is not True and not job.get("deletionStrategy"):
        yield say(item, "cluster.history", "spec.jobTemplate", None,
                  "must delete its clusters: shutdownAfterJobFinishes or deletionStrategy",
                  "a RayCronJob has no history limit, so every run would leave a cluster")  # fmt: skip
    if gates is None:
        yield say(item, "operator.gate", "", "RayCronJob", "needs this gate of the operator",
                  "it is alpha and off unless the Helm values turn it on", "warning")  # fmt: skip
    elif not gates.get("RayCronJob", False):
        yield say(item, "operator.gate", "", "RayCronJob", "needs this gate of the operator",
                  "the Helm values leave it off; nothing would ever run")  # fmt: skip


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _cron_problem(text: str) -> str | None:
    """Say what is wrong with a schedule as robfig/cron's standard parser reads it."""
    if text.startswith("@"):
        is_known = text in _DESCRIPTORS or bool(
            text.startswith("@every ") and _DURATION.match(text.removeprefix("@every "))
        )
        return None if is_known else f"{text} is no descriptor"
    fields = text.split()
    if len(fields) != 5:
        return f"it has {len(fields)}"
    for field, (low, high), words in zip(fields, _BOUNDS, _WORDS, strict=True):
        for part in field.split(","):
            span, _, step = part.partition("/")
            if "/" in part and not (step.isdecimal() and int(step) > 0):
                return f"{part}: a step must be above 0"
            if span in ("*", "?"):
                continue
            ends = span.split("-")
            numbers = [words.get(end.lower(), int(end) if end.isdecimal() else -1) for end in ends]
            if len(ends) > 2 or any(not low <= n <= high for n in numbers):
                return f"{part}: must lie in {low} to {high}"
            if len(numbers) == 2 and numbers[0] > numbers[1]:
                return f"{part}: must rise"
    return None


def services(bundle: Bundle) -> Iterator[Finding]:
    """RayServices: how they are upgraded, and fields that do nothing."""
    for item in bundle.ray():
        if item.kind != "RayService":
            continue
        cluster = mapping(item.spec.get("rayClusterConfig"))
        head = mapping(mapping(cluster.get("headGroupSpec")).get("headService"))
        if mapping(head.get("metadata")).get("name"):
            yield say(item, "operator.service",
                      "spec.rayClusterConfig.headGroupSpec.headService.metadata.name",
                      mapping(head.get("metadata")).get("name"), "must be left to the operator")  # fmt: skip
        if cluster.get("upgradeStrategy") is not None:
            yield say(item, "operator.service", "spec.rayClusterConfig.upgradeStrategy", "...",
                      "must not be set inside a RayService")  # fmt: skip
        for key in ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold"):
            if item.spec.get(key) is not None:
                yield say(item, "operator.service", f"spec.{key}", item.spec.get(key),
                          "has no effect any more", None, "warning")  # fmt: skip
        yield from _initializing(item)
        yield from _upgrade(item, cluster)


def _initializing(item: Document) -> Iterator[Finding]:
    key = "ray.io/initializing-timeout"
    value = mapping(item.metadata.get("annotations")).get(key)
    if value in (None, ""):
        return
    text = str(value)
    is_duration = _DURATION.match(text) and not text.startswith("-") and re.search(r"[1-9]", text)
    if not is_duration and not (text.isdecimal() and int(text) > 0):
        yield say(item, "operator.service", f"metadata.annotations.{key}", value,
                  "must be a positive duration such as 30m")  # fmt: skip


def _upgrade(item: Document, cluster: Mapping[str, Any]) -> Iterator[Finding]:
    strategy = mapping(item.spec.get("upgradeStrategy"))
    kind, where = strategy.get("type"), "spec.upgradeStrategy"
    kinds = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
    if kind is not None and kind not in kinds:
        yield say(
            item, "operator.upgrade", f"{where}.type", kind, "must be one of " + ", ".join(kinds)
        )
    if kind != "NewClusterWithIncrementalUpgrade":
        return
    if cluster.get("enableInTreeAutoscaling") is not True:
        yield say(item, "operator.upgrade", f"{where}.type", kind, "needs enableInTreeAutoscaling")
    options = strategy.get("clusterUpgradeOptions")
    if not isinstance(options, Mapping):
        yield say(
            item, "operator.upgrade", f"{where}.clusterUpgradeOptions", options, "must be set"
        )
        return
    surge, step = (
        number(options.get("maxSurgePercent", 100)),
        number(options.get("stepSizePercent")),
    )
    for key, value in (("maxSurgePercent", surge), ("stepSizePercent", step)):
        if value is None or not 0 <= value <= 100:
            yield say(item, "operator.upgrade", f"{where}.clusterUpgradeOptions.{key}",
                      options.get(key), "must be 0 to 100")  # fmt: skip
    if surge is not None and step is not None and step > surge:
        yield say(item, "operator.upgrade", f"{where}.clusterUpgradeOptions.stepSizePercent", step,
                  f"must be at most maxSurgePercent {surge}")  # fmt: skip
    interval = number(options.get("intervalSeconds"))
    if interval is None or interval <= 0:
        yield say(item, "operator.upgrade", f"{where}.clusterUpgradeOptions.intervalSeconds",
                  options.get("intervalSeconds"), "must be above 0")  # fmt: skip
    if not options.get("gatewayClassName"):
        yield say(item, "operator.upgrade", f"{where}.clusterUpgradeOptions.gatewayClassName",
                  options.get("gatewayClassName"), "must be set")  # fmt: skip
