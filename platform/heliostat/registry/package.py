"""The description inside every model package: what goes in, what comes out, which features.

A package is one directory::

    model.json            this description
    MLmodel               inputs and output as MLflow's tools read them
    model.onnx            inputs ``numeric`` float32 (B, N), ``categorical`` int64 (B, C);
                          output float32 (B,) or (B, K); NaN in numeric means missing
    model.pkl             instead of it, where the recipe asked for a pickle (adr/0049)
    weights.safetensors   the same weights, for training on
    card.md               the model card, for people
    baseline.json         histograms of the training set: each input's and the label's
    gates.json            what the evaluation measured and which gates passed
    lineage.json          recipe, data versions, code revision, environment, run
    sbom.cdx.json         bill of materials (CycloneDX): every distribution, every file's digest
    model.sig             OpenSSF model-signing signature over all of the above
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.registry import pickles

FORMAT = 1

NETWORKS = {"onnx": "model.onnx", "pickle": pickles.ALLOWED}
"""File of a package's network, by what it is."""

MISSING_CODE = 0
"""Code of a missing category in the ``categorical`` input."""

UNKNOWN_CODE = 1
"""Code of a category that training never saw; known ones count from 2 in vocabulary order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    """One column that the model reads, by its feature or request name."""

    name: str

    kind: Literal["numeric", "categorical"]

    vocabulary: tuple[str, ...] = ()
    """Known categories, in code order; empty for numeric inputs."""

    def __post_init__(self) -> None:
        require(
            self.kind == "categorical" or not self.vocabulary,
            f"input {self.name}.vocabulary",
            self.vocabulary,
            "must be empty for a numeric input",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureViewReference:
    """A feature view as plain names: enough to read it online without the feature store."""

    name: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    ttl_s: float | None
    """Values older than this are missing; None keeps them for ever."""

    version: str = ""
    """Digest of the view's definition; records of this version are read online."""

    dtypes: tuple[str, ...] = ()
    """One for each feature; empty in packages from before there were any."""

    defaults: tuple[tuple[str, float | int | str | None], ...] | None = None
    """Answers of a store that does not answer; a feature that is not named is missing then,
    None refuses such requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnDemandReference:
    """Features computed from a row by a function whose text is here, under the signature."""

    name: str
    inputs: tuple[tuple[str, str], ...]
    """Name and type of each column that the function gets."""

    requested: tuple[str, ...]
    """Those of them that a request carries; views deliver the others."""

    features: tuple[tuple[str, str], ...]
    """Name and type of each feature that it returns."""

    source: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureServiceReference:
    """The views a model was trained on, pinned by a digest of their definitions."""

    project: str
    name: str
    digest: str
    views: tuple[FeatureViewReference, ...]
    on_demand: tuple[OnDemandReference, ...] = ()

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """Name and version of every view, the stored ones first."""
        return (
            *((view.name, view.version) for view in self.views),
            *((view.name, view.version) for view in self.on_demand),
        )

    @property
    def requested(self) -> tuple[str, ...]:
        """What a request must carry besides the keys, in order of first use."""
        return tuple(dict.fromkeys(name for view in self.on_demand for name in view.requested))

    @property
    def delivered(self) -> frozenset[str]:
        """Every feature that comes of the keys and what is requested."""
        stored = {name for view in self.views for name in view.features}
        return frozenset(stored | {name for view in self.on_demand for name, _ in view.features})

    @property
    def keys(self) -> tuple[str, ...]:
        """Every entity key that a request must carry, in order of first use."""
        return tuple(dict.fromkeys(key for view in self.views for key in view.keys))


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions:
    """How a server should run the network."""

    device: Literal["cpu", "cuda"] = "cpu"

    max_batch_rows: int = 1
    """Rows of several requests that may share one run; 1 scores each request by itself."""

    batch_wait_s: float = 0.0
    """How long the first of them waits for others; 0 joins only those that are there."""

    def __post_init__(self) -> None:
        require(
            self.device in ("cpu", "cuda"), "serving.device", self.device, "must be cpu or cuda"
        )
        rows, wait_s = self.max_batch_rows, self.batch_wait_s
        require(1 <= rows <= 4096, "serving.max_batch_rows", rows, "must be 1 to 4096")
        require(0 <= wait_s <= 0.1, "serving.batch_wait_s", wait_s, "must be 0 to 0.1")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageDescription:
    """Everything a server needs to know before it opens the weights."""

    model: str
    inputs: tuple[ModelInput, ...]
    """All inputs; numeric and categorical ones keep this order within their tensor."""

    output: str
    """Name of the answer's tensor."""

    features: FeatureServiceReference | None
    """Where inputs come from when a request carries only entity keys."""

    serving: ServingOptions = ServingOptions()

    network: Literal["onnx", "pickle"] = "onnx"
    """pickle: `inference.pickled` opens it, in a process that may do nothing else."""

    @property
    def file(self) -> str:
        """Name of the network's file."""
        return NETWORKS[self.network]

    @property
    def numeric(self) -> tuple[ModelInput, ...]:
        """Inputs of the ``numeric`` tensor, in column order."""
        return tuple(item for item in self.inputs if item.kind == "numeric")

    @property
    def categorical(self) -> tuple[ModelInput, ...]:
        """Inputs of the ``categorical`` tensor, in column order."""
        return tuple(item for item in self.inputs if item.kind == "categorical")

    def write(self, directory: Path) -> None:
        """Write ``model.json`` into the directory."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True)
        (directory / "model.json").write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def read(directory: Path) -> PackageDescription:
        """Read ``model.json``; call it only after the signature was verified.

        Raises:
            ConfigError: The file is missing, no JSON, or of another format version.
        """
        path = directory / "model.json"
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(str(path), str(error), "must be a readable package") from error
        require(
            raw.get("format") == FORMAT, f"{path}: format", raw.get("format"), f"must be {FORMAT}"
        )
        return PackageDescription(
            model=raw["model"],
            inputs=tuple(
                ModelInput(**{**item, "vocabulary": tuple(item["vocabulary"])})
                for item in raw["inputs"]
            ),
            output=raw["output"],
            features=None if raw["features"] is None else service_of(raw["features"]),
            # Packages from before these options have none.
            serving=ServingOptions(**raw.get("serving", {})),
            network=_network(path, raw.get("network", "onnx")),
        )


def _network(path: Path, said: Any) -> Literal["onnx", "pickle"]:
    require(said in NETWORKS, f"{path}: network", said, f"must be one of {tuple(NETWORKS)}")
    known: Literal["onnx", "pickle"] = said
    return known


def service_of(raw: Mapping[str, Any]) -> FeatureServiceReference:
    """Make the reference of a service out of its description in plain words.

    Args:
        raw: As `FeatureService.describe` and `feast_services.describe` give it, and a package
            stores it.
    """
    return FeatureServiceReference(
        project=raw["project"],
        name=raw["name"],
        digest=raw["digest"],
        views=tuple(
            FeatureViewReference(
                name=view["name"],
                keys=tuple(view["keys"]),
                features=tuple(view["features"]),
                ttl_s=view["ttl_s"],
                # Packages from before these have none.
                version=view.get("version", ""),
                dtypes=tuple(view.get("dtypes", ())),
                defaults=_defaults(view.get("defaults")),
            )
            for view in raw["views"]
        ),
        on_demand=tuple(
            OnDemandReference(
                name=view["name"],
                inputs=tuple((name, dtype) for name, dtype in view["inputs"]),
                requested=tuple(view["requested"]),
                features=tuple((name, dtype) for name, dtype in view["features"]),
                source=view["source"],
                version=view["version"],
            )
            for view in raw.get("on_demand", ())
        ),
    )


def _defaults(raw: Any) -> tuple[tuple[str, float | int | str | None], ...] | None:
    return None if raw is None else tuple((name, value) for name, value in raw)
