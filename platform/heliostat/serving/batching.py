"""Micro-batches: requests that wait at the same moment share one run of the network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heliostat.inference.predictor import Predictor

_PAYS_RATIO = 0.6
"""A batch must take at most this share of the time of its rows one by one."""

_TRIAL_ROWS = 8
_TRIAL_RUNS = 20


class Batcher:
    """Joins rows for one predictor, as its package allows."""

    def __init__(self, predictor: Predictor, *, max_rows: int, wait_s: float) -> None:
        """Prepare.

        Args:
            predictor: Who scores.
            max_rows: A batch is scored as soon as it has these.
            wait_s: How long the first row waits for others; 0 joins only those that are
                there already.
        """
        self._predictor = predictor
        self._max_rows = max_rows
        self._wait_s = wait_s
        self._waiting: list[tuple[Any, Any, int, asyncio.Future[list[float]]]] = []
        self._num_rows = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self.num_batches = 0

    async def predict(self, columns: Mapping[str, Sequence[Any]], num_rows: int) -> list[float]:
        """Score the rows together with those of other requests.

        Raises:
            ConfigError: The columns do not fit; only this request fails.
        """
        numeric_BN, categorical_BC = self._predictor.encode(columns)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[float]] = loop.create_future()
        self._waiting.append((numeric_BN, categorical_BC, num_rows, done))
        self._num_rows += num_rows
        if self._num_rows >= self._max_rows:
            self._run()
        elif self._timer is None:
            self._timer = (
                loop.call_later(self._wait_s, self._run)
                if self._wait_s
                else loop.call_soon(self._run)
            )
        return await done

    def _run(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        jobs, self._waiting, self._num_rows = self._waiting, [], 0
        if not jobs:
            return
        self.num_batches += 1
        try:
            if len(jobs) == 1:
                scores = self._predictor.run(jobs[0][0], jobs[0][1]).tolist()
            else:
                scores = self._predictor.run(
                    np.concatenate([job[0] for job in jobs]),
                    np.concatenate([job[1] for job in jobs]),
                ).tolist()
        except Exception as error:  # noqa: BLE001 - each who waits is told
            for *_, done in jobs:
                if not done.done():
                    done.set_exception(error)
            return
        start = 0
        for _, _, num_rows, done in jobs:
            if not done.done():
                done.set_result(scores[start : start + num_rows])
            start += num_rows


def pays(predictor: Predictor) -> bool:
    """Measure whether joint runs are clearly cheaper than single ones; takes milliseconds."""
    row = dict.fromkeys((item.name for item in predictor.description.inputs), (None,))
    one = predictor.encode(row)
    many = (np.repeat(one[0], _TRIAL_ROWS, axis=0), np.repeat(one[1], _TRIAL_ROWS, axis=0))
    alone = joined = float("inf")
    for _ in range(_TRIAL_RUNS):
        began = time.perf_counter()
        predictor.run(*one)
        between = time.perf_counter()
        predictor.run(*many)
        alone = min(alone, between - began)
        joined = min(joined, time.perf_counter() - between)
    return joined <= _PAYS_RATIO * _TRIAL_ROWS * alone
