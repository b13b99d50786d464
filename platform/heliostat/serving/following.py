"""Follows the policy: loads what a new one needs beside what answers now, then swaps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from heliostat import telemetry
from heliostat.errors import HeliostatError
from heliostat.rollout.policy import Policy
from heliostat.serving import source
from heliostat.serving.source import PolicySource
from heliostat.serving.versions import Loader, Snapshot

_FIRST_POLICY_WAIT_S = 2.0
_RETRY_S = 0.5
_MAX_RETRY_S = 2.0


class Follower:
    """Holds the snapshot that answers; only ever replaces it by a whole, loaded one."""

    def __init__(
        self,
        policy_source: PolicySource,
        loader: Loader,
        kept: Path,
        *,
        changed: Callable[[Snapshot], None] = lambda _snapshot: None,
    ) -> None:
        """Take the parts.

        Args:
            changed: Called with each new snapshot, once it answers.
            kept: File with the last good policy, for a start without a control plane.
        """
        self._source = policy_source
        self._loader = loader
        self._kept = kept
        self._changed = changed
        self._from_disk = False
        self._begun = asyncio.Event()
        self.snapshot: Snapshot | None = None
        """What answers now; None before the first policy."""

    @property
    def epoch(self) -> int | None:
        """Epoch of the policy that answers now, None before the first."""
        return None if self.snapshot is None else self.snapshot.policy.epoch

    async def activate(self, policy: Policy) -> None:
        """Load in a thread, then swap.

        Raises:
            HeliostatError: A stable version cannot be loaded; what answered goes on.
        """
        self.snapshot = await asyncio.to_thread(self._loader.load, policy, self.snapshot)
        self._changed(self.snapshot)
        telemetry.event("policy.active", epoch=policy.epoch, models=sorted(policy.models))

    async def begun(self, timeout_s: float) -> None:
        """Wait until the first policy answers, or there is none to be had, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._begun.wait()

    async def run(self) -> None:
        """Obey the newest policy for ever; begin with the kept one if none comes soon."""
        policy = None
        try:
            async with asyncio.timeout(_FIRST_POLICY_WAIT_S):
                policy = await self._source.next(-1)
        except (TimeoutError, HeliostatError):
            pass
        if policy is None:
            await self.use_kept_policy()
            self._begun.set()
        retry_s = _RETRY_S
        while True:
            # A policy that cannot be obeyed must not end the following of later ones.
            try:
                if policy is not None:
                    try:
                        await self._obey(policy)
                    finally:
                        self._begun.set()
                    if self.snapshot is not None and self.snapshot.broken:
                        # What is broken may only be late, such as a package on its way.
                        await asyncio.sleep(retry_s)
                        retry_s = min(2 * retry_s, _MAX_RETRY_S)
                    else:
                        retry_s = _RETRY_S
                policy = await self._source.next(self._after())
            except Exception as error:  # noqa: BLE001
                telemetry.event("policy.not_followed", problem=str(error)[:300])
                policy = None
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _MAX_RETRY_S)

    async def use_kept_policy(self) -> None:
        """Serve the stable versions of the kept policy, if there is one that can be used."""
        policy = source.load_stable_only(self._kept)
        if policy is None:
            return
        try:
            await self.activate(policy)
            self._from_disk = True
        except Exception as error:  # noqa: BLE001
            telemetry.event("policy.kept_one_unusable", problem=str(error)[:300])

    async def _obey(self, policy: Policy) -> None:
        await self.activate(policy)
        self._from_disk = False
        await asyncio.to_thread(source.save, self._kept, policy)

    def _after(self) -> int:
        # What came from the disk lacks the variants on trial, so the same epoch is news.
        if self.snapshot is None or self._from_disk:
            return -1
        # An epoch that is obeyed but for a broken model is asked for again, and not reported
        # as obeyed.
        return self.snapshot.policy.epoch - bool(self.snapshot.broken)
