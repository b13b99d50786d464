"""Find pickles among a package's files: opening one runs whatever it says."""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path

ALLOWED = "model.pkl"
"""The one pickle that a package may hold, if its description says so."""

_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill"})
_PROBED_BYTES = 4096


def find(folder: Path, names: Iterable[str]) -> list[str]:
    """Name the files that are pickles, by ending or by content, or archives that hold one.

    Nothing is unpickled. A text pickle of protocol 0 under another ending is not recognised; like
    every file that the predictor does not know, it is never opened.
    """
    return sorted(name for name in names if _is_pickle(folder / name))


def refused(folder: Path, names: Iterable[str]) -> list[str]:
    """Name the pickles that the package's recipe did not ask for.

    Args:
        folder: A package whose files are what was signed, or that is about to be signed: its
            description is read here.
        names: Its files.
    """
    found = find(folder, names)
    if found == [ALLOWED]:
        try:
            description = json.loads((folder / "model.json").read_bytes())
        except (OSError, ValueError):
            return found
        if isinstance(description, dict) and description.get("network") == "pickle":
            return []
    return found


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
