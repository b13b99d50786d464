"""Names that one object uses and another must have: secrets, accounts, classes, ports, selectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.clusters.checks import materialise
from heliostat.clusters.checks.bundle import Bundle, mapping, mappings, pod_templates, say
from heliostat.clusters.document import Document
from heliostat.clusters.finding import Finding

BUILTIN_PRIORITIES = {"system-cluster-critical", "system-node-critical"}


def budgets(bundle: Bundle) -> Iterator[Finding]:
    """Disruption budgets: whole numbers, and Pods that they count."""
    pods = list(_all_pods(bundle))
    for item in bundle.of_kind("PodDisruptionBudget"):
        labels = mapping(mapping(item.spec.get("selector")).get("matchLabels"))
        selected = [pod for pod in pods if pod.namespace == item.namespace and pod.has(labels)]
        is_ray = any(pod.is_ray for pod in selected)
        for key in ("minAvailable", "maxUnavailable"):
            value = item.spec.get(key)
            if isinstance(value, str) or (key == "maxUnavailable" and value is not None and is_ray):
                yield say(item, "reference.budget", f"spec.{key}", value,
                          "must be a whole minAvailable",
                          "a RayCluster has no scale subresource to take a share of")  # fmt: skip
        if bundle.is_whole and not selected:
            yield say(item, "reference.budget", "spec.selector", dict(labels), "must select a Pod")


def names(bundle: Bundle) -> Iterator[Finding]:
    """Everything that a Pod names exists, where the documents are all there is."""
    if not bundle.is_whole:
        return
    known = _Known(bundle)
    for pod in _all_pods(bundle):
        for check, path, kind, name in _used(pod.spec):
            if not known.has(kind, pod.namespace, name):
                yield say(pod.document, check, f"{pod.path}{path}", name, f"must name a {kind}",
                          f"none in namespace {pod.namespace}")  # fmt: skip
        for container in mappings(pod.spec.get("containers")):
            for key, secret in _secret_keys(container):
                keys = known.keys.get((pod.namespace, secret))
                if keys is not None and key not in keys:
                    yield say(pod.document, "reference.secret", f"{pod.path}.containers", key,
                              f"must be a key of the Secret {secret}")  # fmt: skip
    for cluster in bundle.clusters():
        options = mapping(cluster.spec.get("authOptions"))
        token, namespace = options.get("secretName"), cluster.document.namespace
        if token and not known.has("Secret", namespace, str(token)):
            yield cluster.say("reference.secret", "authOptions.secretName", token,
                              "must name a Secret", f"none in namespace {namespace}")  # fmt: skip
        elif token and "auth_token" not in known.keys.get((namespace, str(token)), {"auth_token"}):
            yield cluster.say("reference.secret", "authOptions.secretName", token,
                              "must have the key auth_token")  # fmt: skip
        credential = mapping(
            mapping(cluster.spec.get("gcsFaultToleranceOptions")).get("redisPassword")
        )
        password = mapping(mapping(credential.get("valueFrom")).get("secretKeyRef")).get("name")
        if password and not known.has("Secret", namespace, str(password)):
            yield cluster.say("reference.secret", "gcsFaultToleranceOptions.redisPassword", password,
                              "must name a Secret", f"none in namespace {namespace}")  # fmt: skip


def monitors(bundle: Bundle) -> Iterator[Finding]:
    """PodMonitors select Pods that have the ports they name."""
    pods = list(_all_pods(bundle))
    for item in bundle.of_kind("PodMonitor"):
        labels = mapping(mapping(item.spec.get("selector")).get("matchLabels"))
        selected = [pod for pod in pods if pod.namespace == item.namespace and pod.has(labels)]
        if not selected:
            if bundle.is_whole:
                yield say(
                    item, "reference.monitor", "spec.selector", dict(labels), "must select a Pod"
                )
            continue
        for endpoint in mappings(item.spec.get("podMetricsEndpoints")):
            name = endpoint.get("port")
            if name is not None and not any(str(name) in pod.ports() for pod in selected):
                yield say(item, "reference.monitor", "spec.podMetricsEndpoints", name,
                          "must name a port of the Pods it selects")  # fmt: skip


def services(bundle: Bundle) -> Iterator[Finding]:
    """Services select Pods that have the ports they name; routes lead to services."""
    if not bundle.is_whole:
        return
    pods = list(_all_pods(bundle))
    served = {(item.namespace, item.name) for item in bundle.of_kind("Service")}
    served |= {(item.namespace, f"{item.name}-serve-svc") for item in bundle.of_kind("RayService")}
    gateways = {(item.namespace, item.name) for item in bundle.of_kind("Gateway")}
    for item in bundle.of_kind("Service"):
        labels = mapping(item.spec.get("selector"))
        selected = [pod for pod in pods if pod.namespace == item.namespace and pod.has(labels)]
        if labels and not selected:
            yield say(item, "reference.service", "spec.selector", dict(labels), "must select a Pod")
        for port in mappings(item.spec.get("ports")) if selected else []:
            name = port.get("targetPort")
            if isinstance(name, str) and not any(name in pod.ports() for pod in selected):
                yield say(item, "reference.service", "spec.ports", name,
                          "must name a port of the Pods it selects")  # fmt: skip
    for item in bundle.of_kind("HTTPRoute"):
        for parent in mappings(item.spec.get("parentRefs")):
            place = (str(parent.get("namespace", item.namespace)), str(parent.get("name")))
            if place not in gateways:
                yield say(item, "reference.route", "spec.parentRefs", place, "must name a Gateway")
        for rule in mappings(item.spec.get("rules")):
            for backend in mappings(rule.get("backendRefs")):
                place = (str(backend.get("namespace", item.namespace)), str(backend.get("name")))
                if place not in served:
                    yield say(
                        item, "reference.route", "spec.rules", place, "must lead to a Service"
                    )


class _Pod:
    """A Pod that some object makes."""

    def __init__(
        self, document: Document, path: str, template: Mapping[str, Any], *, is_ray: bool
    ) -> None:
        self.document, self.path, self.is_ray = document, path, is_ray
        self.namespace = document.namespace
        self.labels = mapping(mapping(template.get("metadata")).get("labels"))
        self.spec = mapping(template.get("spec"))

    def has(self, labels: Mapping[str, Any]) -> bool:
        return bool(labels) and all(self.labels.get(key) == value for key, value in labels.items())

    def ports(self) -> set[str]:
        return {
            str(port.get("name"))
            for container in mappings(self.spec.get("containers"))
            for port in mappings(container.get("ports"))
        }


def _all_pods(bundle: Bundle) -> Iterator[_Pod]:
    for item in bundle.documents:
        for path, template in pod_templates(item):
            yield _Pod(item, f"{path}.spec".lstrip("."), template, is_ray=False)
    for cluster in bundle.clusters():
        for made in materialise.pods(cluster):
            yield _Pod(cluster.document, f"{made.group.path}.template.spec", made.body, is_ray=True)


class _Known:
    """Names that the documents make, also through an External Secret."""

    def __init__(self, bundle: Bundle) -> None:
        self._names = {(item.kind, item.namespace, item.name) for item in bundle.documents}
        self.keys: dict[tuple[str, str], set[str]] = {}
        for item in bundle.of_kind("ExternalSecret"):
            name = str(mapping(item.spec.get("target")).get("name") or item.name)
            self._names.add(("Secret", item.namespace, name))
            keys = {str(entry.get("secretKey")) for entry in mappings(item.spec.get("data"))}
            self.keys[item.namespace, name] = keys
        for item in bundle.of_kind("Certificate"):
            self._names.add(("Secret", item.namespace, str(item.spec.get("secretName"))))
        for item in bundle.of_kind("Secret"):
            data = {**mapping(item.body.get("data")), **mapping(item.body.get("stringData"))}
            self.keys[item.namespace, item.name] = set(map(str, data))

    def has(self, kind: str, namespace: str, name: str) -> bool:
        if kind == "PriorityClass":
            return name in BUILTIN_PRIORITIES or ("PriorityClass", "default", name) in self._names
        return (kind, namespace, name) in self._names


def _used(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Check, path, kind and name of everything that a Pod names."""
    if name := spec.get("serviceAccountName"):
        yield "reference.account", ".serviceAccountName", "ServiceAccount", str(name)
    if name := spec.get("priorityClassName"):
        yield "reference.priority", ".priorityClassName", "PriorityClass", str(name)
    for volume in mappings(spec.get("volumes")):
        at = f".volumes[{volume.get('name')}]"
        if name := mapping(volume.get("configMap")).get("name"):
            yield "reference.config", at, "ConfigMap", str(name)
        if name := mapping(volume.get("secret")).get("secretName"):
            yield "reference.secret", at, "Secret", str(name)
        if name := mapping(volume.get("persistentVolumeClaim")).get("claimName"):
            yield "reference.claim", at, "PersistentVolumeClaim", str(name)
    for claim in mappings(spec.get("resourceClaims")):
        if name := claim.get("resourceClaimTemplateName"):
            yield "reference.claim", ".resourceClaims", "ResourceClaimTemplate", str(name)
    for container in [*mappings(spec.get("containers")), *mappings(spec.get("initContainers"))]:
        at = f".containers[{container.get('name')}].env"
        for _, secret in _secret_keys(container):
            yield "reference.secret", at, "Secret", secret
        for entry in mappings(container.get("envFrom")):
            if name := mapping(entry.get("secretRef")).get("name"):
                yield "reference.secret", at, "Secret", str(name)
            if name := mapping(entry.get("configMapRef")).get("name"):
                yield "reference.config", at, "ConfigMap", str(name)


def _secret_keys(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in mappings(container.get("env")):
        reference = mapping(mapping(entry.get("valueFrom")).get("secretKeyRef"))
        if reference.get("name") and reference.get("optional") is not True:
            yield str(reference.get("key")), str(reference["name"])
