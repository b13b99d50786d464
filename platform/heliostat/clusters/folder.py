"""A rendered folder on disk: write it whole, compare it, refuse to apply examples."""

from __future__ import annotations

import difflib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from heliostat.errors import ConfigError, GateRefused, Unavailable

_EXAMPLE = re.compile(
    r"\bexample\b|\bexample[.-]|111122223333|192\.0\.2\.|NVIDIA-EXAMPLE", re.IGNORECASE
)


def write(files: Mapping[str, str], out: Path) -> list[str]:
    """Write rendered files and remove those that the recipe no longer gives; name what changed.

    Raises:
        ConfigError: The folder holds YAML or JSON and was not rendered by us, or cannot be written.
    """
    changed = compare(files, out)
    foreign = sorted(set(changed) - set(files))
    if foreign and not (out / "recipe.json").is_file():
        raise ConfigError(
            "--out", str(out), "must be new, empty or a rendered folder",
            breaks=f"{len(foreign)} files such as {foreign[0]} would be removed",
            next_step="Name a folder of its own, as cluster_configs/<target>",
        )  # fmt: skip
    try:
        for name in changed:
            path = out / name
            if name in files:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files[name], encoding="utf-8")
            else:
                path.unlink()
    except OSError as error:
        raise ConfigError("--out", str(out), "must be a folder that can be written",
                          breaks=str(error)) from error  # fmt: skip
    return changed


def compare(files: Mapping[str, str], out: Path) -> list[str]:
    """Name the files that differ, are missing, or are there and should not be."""
    there = (
        {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} if out.is_dir() else set()
    )
    there = {name for name in there if name.endswith((".yaml", ".json"))}
    differing = {
        name
        for name in there & set(files)
        if (out / name).read_text(encoding="utf-8") != files[name]
    }
    return sorted(differing | (there ^ set(files)))


def diff(files: Mapping[str, str], out: Path) -> str:
    """Give a unified diff from what is on disk to what the recipe renders."""
    parts: list[str] = []
    for name in compare(files, out):
        old = (out / name).read_text(encoding="utf-8") if (out / name).is_file() else ""
        parts += difflib.unified_diff(
            old.splitlines(keepends=True), files.get(name, "").splitlines(keepends=True),
            f"on disk/{name}", f"rendered/{name}",
        )  # fmt: skip
    return "".join(parts)


def examples(out: Path) -> list[str]:
    """Name each place that still holds a value of the examples."""
    return [
        f"{path.relative_to(out)}:{number}: {line}"
        for path in sorted(out.rglob("*.yaml"))
        for number, line in examples_in(path.read_text(encoding="utf-8"))
    ]


def examples_in(text: str) -> list[tuple[int, str]]:
    """Give number and text of each line that still holds a value of the examples."""
    return [
        (number, line.strip()[:100])
        for number, line in enumerate(text.splitlines(), 1)
        if not line.lstrip().startswith("#") and _EXAMPLE.search(line)
    ]


def kubectl_apply(folder: Path, *, context: str, dry_run: bool) -> int:
    """Run ``kubectl apply -k`` on one folder, in a context that is named, and return its code.

    Raises:
        ConfigError: The folder has no kustomization.
        GateRefused: Values of the examples are left in it.
        Unavailable: There is no kubectl.
    """
    if not (folder / "kustomization.yaml").is_file():
        raise ConfigError("FOLDER", str(folder), "must hold a kustomization.yaml")
    left = examples(folder)
    if left:
        raise GateRefused(str(folder), f"the number of example values, first {left[0]!r}",
                          len(left), "0: put in your own names and render again")  # fmt: skip
    command = ["kubectl", "--context", context, "apply", "--server-side", "-k", str(folder)]
    if dry_run:
        command.append("--dry-run=server")
    try:
        return subprocess.call(command)
    except FileNotFoundError as error:
        raise Unavailable(
            "kubectl", "is not installed", next_step="Install it, then repeat"
        ) from error
