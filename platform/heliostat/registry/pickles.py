"""Find pickles among a package's files: opening one runs whatever it says."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path

_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill"})
_PROBED_BYTES = 4096


def find(folder: Path, names: Iterable[str]) -> list[str]:
    """Name the files that are pickles, by ending or by content, or archives that hold one.

    Nothing is unpickled. A text pickle of protocol 0 under another ending is not recognised; like
    every file that the predictor does not know, it is never opened.
    """
    return sorted(name for name in names if _is_pickle(folder / name))


def _is_pickle(path: Path) -> bool:
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        head = file.read(_PROBED_BYTES)
    if head[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
        except zipfile.BadZipFile:
            return False
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5 and _num_operations(head) >= 3


def _num_operations(head: bytes) -> int:
    """How many pickle operations a beginning holds; other files that begin alike have one."""
    count = 0
    try:
        for _ in pickletools.genops(head):
            count += 1
            if count >= 3:
                break
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError):
        return count
    return count
