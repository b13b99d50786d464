from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from heliostat.data.rows import LINE
from heliostat.data.tree_source import FileTree
from heliostat.errors import ConfigError


def number(name: str, content: bytes) -> dict[str, int]:
    return {"number": int(content), "length": len(name)}


def test_each_file_is_a_row_with_its_hash_and_what_was_read_in_it(tmp_path: Path) -> None:
    """A file that cannot be read that way is malformed, at its own place, and shown."""
    for name, text in (("a/1.txt", "1"), ("a/2.txt", "x"), ("b.txt", "3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    source = FileTree(folder=str(tmp_path), decode=number, chunk_files=2)

    found = []
    for member in source.plan():
        (chunk,) = source.read_chunks(member, 0)
        found.append(source.parse(chunk[1], member))

    assert [rows.num_rows for rows in found] == [2, 1]
    assert found[0].rows.select(LINE, "path", "number", "sha256").rows() == [
        (0, "a/1.txt", 1, hashlib.sha256(b"1").hexdigest())
    ]
    (bad,) = found[0].malformed
    assert (bad.line, bad.kind) == (1, "file: must be readable")
    assert bad.reason == ("a/2.txt: must be readable; invalid literal for int() with base 10: b'x'")
    assert '"path":"a/2.txt"' in found[0].text(1)
    assert found[1].rows["media_type"].to_list() == ["text/plain"]


def test_files_that_come_or_go_while_they_are_read_stop_the_run(tmp_path: Path) -> None:
    """No file is taken for another one's place."""
    (tmp_path / "one").write_text("1")
    source = FileTree(folder=str(tmp_path))
    (member,) = source.plan()
    (tmp_path / "one").unlink()

    with pytest.raises(ConfigError, match="must not change while it is read"):
        list(source.read_chunks(member, 0))
    with pytest.raises(ConfigError, match="must find files in"):
        source.plan()
