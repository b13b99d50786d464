"""What a platform team decides about a cluster; everything else follows from it.

A recipe is typed Python: ``--recipe cluster_configs.recipes:eks``. It names no instance type, price
or quota: those come from the cloud and from files of the user's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from heliostat.config import require, require_name

Target = Literal["eks", "gke", "aks", "onprem"]
TARGETS: tuple[Target, ...] = ("eks", "gke", "aks", "onprem")

Sharing = Literal["whole", "mig", "time-slicing", "dra"]

_IMAGE = re.compile(r"^[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9._-]+)+:[\w][\w.-]{0,127}$")
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_SHARED_PRODUCT = re.compile(r"-SHARED$|-MIG-\d+g\.")
_CIDR = re.compile(r"^\d{1,3}(\.\d{1,3}){3}/\d{1,2}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What one worker may use; requests and limits are equal, so that Ray's view is true."""

    cpus: int
    memory_gib: int
    spill_gib: int = 50
    """Local disk for objects that do not fit in memory."""

    def __post_init__(self) -> None:
        for name in ("cpus", "memory_gib", "spill_gib"):
            require(getattr(self, name) > 0, f"size.{name}", getattr(self, name), "must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuGroup:
    """Workers without accelerator."""

    name: str = "cpu"
    size: Size = field(default_factory=lambda: Size(cpus=8, memory_gib=32))
    max_workers: int = 10
    spot_share_percent: int = 0
    """How many of the workers may be spot, tried first; 0-100."""

    def __post_init__(self) -> None:
        _check_group(self.name, self.max_workers, self.spot_share_percent)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuGroup:
    """Workers with NVIDIA GPUs, spot first where the target has spot."""

    name: str = "gpu"
    accelerator: str
    """The GPU as the target's node label names it: ``l4`` (eks), ``nvidia-l4`` (gke), the value
    of ``nvidia.com/gpu.product`` (onprem), your own label's value (aks). On premises the whole
    card's name, also for slices and shares: the operator gives them resources of their own."""

    gpus_per_worker: int = 1
    size: Size = field(default_factory=lambda: Size(cpus=8, memory_gib=32, spill_gib=100))
    max_workers: int = 4
    spot_share_percent: int = 50
    """How many of the workers may be spot, tried first; 0-100. Must be 0 on premises."""

    sharing: Sharing = "whole"
    """Whole GPUs, MIG slices, time slices, or claims by dynamic resource allocation."""

    mig_profile: str | None = None
    """Slice for ``mig``: ``1g.10gb``."""

    mig_slices_per_gpu: int | None = None
    """How many such slices one card has, for ``mig``: NVIDIA's table of your card says it."""

    cpus_for_ray: int | None = None
    """CPUs that Ray may give out on such a worker; None: all of ``size``. Ray prefers CPU workers
    for CPU work, but takes GPU workers once that group is full. 0 keeps such work away for good;
    work with a GPU must then ask for no CPU beside it."""

    def __post_init__(self) -> None:
        _check_group(self.name, self.max_workers, self.spot_share_percent)
        where = f"gpus.{self.name}"
        require(bool(self.accelerator), f"{where}.accelerator", "", "must be set")
        require(self.gpus_per_worker > 0, f"{where}.gpus_per_worker", self.gpus_per_worker,
                "must be above 0")  # fmt: skip
        require(
            (self.sharing == "mig") == (self.mig_profile is not None),
            f"{where}.mig_profile", self.mig_profile, "must be set with sharing 'mig' and only then",
        )  # fmt: skip
        slices = self.mig_slices_per_gpu
        require(
            slices is not None and 1 <= slices <= 7 if self.sharing == "mig" else slices is None,
            f"{where}.mig_slices_per_gpu", slices,
            "must be 1 to 7 with sharing 'mig' and only then",
        )  # fmt: skip
        require(
            self.mig_profile is None or bool(re.match(r"^\d+g\.\d+gb$", self.mig_profile)),
            f"{where}.mig_profile", self.mig_profile, "must look like 1g.10gb",
        )  # fmt: skip
        require(
            self.cpus_for_ray is None or 0 <= self.cpus_for_ray <= self.size.cpus,
            f"{where}.cpus_for_ray", self.cpus_for_ray, f"must be 0 to {self.size.cpus}, or None",
            breaks="the size of the worker",
        )  # fmt: skip
        require(
            self.sharing == "whole" or self.gpus_per_worker == 1,
            f"{where}.gpus_per_worker", self.gpus_per_worker, "must be 1 for shared GPUs",
            breaks="several slices are not one larger GPU",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TpuGroup:
    """TPU slices (gke); one replica is one whole slice of several hosts."""

    name: str = "tpu"
    accelerator: str
    """Value of ``cloud.google.com/gke-tpu-accelerator``: ``tpu-v6e-slice``."""

    topology: str
    """Value of ``cloud.google.com/gke-tpu-topology``: ``4x4``."""

    chips_per_host: int
    num_hosts: int
    size: Size = field(default_factory=lambda: Size(cpus=16, memory_gib=64))
    max_slices: int = 1

    def __post_init__(self) -> None:
        _check_group(self.name, self.max_slices, 0)
        where = f"tpus.{self.name}"
        shape = re.match(r"^\d+(x\d+){1,2}$", self.topology)
        require(shape is not None, f"{where}.topology", self.topology, "must look like 4x4")
        chips = 1
        for side in self.topology.split("x"):
            chips *= int(side)
        require(
            chips == self.chips_per_host * self.num_hosts, f"{where}.topology", self.topology,
            "must have chips_per_host x num_hosts chips",
            breaks=f"{self.chips_per_host} x {self.num_hosts} is not {chips}",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where bytes lie, and the customer's key that encrypts them."""

    bucket: str
    """URL of the object store's bucket: ``s3://``, ``gs://``, ``abfss://``."""

    customer_key: str | None
    """Key of the customer's key service; a recipe without one is refused."""

    endpoint: str | None = None
    """Address of an S3-compatible store on premises."""

    volume_class: str = "heliostat-encrypted"
    """Class of persistent volumes; rendered for the clouds, yours on premises."""

    shared_class: str = "heliostat-shared"
    """Class whose volumes many Pods write at once (ReadWriteMany), encrypted with your key; yours:
    it names a file system that only you know. What all Pods of the platform share lies on it."""

    shared_gib: int = 200

    def __post_init__(self) -> None:
        require(
            bool(re.match(r"^(s3|gs|abfss)://[^/]+", self.bucket)),
            "storage.bucket", self.bucket, "must begin with s3://, gs:// or abfss://",
        )  # fmt: skip
        require(self.shared_gib > 0, "storage.shared_gib", self.shared_gib, "must be above 0")
        require(
            bool(self.customer_key), "storage.customer_key", self.customer_key, "must be set",
            breaks="buckets, volumes and databases are encrypted with a key of the customer's own",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Cloud identities of the three accounts, as the target's workload identity names them."""

    serve: str
    train: str
    mlflow: str

    def __post_init__(self) -> None:
        for name in ("serve", "train", "mlflow"):
            value = getattr(self, name)
            require(bool(value), f"identity.{name}", value, "must be set")
        require(
            self.serve != self.train, "identity.serve", self.serve, "must differ from train",
            breaks="what serves must not be able to write what it serves",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Container images by exact tag, out of a registry of the platform team's own."""

    ray: str
    """Heliostat's image, CPU variant; its tag begins with Ray's version."""

    ray_gpu: str
    redis: str
    postgres: str
    fluent_bit: str
    pause: str
    digests: tuple[tuple[str, str], ...] = ()
    """(image, digest) pairs that ``make image-pin`` read from the registry."""

    def __post_init__(self) -> None:
        for name in ("ray", "ray_gpu", "redis", "postgres", "fluent_bit", "pause"):
            value = getattr(self, name)
            require(bool(_IMAGE.match(value)), f"images.{name}", value,
                    "must be registry/name:tag with an exact tag")  # fmt: skip
            require(not value.endswith(":latest"), f"images.{name}", value, "must not be latest",
                    breaks="it names another image tomorrow")  # fmt: skip
        for image, digest in self.digests:
            require(bool(_DIGEST.match(digest)), f"images.digests.{image}", digest,
                    "must be sha256: and 64 hexadecimal digits")  # fmt: skip

    def pinned(self, image: str) -> str:
        """Give the image with its digest where one was read, else by tag."""
        digest = dict(self.digests).get(image)
        return f"{image}@{digest}" if digest else image


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Who may talk to the cluster from outside, and what it may reach."""

    host: str
    """Name under which clients reach the models."""

    gateway_class: str
    """GatewayClass of the Gateway API controller."""

    gateway_namespace: str
    """Namespace in which that controller runs its proxies."""

    api_server_cidr: str
    """Addresses of the Kubernetes API server; the autoscaler and the operator need it."""

    store_cidr: str = "0.0.0.0/0"
    """Addresses of the object store and cloud APIs, reached on 443."""

    operator_namespace: str = "kuberay-system"
    monitoring_namespace: str = "monitoring"

    def __post_init__(self) -> None:
        for name in ("api_server_cidr", "store_cidr"):
            value = getattr(self, name)
            require(bool(_CIDR.match(value)), f"network.{name}", value, "must be a.b.c.d/n")
        require(self.api_server_cidr != "0.0.0.0/0", "network.api_server_cidr",
                self.api_server_cidr, "must name the API server, not everything")  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterRecipe:
    """One platform on one Kubernetes cluster."""

    target: Target
    images: Images
    storage: Storage
    identity: Identity
    network: Network
    name: str = "heliostat"
    namespace: str = "heliostat"
    platform_namespace: str = "heliostat-platform"
    ray_version: str = "2.60.0"
    kubernetes: str = "1.35"
    """Minor version of the cluster; manifests are held against its schemas."""

    cpu: CpuGroup = field(default_factory=CpuGroup)
    gpus: tuple[GpuGroup, ...] = ()
    tpus: tuple[TpuGroup, ...] = ()
    serve_config: str = "serve_apps/cluster.yaml"
    """The Serve config, relative to the repository; ``serve deploy`` takes the same file."""

    serve_min_workers: int = 2
    """Workers that always serve; a disruption budget keeps one fewer."""

    fault_tolerance: Literal["redis", "rocksdb"] = "redis"
    """Where the shared cluster's head keeps its state. The service always needs Redis."""

    mutual_tls: bool = True
    """Mutual TLS between Ray's processes; needs cert-manager and an alpha gate of the operator."""

    database_host: str | None = None
    """A managed PostgreSQL with the databases ``mlflow`` and ``heliostat`` of a user ``heliostat``;
    None renders one into the platform's namespace (onprem)."""

    serve_drain_s: int = 45
    train_drain_s: int = 90
    time_zone: str = "Etc/UTC"

    def __post_init__(self) -> None:
        require_name("name", self.name)
        require(len(self.name) <= 20, "name", self.name, "must have at most 20 characters",
                breaks="KubeRay allows 36 for a RayCronJob, and suffixes follow")  # fmt: skip
        require(
            self.target in TARGETS, "target", self.target, "must be one of " + ", ".join(TARGETS)
        )
        names = [self.cpu.name, *(g.name for g in self.gpus), *(g.name for g in self.tpus)]
        require(len(set(names)) == len(names), "groups", names, "must have different names")
        require("head" not in names, "groups", names, "must not use 'head'",
                breaks="Kueue keeps the name for the head")  # fmt: skip
        require(self.target == "gke" or not self.tpus, "tpus", len(self.tpus), "must be empty",
                breaks="only gke has TPUs")  # fmt: skip
        require(self.serve_min_workers >= 2, "serve_min_workers", self.serve_min_workers,
                "must be at least 2", breaks="one node that drains would be an outage")  # fmt: skip
        spot_groups: list[CpuGroup | GpuGroup] = [self.cpu, *self.gpus]
        for group in spot_groups:
            require(
                self.target != "onprem" or group.spot_share_percent == 0,
                f"{group.name}.spot_share_percent", group.spot_share_percent, "must be 0 on premises",
                breaks="there is no spot market; use Kueue's preemption",
            )  # fmt: skip
        for gpu in self.gpus:
            require(
                self.target == "onprem" or gpu.sharing == "whole",
                f"gpus.{gpu.name}.sharing", gpu.sharing, "must be 'whole' in a cloud",
                breaks="slices are set up by the GPU operator on nodes of your own",
            )  # fmt: skip
            require(
                self.target != "onprem" or not _SHARED_PRODUCT.search(gpu.accelerator),
                f"gpus.{gpu.name}.accelerator", gpu.accelerator, "must be the whole card's name",
                breaks="with strategy 'mixed' and renamed shares no node carries that suffix",
            )  # fmt: skip
        for name in ("ray", "ray_gpu"):
            tag = getattr(self.images, name).rsplit(":", 1)[1]
            require(tag.startswith(self.ray_version), f"images.{name}", tag,
                    f"must begin with Ray's version {self.ray_version}")  # fmt: skip
        require(self.target != "onprem" or self.database_host is None or bool(self.database_host),
                "database_host", self.database_host, "must not be empty")  # fmt: skip
        require(self.target == "onprem" or bool(self.database_host), "database_host",
                self.database_host, "must name the cloud's managed PostgreSQL",
                breaks="it is encrypted with the customer's key there")  # fmt: skip
        prefix = {"eks": "s3://", "gke": "gs://", "aks": "abfss://", "onprem": "s3://"}[self.target]
        require(self.storage.bucket.startswith(prefix), "storage.bucket", self.storage.bucket,
                f"must begin with {prefix} on {self.target}")  # fmt: skip


def _check_group(name: str, max_workers: int, spot_share_percent: int) -> None:
    require(bool(re.match(r"^[a-z][a-z0-9-]{0,19}$", name)), "group.name", name,
            "must be 1 to 20 characters of a-z, 0-9 and -")  # fmt: skip
    require(max_workers > 0, f"{name}.max_workers", max_workers, "must be above 0")
    require(0 <= spot_share_percent <= 100, f"{name}.spot_share_percent", spot_share_percent,
            "must be 0 to 100")  # fmt: skip
