"""Ray's run files: a short private folder, because a Unix socket's path has 107 bytes at most."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import sys
from pathlib import Path

from heliostat.errors import ConfigError


def temp_dir(home: Path) -> Path:
    """Name the folder of the platform with this state folder; touches no disk."""
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:8]
    return Path(f"/tmp/heliostat-{os.getuid()}-{digest}")  # noqa: S108 - private, checked


def make(folder: Path) -> None:
    """Make the folder with mode 0700, or check the one that is there.

    Raises:
        ConfigError: Something there is a link, belongs to someone else or is open to others.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.getuid()
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise ConfigError(
            "Ray's run files", str(folder), "must be a folder of yours with mode 0700",
            next_step=f"Look at it, then remove it: rm -r {folder}",
        )  # fmt: skip


def python(folder: Path) -> Path:
    """Give a path of this Python that a shell takes as one word.

    Ray puts the path into shell lines, and its own into LD_PRELOAD, without quotes. Where the
    path has a space, the environment is therefore reached through a link in `folder`.
    """
    found = Path(sys.executable)
    if shlex.quote(str(found)) == str(found):
        return found
    link = folder / "env"
    link.symlink_to(sys.prefix)
    return link / found.relative_to(sys.prefix)


def remove(folder: Path) -> None:
    """Remove the folder if it is ours; a link is left alone."""
    if folder.is_dir() and not folder.is_symlink() and folder.lstat().st_uid == os.getuid():
        shutil.rmtree(folder, ignore_errors=True)
