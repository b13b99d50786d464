"""Files such as images as a source: a row for each, with its hash and what a function reads in it."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from heliostat.config import require
from heliostat.data import typed_rows
from heliostat.data.rows import LINE, Malformed, Member
from heliostat.data.typed_rows import TypedRows
from heliostat.errors import ConfigError, HeliostatError

Decode = Callable[[str, bytes], Mapping[str, Any]]
"""Given a file's path and bytes, gives its columns; raises ValueError for one it cannot read."""

_FAULT = "__fault"


@dataclass(frozen=True, kw_only=True)
class FileTree:
    """The files of a folder, each a row: folder, path, size_bytes, modified_at, media_type, sha256.

    A table with `folder`, `path` and `sha256` is a manifest: `manifest.dataset` reads the files of
    any of its versions with Ray Data, and stops at one that changed. A file that `decode` cannot
    read goes to quarantine with the reason.
    """

    folder: str

    pattern: str = "**/*"
    """Which files, as `Path.glob` takes it."""

    decode: Decode | None = None
    """Adds columns, such as an image's pixels. A function of a module: tasks import it."""

    chunk_files: int = 500
    """Files that one task reads."""

    def __post_init__(self) -> None:
        require(self.chunk_files > 0, "source.chunk_files", self.chunk_files, "must be above 0")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file, sorted."""
        found = (path for path in Path(self.folder).glob(self.pattern) if path.is_file())
        return tuple(sorted(map(str, found)))

    @property
    def repeatable(self) -> bool:
        """Files stay as they are while they are read; one that did not shows by its hash."""
        return True

    def position(self, members: list[Member]) -> None:  # noqa: ARG002 - read as a whole
        """Nothing: the folder is read whole."""
        return

    def plan(self) -> list[Member]:
        """List the files in groups.

        Raises:
            ConfigError: There is no such folder, or it has no such file.
        """
        require(Path(self.folder).is_dir(), "source.folder", self.folder, "must be a folder")
        paths = self.paths
        require(bool(paths), "source.pattern", self.pattern, f"must find files in {self.folder}")
        return [
            Member(
                path=self.folder, member=f"{first}", header=None, body_start=first,
                size_bytes=min(first + self.chunk_files, len(paths)), first_line=1,
            )
            for first in range(0, len(paths), self.chunk_files)
        ]  # fmt: skip

    def readers(self, member: Member) -> range:  # noqa: ARG002 - groups are alike
        """One for each group of files."""
        return range(1)

    def one_chunk_each(self, member: Member) -> bool:  # noqa: ARG002 - groups are alike
        """A group is a chunk."""
        return True

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield the group: each file's row, or why it has none.

        Raises:
            ConfigError: Files came or went since the plan.
        """
        paths = self.paths[member.body_start : member.size_bytes]
        if len(paths) != member.size_bytes - member.body_start:
            raise ConfigError("source.folder", self.folder, "must not change while it is read")
        rows = [self._row(Path(path)) for path in paths]
        names = dict.fromkeys(name for row in rows for name in row)
        frame = pl.DataFrame(
            {name: [row.get(name) for row in rows] for name in names}, infer_schema_length=None
        )
        yield first, typed_rows.encode(frame)

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Read the group again."""
        return next(raw for _, raw in self.read_chunks(member, number))

    def parse(self, raw: bytes, member: Member) -> TypedRows:  # noqa: ARG002 - rows say it
        """Tell the rows from the files that could not be read."""
        rows = typed_rows.decode(raw).rows
        broken = rows.filter(pl.col(_FAULT).is_not_null())
        malformed = tuple(
            Malformed(
                line=line,
                kind="file: must be readable",
                reason=f"{path}: must be readable; {fault}",
            )
            for line, path, fault in broken.select(LINE, "path", _FAULT).iter_rows()
        )
        good = rows.filter(pl.col(_FAULT).is_null()).drop(_FAULT)
        return TypedRows(rows=good, malformed=malformed, whole=rows)

    def _row(self, path: Path) -> dict[str, Any]:
        name = str(path.relative_to(self.folder))
        try:
            content = path.read_bytes()
            modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError as error:
            raise HeliostatError(f"{path}: cannot be read; {error.strerror}") from error
        row: dict[str, Any] = {
            "folder": str(Path(self.folder).absolute()),
            "path": name,
            "size_bytes": len(content),
            "modified_at": modified,
            "media_type": mimetypes.guess_type(name)[0] or "application/octet-stream",
            "sha256": hashlib.sha256(content).hexdigest(),
            _FAULT: None,
        }
        if self.decode is None:
            return row
        try:
            return {**row, **self.decode(name, content)}
        except ValueError as error:
            return {**row, _FAULT: str(error)[:200] or type(error).__name__}
