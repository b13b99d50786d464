"""NetworkPolicies: nothing reaches Ray's ports but its own Pods and those who must.

The operator needs the dashboard and Serve of each head, Prometheus the metrics ports, the gateway
port 8000 of the service's workers, everybody DNS; the rest is denied, between roles too.
"""

from __future__ import annotations

from typing import Any

from heliostat.clusters.foundation import metadata, part_of
from heliostat.clusters.recipe import ClusterRecipe

RAY_ROLES = ("serve", "dev", "train", "batch")
METRICS_PORTS = (8080, 44217, 44227)

_NAMESPACE = "kubernetes.io/metadata.name"


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _in_namespace(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    peer: dict[str, Any] = {"namespaceSelector": {"matchLabels": {_NAMESPACE: name}}}
    if labels:
        peer["podSelector"] = {"matchLabels": labels}
    return peer


def _pods(labels: dict[str, str]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels}}


def _policy(
    recipe: ClusterRecipe, name: str, namespace: str, selector: dict[str, str], *,
    ingress: list[dict[str, Any]] | None = None, egress: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": selector} if selector else {},
        "policyTypes": [
            kind for kind, rules in (("Ingress", ingress), ("Egress", egress)) if rules is not None
        ],
    }
    if ingress:
        spec["ingress"] = ingress
    if egress:
        spec["egress"] = egress
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(recipe, name, namespace),
        "spec": spec,
    }


def network_policies(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """All policies of both namespaces."""
    return [*_defaults(recipe), *_ray(recipe), *_heads(recipe), *_platform(recipe)]


def _defaults(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    dns = {
        # The second is where Kubernetes' node-local cache answers, on nodes that run one.
        "to": [_in_namespace("kube-system"), {"ipBlock": {"cidr": "169.254.20.10/32"}}],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }
    found = []
    for namespace in (recipe.namespace, recipe.platform_namespace):
        found += [
            _policy(recipe, "default-deny", namespace, {}, ingress=[], egress=[]),
            _policy(recipe, "allow-dns", namespace, {}, egress=[dns]),
        ]
    return found


def _ray(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    network = recipe.network
    found = []
    for role in RAY_ROLES:
        selector = {**part_of(recipe), "heliostat.io/role": role}
        own = {"from": [_pods(selector)]}
        prometheus = _in_namespace(network.monitoring_namespace)
        metrics = {"from": [prometheus], "ports": _tcp(*METRICS_PORTS)}
        egress = [{"to": [_pods(selector)]}, *_outward(recipe)]
        if role != "serve":
            egress.append({"to": [_pods(_serving(recipe))], "ports": _tcp(8000)})
        found.append(
            _policy(recipe, f"ray-{role}", recipe.namespace, selector,
                    ingress=[own, metrics], egress=egress)
        )  # fmt: skip
    gateway = {"from": [_in_namespace(network.gateway_namespace)], "ports": _tcp(8000)}
    operator = {"from": [_in_namespace(network.operator_namespace)], "ports": _tcp(8000)}
    # Jobs deploy versions and send their canaries through the gateway, with a key.
    jobs = {"from": [_pods({**part_of(recipe), "heliostat.io/role": role})
                     for role in RAY_ROLES if role != "serve"], "ports": _tcp(8000)}  # fmt: skip
    found.append(
        _policy(recipe, "ray-serve-clients", recipe.namespace, _serving(recipe),
                ingress=[gateway, operator, jobs])
    )  # fmt: skip
    return found


def _serving(recipe: ClusterRecipe) -> dict[str, str]:
    return {**part_of(recipe), "heliostat.io/role": "serve", "heliostat.io/node": "worker"}


def _outward(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    platform = recipe.platform_namespace
    rules: list[dict[str, Any]] = [
        {"to": [_in_namespace(platform, {"app": "mlflow"})], "ports": _tcp(5000)},
        {"to": [_in_namespace(platform, {"app": "redis-online"})], "ports": _tcp(6379)},
        {"to": [_in_namespace(recipe.network.monitoring_namespace)], "ports": _tcp(3100)},
        {"to": [{"ipBlock": {"cidr": recipe.network.store_cidr}}], "ports": _tcp(443)},
    ]
    rules.append({"to": [_database(recipe)], "ports": _tcp(5432)})
    return [*rules, *_identities(recipe)]


def _identities(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Where a Pod gets its cloud identity, beside the cloud's APIs on 443: GKE's metadata server."""
    if recipe.target != "gke":
        return []
    return [
        {"to": [{"ipBlock": {"cidr": "169.254.169.252/32"}}], "ports": _tcp(988)},
        {"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}], "ports": _tcp(80)},
    ]


def _database(recipe: ClusterRecipe) -> dict[str, Any]:
    """PostgreSQL as a peer: our own, or the managed one, of which only its network is known."""
    if recipe.database_host is not None:
        return {"ipBlock": {"cidr": recipe.network.store_cidr}}
    return _in_namespace(recipe.platform_namespace, {"app": "postgres"})


def _heads(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """The operator drives each head; the autoscaler beside it drives the API server."""
    network = recipe.network
    head = {**part_of(recipe), "heliostat.io/node": "head"}
    submitter = {**part_of(recipe), "heliostat.io/node": "submitter"}
    operator = {"from": [_in_namespace(network.operator_namespace)], "ports": _tcp(8265, 8000)}
    from_submitter = {"from": [_pods(submitter)], "ports": _tcp(8265)}
    api_server = {"to": [{"ipBlock": {"cidr": network.api_server_cidr}}], "ports": _tcp(443, 6443)}
    redis = {
        "to": [_in_namespace(recipe.platform_namespace, {"app": "redis-gcs"})],
        "ports": _tcp(6379),
    }
    return [
        _policy(recipe, "ray-heads", recipe.namespace, head,
                ingress=[operator, from_submitter], egress=[api_server, redis]),
        _policy(recipe, "ray-submitters", recipe.namespace, submitter,
                ingress=[], egress=[{"to": [_pods(head)], "ports": _tcp(8265)}]),
    ]  # fmt: skip


def _platform(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    platform, ray = recipe.platform_namespace, recipe.namespace
    ray_pods = _in_namespace(ray, part_of(recipe))
    heads = _in_namespace(ray, {**part_of(recipe), "heliostat.io/node": "head"})
    store = {"to": [{"ipBlock": {"cidr": recipe.network.store_cidr}}], "ports": _tcp(443)}
    database = {"to": [_database(recipe)], "ports": _tcp(5432)}
    prometheus = _in_namespace(recipe.network.monitoring_namespace)
    writers = {
        "from": [{"podSelector": {"matchLabels": {"app": "mlflow"}}}, ray_pods],
        "ports": _tcp(5432),
    }
    found = [
        _policy(recipe, "mlflow", platform, {"app": "mlflow"},
                ingress=[{"from": [ray_pods, prometheus], "ports": _tcp(5000)}],
                egress=[database, store, *_identities(recipe)]),
        _policy(recipe, "redis-online", platform, {"app": "redis-online"},
                ingress=[{"from": [ray_pods], "ports": _tcp(6379)}]),
        _policy(recipe, "redis-gcs", platform, {"app": "redis-gcs"},
                ingress=[{"from": [heads], "ports": _tcp(6379)}]),
    ]  # fmt: skip
    if recipe.database_host is None:
        found.append(_policy(recipe, "postgres", platform, {"app": "postgres"}, ingress=[writers]))
    return found
