from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.submit import upload


def _clone(root: Path) -> Path:
    for name in (
        "jobs/a.py", "platform/pkg/x.py", ".venv/big", ".heliostat/state.db", "README.md",
        "platform/pkg/__pycache__/x.pyc", "state here/s.db",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text(".venv/\n.heliostat/\n__pycache__/\n")
    (root / "link").symlink_to("/etc/passwd")
    return root


def _git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", "-C", root, *who, *arguments], check=True, capture_output=True)


FILES = [".gitignore", "README.md", "jobs/a.py", "platform/pkg/x.py"]


def test_an_archive_without_git_uploads_the_clone_and_no_state(tmp_path: Path) -> None:
    """Without .git the usual folders stay behind, and so does a state folder inside."""
    root = _clone(tmp_path)
    assert upload.list_files(root, leave_out=[root / "state here"]) == FILES
    assert upload.list_files(root) == sorted([*FILES, "state here/s.db"])


def test_with_git_only_tracked_files_go_along(tmp_path: Path) -> None:
    """As they are now; a deleted file is not missed, and what git does not know can be told."""
    root = _clone(tmp_path)
    _git(root, "init", "-q")
    _git(root, "add", "jobs", "README.md", ".gitignore")
    _git(root, "commit", "-qm", "first")
    (root / "README.md").unlink()
    found = upload.list_files(root, leave_out=[root / "state here"])
    assert found == [".gitignore", "jobs/a.py"]
    assert upload.untracked(root) == ["link", "platform/pkg/x.py", "state here/s.db"]
    _git(root, "add", "--intent-to-add", "platform/pkg/x.py")
    assert upload.list_files(root) == [".gitignore", "jobs/a.py", "platform/pkg/x.py"]


def test_600_mb_that_git_ignores_stay_here_and_tracked_ones_are_refused(tmp_path: Path) -> None:
    """Refused before anything is packed, naming the file; ignored ones are not even counted."""
    root = _clone(tmp_path / "c")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    for name in (".venv/huge", "data.bin"):
        (root / name).touch()
    _git(root, "add", "data.bin")
    with (root / ".venv/huge").open("wb") as stream:
        stream.truncate(600_000_000)
    sent = upload.pack(root, upload.list_files(root), tmp_path / "1.zip")
    assert sent.size_bytes < 1_000
    assert sent.described.startswith("6 files, 0.00 MB; the largest are ")
    with (root / "data.bin").open("wb") as stream:
        stream.truncate(600_000_000)
    with pytest.raises(ConfigError, match=r"'600 MB': .* the largest files are data.bin \(600 MB"):
        upload.pack(root, upload.list_files(root), tmp_path / "2.zip")
    assert not (tmp_path / "2.zip").exists()


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    """Packing twice gives the same zip, so that Ray uploads it once; times do not matter."""
    root = _clone(tmp_path / "c")
    first = upload.pack(root, FILES, tmp_path / "1.zip")
    (root / "jobs/a.py").touch()
    second = upload.pack(root, FILES, tmp_path / "2.zip")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert (first.digest, first.num_files) == (second.digest, 4)
    with zipfile.ZipFile(first.path) as archive:
        assert archive.namelist() == FILES
        assert archive.read("jobs/a.py") == b"jobs/a.py"
    (root / "jobs/a.py").write_text("changed")
    assert upload.pack(root, FILES, tmp_path / "3.zip").digest != first.digest


def test_the_revision_is_the_commit_unless_files_differ(tmp_path: Path) -> None:
    """Clean: the commit. Changed: the commit and the files' digest. No git: the digest alone."""
    root = _clone(tmp_path / "c")
    bare = upload.pack(root, FILES, tmp_path / "0.zip")
    assert bare.revision == f"content-{bare.digest}"
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "first")
    clean = upload.pack(root, FILES, tmp_path / "1.zip").revision
    assert len(clean) == 40
    (root / "jobs/a.py").write_text("changed")
    changed = upload.pack(root, FILES, tmp_path / "2.zip")
    assert changed.revision == f"{clean}+{changed.digest}"


def test_too_large_an_upload_names_the_largest_files(tmp_path: Path) -> None:
    """Refused before any byte is packed."""
    (tmp_path / "a.bin").touch()
    with (tmp_path / "big.bin").open("wb") as stream:
        stream.truncate(120_000_000)
    with pytest.raises(ConfigError) as caught:
        upload.pack(tmp_path, ["a.bin", "big.bin"], tmp_path / "x.zip")
    assert str(caught.value) == (
        "upload = '120 MB': must be at most 105 MB; the largest files are big.bin (120 MB), "
        "a.bin (0.00 MB). Move data out of the clone, or name it in .gitignore and git rm --cached it"
    )
    assert not (tmp_path / "x.zip").exists()


def test_a_script_that_is_not_uploaded_is_refused() -> None:
    """The message lists the scripts there are."""
    with pytest.raises(ConfigError) as caught:
        upload.require_script(["jobs/a.py", "jobs/w/x.py", "b.py"], "jobs/b.py")
    assert str(caught.value) == (
        "script = 'jobs/b.py': must be a file of the clone that git tracks; known: jobs/a.py"
    )
