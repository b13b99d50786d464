"""Rate limits that hold over all replicas: one bucket per caller and replica, and its share.

No request waits for anybody: a replica decides by its own bucket, and the buckets' rates are
divided again each second by what each replica was asked for. A replica that hears nothing falls
back to an equal share, never to no limit.
"""

from __future__ import annotations

from collections.abc import Mapping

from heliostat.config import require


class Bucket:
    """The generic cell rate algorithm (ITU-T I.371): admits `rate_per_s` with a burst.

    In any window of T seconds at most ``burst + rate_per_s * T`` requests pass.
    """

    __slots__ = ("_due", "_gap_s", "_slack_s", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        """Begin full."""
        self._due = float("-inf")
        self.rate_per_s = rate_per_s
        self._gap_s = 0.0
        self._slack_s = 0.0
        self.set(rate_per_s, burst)

    def set(self, rate_per_s: float, burst: float) -> None:
        """Change the rate; what was used before stays used."""
        require(rate_per_s > 0, "bucket.rate_per_s", rate_per_s, "must be above 0")
        self.rate_per_s = rate_per_s
        self._gap_s = 1 / rate_per_s
        self._slack_s = self._gap_s * max(burst - 1, 0)

    def take(self, now: float) -> float:
        """Take one request's worth; return 0, or the seconds until one may be taken.

        >>> bucket = Bucket(10, 2)
        >>> [round(bucket.take(0.0), 2) for _ in range(3)]
        [0.0, 0.0, 0.1]
        """
        due = max(now, self._due)
        wait_s = due - now - self._slack_s
        # Sums of fractions of a second are not exact; a nanosecond is nobody's burst.
        if wait_s > 1e-9:
            return wait_s
        self._due = due + self._gap_s
        return 0.0


def divide(rate_per_s: float, wanted: Mapping[str, float]) -> dict[str, float]:
    """Divide a rate among replicas by need (max-min fairness); what is left is shared equally.

    Args:
        rate_per_s: All shares sum to exactly this.
        wanted: By replica, the rate of requests that it saw; at least one replica.

    >>> divide(100, {"a": 10, "b": 200})
    {'a': 10.0, 'b': 90.0}
    >>> divide(100, {"a": 10, "b": 30})
    {'a': 40.0, 'b': 60.0}
    """
    shares = dict.fromkeys(wanted, 0.0)
    left, needy = rate_per_s, dict(wanted)
    while needy:
        fair = left / len(needy)
        modest = {name: need for name, need in needy.items() if need <= fair}
        if not modest:
            return {**shares, **dict.fromkeys(needy, fair)}
        for name, need in modest.items():
            shares[name] = float(need)
            left -= need
            del needy[name]
    spare = left / len(shares)
    return {name: share + spare for name, share in shares.items()}
