"""The thread that keeps a controller at work: renews its lease, steps each model, never stops."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from heliostat import telemetry
from heliostat.control.controller import Controller
from heliostat.control.hooks import Courier
from heliostat.store.leases import LeaseLost

TICK_S = 0.25
"""Longest time between two looks at each model; new evidence wakes the loop at once."""

_REPUBLISH_S = 2.0
"""A plane that restarted empty has the policy again after so long."""

_MAX_MODELS_AT_WORK = 8


class Loop:
    """Runs a controller in threads of its own, one model not waiting for another."""

    def __init__(self, controller: Controller, courier: Courier | None = None) -> None:
        """Hold the controller, and who tells addresses outside; `start` begins."""
        self._controller = controller
        self._courier = courier
        self._posting = threading.Thread(target=self._deliver, name="courier", daemon=True)
        self._news = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self._pool = ThreadPoolExecutor(_MAX_MODELS_AT_WORK, thread_name_prefix="controller")
        self._at_work: dict[str, Future[None]] = {}
        self._told = ""

    def start(self) -> None:
        """Begin to work; returns at once."""
        self._thread.start()
        if self._courier is not None:
            self._posting.start()

    def wake(self) -> None:
        """Look at all models now: something has changed."""
        self._news.set()

    def stop(self) -> None:
        """Stop and give the lease up; what is under way is left to the next controller."""
        self._ending.set()
        self._news.set()
        self._thread.join(timeout=5.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._controller.checks is not None:
            self._controller.checks.close()
        self._controller.resign()

    def _run(self) -> None:
        republished_at = self._controller.clock()
        while not self._ending.is_set():
            self._news.wait(TICK_S)
            self._news.clear()
            try:
                if not self._controller.lead():
                    continue
                now = self._controller.clock()
                if now - republished_at >= _REPUBLISH_S:
                    republished_at = now
                    self._controller.republish()
                for model in self._controller.models():
                    self._ask(model)
                    self._dispatch(model)
                self._told = ""
            except Exception as problem:  # noqa: BLE001 - the loop outlives whatever goes wrong
                self._tell(problem)

    def _ask(self, model: str) -> None:
        rollout = self._controller.state(model).rollout
        if self._controller.checks is not None and rollout is not None:
            self._controller.checks.refresh(rollout)

    def _deliver(self) -> None:
        """Tell what happened; an address that does not answer must not hold up the rest."""
        assert self._courier is not None
        while not self._ending.wait(TICK_S):
            try:
                if self._controller.leads:
                    self._courier.deliver(self._controller.fence())
            except Exception as problem:  # noqa: BLE001 - tried again at the next turn
                self._tell(problem)

    def _dispatch(self, model: str) -> None:
        before = self._at_work.get(model)
        if before is None or before.done():
            self._at_work[model] = self._pool.submit(self._work, model)

    def _work(self, model: str) -> None:
        try:
            while not self._ending.is_set() and self._controller.step(model):
                pass
        except LeaseLost as problem:
            telemetry.event("controller.stepped_down", problem=str(problem))
        except Exception as problem:  # noqa: BLE001 - tried again at the next tick
            self._tell(problem)

    def _tell(self, problem: Exception) -> None:
        """Log a problem once for as long as it lasts."""
        words = f"{type(problem).__name__}: {problem}"[:500]
        if words != self._told:
            self._told = words
            telemetry.event("controller.failed", problem=words)
