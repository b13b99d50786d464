"""Who reaches whom: NetworkPolicies evaluated as a network plugin would, without a cluster."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from heliostat.clusters.checks import materialise
from heliostat.clusters.checks.bundle import Bundle, items, mapping, mappings, number
from heliostat.clusters.document import Document
from heliostat.clusters.finding import Finding

GUARDED_PORTS = (6379, 8265, 10001, 9101, 8404)
"""GCS, dashboard and jobs, Ray client, HAProxy's metrics and statistics."""

NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A Pod, or with `address` something outside the cluster."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    """Named ports of its containers."""


def allows(
    policies: Sequence[Document], source: Endpoint, target: Endpoint, port: int,
    protocol: str = "TCP",
) -> bool:  # fmt: skip
    """Say whether a connection passes: the source's egress and the target's ingress both must.

    Args:
        policies: NetworkPolicy documents; a Pod that none selects may do anything.
        source: Who connects.
        target: Who listens.
        port: Number of the listening port.
        protocol: ``TCP`` or ``UDP``.
    """
    return _passes(policies, "Egress", source, target, target, port, protocol) and _passes(
        policies, "Ingress", target, source, target, port, protocol
    )


def admits(policies: Sequence[Document], source: Endpoint, target: Endpoint, port: int) -> bool:
    """Say whether the target's own policies let a TCP connection in, whatever holds the source."""
    return _passes(policies, "Ingress", target, source, target, port, "TCP")


def _passes(
    policies: Sequence[Document], kind: Literal["Ingress", "Egress"], subject: Endpoint,
    peer: Endpoint, listener: Endpoint, port: int, protocol: str,
) -> bool:  # fmt: skip
    if subject.address is not None:
        return True
    rules: list[Mapping[str, Any]] = []
    is_selected = False
    for policy in policies:
        if policy.namespace != subject.namespace or kind not in _kinds(policy.spec):
            continue
        if _matches(mapping(policy.spec.get("podSelector")), subject.labels):
            is_selected = True
            rules += mappings(policy.spec.get(kind.lower()))
    if not is_selected:
        return True
    side = "from" if kind == "Ingress" else "to"
    return any(
        _peer_fits(rule.get(side), peer, subject.namespace)
        and _port_fits(rule.get("ports"), port, protocol, listener)
        for rule in rules
    )


def _kinds(spec: Mapping[str, Any]) -> list[Any]:
    written = items(spec.get("policyTypes"))
    return written or ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def _peer_fits(peers: Any, peer: Endpoint, namespace: str) -> bool:
    if not items(peers):
        return True
    return any(_one_fits(item, peer, namespace) for item in mappings(peers))


def _one_fits(item: Mapping[str, Any], peer: Endpoint, namespace: str) -> bool:
    if "ipBlock" in item:
        return peer.address is not None and _in_block(mapping(item["ipBlock"]), peer.address)
    if peer.address is not None:
        return False
    spaces = item.get("namespaceSelector")
    if spaces is None:
        if peer.namespace != namespace:
            return False
    elif not _matches(mapping(spaces), {NAMESPACE_LABEL: peer.namespace}):
        return False
    return _matches(mapping(item.get("podSelector")), peer.labels)


def _in_block(block: Mapping[str, Any], address: str) -> bool:
    try:
        inside = ipaddress.ip_address(address)
        if inside not in ipaddress.ip_network(str(block.get("cidr")), strict=False):
            return False
        return not any(
            inside in ipaddress.ip_network(str(hole), strict=False)
            for hole in items(block.get("except"))
        )
    except ValueError:
        return False


def _port_fits(ports: Any, port: int, protocol: str, listener: Endpoint) -> bool:
    if not items(ports):
        return True
    for item in mappings(ports):
        if item.get("protocol", "TCP") != protocol:
            continue
        wanted = item.get("port")
        if isinstance(wanted, str):
            wanted = listener.ports.get(wanted)
        last = number(item.get("endPort"))
        first = number(wanted)
        if item.get("port") is None or (first is not None and first <= port <= (last or first)):
            return True
    return False


def _matches(selector: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    for key, value in mapping(selector.get("matchLabels")).items():
        if labels.get(key) != value:
            return False
    for expression in mappings(selector.get("matchExpressions")):
        key, values = str(expression.get("key")), items(expression.get("values"))
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }.get(str(expression.get("operator")), False)
        if not holds:
            return False
    return True


def endpoints(bundle: Bundle) -> Iterator[tuple[str, Endpoint]]:
    """Give every Pod of the Ray clusters, named ``<object>/<group>``."""
    for cluster in bundle.clusters():
        for made in materialise.pods(cluster):
            ports = {
                str(port.get("name")): number(port.get("containerPort")) or 0
                for container in mappings(mapping(made.body["spec"]).get("containers"))
                for port in mappings(container.get("ports"))
            }
            labels = mapping(mapping(made.body["metadata"]).get("labels"))
            yield (
                f"{cluster.document.name}/{made.group.name}",
                Endpoint(namespace=cluster.document.namespace, labels=labels, ports=ports),
            )


STRANGERS = (
    ("a Pod of the same namespace", None, {"app": "stranger"}),
    ("a Pod of another namespace", "stranger", {"app": "stranger"}),
)


def guarded(bundle: Bundle) -> Iterator[Finding]:
    """Strangers reach none of Ray's own ports, even where nothing holds them back themselves."""
    policies = bundle.of_kind("NetworkPolicy")
    if not policies and not bundle.is_whole:
        return
    documents = {f"{c.document.name}/{g.name}": (c, g) for c in bundle.clusters() for g in c.groups}
    for name, target in endpoints(bundle):
        cluster, group = documents[name]
        if cluster.spec.get("networkPolicy") is not None:
            continue  # the operator makes policies of its own
        sources = [
            (who, Endpoint(namespace=space or target.namespace, labels=labels))
            for who, space, labels in STRANGERS
        ]
        sources.append(("the internet", Endpoint(address="203.0.113.9")))
        for who, source in sources:
            open_ports = [p for p in GUARDED_PORTS if admits(policies, source, target, p)]
            if open_ports:
                path = group.path.removeprefix(f"{cluster.path}.")
                yield cluster.say("network.open", path, open_ports,
                                  f"must not be reachable by {who}",
                                  "no NetworkPolicy closes these ports")  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Callers:
    """Namespaces from which somebody must get through."""

    operator: str
    monitoring: str
    gateway: str


def needed(bundle: Bundle, callers: Callers) -> Iterator[Finding]:
    """Those who must reach Ray do: the operator, Prometheus, the gateway, DNS, Ray's own Pods."""
    policies = bundle.of_kind("NetworkPolicy")
    known = dict(endpoints(bundle))
    clusters = {f"{c.document.name}/{g.name}": (c, g) for c in bundle.clusters() for g in c.groups}
    dns = Endpoint(namespace="kube-system", labels={"k8s-app": "kube-dns"})
    for name, target in known.items():
        cluster, group = clusters[name]
        wanted: list[tuple[str, Endpoint, Endpoint, int, str]] = [
            ("Prometheus", Endpoint(namespace=callers.monitoring), target, 8080, "TCP"),
            ("its own cluster", known[f"{cluster.document.name}/head"], target, 20000, "TCP"),
            ("DNS", target, dns, 53, "UDP"),
        ]
        if group.is_head:
            operator = Endpoint(namespace=callers.operator)
            wanted.append(("the operator", operator, target, 8265, "TCP"))
        elif cluster.document.kind == "RayService":
            gateway = Endpoint(namespace=callers.gateway)
            wanted.append(("the gateway", gateway, target, 8000, "TCP"))
        for who, source, listener, port, protocol in wanted:
            if not allows(policies, source, listener, port, protocol):
                path = group.path.removeprefix(f"{cluster.path}.")
                yield cluster.say("network.closed", path, port, f"must be open between it and {who}",
                                  "a NetworkPolicy closes it")  # fmt: skip
