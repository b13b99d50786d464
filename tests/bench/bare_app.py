"""The yardstick of the gateway: a raw ASGI Serve app that parses JSON and calls the same model."""

from __future__ import annotations

from typing import Any


class Bare:
    """No admission, no split, no features, no evidence, no exposure: only the model."""

    def __init__(self, network: str) -> None:
        """Open the network; nothing else is ever read."""
        import msgspec
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            network, options, providers=["CPUExecutionProvider"]
        )
        self._output = [self._session.get_outputs()[0].name]
        self._decode = msgspec.json.Decoder().decode
        self._encode = msgspec.json.Encoder().encode
        self._np = np

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                kind = message["type"].rpartition(".")[2]
                await send({"type": f"lifespan.{kind}.complete"})
                if kind == "shutdown":
                    return
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        tensors = self._decode(body)["inputs"]
        numeric = self._np.array([[tensor["data"][0] for tensor in tensors]], self._np.float32)
        scores = self._session.run(self._output, {"numeric": numeric})[0]
        output = {"name": "score", "shape": [1], "datatype": "FP32", "data": scores.tolist()}
        answer = self._encode({"model_name": "shapes", "outputs": [output]})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(answer)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def build(args: dict[str, Any]) -> Any:
    """Build the Serve application with the gateway's own options."""
    from ray import serve

    from heliostat.serving import deployments
    from heliostat.serving.settings import ReplicaSettings

    def start() -> Bare:
        return Bare(args["network"])

    options = deployments.replica_options(
        "bare", ReplicaSettings(home="/"), max_ongoing_requests=400, max_queued_requests=400
    )
    return serve.deployment(**options)(serve.ingress(start)()).bind()
