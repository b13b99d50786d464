"""Asks the checks of a plan: Prometheus queries and HTTP addresses; what fails out there holds."""

from __future__ import annotations

import json
import math
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from heliostat.access import signature
from heliostat.rollout.allowed import Check
from heliostat.rollout.known import CheckResult
from heliostat.rollout.state import RolloutState

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_MAX_ANSWER_BYTES = 1 << 20
_MAX_ASKED_AT_ONCE = 8


class Checks:
    """Keeps the newest answer of each check of the rollouts that are under way.

    Asking happens in threads of its own: an address that does not answer delays no decision.
    """

    def __init__(self, key: bytes, clock: Callable[[], float]) -> None:
        """Hold the key that POSTs are signed with, and the clock that answers are dated by."""
        self._key = key
        self._clock = clock
        self._current: dict[str, str] = {}
        """The newest rollout of each model."""

        self._results: dict[str, dict[str, CheckResult]] = {}
        self._asked_at: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_MAX_ASKED_AT_ONCE, thread_name_prefix="check")

    def results(self, rollout_id: str) -> dict[str, CheckResult]:
        """Newest answers about a rollout, by the check's name."""
        with self._lock:
            return dict(self._results.get(rollout_id, {}))

    def refresh(self, rollout: RolloutState, *, wait: bool = False) -> None:
        """Ask what is due again; returns at once unless told to wait for the answers."""
        due, now = [], self._clock()
        before = self._current.get(rollout.plan.model)
        if before not in (None, rollout.rollout_id):
            self.forget(before)
        self._current[rollout.plan.model] = rollout.rollout_id
        with self._lock:
            for check in rollout.plan.checks:
                key = (rollout.rollout_id, check.name)
                if now - self._asked_at.get(key, -math.inf) >= check.every_s:
                    self._asked_at[key] = now
                    due.append(check)
        asked = [self._pool.submit(self._ask, rollout, check) for check in due]
        for future in asked if wait else ():
            future.result()

    def forget(self, rollout_id: str) -> None:
        """Drop the answers about a rollout that has ended."""
        with self._lock:
            self._results.pop(rollout_id, None)
            self._asked_at = {k: v for k, v in self._asked_at.items() if k[0] != rollout_id}

    def close(self) -> None:
        """Ask nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, rollout: RolloutState, check: Check) -> None:
        result = ask(check, rollout, self._key, self._clock())
        with self._lock:
            self._results.setdefault(rollout.rollout_id, {})[check.name] = result


def ask(check: Check, rollout: RolloutState, key: bytes, now: float) -> CheckResult:
    """Ask one check; whatever goes wrong out there is an answer with the verdict error."""
    try:
        if check.query is not None:
            return _query(check, now)
        return _post(check, rollout, key, now)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as problem:
        words = f"{check.url} did not answer as it should: {problem}"[:300]
        return CheckResult(verdict="error", because=words, at=now)


def _query(check: Check, now: float) -> CheckResult:
    """One instant query, as in Prometheus' HTTP API; it must give one number."""
    url = f"{check.url.rstrip('/')}/api/v1/query?" + urllib.parse.urlencode({"query": check.query})
    answer = _open(urllib.request.Request(url), check.timeout_s)  # noqa: S310 - checked when built
    data = answer["data"]
    samples = [data["result"]] if data["resultType"] == "scalar" else [
        item["value"] for item in data["result"]
    ]  # fmt: skip
    if len(samples) != 1:
        words = f"{check.query} gave {len(samples)} numbers, one is needed"
        return CheckResult(verdict="inconclusive", because=words, at=now)
    value = float(samples[0][1])
    if not math.isfinite(value):
        return CheckResult(
            verdict="inconclusive", because=f"{check.query} is {samples[0][1]}", at=now
        )
    words, verdict = f"{check.query} is {value:g}", "pass"
    if check.at_most is not None and value > check.at_most:
        verdict, words = "fail", f"{words}, at most {check.at_most:g} is allowed"
    elif check.at_least is not None and value < check.at_least:
        verdict, words = "fail", f"{words}, at least {check.at_least:g} is needed"
    return CheckResult(
        verdict="pass" if verdict == "pass" else "fail", because=words, at=now, value=value
    )


def _post(check: Check, rollout: RolloutState, key: bytes, now: float) -> CheckResult:
    """Tell an address about the rollout; 200 is a yes unless its JSON says fail."""
    body = json.dumps(
        {
            "check": check.name,
            "rollout_id": rollout.rollout_id,
            "model": rollout.plan.model,
            "candidate": rollout.plan.candidate,
            "stable": rollout.stable,
            "share_percent": rollout.percent,
        }
    ).encode()
    request = urllib.request.Request(  # noqa: S310 - checked when built
        check.url,
        method="POST",
        data=body,
        headers={
            "content-type": "application/json",
            signature.HEADER: signature.sign(key, body, now),
        },
    )
    answer = _open(request, check.timeout_s)
    verdict: Any = answer.get("verdict", "pass") if isinstance(answer, dict) else "pass"
    words = str(answer.get("because", ""))[:300] if isinstance(answer, dict) else ""
    if verdict not in ("pass", "fail", "inconclusive"):
        raise ValueError(f"verdict {verdict!r} is not pass, fail or inconclusive")
    return CheckResult(verdict=verdict, because=words or f"{check.name} says {verdict}", at=now)


def _open(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            raw = response.read(_MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        raise ValueError(f"status {error.code}") from error
    try:
        return json.loads(raw or b"null")
    except ValueError:
        return None  # an address may answer in any words
