"""Write a checkpoint of a table that holds what its newest version is, and nothing that is gone."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from heliostat.data.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

HINT = "_delta_log/_last_checkpoint"


def write(folder: Storage, table: DeltaTable) -> None:
    """Write the checkpoint of an open table's version; safe to repeat, and beside readers.

    Without what deltalake keeps of removed files: after thousands of small files were put
    together it is nearly all of the checkpoint, and each reader would take it apart only to
    leave it out. Our vacuum asks the log, not the checkpoint, which files are nobody's.
    """
    table.create_checkpoint()
    path = f"_delta_log/{table.version():020d}.checkpoint.parquet"
    content = folder.read(path)
    hint = json.loads(folder.read(HINT) or b"{}")
    if content is None or hint.get("version") != table.version():
        # In parts, or somebody has written a newer one meanwhile: theirs is as good.
        return
    lean, num_actions = _lean(content)
    folder.write(path, lean)
    told = {**hint, "size": num_actions, "sizeInBytes": len(lean)}
    folder.write(HINT, json.dumps(told).encode())


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
