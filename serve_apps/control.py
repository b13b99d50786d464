"""The rollout controller at ``/v1``: deployments, rollouts, evidence and labels."""

from __future__ import annotations

from typing import Any

from heliostat.control.application import application


def build(args: dict[str, Any]) -> Any:
    """Build the application; ``args`` are the fields of `ControlSettings`: home, endpoint, ..."""
    return application(args)
