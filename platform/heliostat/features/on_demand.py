"""On-demand features: one small function of a row, from its text, the same offline and online.

The text travels in the signed model package, so that a gateway needs no code of the trainer and
two versions of a function run side by side. What the text may say is a small part of Python:
arithmetic, comparisons, branches, loops over what is there; no imports, no names from outside but
`math` and a few built-ins, no attributes but those of texts and dictionaries.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Protocol

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.features.wire import Value

BUILTINS = (
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "float", "int", "isinstance", "len",
    "list", "max", "min", "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
)  # fmt: skip

METHODS = (
    "append", "count", "endswith", "get", "is_integer", "isdigit", "items", "join", "keys", "lower",
    "removeprefix", "removesuffix", "replace", "split", "startswith", "strip", "title", "upper",
    "values",
)  # fmt: skip

_REFUSED = (
    ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.ClassDef, ast.AsyncFunctionDef,
    ast.Await, ast.Yield, ast.YieldFrom, ast.While, ast.With, ast.AsyncWith, ast.AsyncFor, ast.Try,
    ast.Raise, ast.Delete, ast.Lambda, ast.NamedExpr,
)  # fmt: skip

_TYPES: dict[str, tuple[type, ...]] = {
    "float64": (int, float), "float32": (int, float), "int64": (int,), "int32": (int,),
    "string": (str,),
}  # fmt: skip
_FLOATS = ("float64", "float32")


def text_of(compute: Callable[..., Any], where: str) -> str:
    """Take the text of a function, and check that it says only what it may.

    Raises:
        ConfigError: It has no text, or the text needs more than itself.
    """
    try:
        text = textwrap.dedent(inspect.getsource(compute))
    except (OSError, TypeError) as error:
        raise ConfigError(where, repr(compute), "must be a function written in a file") from error
    compiled(text, where)
    return text


def compiled(text: str, where: str) -> Callable[[dict[str, Any]], Any]:
    """Turn the text of a function into a function that sees nothing but its argument.

    Raises:
        ConfigError: The text is no such function; names what it may not say.
    """
    tree, name = _parsed(text, where)
    allowed = {name: getattr(builtins, name) for name in BUILTINS}
    scope: dict[str, Any] = {"__builtins__": allowed, "math": math}
    exec(compile(tree, f"<{where}>", "exec"), scope)  # noqa: S102 - checked above, signed in a package
    made = scope[name]
    assert isinstance(made, FunctionType)
    return made


def standalone(
    text: str, where: str, *, inputs: Sequence[str], features: Sequence[str]
) -> tuple[str, str]:
    """Give the name of a function of whole columns that runs this one row by row, and its text.

    For Feast, which runs the text anew wherever it reads its registry. Its own way of giving a
    function one row (``singleton``) answers the first row of a request only.

    Raises:
        ConfigError: As for `compiled`.
    """
    tree, name = _parsed(text, where)
    lines = [
        "import math",
        "",
        f"def {name}(columns):",
        textwrap.indent(ast.unparse(tree), "    "),
        f"    names, wanted = {list(inputs)!r}, {list(features)!r}",
        "    rows = zip(*(columns[key] for key in names))",
        f"    found = [{name}(dict(zip(names, row))) for row in rows]",
        "    return {key: [row[key] for row in found] for key in wanted}",
        "",
    ]
    return name, "\n".join(lines)


def _parsed(text: str, where: str) -> tuple[ast.Module, str]:
    """The checked function without annotations, whose names it does not need to run."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConfigError(where, text[:80], "must be one function", breaks=str(error)) from error
    functions = tree.body
    require(
        len(functions) == 1 and isinstance(functions[0], ast.FunctionDef), where, text[:80],
        "must be one function",
    )  # fmt: skip
    function = functions[0]
    assert isinstance(function, ast.FunctionDef)
    _check(function, where)
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    return tree, function.name


class Transform:
    """One on-demand view, ready to run."""

    def __init__(
        self,
        *,
        name: str,
        source: str,
        inputs: Mapping[str, str],
        features: Mapping[str, str],
    ) -> None:
        """Compile it.

        Args:
            name: Of the view, for errors.
            source: Text of the function.
            inputs: Type of each column it gets.
            features: Type of each feature it returns.

        Raises:
            ConfigError: The text may not say what it says.
        """
        self._where = f"on-demand view {name}"
        self._function = compiled(source, self._where)
        self._inputs = dict(inputs)
        self._features = dict(features)

    def columns(self, given: Mapping[str, Sequence[Any]]) -> dict[str, list[Value]]:
        """Compute every row.

        Args:
            given: Columns of one length, those named by `inputs` among them. NaN is missing.

        Returns:
            One column per feature; None where it is missing.

        Raises:
            ConfigError: An input is absent or of another type, or the function fails on a row.
        """
        found: dict[str, list[Value]] = {name: [] for name in self._features}
        taken = []
        for name, dtype in self._inputs.items():
            require(name in given, self._where, name, "must be given")
            taken.append([self._input(name, dtype, value) for value in given[name]])
        for row in zip(*taken, strict=True):
            self._row(dict(zip(self._inputs, row, strict=True)), found)
        return found

    def _row(self, row: dict[str, Any], found: dict[str, list[Value]]) -> None:
        shown = dict(row)
        try:
            answer = self._function(row)
        except Exception as error:
            raise ConfigError(
                self._where, shown, "must be computed", breaks=f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(answer, dict) or answer.keys() != self._features.keys():
            told = sorted(map(str, answer)) if isinstance(answer, dict) else type(answer).__name__
            raise ConfigError(
                self._where, told, f"must return exactly {', '.join(self._features)}"
            )  # fmt: skip
        for name, dtype in self._features.items():
            found[name].append(self._typed(f"{self._where}: {name}", dtype, answer[name]))

    def _input(self, name: str, dtype: str, value: Any) -> Any:
        if dtype not in _TYPES:
            # Of a Feast project: a truth, list or dictionary, as its reader gives it.
            return value
        return self._typed(f"{self._where}: {name}", dtype, value)

    @staticmethod
    def _typed(where: str, dtype: str, value: Any) -> Value:
        if value is None or value != value:  # noqa: PLR0124 - only NaN differs from itself
            return None
        if isinstance(value, bool) or not isinstance(value, _TYPES[dtype]):
            raise ConfigError(where, value, f"must be {dtype}")
        found: Value = float(value) if dtype in _FLOATS else value  # type: ignore[assignment, arg-type]
        return found


class Described(Protocol):
    """An on-demand view in plain words, as a model package has it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def inputs(self) -> tuple[tuple[str, str], ...]:
        """Name and type of each column that it gets."""

    @property
    def features(self) -> tuple[tuple[str, str], ...]:
        """Name and type of each feature."""

    @property
    def source(self) -> str:
        """Text of the function."""


def transforms(views: Sequence[Described]) -> list[Transform]:
    """Make the views of a service ready to run.

    Raises:
        ConfigError: One of their texts may not say what it says.
    """
    return [
        Transform(
            name=view.name, source=view.source, inputs=dict(view.inputs),
            features=dict(view.features),
        )
        for view in views
    ]  # fmt: skip


def completed(
    ready: Sequence[Transform],
    values: Mapping[str, list[Any]],
    given: Mapping[str, Sequence[Any]],
) -> dict[str, list[Any]]:
    """Add what is computed on demand to stored features; offline training sets do it by frames.

    Args:
        ready: Of the service; see `transforms`.
        values: What was read, by feature.
        given: What the request or event carries, by column.

    Raises:
        ConfigError: A feature cannot be computed from these.
    """
    columns = {**given, **values}
    found = dict(values)
    for transform in ready:
        found.update(transform.columns(columns))
    return found


def _check(function: ast.FunctionDef, where: str) -> None:
    arguments = function.args
    plain = not (
        arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg
        or arguments.defaults or function.decorator_list
    )  # fmt: skip
    require(
        plain and len(arguments.args) == 1, where, function.name,
        "must take one argument, the row, and have no decorator",
    )  # fmt: skip
    inside = [node for statement in function.body for node in ast.walk(statement)]
    own = {arguments.args[0].arg} | {
        node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for node in inside:
        if isinstance(node, (*_REFUSED, ast.FunctionDef)):
            raise ConfigError(
                where, type(node).__name__, f"must not be in the function, line {node.lineno}"
            )
        if isinstance(node, ast.Name) and node.id not in own and node.id not in (*BUILTINS, "math"):
            raise ConfigError(
                where, node.id, "must be a name of the function itself, math, or a plain built-in"
            )
        if isinstance(node, ast.Attribute):
            of_math = isinstance(node.value, ast.Name) and node.value.id == "math"
            known = (
                not node.attr.startswith("_") and hasattr(math, node.attr)
                if of_math
                else node.attr in METHODS
            )
            require(known, where, node.attr, "must be of math, or a method of a text or dictionary")
    require("math" not in own, where, "math", "must stay the module")
