"""What the gateway tells about itself: health, models, its OpenAPI document, its access log."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from heliostat import __version__, telemetry
from heliostat.serving import asgi, openapi, protocol
from heliostat.serving.refused import Refused
from heliostat.serving.routes import Match
from heliostat.serving.versions import ServedModel, Snapshot

_METADATA = asgi.encode(
    {"name": "heliostat", "version": __version__, "extensions": ["binary_tensor_data"]}
)
_LIVE = asgi.encode({"live": True})
_MAX_REFUSALS_PER_S = 10


class AccessLog:
    """One event per sampled request, never its body; refusals and errors up to a rate."""

    def __init__(self, ratio: float, clock: Callable[[], float]) -> None:
        """Begin.

        Args:
            ratio: Share of good answers that are written, evenly spread.
            clock: Seconds since 1970.
        """
        self._every = max(1, round(1 / ratio))
        self._clock = clock
        self._number = 0
        self._second = 0
        self._refusals = 0

    def is_due(self, status: int) -> bool:
        """Say whether this request gets a line."""
        if status < 400:
            self._number += 1
            return self._number % self._every == 0
        second = int(self._clock())
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        return self._refusals <= _MAX_REFUSALS_PER_S

    @staticmethod
    def write(match: Match | None, status: int, request_id: str, took_s: float) -> None:
        """Write the line."""
        telemetry.event(
            "request.answered",
            action=None if match is None else match.route.action,
            model=None if match is None else match.model,
            status=status,
            request_id=request_id,
            took_ms=round(took_s * 1000, 3),
        )


def server(action: str, snapshot: Snapshot | None, admission: str) -> tuple[int, bytes]:
    """Answer a question about the server itself.

    It is ready with a policy of which a model can be served, and an admission that may serve.
    """
    if action == "live":
        return 200, _LIVE
    if action == "server":
        return 200, _METADATA
    if action == "openapi":
        return 200, _document(is_guarded=admission != "open")
    if action in ("ready", "ping"):
        broken = {} if snapshot is None else snapshot.broken
        # A policy without models is no fault: there is nothing to be loaded.
        usable = snapshot is not None and bool(snapshot.models or not broken)
        ready = usable and admission != "shut"
        epoch = None if snapshot is None else snapshot.policy.epoch
        body = {"ready": ready, "epoch": epoch, "broken": sorted(broken)}
        return 200 if ready else 503, asgi.encode(body)
    if snapshot is None:
        raise Refused(503, "no policy yet; nothing is deployed", retry_after_s=1)
    return 200, asgi.encode(_index(snapshot))


def _index(snapshot: Snapshot) -> list[dict[str, str]]:
    rows = []
    for name, policy in sorted(snapshot.policy.models.items()):
        served = snapshot.models.get(name)
        for index, variant in enumerate(policy.variants):
            if served is None:
                broken = snapshot.broken.get(name)
                state = "UNKNOWN" if broken is None else "UNAVAILABLE"
                reason = f"ask /v2/models/{name}/ready" if broken is None else "cannot be loaded"
            else:
                there = index < len(served.versions) and served.versions[index] is not None
                state, reason = ("READY", "") if there else ("UNAVAILABLE", "cannot be loaded")
            rows.append(
                {
                    "name": name, "version": variant.version, "state": state, "reason": reason,
                    "variant": variant.role,
                }
            )  # fmt: skip
    return rows


def model(action: str, served: ServedModel, version: str | None) -> tuple[int, bytes]:
    """Answer a question about a model or one of its versions.

    Raises:
        Refused: 404 for a version that the policy does not name; 503 for one that cannot
            be loaded.
    """
    index = 0 if version is None else index_of(served, version)
    loaded = served.versions[index]
    if action in ("model_ready", "version_ready"):
        body = {"name": served.policy.model, "ready": loaded is not None}
        return 200 if loaded else 503, asgi.encode(body)
    if loaded is None:
        raise Refused(503, f"version {version!r} cannot be loaded", retry_after_s=5)
    known = [variant.version for variant in served.policy.variants]
    reader = None if loaded.features is None else loaded.features.reader
    return 200, protocol.model_metadata(loaded.description, known, loaded.request_tensors, reader)


def index_of(served: ServedModel, version: str) -> int:
    """Find a version among the policy's variants.

    Raises:
        Refused: 404; names those that there are.
    """
    index = served.index_of(version)
    if index is None:
        known = [variant.version for variant in served.policy.variants]
        raise Refused(404, f"version {version[:80]!r} is not served; known: {known}")
    return index


@cache
def _document(*, is_guarded: bool) -> bytes:
    return asgi.encode(openapi.document(is_guarded=is_guarded))
