"""A Kinesis stream as a source: everything up to now, and next time only what came since."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from heliostat.config import require
from heliostat.data import typed_rows
from heliostat.data.read_once import ReadOnce
from heliostat.data.rows import Member
from heliostat.data.typed_rows import JsonRows
from heliostat.errors import ConfigError, Unavailable

SETTLED_MS = 5_000
"""Arrival times are approximate, so a read ends this long before it was planned: what comes later
belongs to the next one."""

_RECORDS_PER_CALL = 1_000


@dataclass(frozen=True, kw_only=True)
class KinesisStream(ReadOnce):
    """Records of a stream, one JSON object each, by the time at which they arrived.

    Each shard is read from `start`, or from its oldest record, to shortly before the read was
    planned. The commit keeps where it ended, as `position`. Keys come from where boto3 looks:
    ``AWS_ACCESS_KEY_ID`` and the like, a profile, or the machine's role.
    """

    stream: str

    region: str

    endpoint: str | None = None
    """Another address than Amazon's, as ``http://127.0.0.1:5000``."""

    start: Mapping[str, int] = field(default_factory=dict)
    """Milliseconds since 1970 to go on from, by shard: what the last commit kept as position."""

    settled_ms: int = SETTLED_MS
    """How long before now the read ends."""

    chunk_records: int = 20_000
    """Records that one task checks."""

    def __post_init__(self) -> None:
        require(bool(self.stream), "source.stream", self.stream, "must be named")
        require(self.settled_ms >= 0, "source.settled_ms", self.settled_ms, "must be at least 0")
        require(
            self.chunk_records > 0, "source.chunk_records", self.chunk_records, "must be above 0"
        )

    def position(self, members: list[Member]) -> dict[str, int]:
        """Where the next read begins, by shard."""
        return {str(member.member): member.size_bytes for member in members}

    def plan(self) -> list[Member]:
        """List the shards and fix the moment at which the read ends.

        Raises:
            ConfigError: There is no such stream, or it has dropped records not read yet.
            Unavailable: It does not answer, or refuses the keys.
        """
        client = self._client()
        now_ms = int(time.time() * 1000)
        summary = self._call(client.describe_stream_summary, StreamName=self.stream)
        kept_ms = 3_600_000 * summary["StreamDescriptionSummary"]["RetentionPeriodHours"]
        shards: list[str] = []
        asked: dict[str, Any] = {"StreamName": self.stream}
        while asked:
            page = self._call(client.list_shards, **asked)
            shards += [shard["ShardId"] for shard in page["Shards"]]
            asked = {"NextToken": page["NextToken"]} if page.get("NextToken") else {}
        for shard, begin in self.start.items():
            if begin < now_ms - kept_ms:
                raise ConfigError(
                    f"source.start.{shard}", begin, "must still be in the stream",
                    breaks=f"it keeps records for {kept_ms // 3_600_000} hours",
                )  # fmt: skip
        return [
            Member(
                path=f"kinesis:{self.stream}", member=shard, header=None,
                body_start=self.start.get(shard, 0), size_bytes=now_ms - self.settled_ms,
                first_line=0,
            )
            for shard in sorted(shards)
        ]  # fmt: skip

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield the shard's records as JSON lines.

        Raises:
            Unavailable: The stream does not answer any more, or is gone.
        """
        client = self._client()
        place: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if member.body_start:
            # A float of seconds would lose the millisecond to rounding.
            begin = datetime.fromtimestamp(member.body_start // 1000, UTC).replace(
                microsecond=member.body_start % 1000 * 1000
            )
            place = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": begin}
        found = self._call(
            client.get_shard_iterator, StreamName=self.stream, ShardId=member.member, **place
        )
        iterator = found["ShardIterator"]
        number, lines = first, []
        while iterator is not None:
            page = self._call(client.get_records, ShardIterator=iterator, Limit=_RECORDS_PER_CALL)
            for record in page["Records"]:
                arrived_ms = round(record["ApproximateArrivalTimestamp"].timestamp() * 1000)
                if member.body_start <= arrived_ms < member.size_bytes:
                    lines.append(record["Data"].replace(b"\n", b" ") + b"\n")
                if arrived_ms >= member.size_bytes:
                    page = {}
            while len(lines) >= self.chunk_records:
                yield number, b"".join(lines[: self.chunk_records])
                number, lines = number + 1, lines[self.chunk_records :]
            # An empty page in the middle of a shard is no end: only its distance to now is.
            behind_ms = page.get("MillisBehindLatest", 0)
            ended = behind_ms == 0 and not page.get("Records")
            if not ended and not page["Records"]:
                time.sleep(0.2)  # A shard takes five calls a second.
            iterator = None if ended else page.get("NextShardIterator")
        if lines:
            yield number, b"".join(lines)

    def parse(self, raw: bytes, member: Member) -> JsonRows:  # noqa: ARG002 - objects say it
        """Take records apart."""
        return typed_rows.parse_json(raw, ())

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        settings = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 5})
        return boto3.client(
            "kinesis", region_name=self.region, endpoint_url=self.endpoint, config=settings
        )

    def _call(self, ask: Any, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return ask(**arguments)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            if code == "ResourceNotFoundException":
                raise ConfigError("source.stream", self.stream, "must exist") from None
            raise Unavailable(f"kinesis {self.stream}", str(code)) from None
        except BotoCoreError as error:
            # Not its own words: they may hold the request.
            raise Unavailable(f"kinesis {self.stream}", type(error).__name__) from None
