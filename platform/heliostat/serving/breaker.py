"""Stops asking a variant that keeps failing, so that its failures cost users no time."""

from __future__ import annotations

from heliostat.config import require


class Breaker:
    """Counts consecutive failures of one variant, in one gateway process.

    Closed: every request may pass. After `failures` in a row it opens for `open_s`, in
    which none may pass. Then one request at a time is let through: its success closes the
    breaker, its failure opens it again.
    """

    def __init__(self, *, failures: int = 5, open_s: float = 2.0) -> None:
        require(failures > 0, "breaker.failures", failures, "must be at least 1")
        require(open_s > 0, "breaker.open_s", open_s, "must be above 0")
        self._limit = failures
        self._open_s = open_s
        self._in_a_row = 0
        self._ready_at: float | None = None
        self._trial_until: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last verdict on the variant was that it fails."""
        return self._ready_at is not None

    def allow(self, now: float) -> bool:
        """Say whether a request may go to the variant; a trial is given to one caller."""
        if self._ready_at is None:
            return True
        if now < self._ready_at:
            return False
        if self._trial_until is not None and now < self._trial_until:
            return False
        # A trial that never reports back, its request being cancelled, must not block for ever.
        self._trial_until = now + self._open_s
        return True

    def succeeded(self) -> None:
        """Note an answer of the variant; closes the breaker."""
        self._in_a_row = 0
        self._ready_at = self._trial_until = None

    def failed(self, now: float) -> None:
        """Note a failure of the variant; may open the breaker."""
        self._in_a_row += 1
        if self._in_a_row >= self._limit:
            self._ready_at = now + self._open_s
            self._trial_until = None
