"""Node pools that Kubernetes objects describe: Karpenter on EKS, GPU sharing on premises.

GKE and AKS pools are Terraform's (cluster_configs/terraform). No instance type is named: Karpenter
chooses by what a Pod needs, the others by variables that the team sets.
"""

from __future__ import annotations

from typing import Any

from heliostat.clusters import targets
from heliostat.clusters.foundation import metadata
from heliostat.clusters.recipe import ClusterRecipe, GpuGroup
from heliostat.clusters.targets import Pool


def nodes(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """What the target's nodes need inside the cluster; empty on GKE and AKS."""
    if recipe.target == "eks":
        return [
            _node_class(recipe),
            _system_pool(recipe),
            *[_pool(recipe, pool) for pool in targets.all_pools(recipe)],
        ]
    if recipe.target == "onprem":
        return _gpu_sharing(recipe)
    return []


def _node_class(recipe: ClusterRecipe) -> dict[str, Any]:
    """Nodes by tags that the team sets; local disks striped; volumes under the customer's key."""
    discovery = {"karpenter.sh/discovery": recipe.name}
    return {
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": metadata(recipe, recipe.name),
        "spec": {
            "amiFamily": "AL2023",
            # An AMI that somebody approved, never an alias that moves.
            "amiSelectorTerms": [{"tags": {"heliostat.io/approved": "true"}}],
            "role": f"{recipe.name}-node",
            "subnetSelectorTerms": [{"tags": discovery}],
            "securityGroupSelectorTerms": [{"tags": discovery}],
            "instanceStorePolicy": "RAID0",
            "metadataOptions": {
                "httpEndpoint": "enabled",
                "httpTokens": "required",
                "httpPutResponseHopLimit": 1,
            },
            "blockDeviceMappings": [
                {
                    "deviceName": "/dev/xvda",
                    "ebs": {
                        "volumeSize": "300Gi",
                        "volumeType": "gp3",
                        "encrypted": True,
                        "kmsKeyID": recipe.storage.customer_key,
                        "deleteOnTermination": True,
                    },
                }
            ],
        },
    }


def _system_pool(recipe: ClusterRecipe) -> dict[str, Any]:
    requirements = [
        _in("karpenter.sh/capacity-type", "on-demand"),
        _in("kubernetes.io/arch", "amd64"),
    ]
    return _node_pool(recipe, "system", requirements, [], weight=10, limits={"cpu": 64})


def _pool(recipe: ClusterRecipe, pool: Pool) -> dict[str, Any]:
    requirements = [
        _in("karpenter.sh/capacity-type", "spot" if pool.is_spot else "on-demand"),
        _in("kubernetes.io/arch", "amd64"),
    ]
    taints = []
    limits: dict[str, Any] = {"cpu": pool.max_workers * 4 * pool.group.size.cpus}
    if isinstance(pool.group, GpuGroup):
        requirements += [
            _in(targets.ACCELERATOR_LABEL["eks"], pool.group.accelerator),
            _in("karpenter.k8s.aws/instance-gpu-count", str(pool.group.gpus_per_worker)),
        ]
        taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
        limits["nvidia.com/gpu"] = pool.max_workers * 4 * pool.group.gpus_per_worker
    return _node_pool(recipe, pool.name, requirements, taints, weight=pool.priority, limits=limits)


def _in(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": [value]}


def _node_pool(
    recipe: ClusterRecipe, name: str, requirements: list[dict[str, Any]],
    taints: list[dict[str, Any]], *, weight: int, limits: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    spec: dict[str, Any] = {
        "nodeClassRef": {
            "group": "karpenter.k8s.aws",
            "kind": "EC2NodeClass",
            "name": recipe.name,
        },
        "requirements": requirements,
        "expireAfter": "720h",
    }
    if taints:
        spec["taints"] = taints
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": metadata(recipe, f"{recipe.name}-{name}"),
        "spec": {
            "weight": weight,
            "limits": limits,
            "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "5m"},
            "template": {"metadata": {"labels": {targets.POOL_LABEL: name}}, "spec": spec},
        },
    }


def _gpu_sharing(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """What the GPU operator reads for slices, and claims for dynamic resource allocation."""
    found: list[dict[str, Any]] = []
    slicing = [group for group in recipe.gpus if group.sharing == "time-slicing"]
    if slicing:
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata(recipe, f"{recipe.name}-time-slicing", "gpu-operator"),
                "data": {"whole": "version: v1\n", "shared": _TIME_SLICING},
            }
        )
    mig = [group for group in recipe.gpus if group.sharing == "mig"]
    if mig:
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata(recipe, f"{recipe.name}-mig-parted", "gpu-operator"),
                "data": {"config.yaml": _mig_config(mig)},
            }
        )
    found += [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": metadata(recipe, f"{recipe.name}-{group.name}", recipe.namespace),
            "spec": {
                "spec": {
                    "devices": {
                        "requests": [
                            {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
                        ]
                    }
                }
            },
        }
        for group in recipe.gpus
        if group.sharing == "dra"
    ]
    return found


_TIME_SLICING = """\
version: v1
sharing:
  timeSlicing:
    renameByDefault: true
    failRequestsGreaterThanOne: true
    resources:
      - name: nvidia.com/gpu
        replicas: 4
"""


def _mig_config(groups: list[GpuGroup]) -> str:
    """One layout per profile, and one without slices: a layout is chosen by a node's label."""
    slices = {str(group.mig_profile): group.mig_slices_per_gpu for group in groups}
    lines = [
        "version: v1",
        "mig-configs:",
        "  all-disabled:",
        "    - devices: all",
        "      mig-enabled: false",
    ]
    for profile, count in sorted(slices.items()):
        lines += [
            f"  all-{profile}:",
            "    - devices: all",
            "      mig-enabled: true",
            "      mig-devices:",
            f'        "{profile}": {count}',
        ]
    return "\n".join(lines) + "\n"
