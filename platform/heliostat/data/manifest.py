"""Files such as images as a versioned table of what each one holds, read back by content."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data.merge import InProcess, Tasks
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

    from heliostat.data.tables import Catalog

FILES_PER_TASK = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestReport:
    """What a manifest's version holds, and how it differs from the one before."""

    version: int
    files: int
    num_bytes: int
    added: int
    changed: int
    removed: int


def write(
    catalog: Catalog,
    name: str,
    folder: Path,
    *,
    run_id: str,
    pattern: str = "**/*",
    tasks: Tasks | None = None,
) -> ManifestReport:
    """Write a version with one row for each file: path, size, time, media type and SHA-256.

    The files stay where they are. Whether one has changed since is told when it is read.

    Args:
        catalog: Where the table lives.
        name: The manifest's table.
        folder: Folder of the files; paths in the table are relative to it.
        run_id: Who writes; once per run.
        pattern: Which files, as `Path.glob` takes it.
        tasks: Where files are hashed; here if None, or `on_ray.OnRay()`.

    Raises:
        ConfigError: There is no such folder.
    """
    import polars as pl

    require(folder.is_dir(), "manifest.folder", str(folder), "must be a folder")
    paths = sorted(str(p.relative_to(folder)) for p in folder.glob(pattern) if p.is_file())
    parts = [paths[at : at + FILES_PER_TASK] for at in range(0, len(paths), FILES_PER_TASK)]
    work = partial(_look, folder=folder)
    found = [row for rows in (tasks or InProcess()).map(work, parts) for row in rows]
    schema: Any = {
        "path": pl.String, "size_bytes": pl.Int64, "modified_at": pl.Datetime("us", "UTC"),
        "media_type": pl.String, "sha256": pl.String, "folder": pl.String,
    }  # fmt: skip
    rows = pl.DataFrame(found, schema=schema, orient="row").sort("path")
    before = rows.head(0) if catalog.version(name) is None else catalog.read(name)
    version = catalog.write(name, rows, run_id=run_id)
    both = rows.join(before, on="path", how="inner", suffix="_before")
    return ManifestReport(
        version=version,
        files=rows.height,
        num_bytes=int(rows["size_bytes"].sum()),
        added=rows.height - both.height,
        changed=both.filter(pl.col("sha256") != pl.col("sha256_before")).height,
        removed=before.height - both.height,
    )


def dataset(catalog: Catalog, name: str, version: int | None = None) -> ray.data.Dataset:
    """Open the files of a manifest's version with Ray Data: its columns, and ``bytes``.

    A file that is gone or no longer holds what the version says stops the read.
    """
    return catalog.dataset(name, version).map_batches(
        with_bytes, batch_size=64, batch_format="pyarrow"
    )


def with_bytes(rows: pa.Table) -> pa.Table:
    """Read the files of some rows of a manifest, each checked by its hash.

    Raises:
        HeliostatError: A file is gone or has changed; the manifest's version is not what is there.
    """
    import pyarrow as pa

    contents = []
    for row in rows.select(["folder", "path", "sha256"]).to_pylist():
        path = Path(row["folder"]) / row["path"]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise HeliostatError(f"{path}: a file of this version is gone") from error
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            raise HeliostatError(f"{path}: has changed since this version of the manifest")
        contents.append(content)
    return rows.append_column("bytes", pa.array(contents, pa.large_binary()))


def _look(paths: Sequence[str], *, folder: Path) -> list[tuple[Any, ...]]:
    rows = []
    for name in paths:
        path = folder / name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = path.stat()
        rows.append(
            (
                name,
                status.st_size,
                datetime.fromtimestamp(status.st_mtime, UTC),
                mimetypes.guess_type(name)[0] or "application/octet-stream",
                digest,
                str(folder.absolute()),
            )
        )
    return rows
