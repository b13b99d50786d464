"""What is uploaded with a job: the clone's own files, packed so that equal files give equal bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.lineage import changes

MAX_BYTES = 100 * 1024 * 1024
"""Ray's limit for an upload through its dashboard."""

_SKIPPED_FOLDERS = frozenset(
    {".git", ".venv", "venv", ".heliostat", "__pycache__", "build", "dist", "node_modules"}
    | {".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A packed clone."""

    path: Path
    """The zip file."""
    digest: str
    """16 hexadecimal digits over every file's name and bytes."""
    revision: str
    """Which code this is: the git commit, with ``+<digest>`` when files differ from it, or
    ``content-<digest>`` where there is no git."""
    num_files: int
    size_bytes: int
    """Of the files, before packing."""
    described: str
    """Number, size and the largest files, in words."""


def list_files(repository: Path, *, leave_out: Sequence[Path] = ()) -> list[str]:
    """List the files that belong to the clone, sorted, relative to it.

    With git: the files that it tracks, as they are now; one that `git add` never saw stays where
    it is. Without git: all but the usual folders of caches, environments and state. Links are
    left out.

    Args:
        repository: The clone, or an unpacked archive of it.
        leave_out: Folders, such as a state folder that somebody put inside.
    """
    names = _git(repository, "ls-files", "-z", "-c")
    listed = names.split("\0") if names is not None else _walk(repository)
    skipped = tuple(
        f"{folder.relative_to(repository)}/"
        for folder in leave_out
        if folder.is_relative_to(repository) and folder != repository
    )
    return sorted(
        name
        for name in set(listed)
        if name
        and not name.startswith(skipped)
        and not (repository / name).is_symlink()
        and (repository / name).is_file()
    )


def untracked(repository: Path) -> list[str]:
    """New files that git neither tracks nor ignores, and that a job is therefore not given."""
    names = _git(repository, "ls-files", "-z", "-o", "--exclude-standard") or ""
    return sorted(name for name in names.split("\0") if name)


def require_small(repository: Path, names: Sequence[str]) -> dict[str, int]:
    """Check that the files are not too large for Ray; return their sizes in bytes.

    Raises:
        ConfigError: They are; names the largest.
    """
    sizes = {name: (repository / name).stat().st_size for name in names}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        raise ConfigError(
            "upload", f"{total / 1e6:.0f} MB", f"must be at most {MAX_BYTES / 1e6:.0f} MB",
            breaks=f"the largest files are {_largest(sizes, 5)}",
            next_step="Move data out of the clone, or name it in .gitignore and git rm --cached it",
        )  # fmt: skip
    return sizes


def _largest(sizes: Mapping[str, int], count: int) -> str:
    chosen = sorted(sizes, key=lambda name: (-sizes[name], name))[:count]
    return ", ".join(f"{name} ({_megabytes(sizes[name])})" for name in chosen)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 10**7 else f"{num_bytes / 1e6:.2f} MB"


def pack(repository: Path, names: Sequence[str], target: Path) -> Upload:
    """Pack files into the zip file `target`.

    Raises:
        ConfigError: They are larger than Ray takes; names the largest.
    """
    sizes = require_small(repository, names)
    digest = hashlib.sha256()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            content = (repository / name).read_bytes()
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            is_executable = os.access(repository / name, os.X_OK)
            entry.external_attr = (0o755 if is_executable else 0o644) << 16
            archive.writestr(entry, content)
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        changed = changes.of_tree(repository)
        if changed is not None:
            # The copy has no git; the run that it makes is to tell how it differs.
            archive.writestr(zipfile.ZipInfo(changes.FILE, _EPOCH), changed)
    short = digest.hexdigest()[:16]
    return Upload(
        path=target,
        digest=short,
        revision=_revision(repository, short),
        num_files=len(names),
        size_bytes=sum(sizes.values()),
        described=f"{len(names):,} files, {_megabytes(sum(sizes.values()))}; "
        f"the largest are {_largest(sizes, 3)}",
    )


def require_script(names: Sequence[str], script: str) -> None:
    """Check that the script is among the uploaded files.

    Raises:
        ConfigError: It is not.
    """
    known = [name for name in names if name.startswith("jobs/") and name.count("/") == 1]
    require(
        script in names, "script", script, "must be a file of the clone that git tracks",
        breaks="known: " + ", ".join(known),
    )  # fmt: skip


def _revision(repository: Path, digest: str) -> str:
    commit = _git(repository, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return f"content-{digest}"
    changed = _git(repository, "status", "--porcelain")
    return commit.strip() + (f"+{digest}" if changed is None or changed.strip() else "")


def _git(repository: Path, *arguments: str) -> str | None:
    """Ask git about exactly this folder; None when it is not the top of a working tree."""
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        return None
    done = subprocess.run(
        [git, "-C", str(repository), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def _walk(repository: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(repository):
        folders[:] = [
            name for name in folders if name not in _SKIPPED_FOLDERS and ".egg-info" not in name
        ]
        found += [
            str((Path(folder) / name).relative_to(repository))
            for name in files
            if not name.endswith((".pyc", ".pyo"))
        ]
    return found
