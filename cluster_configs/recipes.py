"""The recipes behind the committed folders; copy one, put in your own names, render again.

Every name with ``example`` in it stands for something of yours: registry, account, key, host,
addresses. ``heliostat cluster apply`` refuses to apply while one is left.
"""

from __future__ import annotations

from heliostat.clusters.recipe import (
    ClusterRecipe,
    GpuGroup,
    Identity,
    Images,
    Network,
    Storage,
    TpuGroup,
)
from heliostat.clusters.render import JobLine, Platform

_REGISTRY = "registry.example.com/heliostat"

IMAGES = Images(
    ray=f"{_REGISTRY}/ray:2.60.0-py311",
    ray_gpu=f"{_REGISTRY}/ray:2.60.0-py311-gpu",
    redis=f"{_REGISTRY}/redis:7.0.15",
    postgres=f"{_REGISTRY}/postgres:15",
    fluent_bit=f"{_REGISTRY}/fluent-bit:example",
    pause=f"{_REGISTRY}/pause:example",
)

JOBS = (
    ("train", JobLine(entrypoint="python jobs/train.py --recipe jobs.flights:demo")),
    ("tune", JobLine(entrypoint="python jobs/train.py --recipe jobs.flights:small")),
    (
        "batch",
        JobLine(entrypoint="python jobs/materialize.py --recipe jobs.flights:demo", role="batch"),
    ),
    (
        "retrain",
        JobLine(
            entrypoint="python jobs/pipeline.py --recipe jobs.flights:demo", schedule="0 3 * * 1"
        ),
    ),
    (
        "drift",
        JobLine(
            entrypoint="python jobs/features.py --recipe jobs.flights:demo",
            role="batch",
            schedule="30 2 * * *",
        ),
    ),
)


def _network(gateway_class: str, gateway_namespace: str) -> Network:
    return Network(
        host="models.example.com",
        gateway_class=gateway_class,
        gateway_namespace=gateway_namespace,
        api_server_cidr="192.0.2.10/32",
    )


def eks() -> Platform:
    """Amazon EKS with Karpenter and IRSA."""
    role = "arn:aws:iam::111122223333:role/example"
    cluster = ClusterRecipe(
        target="eks",
        images=IMAGES,
        storage=Storage(
            bucket="s3://example-heliostat",
            customer_key="arn:aws:kms:us-east-1:111122223333:key/example",
        ),
        identity=Identity(serve=f"{role}-serve", train=f"{role}-train", mlflow=f"{role}-mlflow"),
        network=_network("envoy", "envoy-gateway-system"),
        gpus=(GpuGroup(accelerator="l4"),),
        database_host="postgres.example.com",
    )
    return Platform(cluster=cluster, jobs=JOBS)


def gke() -> Platform:
    """Google GKE with Workload Identity and TPU slices."""
    domain = "example-project.iam.gserviceaccount.com"
    cluster = ClusterRecipe(
        target="gke",
        images=IMAGES,
        storage=Storage(
            bucket="gs://example-heliostat",
            customer_key="projects/example-project/locations/us-central1/keyRings/example/cryptoKeys/example",
        ),
        identity=Identity(
            serve=f"heliostat-serve@{domain}",
            train=f"heliostat-train@{domain}",
            mlflow=f"heliostat-mlflow@{domain}",
        ),
        network=_network("envoy", "envoy-gateway-system"),
        gpus=(GpuGroup(accelerator="nvidia-l4"),),
        tpus=(
            TpuGroup(accelerator="tpu-v6e-slice", topology="4x4", chips_per_host=4, num_hosts=4),
        ),
        # On GKE a spot notice is 30 s; what takes longer to drain is lost.
        serve_drain_s=20,
        train_drain_s=20,
        database_host="postgres.example.com",
    )
    return Platform(cluster=cluster, jobs=JOBS)


def aks() -> Platform:
    """Azure AKS with Microsoft Entra Workload ID."""
    cluster = ClusterRecipe(
        target="aks",
        images=IMAGES,
        storage=Storage(
            bucket="abfss://heliostat@example.dfs.core.windows.net",
            customer_key="/subscriptions/example/resourceGroups/example/providers/Microsoft.Compute/diskEncryptionSets/example",
        ),
        identity=Identity(
            serve="00000000-0000-0000-0000-example-serve",
            train="00000000-0000-0000-0000-example-train",
            mlflow="00000000-0000-0000-0000-example-mlflow",
        ),
        network=_network("envoy", "envoy-gateway-system"),
        gpus=(GpuGroup(accelerator="example-gpu"),),
        serve_drain_s=20,
        train_drain_s=20,
        database_host="postgres.example.com",
    )
    return Platform(cluster=cluster, jobs=JOBS)


def onprem() -> Platform:
    """Machines of your own with the NVIDIA GPU operator: whole GPUs, MIG, time slices and DRA."""
    product = "NVIDIA-EXAMPLE"
    cluster = ClusterRecipe(
        target="onprem",
        images=IMAGES,
        storage=Storage(
            bucket="s3://example-heliostat",
            endpoint="https://store.example.com",
            customer_key="kes://example/heliostat",
            volume_class="example-encrypted",
        ),
        identity=Identity(
            serve="heliostat-serve", train="heliostat-train", mlflow="heliostat-mlflow"
        ),
        network=_network("envoy", "envoy-gateway-system"),
        gpus=(
            GpuGroup(accelerator=product, spot_share_percent=0),
            GpuGroup(
                name="gpu-slice",
                accelerator=product,
                spot_share_percent=0,
                sharing="mig",
                mig_profile="1g.10gb",
                mig_slices_per_gpu=7,
            ),
            GpuGroup(
                name="gpu-shared",
                accelerator=product,
                spot_share_percent=0,
                sharing="time-slicing",
            ),
            GpuGroup(name="gpu-claim", accelerator=product, spot_share_percent=0, sharing="dra"),
        ),
        fault_tolerance="redis",
    )
    return Platform(cluster=cluster, jobs=JOBS)
