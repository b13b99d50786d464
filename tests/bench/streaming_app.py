"""A raw ASGI Serve app that answers with one line each half second, for as long as it is asked to."""

from __future__ import annotations

import asyncio
from typing import Any

from heliostat.serving import asgi


class Lines(asgi.Application):
    """``GET <prefix>/<number>`` answers with so many lines."""

    name = "lines"

    async def respond(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request."""
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(int(scope["path"].rsplit("/", 1)[-1])):
            line = b"%d\n" % number
            await send({"type": "http.response.body", "body": line, "more_body": True})
            await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b"end\n"})


def build(args: dict[str, Any]) -> Any:
    """Build the Serve application with the gateway's own options."""
    from ray import serve

    from heliostat.serving import deployments
    from heliostat.serving.settings import ReplicaSettings

    options = deployments.replica_options(
        "lines", ReplicaSettings(home="/"), max_ongoing_requests=100, max_queued_requests=100
    )
    return serve.deployment(**options)(serve.ingress(Lines)()).bind()
