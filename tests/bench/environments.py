"""Python environments of programs that the project is measured with and does not depend on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python_with(name: str, requirements: Sequence[str], folder: Path) -> str:
    """The interpreter of an environment that holds the requirements; makes it if there is none.

    Args:
        name: Of the environment, unique in the folder.
        requirements: As pip takes them; none for the project's own environment.
        folder: Where environments are kept, or thrown away with.
    """
    if not requirements:
        return sys.executable
    environment = folder.absolute() / name
    python = environment / "bin" / "python"
    done = environment / "complete"
    if not done.exists():
        print(f"  installing {name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *requirements], check=True)
        done.touch()
    return str(python)


def version_in(python: str, package: str) -> str:
    """The version that is really installed there."""
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([python, "-c", ask], text=True).strip()
