"""Schemathesis over the gateway's OpenAPI document; a part of `tests.bench.bad_requests`.

It runs twice. First over the document as it is served: it knows no model, so what fits it need not
be accepted. Then over the document narrowed to the one model that is served, with its tensors'
names and kinds: there what fits must be answered and what does not must be refused.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.environments import python_with, version_in
from tests.local.chain import MODEL, Chain

REQUIREMENTS = ("schemathesis==4.32.5",)
_FLOAT32_MAX = 3.4028234663852886e38


def program(environments: Path) -> Path:
    """The executable, in an environment of its own."""
    return Path(python_with("schemathesis", REQUIREMENTS, environments)).with_name("schemathesis")


def runs(
    chain: Chain, executable: Path, key: str, folder: Path, *, examples: int
) -> dict[str, Any]:
    """Run it over both documents against the chain; its counts and what it found."""
    status, document = chain.ask("/v2/openapi.json")
    assert status == 200
    status, model = chain.ask(f"/v2/models/{MODEL}", **{"x-api-key": key})
    assert status == 200
    found: dict[str, Any] = {
        "version": version_in(str(executable.with_name("python")), "schemathesis"),
        "examples_per_operation": examples,
    }
    for name, text, left_out in (
        ("as_served", document, ["positive_data_acceptance"]),
        ("narrowed", narrowed(document, model), []),
    ):
        own = folder / name
        own.mkdir()
        (own / "openapi.json").write_text(json.dumps(text))
        found[name] = _run(own, executable, chain.endpoint, key, left_out, examples)
    return found


def narrowed(document: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The document with the names and kinds of one model, so that whatever fits it is right."""
    found = copy.deepcopy(document)
    known = {"model": [model["name"]], "version": model["versions"]}
    for item in found["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": known[parameter["name"]]}
            if "requestBody" in operation:
                _narrow(operation, model["versions"])
    schemas = found["components"]["schemas"]
    # In MLflow's form a category may come as a number, which is looked up by its text.
    columns = {
        item["name"]: {"type": ["string", "number", "null"]}
        if item["datatype"] == "BYTES"
        else _value(item["datatype"])
        for item in model["inputs"]
    }
    schemas["InferRequest"]["properties"]["inputs"] = {
        "type": "array",
        "prefixItems": [_tensor(item) for item in model["inputs"]],
        "items": False,
        "minItems": len(columns),
    }
    output = model["outputs"][0]["name"]
    wanted = schemas["InferRequest"]["properties"]["outputs"]["items"]
    wanted["properties"]["name"] = {"enum": [output]}
    record = {"type": "object", "required": list(columns), "properties": columns}
    record["additionalProperties"] = False
    schemas["Invocation"] = {
        "type": "object",
        "required": ["dataframe_records"],
        "properties": {"dataframe_records": {"type": "array", "items": record, "minItems": 1}},
    }
    return found


def _narrow(operation: dict[str, Any], versions: list[str]) -> None:
    """Leave out raw bytes, of which no schema tells what is right, and say which headers are."""
    operation["requestBody"]["content"].pop("application/octet-stream", None)
    fits = {
        "x-heliostat-version": {"enum": versions},
        "x-heliostat-unit": {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
        "x-heliostat-at": {"enum": ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678+02:00"]},
    }
    operation["parameters"] = [
        {**item, "schema": fits.get(item["name"], item["schema"])}
        for item in operation["parameters"]
        if item["name"] != "inference-header-content-length"
    ]


def _value(datatype: str) -> dict[str, Any]:
    if datatype == "BYTES":
        return {"type": ["string", "null"]}
    return {"type": ["number", "null"], "minimum": -_FLOAT32_MAX, "maximum": _FLOAT32_MAX}


def _tensor(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": item["name"]},
            "shape": {"const": [1]},
            "datatype": {"const": item["datatype"]},
            "data": {
                "type": "array",
                "items": _value(item["datatype"]),
                "minItems": 1,
                "maxItems": 1,
            },
        },
    }


def _run(
    folder: Path, executable: Path, endpoint: str, key: str, left_out: list[str], examples: int
) -> dict[str, Any]:
    report = folder / "report.json"
    arguments = ["--exclude-checks", ",".join(left_out)] if left_out else []
    done = subprocess.run(
        [
            str(executable), "--no-color", "run", "openapi.json", "--url", endpoint,
            "--header", f"Authorization: Bearer {key}", "--max-examples", str(examples),
            "--seed", "3", "--request-timeout", "30", "--continue-on-failure",
            "--report-json-path", str(report), "--generation-database", "none", *arguments,
        ],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "HOME": str(folder)},
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise SystemExit(f"schemathesis: {done.stdout[-3000:]} {done.stderr[-3000:]}")
    (folder / "output").write_text(done.stdout)
    told = json.loads(report.read_text())
    if told["failures"] or told["errors"]:
        print(done.stdout, flush=True)
    return {
        "cases": told["test_cases"]["generated"],
        "failures": [
            {name: item[name] for name in ("title", "count", "operations")}
            for item in told["failures"]
        ],
        "errors": len(told["errors"]),
        "operations": told["operations"]["tested"],
        "phases": {name: item["status"] for name, item in told["phases"].items()},
        "checks_left_out": left_out,
        "answered_well": sum(
            phase["accepted"] for rates in told["valid_rates"].values() for phase in rates.values()
        ),
    }
