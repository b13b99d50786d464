"""Rules for Pods, as written and as the operator makes them: the restricted standard, images, secrets.

Source of the standard: Kubernetes' Pod Security Standards, level "restricted".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.clusters.checks import materialise
from heliostat.clusters.checks.bundle import Bundle, items, mapping, mappings, pod_templates, say
from heliostat.clusters.document import Document
from heliostat.clusters.finding import Finding, Level

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
            "projected", "secret", "image"}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip
_SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|TOKEN|SECRET|API_KEY|ACCESS_KEY|CREDENTIALS)(_|$)")
_NOT_SECRET = re.compile(r"(_PATH|_FILE|_NAME|_URL|_MODE|_TTL\w*)$")
_TAG = re.compile(r":[\w][\w.-]{0,127}(@sha256:[0-9a-f]{64})?$")

Said = Iterator[tuple[str, str, Any, str, str | None, Level]]


def pods(bundle: Bundle) -> Iterator[Finding]:
    """Check every Pod: those of built-in kinds, and those that the operator makes."""
    for item in bundle.documents:
        for path, template in pod_templates(item):
            spec = mapping(template.get("spec"))
            for check, inner, value, rule, breaks, level in _pod(spec):
                yield say(
                    item, check, f"{path}.spec{inner}".lstrip("."), value, rule, breaks, level
                )
    for cluster in bundle.clusters():
        for made in materialise.pods(cluster):
            where = f"{made.group.path}.template"
            spec = mapping(made.body["spec"])
            for check, inner, value, rule, breaks, level in _pod(spec):
                yield say(
                    cluster.document, check, f"{where}.spec{inner}", value, rule, breaks, level
                )
            yield from _mounts(cluster.document, where, made.body)
    for item in bundle.of_kind("RayJob", "RayCronJob"):
        if item in bundle.ray():
            yield from _submitters(item)


def _submitters(item: Document) -> Iterator[Finding]:
    job, path = item.spec, "spec"
    if item.kind == "RayCronJob":
        job, path = mapping(job.get("jobTemplate")), "spec.jobTemplate"
    template = job.get("submitterPodTemplate")
    if isinstance(template, Mapping):
        for check, inner, value, rule, breaks, level in _pod(mapping(template.get("spec"))):
            where = f"{path}.submitterPodTemplate.spec{inner}"
            yield say(item, check, where, value, rule, breaks, level)


def _mounts(item: Document, where: str, body: Mapping[str, Any]) -> Iterator[Finding]:
    """What a container mounts exists, and each path once; the schema judged the rest already."""
    spec = mapping(body.get("spec"))
    names = [volume.get("name") for volume in mappings(spec.get("volumes"))]
    for kind in ("initContainers", "containers"):
        for container in mappings(spec.get(kind)):
            paths: list[Any] = []
            for mount in mappings(container.get("volumeMounts")):
                at = f"{where}.spec.{kind}[{container.get('name')}].volumeMounts"
                if mount.get("name") not in names:
                    yield say(item, "pod.volume", at, mount.get("name"), "must name a volume")
                if mount.get("mountPath") in paths:
                    yield say(
                        item, "pod.volume", at, mount.get("mountPath"), "must be mounted once"
                    )
                paths.append(mount.get("mountPath"))


def _pod(spec: Mapping[str, Any]) -> Said:
    security = mapping(spec.get("securityContext"))
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key) is True:
            yield (
                "pod.host",
                f".{key}",
                True,
                "must not be set",
                "it shares the node's own",
                "error",
            )
    for volume in mappings(spec.get("volumes")):
        kinds = sorted(set(volume) - {"name"})
        for kind in kinds:
            if kind not in _VOLUMES:
                breaks = "it opens the node's disk" if kind == "hostPath" else None
                yield ("pod.volume-kind", f".volumes[{volume.get('name')}]", kind,
                       "must not be used in a restricted Pod", breaks, "error")  # fmt: skip
    for control in mappings(security.get("sysctls")):
        if str(control.get("name")) not in _SYSCTLS:
            yield ("pod.sysctl", ".securityContext.sysctls", control.get("name"),
                   "must be a safe one", None, "error")  # fmt: skip
    if security.get("runAsUser") == 0:
        yield ("pod.root", ".securityContext.runAsUser", 0, "must not be root", None, "error")
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(mappings(spec.get(kind))):
            at = f".{kind}[{container.get('name', index)}]"
            yield from _security(at, container, security)
            yield from _image(at, container)
            yield from _environment(at, container)
            if kind == "containers":
                yield from _amounts(at, container)
            command = str(mapping(mapping(container.get("lifecycle")).get("preStop")).get("exec"))
            if "ray stop" in command:
                yield ("pod.pre-stop", f"{at}.lifecycle.preStop", "ray stop", "must be removed",
                       "Ray drains by itself on SIGTERM; this ends it before it has", "error")  # fmt: skip


def _security(at: str, container: Mapping[str, Any], pod: Mapping[str, Any]) -> Said:
    own = mapping(container.get("securityContext"))
    at = f"{at}.securityContext"
    if own.get("privileged") is True:
        yield ("pod.privileged", f"{at}.privileged", True, "must not be set",
               "it owns the node", "error")  # fmt: skip
    if own.get("allowPrivilegeEscalation") is not False:
        yield ("pod.escalation", f"{at}.allowPrivilegeEscalation",
               own.get("allowPrivilegeEscalation"), "must be false", None, "error")  # fmt: skip
    capabilities = mapping(own.get("capabilities"))
    if "ALL" not in items(capabilities.get("drop")):
        yield ("pod.capabilities", f"{at}.capabilities.drop", items(capabilities.get("drop")),
               "must have ALL", None, "error")  # fmt: skip
    for name in items(capabilities.get("add")):
        if name != "NET_BIND_SERVICE":
            yield ("pod.capabilities", f"{at}.capabilities.add", name,
                   "must not be added in a restricted Pod", None, "error")  # fmt: skip
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield ("pod.root", f"{at}.runAsNonRoot", own.get("runAsNonRoot"),
               "must be true, here or for the Pod", None, "error")  # fmt: skip
    if own.get("runAsUser") == 0:
        yield ("pod.root", f"{at}.runAsUser", 0, "must not be root", None, "error")
    profile = mapping(own.get("seccompProfile") or pod.get("seccompProfile")).get("type")
    if profile not in ("RuntimeDefault", "Localhost"):
        yield ("pod.seccomp", f"{at}.seccompProfile.type", profile,
               "must be RuntimeDefault or Localhost, here or for the Pod", None, "error")  # fmt: skip
    if own.get("procMount") not in (None, "Default"):
        yield (
            "pod.proc",
            f"{at}.procMount",
            own.get("procMount"),
            "must be Default",
            None,
            "error",
        )
    if own.get("readOnlyRootFilesystem") is not True:
        yield ("pod.read-only", f"{at}.readOnlyRootFilesystem", own.get("readOnlyRootFilesystem"),
               "must be true", "what breaks in could change the program", "warning")  # fmt: skip


def _image(at: str, container: Mapping[str, Any]) -> Said:
    image = container.get("image")
    for port in mappings(container.get("ports")):
        if port.get("hostPort"):
            yield ("pod.host", f"{at}.ports", port.get("hostPort"), "must not be a hostPort",
                   None, "error")  # fmt: skip
    if not isinstance(image, str) or not image:
        yield "pod.image", f"{at}.image", image, "must be set", None, "error"
    elif ("@sha256:" not in image and not _TAG.search(image)) or ":latest" in image:
        yield ("pod.image", f"{at}.image", image, "must have an exact tag or a digest",
               "it names another image tomorrow", "error")  # fmt: skip


def _environment(at: str, container: Mapping[str, Any]) -> Said:
    names = [item.get("name") for item in mappings(container.get("env"))]
    for name in {str(n) for n in names if n is not None and names.count(n) > 1}:
        yield "pod.env", f"{at}.env", name, "must be set once", "the last one wins", "error"
    for item in mappings(container.get("env")):
        name = str(item.get("name"))
        is_secret = _SECRET_NAME.search(name) and not _NOT_SECRET.search(name)
        if is_secret and item.get("value"):
            yield ("pod.secret", f"{at}.env[{name}]", "...", "must come from a Secret",
                   "everybody who may read the object reads it", "error")  # fmt: skip


def _amounts(at: str, container: Mapping[str, Any]) -> Said:
    resources = mapping(container.get("resources"))
    limits = mapping(resources.get("limits"))
    for key in ("cpu", "memory"):
        if key not in limits and key not in mapping(resources.get("requests")):
            yield ("pod.resources", f"{at}.resources", key, "must be requested or limited",
                   "the scheduler counts the container as nothing", "error")  # fmt: skip
    if "memory" not in limits:
        yield ("pod.resources", f"{at}.resources.limits.memory", None, "must be set",
               "one container could take the node's memory", "warning")  # fmt: skip
