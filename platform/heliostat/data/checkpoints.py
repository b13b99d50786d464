"""Write a checkpoint of a table that holds what its newest version is, and nothing that is gone."""

from __future__ import annotations

import io
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.data.storage import LocalFolder, Storage

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

LOG = "_delta_log"
HINT = f"{LOG}/_last_checkpoint"


def write(folder: Storage, table: DeltaTable) -> None:
    """Write the checkpoint of an open table's version, unless it has one; safe beside readers.

    Without what deltalake keeps of removed files: after thousands of small files were put
    together it is nearly all of the checkpoint, and each reader would take it apart only to
    leave it out. Our vacuum asks the log, not the checkpoint, which files are nobody's.
    """
    version = table.version()
    path = f"{LOG}/{version:020d}.checkpoint.parquet"
    if folder.stat(path) is not None:
        return
    # deltalake makes it of a copy of the log: a reader that has seen how long a checkpoint is
    # finds its footer there, so one that lies in the table is never written anew.
    with tempfile.TemporaryDirectory() as copied:
        made = _made(folder, LocalFolder(Path(copied)), version)
    if made is None:
        return
    content, hint = made
    lean, num_actions = _lean(content)
    folder.write(path, lean)
    told = {**hint, "size": num_actions, "sizeInBytes": len(lean)}
    folder.write(HINT, json.dumps(told).encode())


def _made(folder: Storage, copy: LocalFolder, version: int) -> tuple[bytes, dict[str, int]] | None:
    """Let deltalake make the checkpoint in a copy of the log; None if it is made of parts."""
    from deltalake import DeltaTable

    for name in _needed([Path(item.path).name for item in folder.list(LOG)], version):
        content = folder.read(f"{LOG}/{name}")
        if content is not None:
            copy.write_unsynced(f"{LOG}/{name}", content)
    DeltaTable(str(copy.folder), version=version).create_checkpoint()
    found = copy.read(f"{LOG}/{version:020d}.checkpoint.parquet")
    return None if found is None else (found, json.loads(copy.read(HINT) or b"{}"))


def _needed(names: list[str], version: int) -> list[str]:
    """The files of a log that tell a version: its last checkpoint and the commits from there on."""
    numbered = [(int(name[:20]), name) for name in names if re.fullmatch(r"\d{20}\..+", name)]
    until = [(number, name) for number, name in numbered if number <= version]
    since = max((number for number, name in until if ".checkpoint." in name), default=0)
    return [
        name
        for number, name in until
        if number >= since and (name.endswith(".json") or ".checkpoint." in name)
    ]


def _lean(content: bytes) -> tuple[bytes, int]:
    """Leave out removed files, and put run numbers apart from what every reader wants."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    actions: pa.Table = pq.read_table(io.BytesIO(content))
    kept = actions.filter(pc.is_null(actions["remove"]))
    # A reader opens each of these once more where they are there, and may find nothing.
    optional = [name for name in ("domainMetadata", "sidecar") if name in kept.column_names]
    kept = kept.drop_columns([name for name in optional if kept[name].null_count == len(kept)])
    is_number = pc.is_valid(kept["txn"])
    buffer = io.BytesIO()
    # Readers take types from the file's own schema, and no path or run comes twice.
    plain = {"compression": "snappy", "store_schema": False, "use_dictionary": False}
    with pq.ParquetWriter(buffer, kept.schema, **plain) as writer:
        # Readers skip a row group whose statistics say that it holds nothing of theirs.
        for part in (kept.filter(pc.invert(is_number)), kept.filter(is_number)):
            if part.num_rows:
                writer.write_table(part)
    return buffer.getvalue(), kept.num_rows
