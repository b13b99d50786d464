"""The shape of the source: names, sizes, docstrings, and what must never be there."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.repo import tree

MAX_LINES = 400
WORKLOAD = "flight|airline|airport|carrier|tailnum|dep_delay|nyc"
NAMELESS = {"utils", "util", "common", "helpers", "helper", "core", "manager", "misc"}
TOP_LEVEL = {
    "Makefile",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "platform",
    "jobs",
    "serve_apps",
    "cluster_configs",
    "tests",
}

MACHINE = [
    *(re.escape(f"{top}/") for top in (tree.ROOT, Path.home()) if len(top.parts) > 1),
    r"/home/(?!heliostat\b)\w+/",
    r"\b[\w-]+\.(internal|corp|lan)\b",
]
"""Paths and hosts of one person's machine."""


def test_platform_is_a_source_root_and_shadows_nothing():
    """An __init__.py there, or a module named as one of Python's, breaks every program here."""
    entries = {path.name.removesuffix(".py") for path in tree.SOURCE.iterdir()}

    assert not (tree.SOURCE / "__init__.py").exists()
    assert entries & set(sys.stdlib_module_names) == set()


def test_python_still_finds_its_own_platform_module():
    """With the source root first on the path, `import platform` is the standard library's."""
    import platform

    assert platform.python_implementation() == "CPython"


def test_the_top_level_has_no_other_entries():
    """The list of folders is the architecture; dot-files aside."""
    entries = {path.relative_to(tree.ROOT).parts[0] for path in tree.files()}

    assert {name for name in entries if not name.startswith(".")} - TOP_LEVEL == set()


def test_the_package_knows_no_workload():
    """A new workload is a folder beside the first one, and changes nothing in the package."""
    found = [
        f"{name}:{number}"
        for name, text in tree.texts()
        if name.startswith("platform/heliostat/")
        for number, line in enumerate([name, *text.splitlines()])
        if re.search(WORKLOAD, line, re.IGNORECASE)
    ]

    assert found == []


def test_no_file_names_a_machine_or_a_private_host():
    """What runs only where it was written is found before somebody else finds it."""
    found = [
        f"{name}:{number}: {match[0]}"
        for name, text in tree.texts()
        if name != "tests/repo/test_shape.py"  # holds the patterns
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in MACHINE
        if (match := re.search(pattern, line))
    ]

    assert found == []


def test_modules_are_named_for_what_they_do():
    """Folders called utils or common collect what nobody looks for there."""
    parts = {part for module in tree.modules() for part in module.split(".")}

    assert parts & NAMELESS == set()


@pytest.mark.parametrize(
    "path",
    tree.python_files("platform", "jobs", "serve_apps", "tests"),
    ids=lambda path: str(path.relative_to(tree.ROOT)),
)
def test_a_file_is_small_and_says_its_one_purpose(path):
    """At most 400 lines; a docstring first, except in tests, whose names speak."""
    text = path.read_text(encoding="utf-8")

    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)) or path.name.startswith("test_")


@pytest.mark.parametrize(
    "path", tree.python_files("platform", "jobs", "serve_apps"), ids=tree.module_name
)
def test_public_names_have_docstrings(path):
    """A public class, function or method without a contract cannot be used without reading it."""
    bare = [
        f"line {node.lineno}: {node.name}"
        for scope in public_scopes(tree.parse(path))
        for node in scope
        if not ast.get_docstring(node)
    ]

    assert bare == []


def public_scopes(module: ast.Module):
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    top = [n for n in module.body if isinstance(n, kinds) and not n.name.startswith("_")]
    yield top
    for outer in top:
        if isinstance(outer, ast.ClassDef) and not is_protocol_of_words(outer):
            yield [n for n in outer.body if isinstance(n, kinds) and not n.name.startswith("_")]


def is_protocol_of_words(node: ast.ClassDef) -> bool:
    """A class whose methods only override an outside contract says so in its docstring."""
    return "overrides" in (ast.get_docstring(node) or "").lower()


@pytest.mark.parametrize(
    "path",
    tree.python_files("tests"),
    ids=lambda path: str(path.relative_to(tree.ROOT)),
)
def test_tests_use_real_parts_and_say_what_they_prove(path):
    """No mock of our own code; every test's docstring is a sentence on behaviour."""
    module = tree.parse(path)
    bare = [
        node.name
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert bare == []
    assert [name for _, name in tree.imports(path) if name.startswith("unittest.mock")] == []


def test_decisions_end_with_what_violates_them():
    """A decision that nobody can tell to be broken will be."""
    decisions = sorted((tree.DOCS / "adr").glob("*.md"))
    last = {
        path.name: re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)[-1]
        for path in decisions
    }

    assert len(last) >= 4
    assert set(last.values()) == {"A change violates this decision when"}
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name) for name in last)
