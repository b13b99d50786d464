"""Talk to the rollout controller over its REST interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heliostat.errors import ConfigError, HeliostatError, Unavailable

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlClient:
    """Plain, blocking calls; each raises `Unavailable` when the controller does not answer."""

    endpoint: str
    """Base URL of the gateway's ingress, such as ``http://127.0.0.1:8000``."""

    timeout_s: float = 60.0

    api_key: str | None = field(default=None, repr=False)
    """Sent with every call; needed once the controller has keys."""

    def deploy(self, model: str, version: str) -> dict[str, Any]:
        """Make the version stable at once; a running rollout of the model ends first.

        Returns when the gateways answer with it.
        """
        return self._object("POST", "/v1/deployments", {"model": model, "version": version})

    def start(self, plan: Mapping[str, Any]) -> str:
        """Start a rollout and return its id.

        Raises:
            ConfigError: The plan cannot be meant, or the model has a rollout already.
        """
        return str(self.begin(plan)["id"])

    def begin(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Start a rollout; returns where it stands, and warnings of what it will not reach."""
        return self._object("POST", "/v1/rollouts", {"plan": dict(plan)})

    def rollouts(self) -> list[dict[str, Any]]:
        """All rollouts, newest first."""
        raw = self._call("GET", "/v1/rollouts")
        items = raw["rollouts"] if isinstance(raw, dict) else raw
        return list(items)

    def rollout(self, rollout_id: str) -> dict[str, Any]:
        """Where a rollout stands, with gates, numbers and events."""
        return self._object("GET", f"/v1/rollouts/{rollout_id}")

    def abort(self, rollout_id: str) -> dict[str, Any]:
        """Send all traffic back to the stable version."""
        return self._object("POST", f"/v1/rollouts/{rollout_id}/abort", {})

    def tell(self, rollout_id: str, what: str, because: str) -> dict[str, Any]:
        """Pause, resume, approve or promote a rollout; see `commands.tell`."""
        return self._object("POST", f"/v1/rollouts/{rollout_id}/{what}", {"because": because})

    def freeze(self, model: str, because: str | None) -> dict[str, Any]:
        """Freeze a model's rollouts with a reason, or with None thaw them."""
        path = f"/v1/models/{model}/{'thaw' if because is None else 'freeze'}"
        return self._object("POST", path, {"because": because})

    def go_back(self, model: str, because: str) -> dict[str, Any]:
        """Make the last good version stable again, without steps."""
        return self._object("POST", f"/v1/models/{model}/return", {"because": because})

    def report_outcomes(self, model: str, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Report what units did; see `store.outcomes.Outcome` for the fields of each."""
        return self._object("POST", "/v1/outcomes", {"model": model, "outcomes": list(outcomes)})

    def audit(self) -> dict[str, Any]:
        """Check every stream's hash chain: counts of events, and what was tampered with."""
        return self._object("GET", "/v1/audit")

    def label(self, labels: Sequence[tuple[str, float]]) -> None:
        """Report labels by request id; those of unknown requests wait for their request."""
        rows = [{"request_id": request_id, "label": label} for request_id, label in labels]
        self._call("POST", "/v1/labels", rows)

    def status(self) -> dict[str, Any]:
        """What each model serves, and the current epoch."""
        return self._object("GET", "/v1/status")

    def _object(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        raw = self._call(method, path, body)
        if not isinstance(raw, dict):
            raise HeliostatError(f"{method} {path}: the controller answered {type(raw).__name__}")
        return raw

    def _call(self, method: str, path: str, body: object = None) -> Any:
        headers = {"content-type": "application/json", "idempotency-key": uuid.uuid4().hex}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(  # noqa: S310 - the endpoint is the platform's own
            self.endpoint.rstrip("/") + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
        )
        try:
            with _NO_PROXY.open(request, timeout=self.timeout_s) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            problem = _problem(error.read())
            if 400 <= error.code < 500:
                raise ConfigError(f"{method} {path}", error.code, problem) from error
            raise Unavailable(f"controller at {self.endpoint}", problem) from error
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"controller at {self.endpoint}", str(error), next_step="Run: heliostat status"
            ) from error


def _problem(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
