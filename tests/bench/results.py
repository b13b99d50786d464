"""Results files of long proofs and benchmarks: figures with what is needed to measure them again."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """Name the code that is measured; a part that is measured alone keeps it with its figures."""
    head = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "HEAD"], text=True)
    # What an earlier part of the same proof has just written there changes no code.
    code = [".", ":(exclude)tests/bench/results"]
    changed = subprocess.check_output(
        ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", *code],
        text=True,
    )
    return head.strip() + (" and uncommitted changes" if changed else "")


def write(area: str, command: str, *, rounds: int, figures: Mapping[str, object]) -> Path:
    """Write ``tests/bench/results/<area>.json`` and return its path.

    Args:
        area: Names the file.
        command: What a person runs to get it again.
        rounds: How often the whole was done.
        figures: Raw counts and measurements, as JSON values.
    """
    result = {
        "command": command,
        "commit": commit(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "rounds": rounds,
        **figures,
    }
    path = ROOT / "tests" / "bench" / "results" / f"{area}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path
