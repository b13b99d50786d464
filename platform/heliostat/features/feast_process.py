"""The process that holds Feast for a gateway: reads features of types that only Feast decodes.

Started by `heliostat.features.feast_reader`; one line of JSON in, one line out, in order. It ends
with its parent, whose end closes its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from heliostat.errors import ConfigError, HeliostatError, Unavailable
from heliostat.features import feast_services

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A service as its project's registry had it at a moment."""

    service: Any
    views: list[dict[str, Any]]
    whole: frozenset[str]
    """Keys that are whole numbers."""

    at_s: float


class Reads:
    """Answers questions for features of one Feast project."""

    def __init__(self, repository: Path, check_s: float) -> None:
        """Open the project.

        Args:
            repository: Its folder.
            check_s: How old what is known of a service may be.

        Raises:
            ConfigError: There is none.
        """
        self._repository, self._check_s = repository, check_s
        self._store = feast_services.opened(repository)
        self._known: dict[str, _Known] = {}

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Read one or more rows.

        Args:
            question: ``service``; ``versions``: view to the version that the model was trained
                on; ``keys``: columns, None matches nothing; ``at_us`` and ``latest_us``: as for
                `heliostat.features.packed.Codec.decode`.

        Returns:
            Feature to one plain value per row, None where it is missing.

        Raises:
            ConfigError: A key is of another type.
            Unavailable: The service is not the one that the model was trained on.
        """
        try:
            known = self._service(question["service"])
        except ConfigError as error:
            raise Unavailable(f"feast repository {self._repository}", str(error)) from error
        self._require_same(question["service"], known, question["versions"])
        keys, missing = _filled(question["keys"], known)
        response = self._store.get_online_features(features=known.service, entity_rows=keys)
        values = response.to_dict()
        times = {
            name: [
                stamp.seconds * 1_000_000 + stamp.nanos // 1000 for stamp in vector.event_timestamps
            ]
            for name, vector in zip(
                response.proto.metadata.feature_names.val, response.proto.results, strict=True
            )
        }
        found: dict[str, Any] = {}
        for view in known.views:
            ttl_us = None if view["ttl_s"] is None else round(view["ttl_s"] * 1e6)
            gone = [any(row in missing[key] for key in view["keys"]) for row in _rows(keys)]
            for name in view["features"]:
                found[name] = [
                    None
                    if gone[row]
                    or (ttl_us is not None and question["at_us"] - times[name][row] > ttl_us)
                    or (
                        question["latest_us"] is not None
                        and times[name][row] > question["latest_us"]
                    )
                    else plain(value)
                    for row, value in enumerate(values[name])
                ]
        return found

    def _service(self, name: str) -> _Known:
        known = self._known.get(name)
        now_s = time.monotonic()
        if known is None or now_s - known.at_s > self._check_s:
            self._store.refresh_registry()
            told = feast_services.described(self._store, name)
            kinds = {
                item.name: str(item.dtype)
                for view in told["views"]
                for item in self._store.get_feature_view(view["name"]).entity_columns
            }
            known = self._known[name] = _Known(
                service=self._store.get_feature_service(name, allow_cache=True),
                views=told["views"],
                whole=frozenset(key for key, kind in kinds.items() if kind != "String"),
                at_s=now_s,
            )
        return known

    def _require_same(self, service: str, known: _Known, versions: Mapping[str, str]) -> None:
        there = {view["name"]: view["version"] for view in known.views}
        for name, version in versions.items():
            if there.get(name) != version:
                raise Unavailable(
                    f"feast service {service}",
                    f"view {name} is not what the model was trained on; {self._repository} has "
                    + (f"version {there[name]}" if name in there else "no such view in it"),
                    next_step="Apply the old definition again, or train and register the model anew",
                )


def _filled(
    columns: Mapping[str, Sequence[Any]], known: _Known
) -> tuple[dict[str, list[Any]], dict[str, set[int]]]:
    """Keys as Feast takes them, and the rows in which each was missing: it knows no null key."""
    filled: dict[str, list[Any]] = {}
    missing: dict[str, set[int]] = {}
    for name, values in columns.items():
        whole = name in known.whole
        filled[name], missing[name] = [], set()
        for row, value in enumerate(values):
            if value is None:
                missing[name].add(row)
                filled[name].append(0 if whole else "")
                continue
            if isinstance(value, bool) or not isinstance(value, int if whole else str):
                kind = "a whole number" if whole else "text"
                raise ConfigError(f"entity key {name}", value, f"must be {kind}")
            filled[name].append(value)
    return filled, missing


def _rows(columns: Mapping[str, Sequence[Any]]) -> range:
    return range(len(next(iter(columns.values()))))


def plain(value: Any) -> Any:
    """Bring a value of any Feast type to numbers, texts, lists and dictionaries.

    Moments become whole microseconds since 1970, bytes hexadecimal digits, sets sorted lists;
    a number that is none is missing.

    >>> plain({"a": {2, 1}, "b": b"x", "c": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)})
    {'a': [1, 2], 'b': '78', 'c': 1000000}
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if value != value else value  # noqa: PLR0124 - only NaN differs from itself
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    # Decimals and UUIDs: a float would change them.
    return str(value)


def serve(repository: Path, check_s: float, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer line by line until there is nothing more to read."""

    def tell(message: object) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    try:
        reads = Reads(repository, check_s)
    except HeliostatError as error:
        tell({"broken": str(error)})
        return
    tell({"ready": True})
    for line in questions:
        try:
            tell({"found": reads.answer(json.loads(line))})
        except ConfigError as error:
            tell({"refused": [error.where, error.value, error.rule]})
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the next one may be right
            tell({"problem": f"{type(error).__name__}: {error}"[:500]})


if __name__ == "__main__":
    # What libraries print must not come between the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Path(sys.argv[1]), float(sys.argv[2]), sys.stdin.buffer, out)
