"""The bill of materials inside a package: what a model was made with, as CycloneDX JSON; pure."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

FILE = "sbom.cdx.json"


def render(model: str, environment: Sequence[str], files: Mapping[str, str]) -> str:
    """Write a CycloneDX 1.6 document. The same arguments give the same text.

    Args:
        model: Name of the model.
        environment: Distributions as ``name==version``, as `training.record.environment` lists
            them; ``python`` is the interpreter.
        files: SHA-256 in hexadecimal by name, of the package's files.
    """
    libraries = [_library(*line.split("==", 1)) for line in environment if "==" in line]
    parts = [
        {"type": "file", "bom-ref": name, "name": name, "hashes": [_hash(digest)]}
        for name, digest in sorted(files.items())
    ]
    content: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model", "bom-ref": "model", "name": model,
                "components": parts,
            }
        },
        "components": libraries,
        "dependencies": [{"ref": "model", "dependsOn": [item["bom-ref"] for item in libraries]}],
    }  # fmt: skip
    # No moment and nothing random: the signature covers this file.
    named = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    content["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=named[:16], version=4)}"
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _library(name: str, version: str) -> dict[str, str]:
    if name == "python":
        return {
            "type": "platform", "bom-ref": f"python@{version}", "name": name, "version": version
        }  # fmt: skip
    normal = re.sub(r"[-_.]+", "-", name).lower()
    purl = f"pkg:pypi/{normal}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
