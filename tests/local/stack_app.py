"""A small Serve application for tests of the platform; stands in for gateway and control."""

from __future__ import annotations

from typing import Any

from ray import serve
from starlette.requests import Request


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Echo:
    """Answers with the path it was asked and the arguments it was built with."""

    def __init__(self, args: dict[str, Any]) -> None:
        self._args = args

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"path": request.url.path, "args": self._args}


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application; what Serve imports."""
    return Echo.bind(args)  # type: ignore[attr-defined,no-any-return]
