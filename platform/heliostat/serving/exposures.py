"""The exposure log: one JSON line per answered request, in files of this gateway alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from heliostat import telemetry
from heliostat.config import require


class Spool:
    """Keeps records in memory until `flush` appends them to ``<gateway>-<n>.jsonl``.

    A record is written once. What a crash can lose is what came since the last flush. When
    the disk refuses, records wait in memory up to `max_waiting`, then the oldest are
    dropped and counted.
    """

    def __init__(
        self,
        folder: Path,
        gateway: str,
        *,
        max_file_bytes: int = 32 << 20,
        max_waiting: int = 50_000,
    ) -> None:
        require(max_file_bytes > 0, "spool.max_file_bytes", max_file_bytes, "must be above 0")
        require(max_waiting > 0, "spool.max_waiting", max_waiting, "must be above 0")
        self._folder = folder
        self._gateway = gateway
        self._max_file_bytes = max_file_bytes
        self._max_waiting = max_waiting
        self._waiting: deque[bytes] = deque()
        self._encode = msgspec.json.Encoder().encode
        self._number = 0
        self._size = 0
        self.num_dropped = 0
        """Records lost because the disk refused for too long."""
        self.num_written = 0

    @property
    def num_waiting(self) -> int:
        """Records that are not on disk yet."""
        return len(self._waiting)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record. Never touches the disk.

        It is encoded at once: thousands of waiting objects would cost each request more in
        garbage collection than the encoding does.
        """
        if len(self._waiting) >= self._max_waiting:
            self._waiting.popleft()
            self.num_dropped += 1
        self._waiting.append(self._encode(record))

    def flush(self) -> None:
        """Append everything that waits in one write, so that a reader sees whole lines."""
        if not self._waiting:
            return
        records = list(self._waiting)
        text = b"\n".join(records) + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._size and self._size + len(text) > self._max_file_bytes:
                self._number += 1
                self._size = 0
            path = self._folder / f"{self._gateway}-{self._number}.jsonl"
            with path.open("ab", buffering=0) as file:
                written = file.write(text)
                if written != len(text):
                    file.truncate(file.tell() - (written or 0))
                    raise OSError(f"{written} of {len(text)} bytes written")
        except OSError as error:
            telemetry.event(
                "exposures.not_written", waiting=len(records), dropped=self.num_dropped,
                problem=str(error),
            )  # fmt: skip
            return
        self._size += len(text)
        self.num_written += len(records)
        for _ in records:
            self._waiting.popleft()
