"""What the rules of this folder look at: the files of the checkout and the modules of the package."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "platform"
PACKAGE = SOURCE / "heliostat"
DOCS = SOURCE / "docs"

_NOT_OURS = {".git", ".venv", ".heliostat", "__pycache__", "build", "dist"}


def files() -> list[Path]:
    """Every file that is tracked or would be; without git, every file outside ignored folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        found = [
            path
            for path in ROOT.rglob("*")
            if not _NOT_OURS & set(path.relative_to(ROOT).parts) and "egg-info" not in str(path)
        ]
    return sorted(path for path in found if path.is_file())


def texts() -> Iterator[tuple[str, str]]:
    """Path and content of every text file of the checkout."""
    for path in files():
        try:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def python_files(*folders: str) -> list[Path]:
    """The Python files below these folders of the checkout, or all of them."""
    inside = tuple(folder.rstrip("/") + "/" for folder in folders) or ("",)
    return [
        path
        for path in files()
        if path.suffix == ".py" and str(path.relative_to(ROOT)).startswith(inside)
    ]


def module_name(path: Path) -> str:
    """The dotted name under which a file of the repository is imported."""
    base = SOURCE if path.is_relative_to(SOURCE) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> list[str]:
    """Every module of the package."""
    return [module_name(path) for path in python_files("platform/heliostat")]


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, at any depth.

    ``from a import b`` counts as ``a.b``, since b may be a module.
    """
    package = module_name(path).split(".")
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + (path.name == "__init__.py")]
            base = ".".join([*(start if node.level else []), *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def table(text: str, first_heading: str) -> list[list[str]]:
    """The rows of the Markdown table whose first column has this heading, backticks removed."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] == first_heading:
            inside = True
        elif inside and line.startswith("|"):
            rows.append(cells)
        elif inside:
            break
    return [row for row in rows if not set(row[0]) <= set("-: ") or row[0] == "-"]
