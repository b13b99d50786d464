"""A Python that has what Feast's DuckDB store needs, for the time of a benchmark.

That is ``ibis-framework``, which the platform does not depend on: where it is missing, it goes into
an environment under a temporary folder, on top of the packages that are measured.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.bench import results

PACKAGE = "ibis-framework[duckdb]"


def interpreter(folder: Path) -> tuple[str | None, str]:
    """Name the Python, None if there is none, and say what it has or why there is none."""
    if importlib.util.find_spec("ibis") is not None:
        return sys.executable, "installed here"
    environment = folder / "environment"
    try:
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        (site,) = environment.glob("lib/python*/site-packages")
        (site / "measured.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        pins = results.ROOT / "platform" / "constraints" / "py311.txt"
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(pins), PACKAGE],
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return None, str(error)[-500:]
    if done.returncode:
        return None, f"pip install {PACKAGE}: {done.stderr[-500:]}"
    return str(python), f"{PACKAGE} in an environment of its own"
