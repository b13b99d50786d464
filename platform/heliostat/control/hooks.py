"""Tells addresses outside what happened: signed, in order, at least once, from the event log."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat import telemetry
from heliostat.access import signature
from heliostat.config import require, require_name
from heliostat.errors import ConfigError
from heliostat.rollout import written
from heliostat.store.events import Event, EventLog
from heliostat.store.leases import Fence

BATCH = 100
"""At most so many events in one POST."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TIMEOUT_S = 5.0
_LONGEST_PAUSE_S = 60.0
_NOT_SENT = frozenset({"evidence", "verdicts", "plan", "variant", "twin"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Hook:
    """One receiver."""

    name: str
    url: str

    kinds: tuple[str, ...] = ()
    """Beginnings of the kinds of events that are sent; empty sends all."""

    def __post_init__(self) -> None:
        require_name("hooks.name", self.name)
        good = self.url.startswith(("http://", "https://"))
        require(good, f"hooks.{self.name}.url", self.url, "must be an http or https URL")

    def wants(self, kind: str) -> bool:
        """Whether events of this kind are sent."""
        return not self.kinds or kind.startswith(self.kinds)


def read(path: Path) -> tuple[Hook, ...]:
    """Read the receivers; none where there is no file.

    Raises:
        ConfigError: Not a JSON list of hooks with names of their own.
    """
    if not path.exists():
        return ()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(str(path), str(error), "must be JSON") from error
    require(isinstance(raw, list), path.name, raw, "must be a list of hooks")
    found = tuple(written.build(Hook, item, "hooks") for item in raw)
    names = [hook.name for hook in found]
    require(len(set(names)) == len(names), "hooks.name", names, "must be names of their own")
    return found


class Courier:
    """Sends what is new to each hook, and writes down how far it came.

    How far it came is an event itself, so that a restart repeats at most one batch. A
    receiver that does not answer is asked again with growing pauses and holds up nobody else.
    """

    def __init__(
        self,
        log: EventLog,
        hooks: Callable[[], tuple[Hook, ...]],
        key: bytes,
        clock: Callable[[], float],
    ) -> None:
        """Hold what it reads from; nothing is sent yet."""
        self._log = log
        self._hooks = hooks
        self._key = key
        self._clock = clock
        self._reached: dict[str, dict[str, int]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        """Until when a hook is left alone, and how long the next pause is."""

    def deliver(self, fence: Fence) -> int:
        """Send what is new, one batch for each hook and stream; returns how many events."""
        return sum(self._serve(hook, fence) for hook in self._hooks())

    def _serve(self, hook: Hook, fence: Fence) -> int:
        until, pause = self._pauses.get(hook.name, (0.0, 1.0))
        if self._clock() < until:
            return 0
        sent = 0
        for stream in self._log.streams("model/"):
            reached = self._cursor(hook)
            new = self._log.read(stream, after=reached.get(stream, 0))[:BATCH]
            wanted = [event for event in new if hook.wants(event.kind)]
            if wanted:
                try:
                    self._post(hook, wanted)
                except (OSError, ValueError) as problem:
                    self._pauses[hook.name] = (
                        self._clock() + pause, min(2 * pause, _LONGEST_PAUSE_S)
                    )  # fmt: skip
                    telemetry.event("hook.failed", hook=hook.name, problem=str(problem)[:300])
                    return sent
                self._pauses.pop(hook.name, None)
                sent += len(wanted)
                self._log.append(
                    _stream(hook),
                    "hook.reached",
                    {"stream": stream, "version": new[-1].version, "by": "controller"},
                    fence=fence,
                )
            if new:
                reached[stream] = new[-1].version
        return sent

    def _cursor(self, hook: Hook) -> dict[str, int]:
        known = self._reached.get(hook.name)
        if known is None:
            known = self._reached[hook.name] = {}
            for event in self._log.read(_stream(hook)):
                known[event.payload["stream"]] = event.payload["version"]
        return known

    def _post(self, hook: Hook, events: list[Event]) -> None:
        body = json.dumps({"events": [told(event) for event in events]}).encode()
        request = urllib.request.Request(  # noqa: S310 - checked when built
            hook.url,
            method="POST",
            data=body,
            headers={
                "content-type": "application/json",
                signature.HEADER: signature.sign(self._key, body, self._clock()),
            },
        )
        with _DIRECT.open(request, timeout=_TIMEOUT_S) as response:
            if not 200 <= response.status < 300:
                raise ValueError(f"status {response.status}")


def told(event: Event) -> Mapping[str, Any]:
    """An event as receivers get it: a name that repeats with it, and no bulky evidence."""
    return {
        "id": f"{event.stream}/{event.version}",
        "kind": event.kind,
        "at": event.at,
        **{key: value for key, value in event.payload.items() if key not in _NOT_SENT},
    }


def _stream(hook: Hook) -> str:
    return f"hook/{hook.name}"
