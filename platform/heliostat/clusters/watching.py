"""What is watched: metrics of every Ray Pod, logs on their way to Loki, alerts with a runbook."""

from __future__ import annotations

from typing import Any

from heliostat.clusters.foundation import metadata
from heliostat.clusters.recipe import ClusterRecipe

_RUNBOOK = "platform/docs/clusters/overview.md"


def monitors(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """PodMonitors of heads, workers and MLflow."""
    namespaces = {"matchNames": [recipe.namespace]}
    relabel = [
        {"sourceLabels": [f"__meta_kubernetes_pod_label_{label}"], "targetLabel": target}
        for label, target in (("ray_io_cluster", "ray_io_cluster"), ("ray_io_group", "ray_group"))
    ]
    found = []
    for node, ports in (
        ("head", ("metrics", "as-metrics", "dash-metrics")),
        ("worker", ("metrics",)),
    ):
        selector = {"app.kubernetes.io/part-of": recipe.name, "heliostat.io/node": node}
        found.append(
            {
                "apiVersion": "monitoring.coreos.com/v1",
                "kind": "PodMonitor",
                "metadata": metadata(recipe, f"ray-{node}s", recipe.namespace),
                "spec": {
                    "namespaceSelector": namespaces,
                    "selector": {"matchLabels": selector},
                    "podMetricsEndpoints": [
                        {"port": port, "interval": "15s", "relabelings": relabel} for port in ports
                    ],
                },
            }
        )
    selector = {"app.kubernetes.io/part-of": recipe.name, "app": "mlflow"}
    found.append(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": metadata(recipe, "mlflow", recipe.platform_namespace),
            "spec": {
                "selector": {"matchLabels": selector},
                "podMetricsEndpoints": [{"port": "http", "path": "/metrics", "interval": "30s"}],
            },
        }
    )
    return found


def alerts(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Rules that somebody should be woken for; each names what to read."""
    rules = [
        ("RayHeadAbsent", 'absent(up{pod=~".*head.*"} == 1)', "5m", "no head answers"),
        ("RayPendingActors", 'sum(ray_actors{State="PENDING_CREATION"}) > 0', "15m",
         "actors wait for nodes that do not come"),
        ("RaySpillDiskFull", "ray_local_disk_utilization_percentage > 90", "10m",
         "spilling soon fails"),
        ("ServeNoHealthyReplica", "sum(ray_serve_deployment_replica_healthy) by (deployment) < 1",
         "1m", "a deployment has no healthy replica"),
    ]  # fmt: skip
    return [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": metadata(recipe, recipe.name, recipe.namespace),
            "spec": {
                "groups": [
                    {
                        "name": recipe.name,
                        "rules": [
                            {
                                "alert": name,
                                "expr": expression,
                                "for": pause,
                                "labels": {"severity": "page"},
                                "annotations": {"summary": summary, "runbook_url": _RUNBOOK},
                            }
                            for name, expression, pause, summary in rules
                        ],
                    }
                ]
            },
        }
    ]


def log_shipping(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Fluent Bit's config: Ray's session logs to Loki, buffered on disk within a bound."""
    text = f"""\
service:
  flush: 1
  log_level: warn
pipeline:
  inputs:
    - name: tail
      path: /tmp/ray/session_latest/logs/*.log,/tmp/ray/session_latest/logs/*.out,/tmp/ray/session_latest/logs/*.err,/tmp/ray/session_latest/logs/serve/*.log
      path_key: filename
      tag: ray
      read_from_head: true
      skip_long_lines: true
      mem_buf_limit: 32MB
  outputs:
    - name: loki
      match: ray
      host: loki-gateway.{recipe.network.monitoring_namespace}.svc.cluster.local
      port: 3100
      labels: job=ray, role=${{HELIOSTAT_ROLE}}
      retry_limit: 10
"""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(recipe, f"{recipe.name}-fluent-bit", recipe.namespace),
            "data": {"fluent-bit.yaml": text},
        }
    ]
