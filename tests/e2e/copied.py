"""A copy of this clone, for tests that write into one."""

from __future__ import annotations

import shutil
from pathlib import Path

from heliostat.submit import upload


def copied(repository: Path, folder: Path) -> None:
    """Copy every file that a job would be given, and nothing of git."""
    for name in upload.list_files(repository):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, target)
