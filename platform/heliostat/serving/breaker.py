"""Stops asking a variant that keeps failing, so that its failures cost users no time."""

from __future__ import annotations

from heliostat.config import require

_STALL_FACTOR = 20.0
_LEAST_STALL_S = 0.25
_LONG_STALL_S = 1.0
_LONG_STALL_FACTOR = 3.0
_SMOOTHING = 0.1
_SMOOTHING_DOWN = 0.3
"""The first answers of a process are its slowest; they must not count for long."""


class Breaker:
    """Watches the requests that one gateway process sends to one variant.

    Closed: every request may pass. It opens after `failures` in a row, and as soon as a
    variant that used to answer quickly answers nothing at all: when requests are under way,
    yet for twenty times its usual answer time (at least a quarter of a second, and no more
    than a second if it usually takes a third of that) none of them has come back. A process
    that is stopped or gone is noticed by that, long before the first deadline. Open: none may
    pass for `open_s`. Then one request at a time is let through: its success closes the
    breaker, its failure opens it again.

    At most `max_ongoing` requests are under way at any time, so that a slow variant cannot
    use up the gateway.
    """

    def __init__(self, *, failures: int = 5, open_s: float = 2.0, max_ongoing: int = 64) -> None:
        require(failures > 0, "breaker.failures", failures, "must be at least 1")
        require(open_s > 0, "breaker.open_s", open_s, "must be above 0")
        require(max_ongoing > 0, "breaker.max_ongoing", max_ongoing, "must be at least 1")
        self._limit = failures
        self._open_s = open_s
        self._max_ongoing = max_ongoing
        self._in_a_row = 0
        self._ongoing = 0
        self._silent_since = 0.0
        self._usual_s: float | None = None
        self._ready_at: float | None = None
        self._trial_until: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last verdict on the variant was that it fails."""
        return self._ready_at is not None

    @property
    def stall_s(self) -> float | None:
        """Silence that opens the breaker; None before the first answer."""
        if self._usual_s is None:
            return None
        usual = self._usual_s
        # A second of silence is long, unless a usual answer takes a good part of it.
        most = max(_LONG_STALL_S, _LONG_STALL_FACTOR * usual)
        return max(_LEAST_STALL_S, min(_STALL_FACTOR * usual, most))

    def allow(self, now: float) -> bool:
        """Say whether a request may go to the variant; a trial is given to one caller.

        Who may go on must call `succeeded` or `failed` afterwards, or `gave_up`.
        """
        if self._ready_at is None:
            silent_s = now - self._silent_since if self._ongoing else 0.0
            # No silence is shorter than the least; most requests need not know theirs.
            stall_s = self.stall_s if silent_s > _LEAST_STALL_S else None
            if stall_s is not None and silent_s > stall_s:
                self._ready_at = now + self._open_s
                return False
            if self._ongoing >= self._max_ongoing:
                return False
        else:
            if now < self._ready_at:
                return False
            if self._trial_until is not None and now < self._trial_until:
                return False
            # A trial that never reports back must not block for ever.
            self._trial_until = now + self._open_s
        if not self._ongoing:
            self._silent_since = now
        self._ongoing += 1
        return True

    def succeeded(self, now: float, took_s: float) -> None:
        """Note an answer of the variant; closes the breaker."""
        self._ongoing -= 1
        self._silent_since = now
        self._in_a_row = 0
        self._ready_at = self._trial_until = None
        usual = self._usual_s
        if usual is None:
            self._usual_s = took_s
            return
        share = _SMOOTHING if took_s > usual else _SMOOTHING_DOWN
        self._usual_s = usual + share * (took_s - usual)

    def failed(self, now: float) -> None:
        """Note a failure of the variant; may open the breaker."""
        self._ongoing -= 1
        self._silent_since = now
        self._in_a_row += 1
        if self._ready_at is not None or self._in_a_row >= self._limit:
            self._ready_at = now + self._open_s
            self._trial_until = None

    def gave_up(self) -> None:
        """Note that a request ended without a verdict, its client being gone."""
        self._ongoing -= 1
