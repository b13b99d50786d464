"""The table of layers in the architecture, checked as data against every import."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.repo import tree

TEXT = (tree.DOCS / "architecture.md").read_text(encoding="utf-8")
LAYERS = {row[1]: None if row[0] == "-" else int(row[0]) for row in tree.table(TEXT, "layer")}
OWNERS = {
    third.strip(): row[1]
    for row in tree.table(TEXT, "layer")
    for third in row[3].split(",")
    if third.strip() != "-"
}
EXCEPTIONS = {(row[0], row[1]) for row in tree.table(TEXT, "module")}
SHARED = {
    name.strip()
    for name in re.findall(r"^Anyone may import: (.+)$", TEXT, re.MULTILINE)[0].split(",")
}
FREE = {"", "__main__"}
"""The package's own docstring and the door to the command line stand outside the layers."""


def package_of(module: str) -> str:
    """The part of `heliostat.x.y` that the table names."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def faults_of(path: Path) -> list[str]:
    module = tree.module_name(path)
    here = package_of(module)
    level = LAYERS.get(here)
    found = []
    for line, name in tree.imports(path):
        top = name.split(".")[0]
        where = f"{module}:{line} imports {name}"
        if top == "heliostat":
            there = package_of(name)
            if there in (here, "__version__") or here in FREE or level is None:
                continue
            if there not in LAYERS or LAYERS[there] is None:
                found.append(f"{where}: not a package below it")
            elif LAYERS[there] >= level:
                found.append(f"{where}: layer {LAYERS[there]} is not below {level}")
        elif top in {"jobs", "serve_apps", "tests"}:
            found.append(f"{where}: the package knows nothing above it")
        elif top not in sys.stdlib_module_names and top != "__future__":
            found.extend(third_party_faults(module, here, name, where))
    return found


def third_party_faults(module: str, here: str, name: str, where: str) -> list[str]:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        third = ".".join(parts[:length])
        if (module.removeprefix("heliostat."), third) in EXCEPTIONS:
            return []
        if third in OWNERS:
            owner = OWNERS[third]
            return [] if owner == here else [f"{where}: {third} belongs to {owner}"]
        if third in SHARED:
            return []
    return [f"{where}: no package owns {parts[0]}"]


def test_every_package_has_exactly_one_row_and_every_row_a_package():
    """A package without a layer could import anything; a row without one is a lie."""
    found = {package_of(module) for module in tree.modules()} - FREE

    assert found == set(LAYERS)


@pytest.mark.parametrize("path", tree.python_files("platform/heliostat"), ids=tree.module_name)
def test_imports_point_down_and_each_third_party_has_one_owner(path):
    """Sideways and upward imports, and a second user of an owned library, are named."""
    assert faults_of(path) == []


def test_the_check_itself_finds_faults(tmp_path, monkeypatch):
    """A rule that cannot fail guards nothing: one planted file breaks it three times."""
    planted = tmp_path / "platform" / "heliostat" / "stats" / "planted.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(
        "import mlflow\nfrom heliostat import store\nfrom heliostat.cli import main\n"
    )
    monkeypatch.setattr(tree, "SOURCE", tmp_path / "platform")

    assert faults_of(planted) == [
        "heliostat.stats.planted:1 imports mlflow: mlflow belongs to registry",
        "heliostat.stats.planted:2 imports heliostat.store: layer 2 is not below 2",
        "heliostat.stats.planted:3 imports heliostat.cli.main: layer 13 is not below 2",
    ]


def test_jobs_and_serve_apps_do_not_know_each_other():
    """Both stand on the package; only entry files of jobs import workloads."""
    faults = [
        f"{path.relative_to(tree.ROOT)}:{line} imports {name}"
        for folder, other in (("jobs", "serve_apps"), ("serve_apps", "jobs"))
        for path in tree.python_files(folder)
        for line, name in tree.imports(path)
        if name.split(".")[0] in {other, "tests"} or name.startswith("heliostat.testing")
    ]

    assert faults == []


def test_exceptions_in_the_table_are_used():
    """An exception that nobody needs any more is deleted."""
    used = {
        (module, third)
        for module, third in EXCEPTIONS
        for _, name in tree.imports(tree.PACKAGE / f"{module.replace('.', '/')}.py")
        if f"{name}.".startswith(f"{third}.")
    }

    assert EXCEPTIONS - used == set()
