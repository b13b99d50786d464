"""Helm values for the charts of others: the operator with its gates, Kueue, monitoring, logs, GPUs."""

from __future__ import annotations

from typing import Any

from heliostat.clusters.recipe import ClusterRecipe

DEFAULT_GATES = {
    "RayClusterStatusConditions": True,
    "RayJobDeletionPolicy": True,
    "RayMultiHostIndexing": True,
    "RayServiceIncrementalUpgrade": True,
    "RayCronJob": False,
    "RayClusterMTLS": False,
    "RayClusterNetworkPolicy": False,
    "RayClusterHistoryServer": False,
}
"""The chart's own list; values replace it as a whole, so all of it is written."""


def gates(recipe: ClusterRecipe) -> dict[str, bool]:
    """Say which gates of the operator the recipe needs."""
    found = {**DEFAULT_GATES, "RayCronJob": True, "RayClusterMTLS": recipe.mutual_tls}
    found["GCSFaultToleranceEmbeddedStorage"] = recipe.fault_tolerance == "rocksdb"
    return found


def helm_values(recipe: ClusterRecipe) -> dict[str, dict[str, Any]]:
    """Values per chart, by file name."""
    found: dict[str, dict[str, Any]] = {
        "kuberay-operator": {
            "image": {"tag": "v1.7.0"},
            "replicas": 2,
            "leaderElectionEnabled": True,
            "priorityClassName": "system-cluster-critical",
            "watchNamespace": [recipe.namespace],
            "reconcileConcurrency": 4,
            "featureGates": [
                {"name": name, "enabled": is_on} for name, is_on in gates(recipe).items()
            ],
            "metrics": {"enabled": True, "serviceMonitor": {"enabled": True}},
            "resources": {
                "requests": {"cpu": "500m", "memory": "512Mi"},
                "limits": {"cpu": "500m", "memory": "512Mi"},
            },
        },
        "kueue": {"enablePrometheus": True},
        "kube-prometheus-stack": {
            "prometheus": {
                "prometheusSpec": {
                    "podMonitorSelectorNilUsesHelmValues": False,
                    "serviceMonitorSelectorNilUsesHelmValues": False,
                    "ruleSelectorNilUsesHelmValues": False,
                    "storageSpec": {
                        "volumeClaimTemplate": {
                            "spec": {
                                "storageClassName": recipe.storage.volume_class,
                                "resources": {"requests": {"storage": "100Gi"}},
                            }
                        }
                    },
                }
            },
            "alertmanager": {"alertmanagerSpec": {"replicas": 2}},
        },
        "loki": {
            "deploymentMode": "SingleBinary",
            "loki": {
                "auth_enabled": False,
                "commonConfig": {"replication_factor": 1},
                "storage": {"type": "filesystem"},
                "schemaConfig": {
                    "configs": [
                        {
                            "from": "2024-04-01",
                            "store": "tsdb",
                            "object_store": "filesystem",
                            "schema": "v13",
                            "index": {"prefix": "loki_index_", "period": "24h"},
                        }
                    ]
                },
            },
            # Else the chart refuses: it starts these beside the single binary.
            "read": {"replicas": 0},
            "write": {"replicas": 0},
            "backend": {"replicas": 0},
            "singleBinary": {
                "replicas": 1,
                "persistence": {"storageClass": recipe.storage.volume_class, "size": "100Gi"},
            },
            "gateway": {"service": {"port": 3100}},
        },
        "external-secrets": {"installCRDs": True},
    }
    if recipe.mutual_tls:
        found["cert-manager"] = {"crds": {"enabled": True}}
    if recipe.target == "onprem" and recipe.gpus:
        found["gpu-operator"] = _gpu_operator(recipe)
    return found


def _gpu_operator(recipe: ClusterRecipe) -> dict[str, Any]:
    kinds = {group.sharing for group in recipe.gpus}
    values: dict[str, Any] = {"toolkit": {"enabled": True}, "driver": {"enabled": True}}
    if "mig" in kinds:
        values["mig"] = {"strategy": "mixed"}
        values["migManager"] = {
            "config": {"name": f"{recipe.name}-mig-parted", "default": "all-disabled"}
        }
    if "time-slicing" in kinds:
        # A node shares its cards by the label nvidia.com/device-plugin.config=shared; as default it
        # would take the whole cards away from every other group.
        values["devicePlugin"] = {
            "config": {"name": f"{recipe.name}-time-slicing", "default": "whole"}
        }
    return values
