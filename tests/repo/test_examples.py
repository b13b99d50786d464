"""What documents show works: doctests, README commands, figures."""

from __future__ import annotations

import doctest
import functools
import importlib
import json
import re
import shlex

import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from tests.repo import tree

RESULTS = tree.ROOT / "tests" / "bench" / "results"
GUIDES = [
    path
    for path in tree.files()
    if path.suffix == ".md" and (path.parent == tree.ROOT or path.is_relative_to(tree.SOURCE))
]
WITH_DOCTESTS = [
    tree.module_name(path)
    for path in tree.python_files("platform/heliostat")
    if ">>> " in path.read_text(encoding="utf-8")
]
FIGURE = re.compile(r"([\d.,]+)[^\d<\n]*<!-- figure: ([\w./-]+)#([\w./%, -]+?)(?: ([+-]?\d+))? -->")
"""A figure and where it was measured: ``0.703 <!-- figure: demo.json#december/v2/auc -->``.

The path names keys of nested objects. The file's value, rounded as the text has it, is the figure.
"""


@pytest.mark.parametrize("name", WITH_DOCTESTS)
def test_doctests_give_what_they_show(name):
    """An example in a docstring is run as it stands."""
    outcome = doctest.testmod(importlib.import_module(name))

    assert (outcome.failed, outcome.attempted > 0) == (0, True)


def shell_lines() -> list[tuple[str, str]]:
    """File and command of each line that a document tells people to type, each once."""
    found = []
    for path in GUIDES:
        for block in re.findall(
            r"```console\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL
        ):
            joined = block.replace("\\\n", " ")
            found.extend(
                (path.name, line[2:].split("   #")[0].strip())
                for line in joined.splitlines()
                if line.startswith("$ ")
            )
    return list(dict.fromkeys(found))


def known_targets() -> set[str]:
    """The targets of the Makefile that have a line of help."""
    text = (tree.ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):.*## ", text, re.MULTILINE))


@pytest.mark.parametrize(("document", "line"), shell_lines())
def test_a_command_in_a_document_exists(document, line):
    """`make x` names a target, `heliostat x` parses, `python x.py` is a file."""
    for command in re.split(r"&&|;|\|", line):
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words = words[1:]
        if not words:
            continue
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(targets) <= known_targets()
        elif words[0].split("/")[-1] == "heliostat":
            groups = tuple(word for word in words[1:3] if re.fullmatch(r"[a-z]+", word))
            assert parses(groups) or parses(groups[:1])
        elif words[:3] == ["ray", "job", "submit"] and "--" in words:
            script = words[words.index("--") + 2]
            assert script == "..." or (tree.ROOT / script).is_file()


@functools.cache
def parses(groups: tuple[str, ...]) -> bool:
    """`heliostat <groups>` is a command, or a group of commands."""
    return CliRunner().invoke(app, [*groups, "--help"]).exit_code == 0


def figures() -> list[tuple[str, str, str, str, str]]:
    """Document, text of the figure, results file, path in it and power of ten of the unit."""
    return [
        (path.name, *match)
        for path in GUIDES
        for match in FIGURE.findall(path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(
    ("document", "shown", "file", "path", "power"), list(dict.fromkeys(figures()))
)
def test_a_figure_in_a_document_was_measured(document, shown, file, path, power):
    """Figures are copied from results files, never from memory."""
    assert printed_as(lookup(file, path) * 10.0 ** int(power or 0), shown) == shown


def lookup(file: str, path: str) -> float:
    value = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return float(value)


def printed_as(value: float, like: str) -> str:
    decimals = len(like.partition(".")[2])
    return f"{value:,.{decimals}f}" if "," in like else f"{value:.{decimals}f}"


def test_every_mark_of_a_figure_is_understood():
    """A mark that the pattern above does not match would be believed, not checked."""
    marks = sum(path.read_text(encoding="utf-8").count("<!-- figure:") for path in GUIDES)

    assert len(figures()) == marks


def test_figures_are_rounded_as_the_text_has_them():
    """The check itself, on text made for it."""
    found = FIGURE.findall(
        "takes 5.2 min <!-- figure: a.json#b/c --> and 1,204 <!-- figure: x#y 3 -->"
    )

    assert found == [("5.2", "a.json", "b/c", ""), ("1,204", "x", "y", "3")]
    assert [printed_as(5.2149, "5.2"), printed_as(1204.4, "1,204")] == ["5.2", "1,204"]


def test_every_target_has_a_line_of_help():
    """`make` without arguments lists all there is."""
    text = (tree.ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)[0].split()

    assert set(phony) == known_targets()


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path):
    """A relative link names a file that is there."""
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text(encoding="utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []
