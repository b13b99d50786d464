"""What a working tree changes in its commit: kept with a run, so that the code can be rebuilt."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FILE = ".heliostat-changes.diff"
"""Where an uploaded copy of the tree, which has no git, carries the difference."""

LIMIT_BYTES = 512 * 1024
"""A longer difference is cut at a line; it says so, and how long it was."""


def of_tree(repository: Path) -> str | None:
    """Compare the tracked files of a working tree with its commit.

    Files that git ignores are left out, also those that were tracked before a rule named them:
    such rules are how secrets are kept out. Contents of binary files are left out too.

    Args:
        repository: The top of a working tree.

    Returns:
        The difference, cut at `LIMIT_BYTES`; an empty text if there is none; None without git,
        without a commit, or in another folder than the top of a tree.
    """
    ignored = _git(repository, "ls-files", "-z", "--cached", "--ignored", "--exclude-standard")
    if ignored is None:
        return None
    hidden = [f":(exclude,literal,top){name}" for name in ignored.split("\0") if name]
    found = _git(
        repository, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD", "--", ".",
        *hidden,
    )  # fmt: skip
    return None if found is None else shortened(found, LIMIT_BYTES)


def of_copy(folder: Path) -> str | None:
    """The difference that an uploaded copy carries, else that of a working tree, else None."""
    try:
        return (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return of_tree(folder)


def shortened(text: str, limit_bytes: int) -> str:
    r"""Cut a text at the end of a line, if it is longer, and say so.

    >>> shortened("one\ntwo\n", 5)
    'one\n... cut here: 8 bytes in all\n'
    """
    content = text.encode()
    if len(content) <= limit_bytes:
        return text
    kept = content[:limit_bytes].rpartition(b"\n")[0].decode(errors="replace")
    return f"{kept}\n... cut here: {len(content)} bytes in all\n"


def _git(repository: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        return None
    done = subprocess.run(
        [git, "-C", str(repository), *arguments], capture_output=True, check=False
    )
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
