"""What Ray's own autoscaler would do: its parser reads the cluster, its scheduler places the demand.

No cluster and no Kubernetes: the same functions that run beside a head on KubeRay, called here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliostat.clusters.checks.bundle import Bundle
from heliostat.config import require
from heliostat.errors import ConfigError

_DEMAND = re.compile(r"^(?:(\d+)x)?([\w./-]+=[\d.]+(?:,[\w./-]+=[\d.]+)*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Tasks, actors or replicas that all need the same."""

    count: int
    resources: Mapping[str, float]

    @staticmethod
    def parse(text: str) -> Demand:
        """Read ``3xCPU=2,GPU=1``; without a count it is one.

        Raises:
            ConfigError: It is written in another way.

        >>> Demand.parse("3xGPU=1")
        Demand(count=3, resources={'GPU': 1.0})
        """
        match = _DEMAND.match(text)
        if match is None:
            raise ConfigError("--demand", text, "must be written 3xCPU=2,GPU=1")
        try:
            amounts = {
                key: float(amount)
                for key, _, amount in (part.partition("=") for part in match[2].split(","))
            }
        except ValueError as error:
            raise ConfigError("--demand", text, "must be written 3xCPU=2,GPU=1") from error
        count = int(match[1] or 1)
        require(1 <= count <= 10_000, "--demand", text, "must be 1 to 10000 of a kind")
        return Demand(count=count, resources=amounts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the autoscaler would start, and what it never could."""

    launched: Mapping[str, int]
    """Workers per group, those of ``minReplicas`` included."""

    infeasible: tuple[tuple[Mapping[str, float], int], ...]
    """Resources and number of requests that no group can take."""


def autoscaling_config(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Let Ray's own parser read a RayCluster.

    Args:
        cluster: A RayCluster's manifest, as the API server would store it.

    Raises:
        ConfigError: Ray refuses it.
    """
    from ray.autoscaler._private.kuberay import autoscaling_config as parser

    try:
        found: dict[str, Any] = parser._derive_autoscaling_config_from_ray_cr(dict(cluster))
    except Exception as error:
        name = cluster.get("metadata", {}).get("name")
        raise ConfigError("cluster", name, "must be readable by Ray's autoscaler",
                          breaks=" ".join(str(error).split())[:300]) from error  # fmt: skip
    return found


def simulate(
    cluster: Mapping[str, Any], demands: Sequence[Demand], *, gone: Sequence[str] = ()
) -> Outcome:
    """Place a demand on an empty cluster, as the autoscaler's first round would.

    Args:
        cluster: A RayCluster's manifest.
        demands: What waits to run.
        gone: Groups that the cloud has just failed to give nodes for.

    Raises:
        ConfigError: Ray refuses the cluster, or `gone` names no group.
    """
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(autoscaling_config(cluster), skip_content_hash=True)
    types = config.get_node_type_configs() or {}
    for name in gone:
        require(name in types, "--gone", name, "must name a worker group",
                breaks=", ".join(sorted(types)))  # fmt: skip
    requests = [
        ResourceRequestUtil.make(dict(demand.resources))
        for demand in demands
        for _ in range(demand.count)
    ]
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            node_type_configs=types,
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(requests),
            disable_launch_config_check=True,
            cloud_resource_availabilities=dict.fromkeys(gone, 0.0),
            recoverable_resource_availabilities=dict.fromkeys(gone, 0.0),
        )
    )
    launched = Counter({item.instance_type: item.count for item in reply.to_launch})
    launched.pop(config.get_head_node_type(), None)
    missing: Counter[tuple[tuple[str, float], ...]] = Counter(
        tuple(sorted(item.resources_bundle.items())) for item in reply.infeasible_resource_requests
    )
    return Outcome(
        launched=dict(sorted(launched.items())),
        infeasible=tuple((dict(shape), count) for shape, count in sorted(missing.items())),
    )


def clusters_of(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Give each Ray cluster of a bundle as a RayCluster's manifest, by the object's name."""
    from heliostat.clusters import kuberay, schema, structural

    model = schema.structural(kuberay.RayClusterSpec)
    return {
        f"{item.document.kind}/{item.document.name}": {
            "apiVersion": kuberay.API_VERSION,
            "kind": "RayCluster",
            "metadata": {"name": item.document.name, "namespace": item.document.namespace},
            "spec": structural.with_defaults(model, dict(item.spec)),
        }
        for item in bundle.clusters()
    }
