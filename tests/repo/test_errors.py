"""Every error of the package crosses a process boundary with its type, words and fields."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.errors import ConfigError, HeliostatError
from tests.repo import tree


def error_classes() -> list[type[HeliostatError]]:
    """The tree of errors; only the modules that define one are imported."""
    bases: dict[tuple[str, str], set[str]] = {}
    for path in tree.python_files("platform/heliostat"):
        for node in tree.parse(path).body:
            if isinstance(node, ast.ClassDef):
                names = {ast.unparse(base).split(".")[-1] for base in node.bases}
                bases[tree.module_name(path), node.name] = names
    known = {"HeliostatError"}
    while grown := {name for (_, name), of in bases.items() if of & known} - known:
        known |= grown
    return [
        getattr(importlib.import_module(module), name)
        for (module, name), of in sorted(bases.items())
        if name in known and (of & known or name == "HeliostatError")
    ]


def build(cls: type[HeliostatError]) -> HeliostatError:
    """An error with plain values for whatever its constructor asks."""
    if cls.__init__ is Exception.__init__:
        return cls("message")
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    needed = [p for p in parameters if p.default is p.empty]
    if any(p.kind is p.VAR_POSITIONAL for p in needed):
        return cls("message")
    words = [f"<{p.name}>" for p in needed if p.kind is not p.KEYWORD_ONLY]
    keywords = {p.name: f"<{p.name}>" for p in needed if p.kind is p.KEYWORD_ONLY}
    return cls(*words, **keywords)


@pytest.mark.parametrize("cls", error_classes(), ids=lambda cls: cls.__qualname__)
def test_an_error_survives_pickling(cls):
    """Ray sends errors between processes by pickle; a lost type is a lost except clause."""
    error = build(cls)
    back = pickle.loads(pickle.dumps(error))

    assert (type(back), str(back), vars(back)) == (cls, str(error), vars(error))


@pytest.mark.parametrize("cls", error_classes(), ids=lambda cls: cls.__qualname__)
def test_an_error_says_with_its_exit_code_what_to_do(cls):
    """1 our bug, 2 fix the config, 3 look at the evidence, 4 retry, 130 stopped."""
    assert cls.exit_code in {1, 2, 3, 4, 130}


@given(where=st.text(), value=st.one_of(st.text(), st.integers(), st.floats(), st.none()))
def test_any_words_and_values_survive(where, value):
    """Whatever a user wrote, the message comes back as it was."""
    error = ConfigError(where, value, "must be something else")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)
