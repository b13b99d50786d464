"""Runs stock clients, unchanged, against the real chain: a part of `make prove-serving`.

Writes ``tests/bench/results/serving.json``, section ``clients``. Usage: ``python -m tests.bench.run
tests.bench.stock_clients --environments FOLDER``, where FOLDER keeps the environment with the
clients; without it one is made in the run's own folder and thrown away.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

from tests.bench.environments import python_with
from tests.bench.peer_programs import PEERS
from tests.bench.serving import keep
from tests.local.chain import Chain

REQUIREMENTS = (
    *next(peer for peer in PEERS if peer.name == "KServe").requirements,
    "tritonclient[http]",
)

PROGRAM = """
import asyncio, importlib.metadata, json, math, sys
import numpy as np
url = sys.argv[1]
done = []

def right(score, size, code):
    assert abs(float(score) - 1 / (1 + math.exp(-(1 + size + 0.01 * code)))) < 1e-6, score

from tritonclient import http
client = http.InferenceServerClient(url.removeprefix("http://"))
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("shapes")
assert client.is_model_ready("shapes", "1")
assert client.get_server_metadata()["name"] == "heliostat"
assert [item["name"] for item in client.get_model_metadata("shapes")["inputs"]] == ["size", "colour"]
assert client.get_model_repository_index()[0]["name"] == "shapes"
done.append("triton health, metadata, index")
for binary_in in (True, False):
    for outputs in (None, [http.InferRequestedOutput("score", binary_data=True)],
                    [http.InferRequestedOutput("score", binary_data=False)]):
        for kind, name in ((np.float32, "FP32"), (np.float64, "FP64"), (np.int64, "INT64")):
            size = http.InferInput("size", [2, 1], name)
            size.set_data_from_numpy(np.array([[0], [1]], kind), binary_data=binary_in)
            colour = http.InferInput("colour", [2, 1], "BYTES")
            colour.set_data_from_numpy(np.array([["red"], ["blue"]], object), binary_data=binary_in)
            for more in ({}, {"request_compression_algorithm": "gzip"},
                         {"request_compression_algorithm": "deflate"}, {"model_version": "1"}):
                result = client.infer("shapes", [size, colour], outputs=outputs, request_id="r1", **more)
                scores = result.as_numpy("score")
                right(scores[0], 0, 2); right(scores[1], 1, 3)
                assert result.get_response()["id"] == "r1"
                done.append("triton infer")
try:
    client.infer("other", [size, colour])
except Exception as error:
    assert "404" in str(error.status()), error
    done.append("triton 404")

from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
async def kserve():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, "shapes")
    done.append("kserve health")
    for binary in (True, False):
        size = InferInput("size", [2], "FP32")
        size.set_data_from_numpy(np.array([0, 1], np.float32), binary_data=binary)
        colour = InferInput("colour", [2], "BYTES")
        colour.set_data_from_numpy(np.array(["red", "blue"], object), binary_data=binary)
        request = InferRequest(model_name="shapes", infer_inputs=[size, colour], request_id="r2")
        answer = await client.infer(url, request, model_name="shapes")
        scores = answer.outputs[0].as_numpy()
        right(scores[0], 0, 2); right(scores[1], 1, 3)
        assert answer.id == "r2" and answer.model_name == "shapes"
        done.append("kserve infer")
asyncio.run(kserve())
versions = {name: importlib.metadata.version(name) for name in ("tritonclient", "kserve")}
print("CLIENTS " + json.dumps({"versions": versions, "checks": len(done)}))
"""


def main() -> None:
    """Start the chain, run the clients, keep what they say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ports")
    parser.add_argument("--environments", type=Path)
    asked = parser.parse_args()
    environments = asked.environments or asked.folder / "environments"
    python = python_with("clients", REQUIREMENTS, environments)
    ports = [int(port) for port in asked.ports.split(",")]
    with Chain(asked.folder, ports) as chain:
        chain.serve()
        done = subprocess.run(
            [python, "-c", PROGRAM, chain.endpoint],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    line = next(text for text in done.stdout.splitlines() if text.startswith("CLIENTS "))
    found = json.loads(line.removeprefix("CLIENTS "))
    keep("clients", found)
    print(found)


if __name__ == "__main__":
    main()
