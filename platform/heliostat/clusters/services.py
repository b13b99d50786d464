"""What the platform needs beside Ray: MLflow, PostgreSQL, two Redis servers, secrets, the gateway."""

from __future__ import annotations

from typing import Any

from heliostat.clusters import pods, ray_objects, targets
from heliostat.clusters.foundation import metadata, part_of
from heliostat.clusters.recipe import ClusterRecipe


def redis(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Two servers: the head's state must never be evicted, features may be and are many."""
    return [
        *_redis(recipe, "redis-gcs", ["--maxmemory-policy", "noeviction"], memory="2Gi"),
        *_redis(recipe, "redis-online", ["--maxmemory-policy", "volatile-lru"], memory="8Gi"),
    ]


def _redis(recipe: ClusterRecipe, name: str, options: list[str], *, memory: str) -> list[Any]:
    namespace = recipe.platform_namespace
    probe = {
        "exec": {"command": ["sh", "-c", 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli ping']},
        "periodSeconds": 5,
    }
    secret = {"name": f"{recipe.name}-{name}", "key": "password"}
    command = [
        "sh", "-c",
        'exec redis-server --requirepass "$REDIS_PASSWORD" --dir /data --appendonly yes '
        + " ".join(options),
    ]  # fmt: skip
    container = {
        "name": "redis",
        "image": recipe.images.pinned(recipe.images.redis),
        "command": command,
        "env": [{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": secret}}],
        "ports": [{"name": "redis", "containerPort": 6379}],
        "readinessProbe": probe,
        "livenessProbe": {**probe, "initialDelaySeconds": 30, "periodSeconds": 20},
        "resources": _equal("500m", memory),
        "securityContext": dict(pods.CONTAINER_SECURITY),
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return [
        _service(recipe, name, namespace, {"redis": 6379}, headless=True),
        _stateful(recipe, name, container, size="20Gi", uid=999),
    ]


def postgres(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """PostgreSQL for MLflow and for rollouts; none where the recipe names a managed one."""
    if recipe.database_host is not None:
        return []
    secret = {"name": pods.database_secret(recipe), "key": "password"}
    second = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(recipe, "postgres-databases", recipe.platform_namespace),
        "data": {"heliostat.sql": "CREATE DATABASE heliostat;\n"},
    }
    container = {
        "name": "postgres",
        "image": recipe.images.pinned(recipe.images.postgres),
        "env": [
            {"name": "POSTGRES_USER", "value": "heliostat"},
            {"name": "POSTGRES_DB", "value": "mlflow"},
            {"name": "PGDATA", "value": "/data/pgdata"},
            {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": secret}},
        ],
        "ports": [{"name": "postgres", "containerPort": 5432}],
        "readinessProbe": {
            "exec": {"command": ["pg_isready", "-U", "heliostat", "-d", "mlflow"]},
            "periodSeconds": 5,
        },
        "resources": _equal("1", "4Gi"),
        "securityContext": dict(pods.CONTAINER_SECURITY),
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the Pod's own
            # The image runs what lies there once, when it makes the first database.
            {"name": "databases", "mountPath": "/docker-entrypoint-initdb.d", "readOnly": True},
        ],
    }
    server = _stateful(recipe, "postgres", container, size="50Gi", uid=999, scratch=("run", "tmp"))
    server["spec"]["template"]["spec"]["volumes"].append(
        {"name": "databases", "configMap": {"name": "postgres-databases"}}
    )
    return [
        _service(recipe, "postgres", recipe.platform_namespace, {"postgres": 5432}, headless=True),
        second,
        server,
    ]


_POD_HOSTS = ("localhost:5000", "10.*:5000", "172.*:5000", "192.168.*:5000", "100.*:5000")


def mlflow(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """MLflow; without ``--allowed-hosts`` it refuses every client that uses the Service's name.

    The list replaces MLflow's own, so it also names ``localhost``, for who forwards the port, and
    addresses of Pods, by which Prometheus asks for its metrics.
    """
    namespace = recipe.platform_namespace
    host = pods.database_host(recipe)
    hosts = [
        f"mlflow{suffix}:5000"
        for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
    ]
    arguments = [
        "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "4",  # noqa: S104
        "--backend-store-uri",
        f"postgresql+psycopg://heliostat@{host}:5432/mlflow",
        "--artifacts-destination", f"{recipe.storage.bucket}/mlflow",
        "--allowed-hosts", ",".join([*hosts, *_POD_HOSTS]),
        "--expose-prometheus", "/tmp/prometheus",  # noqa: S108 - a volume of the Pod's own
    ]  # fmt: skip
    secret = {"name": pods.database_secret(recipe), "key": "password"}
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10}
    env: list[dict[str, Any]] = [
        # Read by the driver: in an argument it could be seen, and some characters would break it.
        {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": secret}},
        {"name": "MLFLOW_DISABLE_TELEMETRY", "value": "true"},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
    ]
    if recipe.storage.endpoint:
        env.append({"name": "MLFLOW_S3_ENDPOINT_URL", "value": recipe.storage.endpoint})
    labels = {**part_of(recipe), "app": "mlflow", **targets.identity_labels(recipe.target)}
    container = {
        "name": "mlflow",
        "image": recipe.images.pinned(recipe.images.ray),
        "command": ["mlflow"],
        "args": arguments,
        "env": env,
        "ports": [{"name": "http", "containerPort": 5000}],
        "readinessProbe": probe,
        "livenessProbe": {**probe, "initialDelaySeconds": 60},
        "resources": _equal("2", "4Gi"),
        "securityContext": dict(pods.CONTAINER_SECURITY),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(recipe, "mlflow", namespace),
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "mlflow"}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": "mlflow",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": dict(pods.POD_SECURITY),
                    "containers": [container],
                    "volumes": [
                        {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
                    ],
                },
            },
        },
    }
    return [
        _service(recipe, "mlflow", namespace, {"http": 5000}),
        deployment,
        disruption_budget(recipe, "mlflow", namespace, {"app": "mlflow"}, min_available=1),
    ]


def disruption_budget(
    recipe: ClusterRecipe, name: str, namespace: str, labels: dict[str, str], *, min_available: int
) -> dict[str, Any]:
    """A budget; whole numbers only, since a RayCluster has no scale subresource to count from."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(recipe, name, namespace),
        "spec": {"minAvailable": min_available, "selector": {"matchLabels": labels}},
    }


def external_secrets(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Secrets out of the store that the team runs; their values are never in these files."""
    wanted = {
        (recipe.namespace, ray_objects.token_secret(recipe)): "auth_token",
        (recipe.namespace, pods.control_secret(recipe)): "api_key",
        (recipe.namespace, f"{recipe.name}-redis-gcs"): "password",
        (recipe.namespace, f"{recipe.name}-online-store"): "password",
        (recipe.namespace, pods.database_secret(recipe)): "password",
        (recipe.platform_namespace, f"{recipe.name}-redis-gcs"): "password",
        (recipe.platform_namespace, f"{recipe.name}-redis-online"): "password",
        (recipe.platform_namespace, pods.database_secret(recipe)): "password",
        (recipe.platform_namespace, f"{recipe.name}-gateway-tls"): "tls",
    }
    remote = {f"{recipe.name}-online-store": f"{recipe.name}-redis-online"}
    found = []
    for (namespace, name), key in wanted.items():
        source = remote.get(name, name)
        keys = ["tls.crt", "tls.key"] if key == "tls" else [key]
        kind = "kubernetes.io/tls" if key == "tls" else "Opaque"
        found.append(
            {
                "apiVersion": "external-secrets.io/v1",
                "kind": "ExternalSecret",
                "metadata": metadata(recipe, name, namespace),
                "spec": {
                    "refreshInterval": "1h",
                    "secretStoreRef": {"kind": "ClusterSecretStore", "name": recipe.name},
                    "target": {"name": name, "template": {"type": kind}},
                    "data": [
                        {
                            "secretKey": item,
                            "remoteRef": {"key": f"{recipe.name}/{source}", "property": item},
                        }
                        for item in keys
                    ],
                },
            }
        )
    return found


def gateway(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """TLS for clients; KubeRay's own Gateway has one plain listener, so it stays behind this one."""
    namespace = recipe.platform_namespace
    listener = {
        "name": "https",
        "port": 443,
        "protocol": "HTTPS",
        "hostname": recipe.network.host,
        "tls": {"mode": "Terminate", "certificateRefs": [{"name": f"{recipe.name}-gateway-tls"}]},
        "allowedRoutes": {
            "namespaces": {
                "from": "Selector",
                "selector": {"matchLabels": {"kubernetes.io/metadata.name": recipe.namespace}},
            }
        },
    }
    route = {
        "parentRefs": [{"name": recipe.name, "namespace": namespace, "sectionName": "https"}],
        "hostnames": [recipe.network.host],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}],
                "timeouts": {"request": "30s"},
                "backendRefs": [{"name": f"{recipe.name}-serve-serve-svc", "port": 8000}],
            }
        ],
    }
    return [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": metadata(recipe, recipe.name, namespace),
            "spec": {"gatewayClassName": recipe.network.gateway_class, "listeners": [listener]},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": metadata(recipe, f"{recipe.name}-clients", recipe.namespace),
            "spec": route,
        },
    ]


def rate_limit(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """A limit for all clients of one Envoy proxy, by Envoy Gateway; the Gateway API has none.

    Limits per client need a key to tell clients apart; Heliostat's gateway knows it.
    """
    return [
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "BackendTrafficPolicy",
            "metadata": metadata(recipe, f"{recipe.name}-clients", recipe.namespace),
            "spec": {
                "targetRefs": [
                    {
                        "group": "gateway.networking.k8s.io",
                        "kind": "HTTPRoute",
                        "name": f"{recipe.name}-clients",
                    }
                ],
                "rateLimit": {
                    "type": "Local",
                    "local": {"rules": [{"limit": {"requests": 500, "unit": "Second"}}]},
                },
            },
        }
    ]


def _service(
    recipe: ClusterRecipe,
    name: str,
    namespace: str,
    ports: dict[str, int],
    *,
    headless: bool = False,
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": {"app": name},
        "ports": [{"name": key, "port": port, "targetPort": key} for key, port in ports.items()],
    }
    if headless:
        spec["clusterIP"] = "None"
    body = metadata(recipe, name, namespace)
    body["labels"] = {**body["labels"], "app": name}
    return {"apiVersion": "v1", "kind": "Service", "metadata": body, "spec": spec}


def _stateful(
    recipe: ClusterRecipe, name: str, container: dict[str, Any], *, size: str, uid: int,
    scratch: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    security = {**pods.POD_SECURITY, "runAsUser": uid, "runAsGroup": uid, "fsGroup": uid}
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": security,
        "containers": [container],
    }
    if scratch:
        spec["volumes"] = [{"name": item, "emptyDir": {"sizeLimit": "1Gi"}} for item in scratch]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(recipe, name, recipe.platform_namespace),
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {**part_of(recipe), "app": name}}, "spec": spec},
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "storageClassName": recipe.storage.volume_class,
                        "resources": {"requests": {"storage": size}},
                    },
                }
            ],
        },
    }


def _equal(cpu: str, memory: str) -> dict[str, Any]:
    amount = {"cpu": cpu, "memory": memory, "ephemeral-storage": "1Gi"}
    return {"requests": dict(amount), "limits": dict(amount)}
