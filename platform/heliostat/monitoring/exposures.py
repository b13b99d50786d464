"""Read the gateways' exposure records: who was answered with what, by which version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """One answered request, as the gateway that answered it wrote it down."""

    request_id: str
    model: str
    version: str
    """Version that answered."""
    variant: str
    epoch: int
    unit: str
    fallback: bool
    latency_ms: float
    features: dict[str, Any]
    scores: tuple[float, ...]


def read(spool: Path, *, model: str, request_prefix: str = "") -> Iterator[Exposure]:
    """Yield the exposures of a model, in no particular order.

    A last line that a writer has not finished is left out; it will be there next time.

    Args:
        spool: Folder with the gateways' ``exposures`` folder.
        model: Registered model.
        request_prefix: Only requests whose id begins with this.
    """
    decoder = msgspec.json.Decoder()
    for path in sorted((spool / "exposures").glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                raw = decoder.decode(line)
                if raw["model"] == model and raw["request_id"].startswith(request_prefix):
                    yield _exposure(raw)


def _exposure(raw: dict[str, Any]) -> Exposure:
    return Exposure(
        request_id=raw["request_id"],
        model=raw["model"],
        version=raw["version"],
        variant=raw["variant"],
        epoch=raw["epoch"],
        unit=raw["unit"],
        fallback=bool(raw["fallback"]),
        latency_ms=raw["latency_ms"],
        features=raw["features"],
        scores=tuple(raw["scores"]),
    )
