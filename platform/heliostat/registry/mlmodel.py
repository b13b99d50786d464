"""A model's signature in MLflow's own form, so that MLflow's page and tools know its inputs."""

from __future__ import annotations

import json
from pathlib import Path

from heliostat.registry.package import PackageDescription

FILE = "MLmodel"

_FLAVOR = "heliostat"
"""No flavor of MLflow's: its loaders would skip the signature check and open what they find."""


def render(description: PackageDescription) -> str:
    """The content of ``MLmodel``: YAML, written as the JSON that YAML contains.

    Numbers are doubles and categories texts; each may be missing. The same description gives the
    same text, so no time and no id are in it.
    """
    inputs = [
        {
            "name": item.name,
            "type": "double" if item.kind == "numeric" else "string",
            "required": False,
        }
        for item in description.inputs
    ]
    outputs = [{"name": description.output, "type": "float", "required": True}]
    content = {
        "flavors": {_FLAVOR: {"data": description.file}},
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def write(description: PackageDescription, directory: Path) -> None:
    """Write the file into a package that is not signed yet."""
    (directory / FILE).write_text(render(description), encoding="utf-8")
