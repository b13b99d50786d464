from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from heliostat.data import block_runs
from heliostat.data.blocks import Work, check_place, unpack
from heliostat.data.contract import Column, Contract
from heliostat.data.file_sources import JsonFiles
from heliostat.data.kafka_source import KafkaTopic
from heliostat.data.rows import Member
from heliostat.data.sources import CsvFiles, require_columns
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, Unavailable

FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, polars as pl
from heliostat.data.tables import Catalog
from heliostat.errors import Unavailable
frame = pl.DataFrame({"x": np.random.default_rng(0).random(200_000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Catalog(Path(sys.argv[1])).write("t", frame, run_id="big", mode="append")
except Unavailable as error:
    print(error)
"""

FULL_DISK_OF_A_TASK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
import pyarrow as pa
from heliostat.data.blocks import Work, check_place, unpack
from heliostat.data.contract import Column, Contract
from heliostat.data.sources import CsvFiles
from heliostat.data.tables import Catalog
from heliostat.errors import Unavailable
folder = Path(sys.argv[1])
source = CsvFiles(paths=(str(folder / "rows.csv"),))
work = Work(
    source=source, members=tuple(source.plan()), catalog=Catalog(folder / "tables"), run_id="r",
    contract=Contract(table="t", columns=(Column(name="x", dtype="float64"),)),
    now=datetime(2026, 1, 1, tzinfo=UTC),
)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    list(unpack(check_place(pa.table({"file": [0], "number": [0]}), work)))
except Unavailable as error:
    print(error)
"""


@pytest.mark.parametrize("kind", [CsvFiles, JsonFiles])
def test_a_line_of_a_gigabyte_is_refused_with_its_place(tmp_path: Path, kind) -> None:
    """Not read into memory first; the file is sparse, so that the test is quick."""
    path = tmp_path / "rows.txt"
    path.write_bytes(b'id,name\n{"id": 1}\n')
    with path.open("r+b") as file:
        file.truncate(2**30)
    source = kind(paths=(str(path),))
    member = Member(path=str(path), header=("id",), size_bytes=2**30, body_start=8)

    with pytest.raises(ConfigError, match=r"rows\.txt: line = .*must be at most 64 MiB long; none"):
        list(source.read_chunks(member, 0))
    # A chunk in the middle of the line holds none that begins there.
    assert next(source.read_chunks(member, 1))[1] == b""


def test_a_renamed_column_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    """In a JSON file too, whose rows name their own columns."""
    path = tmp_path / "rows.json"
    path.write_text('{"id": 1, "amuont": 2}\n')
    (member,) = JsonFiles(paths=(str(path),)).plan()

    with pytest.raises(ConfigError) as caught:
        require_columns(member, ["id", "amount"])
    assert str(caught.value) == (
        f"{path}: column = 'amount': must be in the header; did you mean 'amuont'?"
    )


def test_a_full_disk_stops_the_writer_and_leaves_the_table_as_it_was(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """The error says what to do; nothing of the new version is seen, and no part of a file stays."""
    catalog = Catalog(tmp_path)
    catalog.write("t", pl.DataFrame({"x": [1.0]}), run_id="first")

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        env=child_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout == (
        f"folder {tmp_path / 't'}: cannot be written: File too large. Make room or choose another "
        "folder, then repeat: nothing is lost\n"
    )
    assert (catalog.version("t"), catalog.read("t").height) == (0, 1)
    assert len([path for path in (tmp_path / "t").iterdir() if path.is_file()]) == 1


def test_a_full_disk_stops_an_ingest_s_task_with_the_same_words(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """They come from the task as they are, and no part of a file stays for a next try to take."""
    rows = np.random.default_rng(0).random(100_000)
    pl.DataFrame({"x": rows}).write_csv(tmp_path / "rows.csv")

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK_OF_A_TASK, str(tmp_path)],
        env=child_environment, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout == (
        f"folder {tmp_path / 'tables/t'}: cannot be written: File too large. Make room or choose "
        "another folder, then repeat: nothing is lost\n"
    )
    assert [path for path in (tmp_path / "tables").rglob("*") if path.is_file()] == []


def test_a_topic_that_vanished_after_the_plan_is_told(kafka: str) -> None:
    """Fewer messages than planned are never taken for all of them."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka})
    producer.produce("short", b'{"id": 1}', partition=0)
    producer.flush(10)
    source = KafkaTopic(servers=kafka, topic="short", timeout_s=2)
    planned = Member(path="kafka:short", member="0", header=None, size_bytes=5)

    with pytest.raises(Unavailable) as caught:
        list(source.read_chunks(planned, 0))

    assert str(caught.value) == (
        f"kafka {kafka}: topic short ends at 1, and ended at 5 when the read was planned: it was "
        "deleted or made anew"
    )


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    """Some chunks may be of the old one: no row of such a mix is committed."""
    path = tmp_path / "rows.csv"
    path.write_text("id\n1\n")
    source = CsvFiles(paths=(str(path),))
    before = block_runs.stamps(source)
    block_runs.require_unchanged(source, before)
    os.utime(path, (1, 1))

    with pytest.raises(Unavailable) as caught:
        block_runs.require_unchanged(source, before)

    assert str(caught.value) == (
        f"{path}: changed while it was read. Repeat the ingest when it stays as it is: nothing was "
        "committed"
    )


def test_a_file_that_is_gone_after_the_plan_is_told_by_name(tmp_path: Path) -> None:
    """In the words of an ingest, and not as the trace of a task."""
    path = tmp_path / "rows.csv"
    path.write_text("id\n1\n")
    source = CsvFiles(paths=(str(path),))
    work = Work(
        source=source, members=tuple(source.plan()), catalog=Catalog(tmp_path), run_id="r",
        contract=Contract(table="t", columns=(Column(name="id", dtype="int64"),)),
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    path.unlink()

    with pytest.raises(Unavailable) as caught:
        list(unpack(check_place(pa.table({"file": [0], "number": [0]}), work)))

    assert str(caught.value) == (
        f"{path}: cannot be read to its end; [Errno 2] No such file or directory: '{path}'. Repeat "
        "the ingest when it can be: nothing was committed"
    )
