from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.data.contract import Column, Contract, Rule
from heliostat.data.ingest import IngestReport, ingest
from heliostat.data.rows import Member, Rows
from heliostat.data.sources import CsvFiles
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, GateRefused, Unavailable

NOW = datetime(2026, 1, 2, tzinfo=UTC)

CONTRACT = Contract(
    table="raw/orders",
    keys=("id",),
    columns=(
        Column(name="id", dtype="int64"),
        Column(name="at", dtype="timestamp", not_in_future=True),
        Column(name="low", dtype="float64", nullable=True),
        Column(name="high", dtype="float64", nullable=True),
    ),
    rules=(Rule(name="ordered", expression="high >= low", columns=("low", "high")),),
    max_quarantined_ratio=0.5,
)

DIRTY = (
    b"id,at,low,high,note\n"
    b"1,2026-01-01T00:00:00Z,1,2,\n"
    b"x,2026-01-01T00:00:00Z,1,2,\n"
    b"3,2026-01-01T00:00:00Z,1\n"
    b"4,2027-01-01T00:00:00Z,1,2,\n"
    b'5,2026-01-01T00:00:00Z,1,2,"open\n'
    b"6,2026-01-01T00:00:00Z,3,2,\xff\n"
    b"7,2026-01-01T00:00:00Z,3,2,\n"
    b"1,2026-01-01T01:00:00Z,5,6,again\n"
    b"8,2026-01-01T00:00:00Z,NA,,\n"
)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "tables")


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("chunk_bytes", [40, 10_000])
@pytest.mark.parametrize("packed", [False, True])
def test_every_row_ends_in_the_table_or_in_quarantine(
    tmp_path: Path, catalog: Catalog, chunk_bytes: int, packed: bool
) -> None:
    """However the file is cut: the same rows, lines, reasons and raw text, and exact numbers."""
    path = tmp_path / "orders.csv"
    path.write_bytes(DIRTY)
    label = str(path)
    if packed:
        with zipfile.ZipFile(tmp_path / "orders.zip", "w") as archive:
            archive.write(path, "orders.csv")
        path = tmp_path / "orders.zip"
        label = f"{path}!orders.csv"
    source = CsvFiles(paths=(str(path),), chunk_bytes=chunk_bytes)
    contract = Contract(**{**_fields(CONTRACT), "max_quarantined_ratio": 0.8})

    seen: list[int] = []
    report = ingest(
        source, contract, catalog, run_id="run", now=NOW, progress=lambda n, _, __: seen.append(n)
    )

    assert report == IngestReport(
        table="raw/orders",
        version=0,
        rows_read=9,
        rows_written=2,
        rows_quarantined=7,
        reasons={
            "line: must have 5 fields, as the header": 1,
            "id: must be int64": 1,
            "at: must not be after now, 2026-01-02T00:00:00+00:00": 1,
            "line: must be well quoted": 1,
            "line: must be UTF-8": 1,
            "low, high: must keep ordered, high >= low": 1,
            "id: must be unique": 1,
        },
        quarantine_version=0,
        columns_ignored=("note",),
    )
    assert seen[-1] == 9
    assert catalog.read("raw/orders").rows() == [
        (1, datetime(2026, 1, 1, tzinfo=UTC), 1.0, 2.0),
        (8, datetime(2026, 1, 1, tzinfo=UTC), None, None),
    ]
    lines = DIRTY.split(b"\n")
    assert catalog.read("raw/orders_quarantine").rows() == [
        (label, line, reason, lines[line - 1].decode(errors="backslashreplace"))
        for line, reason in (
            (3, "id = 'x': must be int64"),
            (4, "line = 3 fields: must have 5 fields, as the header"),
            (
                5,
                "at = '2027-01-01T00:00:00Z': must not be after now, 2026-01-02T00:00:00+00:00",
            ),
            (6, "line: must be well quoted; unexpected end of data"),
            (7, "line: must be UTF-8"),
            (8, "low = '3', high = '2': must keep ordered, high >= low"),
            (9, "id = 1: must be unique; an earlier row has it"),
        )
    ]


def _fields(contract: Contract) -> dict[str, Any]:
    return {name: getattr(contract, name) for name in Contract.__slots__}


@pytest.mark.usefixtures("ray_session")
def test_too_many_bad_rows_stop_the_run_before_anything_is_visible(
    tmp_path: Path, catalog: Catalog
) -> None:
    """The error says the share and the most frequent reasons; the old version stays."""
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("id,at,low,high\n1,2026-01-01T00:00:00Z,1,2\n")
    bad.write_bytes(DIRTY)
    ingest(CsvFiles(paths=(str(good),)), CONTRACT, catalog, run_id="first", now=NOW)

    with pytest.raises(GateRefused) as caught:
        ingest(CsvFiles(paths=(str(bad),)), CONTRACT, catalog, run_id="second", now=NOW)

    assert str(caught.value) == (
        "table raw/orders stays where it is: share of quarantined rows is 0.7778 (7 of 9: "
        "1 x id: must be int64; 1 x line: must have 5 fields, as the header; "
        "1 x at: must not be after now, 2026-01-02T00:00:00+00:00), needs at most 0.5"
    )
    assert (catalog.version("raw/orders"), catalog.version("raw/orders_quarantine")) == (0, 0)
    assert catalog.read("raw/orders").height == 1


@pytest.mark.usefixtures("ray_session")
def test_an_ingest_repeated_gives_its_report_again(tmp_path: Path, catalog: Catalog) -> None:
    """Also where only quarantine was committed when the first try was killed."""
    path = tmp_path / "orders.csv"
    path.write_text("id,at,low,high\n1,2026-01-01T00:00:00Z,1,2\nx,,,\n")
    source = CsvFiles(paths=(str(path),))
    done = ingest(source, CONTRACT, Catalog(tmp_path / "other"), run_id="run", now=NOW)
    catalog.write(
        "raw/orders_quarantine",
        Catalog(tmp_path / "other").read("raw/orders_quarantine"),
        run_id="run",
    )

    for _ in range(2):
        assert ingest(source, CONTRACT, catalog, run_id="run", now=NOW) == done
    assert (catalog.version("raw/orders"), catalog.version("raw/orders_quarantine")) == (0, 0)


@pytest.mark.usefixtures("ray_session")
def test_files_are_added_and_replaced_as_whole_versions(tmp_path: Path, catalog: Catalog) -> None:
    """Appending adds to both tables, a file without rows replaces all by nothing."""
    full, empty = tmp_path / "full.csv", tmp_path / "empty.csv"
    full.write_text("high,low,at,id\n2,1,2026-01-01T00:00:00Z,1\n2,1,,2\n")
    empty.write_text("id,at,low,high\n")
    for run, file, mode in (
        ("a", full, "overwrite"),
        ("b", full, "append"),
        ("c", empty, "overwrite"),
    ):
        ingest(
            CsvFiles(paths=(str(file),)),
            CONTRACT,
            catalog,
            run_id=run,
            now=NOW,
            mode=mode,  # type: ignore[arg-type]
        )

    for table in ("raw/orders", "raw/orders_quarantine"):
        assert [catalog.read(table, version).height for version in range(3)] == [1, 2, 0]
    assert catalog.schema("raw/orders") == CONTRACT.schema()


@pytest.mark.usefixtures("ray_session")
def test_of_many_rows_exactly_the_later_duplicates_are_refused(
    tmp_path: Path, catalog: Catalog
) -> None:
    """20,000 rows over many chunks and two files, every fourth key twice."""
    lines = [f"{row - row % 4 // 3},2026-01-01T00:00:00Z,0,{row}\n" for row in range(20_000)]
    for name, part in (("one", lines[:7_001]), ("two", lines[7_001:])):
        (tmp_path / f"{name}.csv").write_text("id,at,low,high\n" + "".join(part))
    paths = tuple(str(tmp_path / f"{name}.csv") for name in ("one", "two"))

    report = ingest(
        CsvFiles(paths=paths, chunk_bytes=50_000), CONTRACT, catalog, run_id="run", now=NOW
    )

    assert (report.rows_read, report.rows_written, report.rows_quarantined) == (
        20_000,
        15_000,
        5_000,
    )
    expected = [row for row in range(20_000) if row % 4 != 3]
    assert catalog.read("raw/orders")["high"].cast(pl.Int64).to_list() == expected
    quarantine = catalog.read("raw/orders_quarantine")
    assert quarantine["raw"].to_list() == [line.strip() for line in lines[3::4]]
    assert quarantine.filter(source=paths[1])["line"][0] == 7_003 - 7_001 + 2
    assert catalog.dataset("raw/orders").count() == 15_000


@pytest.mark.usefixtures("ray_session")
def test_a_missing_column_is_refused_before_anything_is_read(
    tmp_path: Path, catalog: Catalog
) -> None:
    """The error names the file, the column and the nearest header."""
    path = tmp_path / "orders.csv"
    path.write_text("id,at,lower,high\n1,2026-01-01T00:00:00Z,1,2\n")

    with pytest.raises(ConfigError) as caught:
        ingest(CsvFiles(paths=(str(path),)), CONTRACT, catalog, run_id="run", now=NOW)

    assert str(caught.value) == (
        f"{path}: column = 'low': must be in the header; did you mean 'lower'?"
    )
    assert catalog.names() == []


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Files that note each chunk they read, and at one of them end like a killed worker."""

    files: CsvFiles
    log: str
    """Beside it, a file `fails` may say at which."""
    repeatable: bool = True

    @property
    def paths(self) -> tuple[str, ...]:
        return self.files.paths

    def plan(self) -> list[Member]:
        return self.files.plan()

    def readers(self, member: Member) -> range:
        return self.files.readers(member)

    def one_chunk_each(self, member: Member) -> bool:
        return self.files.one_chunk_each(member)

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        fails = Path(self.log).with_name("fails")
        if fails.exists() and first == int(fails.read_text()):
            raise Unavailable("files", "the disk is gone")
        with Path(self.log).open("a") as log:
            log.write(f"{first}\n")
        return self.files.read_chunks(member, first)

    def read_chunk(self, member: Member, number: int) -> bytes:
        return next(raw for _, raw in self.read_chunks(member, number))

    def parse(self, raw: bytes, member: Member) -> Rows:
        return self.files.parse(raw, member)

    def position(self, members: list[Member]) -> None:
        return self.files.position(members)


@pytest.mark.usefixtures("ray_session")
def test_a_second_try_goes_on_with_the_chunks_that_are_left(
    tmp_path: Path, catalog: Catalog
) -> None:
    """Each chunk is read once over both tries, judged by the first one's time, and nothing stays."""
    lines = [f"{row},2026-01-01T00:00:00Z,0,{row}\n" for row in range(2_000)]
    (tmp_path / "rows.csv").write_text("id,at,low,high\n" + "".join(lines) + "x,,,\n")
    log = tmp_path / "log"
    files = CsvFiles(paths=(str(tmp_path / "rows.csv"),), chunk_bytes=8_000)
    chunks = len(files.readers(files.plan()[0]))

    source = Counted(files=files, log=str(log))
    (tmp_path / "fails").write_text(str(chunks - 1))

    with pytest.raises(Unavailable, match="the disk is gone"):
        ingest(source, CONTRACT, catalog, run_id="run", now=NOW)
    first = log.read_text().split()
    (tmp_path / "fails").unlink()
    report = ingest(source, CONTRACT, catalog, run_id="run", now=NOW.replace(hour=9))

    assert len(first) > 0
    assert sorted(map(int, log.read_text().split())) == list(range(chunks))
    assert (report.rows_read, report.rows_written, report.rows_quarantined) == (2_001, 2_000, 1)
    assert catalog.read("raw/orders")["high"].to_list() == [float(row) for row in range(2_000)]
    folder = Path(catalog.root) / "raw/orders"
    named = {path for entry in catalog.history("raw/orders") for path in entry.added}
    assert {path.name for path in folder.iterdir() if path.is_file()} == named
    assert list((folder / "_heliostat/blocks").iterdir()) == []


@pytest.mark.usefixtures("ray_session")
def test_a_second_try_on_another_file_starts_anew(tmp_path: Path, catalog: Catalog) -> None:
    """What the first one left would be rows of a file that is no more."""
    path = tmp_path / "rows.csv"
    lines = [f"{row},2026-01-01T00:00:00Z,0,1\n" for row in range(2_000)]
    path.write_text("id,at,low,high\n" + "".join(lines))
    log = tmp_path / "log"
    files = CsvFiles(paths=(str(path),), chunk_bytes=8_000)
    source = Counted(files=files, log=str(log))
    (tmp_path / "fails").write_text(str(len(files.readers(files.plan()[0])) - 1))
    with pytest.raises(Unavailable):
        ingest(source, CONTRACT, catalog, run_id="run", now=NOW)
    (tmp_path / "fails").unlink()
    path.write_text(path.read_text().replace(",0,1\n", ",0,2\n"))

    ingest(source, CONTRACT, catalog, run_id="run", now=NOW)

    assert set(catalog.read("raw/orders")["high"]) == {2.0}


@pytest.mark.usefixtures("ray_session")
def test_an_archive_that_is_damaged_inside_stops_the_run(tmp_path: Path, catalog: Catalog) -> None:
    """Its list of members is whole, so that only the reading finds it; the error names the member."""
    path = tmp_path / "rows.zip"
    lines = "".join(f"{row},2026-01-01T00:00:00Z,0,1\n" for row in range(50_000))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", "id,at,low,high\n" + lines)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)

    with pytest.raises(Unavailable, match=r"rows\.zip!rows\.csv: cannot be read to its end; "):
        ingest(CsvFiles(paths=(str(path),)), CONTRACT, catalog, run_id="run", now=NOW)

    assert catalog.names() == []
