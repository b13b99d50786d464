"""Write the folder of a new workload beside the others, and check that its recipe can be built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from heliostat import config
from heliostat.config import require
from heliostat.scaffold import recipe_source, sizes, sources
from heliostat.scaffold.guess import Guesses, guess
from heliostat.scaffold.reading import TextTable, read

COPIED_BYTES = 20 * 2**20
"""A larger file stays where it is: a job's upload should be small."""

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,40}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Created:
    """A new workload."""

    folder: Path
    recipe: str
    """What to give as ``--recipe``."""
    model: str
    guesses: Guesses
    notes: tuple[str, ...]
    """What somebody should know before believing its figures, a sentence each."""
    files: tuple[str, ...]


def create(
    repository: Path,
    name: str,
    path: Path,
    *,
    label: str,
    time: str | None = None,
    entity: str | None = None,
    positive: str | None = None,
) -> Created:
    """Write ``jobs/<name>`` from a CSV file.

    Args:
        repository: The clone.
        name: Becomes the folder and, with ``-`` for ``_``, the model.
        path: The file; it is copied into the folder unless it is large.
        label: Header of the column to predict.
        time: Header of the prediction time; None takes the order of rows.
        entity: Header of whom a row is about; None where requests carry the inputs.
        positive: Value of the label that counts as 1, all others as 0.

    Raises:
        ConfigError: The name is taken or no name, or the file cannot be used as it is asked.
    """
    require(
        bool(_NAME.match(name)), "NAME", name,
        "must be 1 to 41 characters of a-z, 0-9 and _, beginning with a letter",
    )  # fmt: skip
    folder = repository / "jobs" / name
    taken = folder.exists() or folder.with_suffix(".py").exists()
    require(not taken, "NAME", name, "must be new", breaks=f"jobs/{name} is there already")
    table = read(path)
    guesses = guess(table, label=label, time=time, entity=entity, positive=positive)
    chosen = sizes.choose(guesses)
    model = name.replace("_", "-")
    copied = path.stat().st_size <= COPIED_BYTES
    source = (
        'str(Path(__file__).with_name("data.csv"))'
        if copied
        else sources.quoted(str(path.absolute()))
    )
    texts = {
        "__init__.py": _package(name, path.name),
        "tables.py": sources.tables(name, guesses, source, _arguments(table)),
        "recipes.py": recipe_source.recipes(name, model, guesses, chosen),
    }
    if guesses.one("entity") is not None:
        texts["features.py"] = sources.features(name, guesses)
    scratch = repository / "jobs" / f".{name}.new"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        for file, text in texts.items():
            (scratch / file).write_text(text, encoding="utf-8")
        if copied:
            shutil.copyfile(path, scratch / "data.csv")
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    recipe = f"jobs.{name}:run"
    sys.path.insert(0, str(repository))
    config.load(recipe)
    _tell_git(repository, folder)
    notes = list(recipe_source.notes(guesses, chosen))
    if not copied:
        notes.append(
            f"{path.name} is larger than {COPIED_BYTES // 2**20} MiB and stays where it is: every "
            "machine that ingests must see it there."
        )
    return Created(
        folder=folder, recipe=recipe, model=model, guesses=guesses, notes=tuple(notes),
        files=tuple(sorted([*texts, *(["data.csv"] if copied else [])])),
    )  # fmt: skip


def _package(name: str, file: str) -> str:
    return (
        f'"""The workload {name}, begun from {file}. Only declarations: tables, features, recipes."""\n\n'
        f'from jobs.{name}.recipes import run\n\n__all__ = ["run"]\n'
    )


def _arguments(table: TextTable) -> str:
    words = ", ".join(map(sources.quoted, table.missing)) + "," * (len(table.missing) == 1)
    lines = [f"    missing=({words}),\n", f"    delimiter={sources.quoted(table.delimiter)},\n"]
    if table.multiline:
        lines.append("    multiline=True,\n")
    return "".join(lines)


def _tell_git(repository: Path, folder: Path) -> None:
    """Make the files known to git, without their content: a job ships only what git knows."""
    git = shutil.which("git")
    if git is None or not (repository / ".git").exists():
        return
    subprocess.run(
        [git, "-C", str(repository), "add", "--intent-to-add", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
