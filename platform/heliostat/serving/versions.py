"""Model versions that a gateway holds, verified, and the snapshot that answers requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from heliostat import telemetry
from heliostat.errors import ConfigError, HeliostatError, nearest
from heliostat.inference.predictor import read_verified
from heliostat.registry.package import FeatureServiceReference, PackageDescription
from heliostat.rollout.policy import ModelPolicy, Policy, Variant
from heliostat.serving import protocol
from heliostat.serving.online import Features
from heliostat.serving.refused import Refused, bad
from heliostat.serving.residence import Resident, Residents

_USUAL = 1e30


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedVersion:
    """One verified version: what it needs, and where it is if it answers in this process."""

    description: PackageDescription
    resident: Resident | None
    """Its place in this process; None where it answers in an app of its own."""

    features: Features | None
    inputs: frozenset[str]
    numeric: tuple[str, ...]
    request_tensors: tuple[str, ...]
    """What to send instead of all inputs: entity keys, then what on-demand views want and inputs
    that no view delivers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """What every answer of one variant carries, made once per policy."""

    labels: tuple[str, str, str]
    """Model, version and role, as metrics want them."""

    headers: tuple[tuple[bytes, bytes], ...]
    fallback_headers: tuple[tuple[bytes, bytes], ...]
    """The same where it answers for another variant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model's policy and its versions, in the same order; None for an unusable variant."""

    policy: ModelPolicy
    policy_labels: tuple[str]
    """The model's name, as metrics want it."""

    epoch: int
    versions: tuple[LoadedVersion | None, ...]
    marks: tuple[Mark, ...]
    """In the order of the versions."""

    stable: LoadedVersion
    accepted: frozenset[str]
    by_keys: frozenset[str]

    def index_of(self, version: str) -> int | None:
        """Index of the variant with this version, if the policy names it."""
        for index, variant in enumerate(self.policy.variants):
            if variant.version == version:
                return index
        return None

    def bind(self, given: Mapping[str, Sequence[Any]]) -> bool:
        """Check the names and kinds of a request's tensors; say whether it came by keys.

        Raises:
            Refused: 400; neither all inputs nor exactly the entity keys.
        """
        names = given.keys()
        by_keys = names == self.by_keys
        if by_keys or names == self.stable.inputs:
            for name in self.stable.numeric:
                if name in given:
                    values = given[name]
                    # One float of a usual size needs no look at each value in turn.
                    first = values[0]
                    if len(values) > 1 or type(first) is not float or not -_USUAL < first < _USUAL:
                        protocol.check_numbers(name, values)
            return by_keys
        for name in names:
            if name not in self.accepted:
                raise bad("inputs", name, f"is not a tensor; {nearest(name, self.accepted)}")
        keys = ", ".join(self.stable.request_tensors)
        rule = "must be all model inputs" + (f" or exactly {keys}" if self.by_keys else "")
        missing = [name for name in self._wanted(names) if name not in names]
        raise bad(
            "inputs", sorted(names), rule + (f"; missing {', '.join(missing)}" if missing else "")
        )

    def _wanted(self, names: Any) -> Sequence[str]:
        if self.by_keys and any(name in self.by_keys for name in names):
            return self.stable.request_tensors
        return [item.name for item in self.stable.description.inputs]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Everything that answers requests under one epoch; swapped as a whole."""

    policy: Policy
    """The whole of it; `models` and `broken` are what this gateway answers for."""

    models: Mapping[str, ServedModel]

    broken: Mapping[str, str]
    """Models whose new stable version cannot be used, with the reason. One that answered
    before goes on as it was."""


class Row:
    """The values of one request: what was given, and features, read at most once each."""

    __slots__ = ("_at", "_given", "_read", "by_keys", "has_defaults", "is_by_feast", "is_fetched")

    def __init__(self, given: Mapping[str, list[Any]], by_keys: bool, at: datetime | None) -> None:
        self._given = given
        self.by_keys = by_keys
        self._at = at
        self._read: dict[int, dict[str, list[Any]] | HeliostatError] = {}
        self.is_fetched = False
        """Whether values came, or should have come, from a server."""

        self.is_by_feast = False
        """Whether values came from Feast's own reader."""

        self.has_defaults = False
        """Whether a store did not answer, so that declared defaults stand for its values."""

    @property
    def given(self) -> Mapping[str, list[Any]]:
        """The tensors of the request."""
        return self._given

    async def fetch(self, versions: Sequence[LoadedVersion | None]) -> None:
        """Read what these versions need from a server; what fails is raised when it is used."""
        for version in versions:
            if version is None or version.features is None or id(version.features) in self._read:
                continue
            found: dict[str, list[Any]] | HeliostatError
            try:
                if not version.features.is_remote:
                    continue
                self.is_fetched = True
                keys = {name: self._given[name] for name in version.features.keys}
                found, is_default = await version.features.fetch(keys, self._at)
                self.has_defaults |= is_default
                self.is_by_feast |= not is_default and version.features.reader == "feast"
                found = version.features.completed(found, self._given)
            except (Refused, ConfigError) as error:
                found = error
            self._read[id(version.features)] = found

    def features(self, version: LoadedVersion) -> Mapping[str, list[Any]]:
        """Feature values of the version's own views; equal references share one read.

        Raises:
            Refused: They cannot be read.
            ConfigError: The version's on-demand features cannot be computed from this request.
        """
        if not self.by_keys or version.features is None:
            return {}
        key = id(version.features)
        values = self._read.get(key)
        if values is None:
            keys = {name: self._given[name] for name in version.features.keys}
            try:
                read = version.features.read(keys, self._at)
                values = version.features.completed(read, self._given)
            except ConfigError as error:
                values = error
            self._read[key] = values
        if isinstance(values, HeliostatError):
            raise values
        return values

    def columns(self, version: LoadedVersion) -> Mapping[str, list[Any]]:
        """All inputs of the version.

        Raises:
            KeyError: The version needs what the request does not hold.
        """
        given = self._given
        if not self.by_keys:
            if version.inputs == given.keys():
                return given
            return {name: given[name] for name in version.inputs}
        read = self.features(version)
        if version.inputs == read.keys():
            return read
        return {name: read[name] if name in read else given[name] for name in version.inputs}


class Loader:
    """Builds snapshots; verifies what the last one did not hold yet, and loads what has room."""

    def __init__(
        self,
        keys_dir: Path,
        open_features: Callable[[FeatureServiceReference], Features],
        residents: Residents,
        *,
        pinned: frozenset[str] = frozenset(),
        serves: Callable[[str], bool] = lambda _model: True,
    ) -> None:
        """Take the parts.

        Args:
            keys_dir: Folder of trusted keys.
            open_features: Makes what reads the online features of a feature service.
            residents: Where versions are held that answer in this process.
            pinned: Models that are never put away.
            serves: Whether a model of the policy is this gateway's to answer for.
        """
        self._serves = serves
        self._keys_dir = keys_dir
        self._open_features = open_features
        self._residents = residents
        self._pinned = pinned
        self._descriptions: dict[str, PackageDescription] = {}
        self._features: dict[FeatureServiceReference, Features] = {}

    def load(self, policy: Policy, before: Snapshot | None = None) -> Snapshot:
        """Make everything ready for the policy. Takes time: call it in a thread, one at a time.

        A variant on trial that cannot be loaded becomes None: its requests then count as
        its errors, and the stable version answers them. A model whose stable version cannot
        be loaded keeps what it had, and does not hinder the others.

        Raises:
            HeliostatError: None of the policy's models can be served.
        """
        models: dict[str, ServedModel] = {}
        broken: dict[str, str] = {}
        ours = {name: model for name, model in policy.models.items() if self._serves(name)}
        for name, model in ours.items():
            try:
                models[name] = self._model(model, policy.epoch)
            except Exception as error:
                if len(ours) == 1:
                    raise
                telemetry.event("model.unusable", model=name, problem=str(error)[:300])
                broken[name] = str(error)[:300]
                if before is not None and name in before.models:
                    models[name] = before.models[name]
        self._forget(models)
        return Snapshot(policy=policy, models=models, broken=broken)

    def _model(self, policy: ModelPolicy, epoch: int) -> ServedModel:
        stable = self._version(policy.model, policy.stable)
        versions: list[LoadedVersion | None] = [stable]
        for variant in policy.variants[1:]:
            try:
                versions.append(self._version(policy.model, variant))
            except Exception as error:  # noqa: BLE001
                telemetry.event(
                    "variant.unusable",
                    model=policy.model, version=variant.version, problem=str(error)[:300],
                )  # fmt: skip
                versions.append(None)
        by_keys = frozenset(stable.request_tensors) if stable.features else frozenset()
        return ServedModel(
            policy=policy,
            policy_labels=(policy.model,),
            epoch=epoch,
            versions=tuple(versions),
            marks=tuple(_mark(policy.model, variant, epoch) for variant in policy.variants),
            stable=stable,
            accepted=stable.inputs | by_keys,
            by_keys=by_keys,
        )

    def _version(self, model: str, variant: Variant) -> LoadedVersion:
        digest, path = variant.package_digest, Path(variant.package_path)
        description = self._descriptions.get(digest)
        if description is None:
            description = read_verified(path, self._keys_dir, digest)
            self._descriptions[digest] = description
        resident = None
        if variant.placement == "in_process":
            pinned = model in self._pinned
            resident = self._residents.hold(model, path, digest, is_pinned=pinned)
            if resident.predictor is None and (pinned or self._residents.has_room()):
                self._residents.load(resident)
        return _loaded(description, resident, self._open(description.features))

    def _open(self, reference: FeatureServiceReference | None) -> Features | None:
        if reference is None:
            return None
        features = self._features.get(reference)
        if features is None:
            features = self._features[reference] = self._open_features(reference)
        return features

    def _forget(self, models: Mapping[str, ServedModel]) -> None:
        """Let go of what no model needs, so that memory returns to what is needed."""
        variants = [v for served in models.values() for v in served.policy.variants]
        self._residents.keep_only(
            {v.package_digest for v in variants if v.placement == "in_process"}
        )
        digests = {v.package_digest for v in variants}
        self._descriptions = {k: v for k, v in self._descriptions.items() if k in digests}


def _mark(model: str, variant: Variant, epoch: int) -> Mark:
    said = (
        (b"x-heliostat-variant", variant.role.encode()),
        (b"x-heliostat-version", variant.version.encode()),
        (b"x-heliostat-epoch", b"%d" % epoch),
    )
    return Mark(
        labels=(model, variant.version, variant.role),
        headers=(*said, (b"x-heliostat-fallback", b"0")),
        fallback_headers=(*said, (b"x-heliostat-fallback", b"1")),
    )


def _loaded(
    description: PackageDescription, resident: Resident | None, features: Features | None
) -> LoadedVersion:
    inputs = [item.name for item in description.inputs]
    tensors: tuple[str, ...] = ()
    if features is not None:
        reference = features.reference
        others = [name for name in inputs if name not in reference.delivered]
        tensors = tuple(dict.fromkeys([*reference.keys, *reference.requested, *others]))
    return LoadedVersion(
        description=description,
        resident=resident,
        features=features,
        inputs=frozenset(inputs),
        numeric=tuple(item.name for item in description.numeric),
        request_tensors=tensors,
    )
