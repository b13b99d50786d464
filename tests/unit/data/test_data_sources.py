from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from heliostat.data.sources import CsvFiles, require_columns
from heliostat.errors import ConfigError

BODY = "".join(f"{index},{'x' * (index % 7)}\n" for index in range(100))


def _chunks(source: CsvFiles) -> list[list[bytes]]:
    return [
        [raw for first in source.readers(member) for _, raw in source.read_chunks(member, first)]
        for member in source.plan()
    ]


@pytest.mark.parametrize("chunk_bytes", [1, 3, 7, 64, 10_000])
@pytest.mark.parametrize("end", ["", "no line end"])
def test_chunks_hold_every_line_once(tmp_path: Path, chunk_bytes: int, end: str) -> None:
    """Wherever chunks are cut, in a plain file and in an archive, lines stay whole."""
    (tmp_path / "a.csv").write_text("id,x\n" + BODY + end)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.csv", "id,x\r\n" + BODY + end)
    source = CsvFiles(
        paths=(str(tmp_path / "a.csv"), str(tmp_path / "b.zip")), chunk_bytes=chunk_bytes
    )

    for chunks in _chunks(source):
        assert b"".join(chunks).decode() == BODY + end
        filled = [raw for raw in chunks if raw]
        assert all(raw.endswith(b"\n") for raw in filled[:-1])


def test_a_chunk_can_be_read_again(tmp_path: Path) -> None:
    """By its number, in a plain file and in an archive, with the same bytes."""
    (tmp_path / "a.csv").write_text("id,x\n" + BODY)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("one.csv", "id,x\n" + BODY)
    source = CsvFiles(paths=(str(tmp_path / "a.csv"), str(tmp_path / "b.zip")), chunk_bytes=50)

    for member in source.plan():
        for first in source.readers(member):
            for number, raw in source.read_chunks(member, first):
                assert source.read_chunk(member, number) == raw


def test_a_renamed_column_is_refused_with_the_nearest_header(tmp_path: Path) -> None:
    """The error names the file, the column and what it may be called now."""
    path = tmp_path / "a.csv"
    path.write_text("id,amounts,other\n1,2,3\n")
    member = CsvFiles(paths=(str(path),)).plan()[0]

    with pytest.raises(ConfigError) as caught:
        require_columns(member, ["id", "amount"])

    assert str(caught.value) == (
        f"{path}: column = 'amount': must be in the header; did you mean 'amounts'?"
    )
    assert require_columns(member, ["id", "amounts"]) == ("other",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": header = '': must name the columns"),
        (b"a,a\n1,2\n", ": header = ('a',): must each be there once"),
        (b"\xff\xfea\n", ": header = b'\\xff\\xfea\\n': must be UTF-8"),
    ],
)
def test_a_file_without_a_usable_header_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """The error names the file."""
    path = tmp_path / "a.csv"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        CsvFiles(paths=(str(path),)).plan()

    assert str(caught.value) == f"{path}{message}"


def test_a_missing_file_and_a_broken_archive_are_refused(tmp_path: Path) -> None:
    """No traceback of the file system or the archive reader reaches the user."""
    absent, broken = tmp_path / "absent.csv", tmp_path / "broken.zip"
    broken.write_bytes(b"no archive")

    with pytest.raises(ConfigError) as caught:
        CsvFiles(paths=(str(absent),)).plan()
    assert str(caught.value) == (
        f"source.paths = {str(absent)!r}: must be a readable file; No such file or directory"
    )
    with pytest.raises(ConfigError) as caught:
        CsvFiles(paths=(str(broken),)).plan()
    assert str(caught.value) == (
        f"source.paths = {str(broken)!r}: must be a readable zip archive; File is not a zip file"
    )


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    """Files from spreadsheets begin with one."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfid,x\n1,2\n")
    source = CsvFiles(paths=(str(path),))

    assert source.plan()[0].header == ("id", "x")
    assert _chunks(source) == [[b"1,2\n"]]
