"""Importing a module does nothing and loads nothing heavy, in a fresh process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from tests.repo import tree

HEAVY = ("ray", "torch", "mlflow", "feast", "pandas")

MAY_LOAD: dict[str, tuple[set[str], str]] = {
    "heliostat.features.feast_files": (
        {"feast", "pandas", "torch"},
        "used by the next one only",
    ),
    "heliostat.features.feast_offline": (
        {"feast", "pandas", "torch"},
        "subclasses Feast's own OfflineStore; Feast imports it",
    ),
    "heliostat.data.chunk_source": ({"ray", "pandas"}, "subclasses Ray Data's own Datasource"),
    "heliostat.training.network": ({"torch"}, "torch modules: made by workers and the exporter"),
    "heliostat.training.settle": ({"torch"}, "sets torch up: only in workers"),
    "heliostat.inference.torch_network": ({"torch"}, "loaded for packages on a GPU alone"),
    "heliostat.inference.torch_operators": ({"torch"}, "loaded for packages on a GPU alone"),
    "heliostat.training.state": ({"torch"}, "weights and optimizer: only in workers"),
    "heliostat.training.feed": ({"torch"}, "rows as tensors: only in workers"),
    "heliostat.training.session": ({"torch"}, "one worker's side of a training"),
    "heliostat.training.loop": ({"torch"}, "the loop of one worker"),
    "heliostat.training.worker": ({"ray", "torch", "pandas"}, "runs inside Ray Train's workers"),
}
"""Modules that may load something heavy when imported, with what and why."""

CHILD = """
import json, os, sys, threading
# Loaded once: what modules may import at their top, so that each fork imports only our own.
import aiohttp, msgspec, numpy, polars, pyarrow, scipy.special, scipy.stats, sqlalchemy, structlog, typer
heavy, groups = json.loads(sys.argv[1])
assert not set(heavy) & set(sys.modules)
quiet = {"socket.connect", "socket.bind", "subprocess.Popen", "os.mkdir", "os.fork"}
for names in groups:
    sys.stdout.flush()
    if os.fork() == 0:
        seen = []
        def hook(event, arguments):
            if event in quiet:
                seen.append(event)
            elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
                if not str(arguments[0]).startswith(("/dev/null", "/proc/")):
                    seen.append("writes " + str(arguments[0]))
        sys.addaudithook(hook)
        sys.dont_write_bytecode = True
        for name in names:
            seen.clear()
            before, known, threads = dict(os.environ), set(sys.modules), threading.active_count()
            failed = None
            try:
                __import__(name)
            except BaseException as error:
                failed = repr(error)
            if dict(os.environ) != before:
                seen.append("changes the environment")
            if threading.active_count() > threads:
                seen.append("starts threads")
            loaded = sorted(set(heavy) & set(sys.modules) - known)
            print(name, json.dumps([failed, loaded, seen]), sep="\\t", flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def observed(child_environment) -> dict[str, list[object]]:
    """What importing each module did: its error, the heavy modules it loaded, its side effects.

    Those that may load the same share one fresh process, so that it ends in seconds: what one of
    them loads or starts is told as its own, or as that of the one before it that needed it first.
    """
    groups: dict[frozenset[str], list[str]] = {}
    for name in tree.modules():
        allowed, _ = MAY_LOAD.get(name, (set(), ""))
        groups.setdefault(frozenset(allowed), []).append(name)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([HEAVY, list(groups.values())])],
        env=child_environment,
        cwd=tree.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        name: json.loads(answer)
        for name, answer in (line.split("\t") for line in done.stdout.splitlines())
    }


@pytest.mark.parametrize("module", tree.modules())
def test_importing_a_module_starts_nothing_and_loads_nothing_heavy(module, observed):
    """No thread, process, connection or file; none of ray, torch, mlflow, feast and pandas."""
    allowed, _ = MAY_LOAD.get(module, (set(), ""))
    failed, loaded, seen = observed[module]

    # Ray sets variables of its own when it is imported.
    assert (failed, set(loaded) - allowed, [] if allowed else seen) == (None, set(), [])


def test_modules_that_may_load_something_heavy_exist():
    """An exception for a module that is gone is deleted."""
    assert set(MAY_LOAD) - set(tree.modules()) == set()


@pytest.mark.parametrize(
    "path", tree.python_files("platform/heliostat", "jobs", "serve_apps"), ids=tree.module_name
)
def test_no_module_reads_settings_when_it_is_imported(path):
    """Environment, home folder and clock are read in functions, when somebody asks."""
    found = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for statement in tree.parse(path).body
        for node in outside_functions(statement)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node)
        in {"os.environ", "os.getenv", "Path.home", "time.time", "datetime.now", "Path.cwd"}
    ]

    assert found == []


def outside_functions(node: ast.AST):
    """The nodes that run at import: bodies of functions and of the main guard do not."""
    is_guard = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_guard:
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from outside_functions(child)


def test_the_command_line_is_imported_in_a_fraction_of_a_second(child_environment):
    """0.5 s of CPU, so that `heliostat --help` and shell completion feel immediate."""
    code = "import heliostat.cli, resource as r; u = r.getrusage(r.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
    runs = [
        float(
            subprocess.run(
                [sys.executable, "-c", code],
                env=child_environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(3)
    ]

    assert min(runs) < 0.5
