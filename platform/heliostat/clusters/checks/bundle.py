"""What is checked together: documents, and the Ray clusters inside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heliostat.clusters.document import Document, items, mapping, mappings
from heliostat.clusters.finding import Finding, Level

RAY_GROUP = "ray.io/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """All documents of one check, with what is known about the cluster they are for."""

    documents: Sequence[Document]
    kubernetes: str = "1.35"
    """Minor version whose schemas apply."""

    gates: Mapping[str, bool] | None = None
    """Feature gates of the operator; None where no Helm values were among the files."""

    crds: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    """Schemas of custom resources by (apiVersion, kind), from CRD files that the user has."""

    is_whole: bool = False
    """Whether the documents are all there is, so that a name that none of them has is an error."""

    ray_version: str | None = None
    """The Ray that the platform is pinned to."""

    source_roots: Sequence[str] = ()
    """Folders in which import paths of Serve applications are looked up; none skips that."""

    def of_kind(self, *kinds: str) -> list[Document]:
        """Give the documents of these kinds."""
        return [item for item in self.documents if item.kind in kinds]

    def ray(self) -> list[Document]:
        """Give KubeRay's documents."""
        return [item for item in self.documents if item.api_version.startswith(RAY_GROUP)]

    def clusters(self) -> Iterator[RaySpec]:
        """Give every Ray cluster, whichever kind it is written in."""
        for document in self.ray():
            for steps in _PLACES.get(document.kind, ()):
                value: Any = document.body
                for step in steps:
                    value = mapping(value).get(step)
                if isinstance(value, Mapping):
                    yield RaySpec(document=document, path=".".join(steps), spec=value)


_PLACES: dict[str, tuple[tuple[str, ...], ...]] = {
    "RayCluster": (("spec",),),
    "RayJob": (("spec", "rayClusterSpec"),),
    "RayService": (("spec", "rayClusterConfig"),),
    "RayCronJob": (("spec", "jobTemplate", "rayClusterSpec"),),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The head or one group of workers."""

    path: str
    name: str
    is_head: bool
    spec: Mapping[str, Any]

    @property
    def template(self) -> Mapping[str, Any]:
        """The Pod template."""
        return mapping(self.spec.get("template"))

    @property
    def pod(self) -> Mapping[str, Any]:
        """The Pod's spec."""
        return mapping(self.template.get("spec"))

    @property
    def params(self) -> Mapping[str, Any]:
        """What ``ray start`` is given."""
        return mapping(self.spec.get("rayStartParams"))

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """Containers as written; the first runs Ray."""
        return mappings(self.pod.get("containers"))

    @property
    def ray(self) -> Mapping[str, Any]:
        """The container that runs Ray; empty where there is none."""
        return self.containers[0] if self.containers else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySpec:
    """One Ray cluster inside a document."""

    document: Document
    path: str
    spec: Mapping[str, Any]

    @property
    def head(self) -> Group:
        """The head."""
        return Group(
            path=f"{self.path}.headGroupSpec", name="head", is_head=True,
            spec=mapping(self.spec.get("headGroupSpec")),
        )  # fmt: skip

    @property
    def workers(self) -> list[Group]:
        """The groups of workers."""
        return [
            Group(
                path=f"{self.path}.workerGroupSpecs[{item.get('groupName', index)}]",
                name=str(item.get("groupName", index)), is_head=False, spec=item,
            )
            for index, item in enumerate(mappings(self.spec.get("workerGroupSpecs")))
        ]  # fmt: skip

    @property
    def groups(self) -> list[Group]:
        """Head and workers."""
        return [self.head, *self.workers]

    @property
    def is_autoscaled(self) -> bool:
        """Whether the autoscaler runs."""
        return self.spec.get("enableInTreeAutoscaling") is True

    @property
    def is_autoscaled_v2(self) -> bool:
        """Whether the operator treats it as version 2: only when the field says so."""
        options = mapping(self.spec.get("autoscalerOptions"))
        return self.is_autoscaled and options.get("version") == "v2"

    @property
    def has_token(self) -> bool:
        """Whether Ray asks for a token: only ``mode: token`` does."""
        return mapping(self.spec.get("authOptions")).get("mode") == "token"

    def say(
        self, check: str, path: str, value: Any, rule: str, breaks: str | None = None,
        level: Level = "error",
    ) -> Finding:  # fmt: skip
        """Make a finding at a path below the cluster; an empty path is the cluster itself."""
        inside = f"{self.path}.{path}" if path else self.path
        return say(self.document, check, inside, value, rule, breaks, level)


def say(
    document: Document, check: str, path: str, value: Any, rule: str, breaks: str | None = None,
    level: Level = "error",
) -> Finding:  # fmt: skip
    """Make a finding at a path of a document."""
    where = f"{document.where} {path}" if path else document.where
    return Finding(check=check, where=where, value=value, rule=rule, breaks=breaks, level=level)


def env_of(container: Mapping[str, Any]) -> dict[str, Any]:
    """Environment variables of a container: name to value, or to ``None`` for a reference."""
    return {
        str(item.get("name")): item.get("value")
        for item in mappings(container.get("env"))
        if item.get("name") is not None
    }


def number(value: Any) -> int | None:
    """Give the value if it is a whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def version_of(text: Any) -> tuple[int, int, int] | None:
    """Parse ``2.60.0``, also with a suffix; None where it is no version."""
    parts = str(text).removeprefix("v").split(".") if isinstance(text, str) else []
    numbers = []
    for part in parts[:3]:
        digits = "".join(_leading_digits(part))
        if not digits:
            return None
        numbers.append(int(digits))
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _leading_digits(text: str) -> Iterator[str]:
    for character in text:
        if not character.isdecimal():
            return
        yield character


def pod_templates(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give path and body of each Pod template that Kubernetes' own kinds carry."""
    spec = document.spec
    if document.kind == "Pod":
        yield "", document.body
    elif document.kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"):
        yield "spec.template", mapping(spec.get("template"))
    elif document.kind == "CronJob":
        job = mapping(mapping(spec.get("jobTemplate")).get("spec"))
        yield "spec.jobTemplate.spec.template", mapping(job.get("template"))


__all__ = [
    "Bundle", "Group", "RaySpec", "env_of", "items", "mapping", "mappings", "number",
    "pod_templates", "say", "version_of",
]  # fmt: skip
