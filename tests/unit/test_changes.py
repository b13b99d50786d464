"""The difference between a working tree and its commit, as a run keeps it."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from heliostat.lineage import changes
from heliostat.submit import upload


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e@e", *arguments],
        check=True, capture_output=True,
    )  # fmt: skip


def _tree(root: Path) -> Path:
    """A commit with three files, one of which a rule ignores since."""
    root.mkdir()
    _git(root, "init", "-q")
    for name in ("a.py", "b.py", "token[1].env"):
        (root / name).write_text("one\n")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "first")
    (root / ".gitignore").write_text("*.env\n")
    return root


def test_tracked_changes_are_told_and_ignored_files_never_are(tmp_path: Path) -> None:
    """Staged or not, new or gone; a secret is not told, though its file is tracked."""
    root = _tree(tmp_path / "tree")
    (root / "a.py").write_text("two\n")
    (root / "b.py").unlink()
    (root / "new.py").write_text("new\n")
    _git(root, "add", "new.py")
    for name in ("token[1].env", "other.env", "unknown.py"):
        (root / name).write_text("secret\n")

    found = changes.of_tree(root)

    assert found is not None
    lines = [
        line for line in found.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert lines == ["-one", "+two", "-one", "+new"]
    assert "env" not in found
    assert "unknown" not in found


def test_nothing_is_told_apart_from_nothing_known(tmp_path: Path) -> None:
    """A clean tree differs by an empty text; a folder without git, or inside a tree, is unknown."""
    root = _tree(tmp_path / "tree")
    (root / "inside").mkdir()

    assert changes.of_tree(root) == ""
    assert changes.of_tree(root / "inside") is None
    assert changes.of_tree(tmp_path) is None
    assert changes.of_copy(tmp_path) is None


def test_an_uploaded_copy_carries_it(tmp_path: Path) -> None:
    """And what the copy carries is what its job finds; the files' digest does not know it."""
    root = _tree(tmp_path / "tree")
    (root / "a.py").write_text("two\n")
    packed = upload.pack(root, ["a.py", "b.py"], tmp_path / "1.zip")
    copy = tmp_path / "copy"
    with zipfile.ZipFile(packed.path) as archive:
        assert archive.namelist() == ["a.py", "b.py", changes.FILE]
        archive.extractall(copy)

    assert changes.of_copy(copy) == changes.of_tree(root)
    (root / ".gitignore").write_text("")
    assert upload.pack(root, ["a.py", "b.py"], tmp_path / "2.zip").digest == packed.digest


def test_a_long_difference_is_cut_at_a_line(tmp_path: Path) -> None:
    """It says so, and how long it was."""
    root = _tree(tmp_path / "tree")
    (root / "a.py").write_text("a line of thirty characters...\n" * 20_000)

    found = changes.of_tree(root)

    assert found is not None
    assert changes.LIMIT_BYTES - 100 < len(found) < changes.LIMIT_BYTES + 100
    *_, before, last = found.splitlines()
    assert before == "+a line of thirty characters..."
    assert last.startswith("... cut here: 6")
