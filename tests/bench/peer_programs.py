"""The peers of `tests.bench.peers`: what to install, the least program each needs, how it runs.

Each serves the network of the bench's package, reads the same JSON body as the gateway where its
protocol allows, and runs in the fastest setting that its own documentation names.
"""

from __future__ import annotations

from dataclasses import dataclass

_NETWORK = """
import os
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(
    os.environ["NETWORK"], options, providers=["CPUExecutionProvider"]
)
output = [session.get_outputs()[0].name]


def score(numeric):
    return session.run(output, {"numeric": numeric})[0].tolist()
"""

_KSERVE = (
    _NETWORK
    + """
import kserve


class Shapes(kserve.Model):
    def __init__(self):
        super().__init__("shapes")
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        numeric = np.array([[item.data[0] for item in payload.inputs]], np.float32)
        result = kserve.InferOutput("score", [1], "FP32", data=score(numeric))
        return kserve.InferResponse(payload.id or "", "shapes", [result])


kserve.ModelServer(
    http_port=int(os.environ["PORT"]), workers=1, enable_grpc=False, access_log_format=None,
    enable_docs_url=False,
).start([Shapes()])
"""
)

_LITSERVE = (
    _NETWORK
    + """
import litserve


class Shapes(litserve.LitAPI):
    def setup(self, device):
        self.score = score

    def decode_request(self, request):
        return np.array([[item["data"][0] for item in request["inputs"]]], np.float32)

    def predict(self, numeric):
        return self.score(numeric)

    def encode_response(self, scores):
        return {"outputs": [{"name": "score", "shape": [1], "datatype": "FP32", "data": scores}]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Shapes(), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), num_api_servers=1, log_level="error",
        generate_client_file=False,
    )
"""
)

_BENTOML = (
    _NETWORK
    + """
import bentoml


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Shapes:
    @bentoml.api
    def infer(self, inputs: list) -> dict:
        numeric = np.array([[item["data"][0] for item in inputs]], np.float32)
        return {"outputs": [{"name": "score", "shape": [1], "datatype": "FP32", "data": score(numeric)}]}
"""
)

_MLFLOW = """
import os
import sys

import mlflow.onnx
import onnx

mlflow.onnx.save_model(
    onnx.load(os.environ["NETWORK"]), "mlflow_model",
    onnx_execution_providers=["CPUExecutionProvider"],
    onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
)
os.execv(sys.executable, [
    sys.executable, "-m", "mlflow", "models", "serve", "-m", "mlflow_model",
    "--env-manager", "local", "-h", "127.0.0.1", "-p", os.environ["PORT"], "-w", "1",
])
"""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One other way to serve a model."""

    name: str
    requirements: tuple[str, ...]
    """What its environment holds; empty for the project's own."""

    program: str
    command: tuple[str, ...]
    """After the environment's Python; ``{port}`` is filled in."""

    path: str
    setting: str
    """Its fastest documented setting, as it is used here, for the table."""

    is_mlflow_body: bool = False
    """Whether the eight numbers come in MLflow's own form, since it takes no other."""


PEERS = (
    Peer(
        name="KServe",
        requirements=("kserve==0.21.0", "onnxruntime"),
        program=_KSERVE,
        command=("server.py",),
        path="/v2/models/shapes/infer",
        setting="ModelServer, workers=1, gRPC, docs and access log off, uvloop",
    ),
    Peer(
        name="LitServe",
        requirements=("litserve==0.2.19", "onnxruntime", "uvloop", "httptools"),
        program=_LITSERVE,
        command=("server.py",),
        path="/predict",
        setting="workers_per_device=1, one API server, fast_queue, no batching",
    ),
    Peer(
        name="BentoML",
        requirements=("bentoml==1.4.40", "onnxruntime"),
        program=_BENTOML,
        command=(
            "-m", "bentoml", "serve", "server:Shapes", "--port", "{port}", "--host", "127.0.0.1",
        ),
        path="/infer",
        setting="workers=1, access log off, no batching",
    ),
    Peer(
        name="MLflow",
        requirements=(),
        program=_MLFLOW,
        command=("server.py",),
        path="/invocations",
        setting="mlflow models serve, FastAPI under uvicorn, one worker, onnx flavour",
        is_mlflow_body=True,
    ),
)  # fmt: skip
