"""The numbers of a first run, from the number of rows and their times: periods, sizes, margins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from heliostat.errors import ConfigError
from heliostat.scaffold.guess import Guesses

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
"""Where the order of rows stands for time, row N is said to have come N minutes after this."""

MAX_REPLAYED = 3_000
_WANTED_REQUESTS = 2_400
LABELLED_PAIRS = 1_000
"""With fewer labelled rows in the replay the loss gate may stay open, so it is optional then."""

_SHARE_REPLAYED = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What a recipe needs besides columns."""

    start: datetime
    stable_until: datetime
    stable_measured_until: datetime
    candidate_until: datetime
    replay_from: datetime
    """Also the end of the candidate's measuring."""
    end: datetime
    rows_stable: int
    rows_candidate: int
    rows_replayed: int
    rounds: int
    publish_every_s: float
    epochs: int
    batch_size: int
    category_min_rows: int
    slice_min_rows: int
    loss_margin: float

    @property
    def loss_decides(self) -> bool:
        """Whether the replay has enough labelled rows for the loss gate to be required."""
        return self.rows_replayed >= LABELLED_PAIRS


def choose(guesses: Guesses) -> Sizes:
    """Split the rows by time and size the training and the replay.

    Raises:
        ConfigError: The rows have too few different times to be split by them.
    """
    moments = _moments(guesses)
    rows = len(moments)
    replayed = min(MAX_REPLAYED, int(rows * _SHARE_REPLAYED))
    before = rows - replayed
    cuts = [int(before * 0.6), int(before * 0.72), int(before * 0.85), before]
    edges = [moments[0], *(moments[cut] for cut in cuts), moments[-1] + 1]
    if any(low >= high for low, high in pairwise(edges)):
        raise ConfigError(
            "--time", f"{len(np.unique(moments))} different times",
            "must differ enough to split the rows into training, measuring and replay",
            next_step="Leave --time out: the order of rows then stands for time",
        )  # fmt: skip
    counts = [int(np.searchsorted(moments, edge)) for edge in edges]
    learned, replayed = counts[1], rows - counts[4]
    has_store = guesses.one("entity") is not None
    labels_B = guesses.label.values_B[np.isfinite(guesses.label.values_B)]
    batch = 2 ** int(np.clip(round(math.log2(max(learned, 1) / 20)), 4, 11))
    steps = max(1, learned // batch)
    span_s = float(edges[5] - edges[4])
    return Sizes(
        start=_at(edges[0]),
        stable_until=_at(edges[1]),
        stable_measured_until=_at(edges[2]),
        candidate_until=_at(edges[3]),
        replay_from=_at(edges[4]),
        end=_at(edges[5]),
        rows_stable=learned,
        rows_candidate=counts[3],
        rows_replayed=replayed,
        rounds=1 if has_store else max(1, math.ceil(_WANTED_REQUESTS / replayed)),
        # With a store, requests must see exactly what was known at their second.
        publish_every_s=1.0 if has_store else max(1.0, float(math.ceil(span_s / 40))),
        epochs=int(np.clip(math.ceil(800 / steps), 4, 30)),
        batch_size=batch,
        category_min_rows=int(np.clip(learned // 100, 2, 20)),
        slice_min_rows=int(np.clip((counts[4] - counts[3]) // 5, 20, 200)),
        loss_margin=0.05
        if guesses.label.task == "binary"
        else float(f"{0.1 * float(labels_B.var()):.2g}"),
    )


def _moments(guesses: Guesses) -> NDArray[np.int64]:
    """Seconds since 1970 of every row, in order."""
    if guesses.at is None:
        first = int(FIRST.timestamp())
        return first + 60 * np.arange(guesses.num_rows, dtype=np.int64)
    return np.sort(guesses.at.drop_nulls().dt.epoch("s").to_numpy())


def _at(second: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(second))
