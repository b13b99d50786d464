"""A request that gets no prediction: the status and the one line that the client is told."""

from __future__ import annotations

from heliostat.errors import HeliostatError


class Refused(HeliostatError):
    """Ends a request with a status and a message; the message is shown to the client."""

    def __init__(self, status: int, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.fields: tuple[tuple[bytes, bytes], ...] = ()
        """Headers that the answer carries besides."""


def bad(where: str, value: object, rule: str) -> Refused:
    """Build a 400 in the form ``where = value: rule``; a long value is cut.

    >>> bad("tensor size: shape", [2, 2], "must be [B] or [B, 1]").message
    'tensor size: shape = [2, 2]: must be [B] or [B, 1]'
    """
    text = repr(value)
    if len(text) > 120:
        text = text[:117] + "..."
    return Refused(400, f"{where} = {text}: {rule}")
