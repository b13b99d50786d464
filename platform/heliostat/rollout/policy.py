"""The policy snapshot that gateways obey: who answers which slot, in one immutable epoch."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heliostat.config import require

NUM_SLOTS = 10_000

Role = Literal["stable", "candidate", "baseline", "previous"]
"""A baseline is a second, isolated copy of the stable version; previous is what was stable until
the promotion, still loaded in the gateways."""

Placement = Literal["in_process", "isolated"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One model version that may answer requests."""

    version: str
    """Registry version, such as ``"3"``."""

    role: Role
    """Exactly one variant of a model is stable."""

    placement: Placement
    """In the gateway's own process, or in a Serve app of its own."""

    package_path: str
    """Directory of the signed package; verified by whoever loads it."""

    package_digest: str
    """Content digest that the directory must have."""

    url: str | None = None
    """Base URL of the isolated app; None for in-process variants."""

    def __post_init__(self) -> None:
        require(
            self.role in ("stable", "candidate", "baseline", "previous"),
            f"variant {self.version}.role",
            self.role,
            "must be stable, candidate, baseline or previous",
        )
        require(
            (self.url is not None) == (self.placement == "isolated"),
            f"variant {self.version}.url",
            self.url,
            "must be given for isolated variants, and only for them",
        )

    @property
    def name(self) -> str:
        """What it is counted under; a twin has the stable version's own number."""
        return name_of_twin(self.version) if self.role == "baseline" else self.version


def name_of_twin(version: str) -> str:
    """What the twin of a version is counted under.

    >>> name_of_twin("1")
    '1 baseline'
    """
    return f"{version} baseline"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPolicy:
    """Who answers for one model."""

    model: str

    variants: tuple[Variant, ...]
    """The stable variant first; it answers in process and takes every fallback but its own."""

    slots: bytes
    """One byte per slot: the index of the variant that answers it. Length NUM_SLOTS."""

    rollout_id: str | None = None
    """The rollout whose evidence is being gathered, if one is running."""

    paired: bool = False
    """Score each answered row with stable and candidate, off the answer path."""

    deadline_s: float = 1.0
    """Time in which a request is answered, fallback included."""

    def __post_init__(self) -> None:
        where = f"policy.{self.model}"
        require(bool(self.variants), f"{where}.variants", self.variants, "must not be empty")
        roles = [variant.role for variant in self.variants]
        require(
            roles[0] == "stable" and roles.count("stable") == 1,
            f"{where}.variants",
            roles,
            "must begin with the one stable variant",
        )
        require(
            self.variants[0].placement == "in_process",
            f"{where}.variants[0].placement",
            self.variants[0].placement,
            "must be in_process",
        )
        require(
            len(self.slots) == NUM_SLOTS, f"{where}.slots", len(self.slots), f"needs {NUM_SLOTS}"
        )
        require(
            max(self.slots) < len(self.variants),
            f"{where}.slots",
            max(self.slots),
            "must be an index of variants",
        )
        require(self.deadline_s > 0, f"{where}.deadline_s", self.deadline_s, "must be above 0")

    @property
    def stable(self) -> Variant:
        """The variant that answers when no other may."""
        return self.variants[0]

    @property
    def candidate(self) -> Variant | None:
        """The variant on trial, if any."""
        return next((v for v in self.variants if v.role == "candidate"), None)

    def fallback(self, index: int) -> int | None:
        """Index of the variant that answers where the one at `index` could not; None for none.

        The stable version for every other one, and the version before for a stable one that
        was promoted just now.
        """
        if index != 0:
            return 0
        roles = [variant.role for variant in self.variants]
        return roles.index("previous") if "previous" in roles else None

    def share(self, index: int) -> float:
        """Share of all units whose slot belongs to the variant at `index`, 0 to 1."""
        return self.slots.count(index) / NUM_SLOTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """All models' policies under one epoch; epochs only rise."""

    epoch: int
    models: Mapping[str, ModelPolicy]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives an equal policy back."""
        return {
            "epoch": self.epoch,
            "models": {
                name: {
                    "variants": [
                        {key: getattr(variant, key) for key in Variant.__dataclass_fields__}
                        for variant in model.variants
                    ],
                    "slots": base64.b64encode(model.slots).decode(),
                    "rollout_id": model.rollout_id,
                    "paired": model.paired,
                    "deadline_s": model.deadline_s,
                }
                for name, model in self.models.items()
            },
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Policy:
        """Build the policy again from `to_dict`'s values, with every check."""
        return Policy(
            epoch=raw["epoch"],
            models={
                name: ModelPolicy(
                    model=name,
                    variants=tuple(Variant(**variant) for variant in model["variants"]),
                    slots=base64.b64decode(model["slots"]),
                    rollout_id=model["rollout_id"],
                    paired=model["paired"],
                    deadline_s=model["deadline_s"],
                )
                for name, model in raw["models"].items()
            },
        )
