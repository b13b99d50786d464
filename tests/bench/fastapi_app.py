"""A peer of the gateway: FastAPI as Ray Serve's ingress, the usual way to serve a model on Ray."""

# No postponed annotations: FastAPI reads those of the route when it is made.

from typing import Any


def build(args: dict[str, Any]) -> Any:
    """Build the Serve application with the gateway's own options."""
    import numpy as np
    import onnxruntime
    from fastapi import FastAPI, Request
    from ray import serve

    from heliostat.serving import deployments
    from heliostat.serving.settings import ReplicaSettings

    app = FastAPI()
    options = deployments.replica_options(
        "fastapi", ReplicaSettings(home="/"), max_ongoing_requests=400, max_queued_requests=400
    )

    @serve.deployment(**options)
    @serve.ingress(app)
    class Shapes:
        def __init__(self) -> None:
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = settings.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(
                args["network"], settings, providers=["CPUExecutionProvider"]
            )
            self._output = [self._session.get_outputs()[0].name]

        @app.post("/")
        async def infer(self, request: Request) -> dict[str, Any]:
            tensors = (await request.json())["inputs"]
            numeric = np.array([[tensor["data"][0] for tensor in tensors]], np.float32)
            scores = self._session.run(self._output, {"numeric": numeric})[0]
            output = {"name": "score", "shape": [1], "datatype": "FP32", "data": scores.tolist()}
            return {"model_name": "shapes", "outputs": [output]}

    return Shapes.bind()
