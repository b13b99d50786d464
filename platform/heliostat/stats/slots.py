"""Slots: the fixed pieces of traffic that move between variants, and who owns them."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence

from heliostat.config import require

NUM_SLOTS = 10_000
"""A weight is a number of slots, so it is exact to 0.01 %."""


def slot(unit: str, salt: str) -> int:
    """Name the slot of a unit, 0 to 9999: the same in every process, machine and release.

    Args:
        unit: What must be answered by one variant throughout, such as a customer id.
        salt: What keeps experiments independent of each other; use the model's name.

    >>> slot("customer-7", "churn"), slot("customer-7", "price")
    (2231, 2201)
    """
    digest = hashlib.blake2b(f"{salt}\0{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % NUM_SLOTS


def assign(previous: bytes | None, shares: Sequence[float], *, salt: str = "") -> bytes:
    """Give each variant its share of the slots, moving as few of them as can be.

    The number of slots that change hands is the least possible: what some variants have
    too many of. Shares that grow and shrink at the expense of variant 0 are reversible:
    the same weights bring back the same slots, so the same units.

    Args:
        previous: The owner of each slot so far, NUM_SLOTS bytes; None if all belong to 0.
        shares: Wanted share of each variant, each at least 0, summing to 1 within 1e-9.
            An index that is in `previous` but not here loses all its slots.
        salt: Which slots move first depends on it, so that not every rollout begins
            with the same units. Keep it for the length of a rollout.

    Returns:
        NUM_SLOTS bytes, each the index in `shares` of the variant that answers the slot.

    Raises:
        ConfigError: The shares are no distribution, or `previous` has another length.

    >>> owners = assign(None, [0.95, 0.05])
    >>> owners.count(1), assign(assign(owners, [0.5, 0.5]), [0.95, 0.05]) == owners
    (500, True)
    """
    require(
        0 < len(shares) <= 256
        and all(math.isfinite(share) and share >= 0 for share in shares)
        and abs(math.fsum(shares) - 1) <= 1e-9,
        "slots.shares",
        tuple(shares),
        "must be 1 to 256 numbers of at least 0 that sum to 1",
    )
    owners = bytearray(bytes(NUM_SLOTS) if previous is None else previous)
    require(len(owners) == NUM_SLOTS, "slots.previous", len(owners), f"needs {NUM_SLOTS} slots")

    targets = _round(shares)
    order = _order(salt)
    held: dict[int, list[int]] = {index: [] for index in range(max(len(shares), max(owners) + 1))}
    for position in order:
        held[owners[position]].append(position)
    free: list[int] = []
    for index, positions in held.items():
        surplus = len(positions) - (targets[index] if index < len(targets) else 0)
        if surplus > 0:
            # Variant 0 hands out from the front and all others give back from the rear:
            # so a variant that lives off variant 0 always holds the same first slots.
            free += positions[:surplus] if index == 0 else positions[-surplus:]
    rank = {position: number for number, position in enumerate(order)}
    free.sort(key=rank.__getitem__)
    taken = iter(free)
    for index in [*range(1, len(targets)), 0]:
        for _ in range(targets[index] - len(held[index])):
            owners[next(taken)] = index
    return bytes(owners)


def _round(shares: Sequence[float]) -> list[int]:
    """Whole slots per variant by largest remainder, the lower index first on a tie."""
    exact = [round(share * NUM_SLOTS, 6) for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(
        range(len(exact)), key=lambda index: (counts[index] - exact[index], index)
    )
    for index in by_remainder[: NUM_SLOTS - sum(counts)]:
        counts[index] += 1
    return counts


@functools.lru_cache(maxsize=16)
def _order(salt: str) -> tuple[int, ...]:
    """Every slot once, shuffled by the salt."""

    def key(position: int) -> bytes:
        return hashlib.blake2b(f"{salt}\0{position}".encode(), digest_size=8).digest()

    return tuple(sorted(range(NUM_SLOTS), key=key))
