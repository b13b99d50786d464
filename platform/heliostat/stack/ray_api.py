"""Ray's REST API as the platform needs it: is the head there, put Serve apps, read their state."""

from __future__ import annotations

import http.client
import json
import os
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heliostat.config import require
from heliostat.errors import ConfigError, Unavailable

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_APPLICATIONS = "/api/serve/applications/"

LOST = (OSError, http.client.HTTPException)
"""What a server that is not there yet, or going away, raises."""


class RayApi:
    """A client of one head's dashboard; every call has a time limit."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def is_up(self) -> bool:
        """Say whether the head takes Serve applications and jobs, with our token."""
        try:
            self._call("GET", _APPLICATIONS)
        except LOST:
            return False
        return True

    def put_applications(self, config: Mapping[str, Any]) -> None:
        """Make `config` the complete declared state of Serve.

        Raises:
            ConfigError: Ray refuses the config.
            Unavailable: The head did not answer.
        """
        try:
            self._call("PUT", _APPLICATIONS, config, timeout_s=60)
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace").strip()[-800:]
            raise ConfigError("serve_config", f"HTTP {error.code}", reason) from error
        except LOST as error:
            raise Unavailable("Ray Serve", f"did not take the applications: {error}") from error

    def applications(self) -> dict[str, str]:
        """Give the status of each Serve application by name, with the reason where there is one."""
        found = self._call("GET", _APPLICATIONS).get("applications", {})
        return {
            name: ": ".join(
                part for part in (str(item["status"]), _last_line(item.get("message"))) if part
            )
            for name, item in sorted(found.items())
        }

    def declared(self) -> list[str]:
        """Name the Serve applications that a config declared, not a program."""
        found = self._call("GET", _APPLICATIONS).get("applications", {})
        return sorted(name for name, item in found.items() if item.get("source") == "declarative")

    def running_jobs(self) -> list[str]:
        """List the submission ids of jobs that have not ended."""
        jobs = self._call("GET", "/api/jobs/")
        return [
            str(job.get("submission_id") or job.get("job_id"))
            for job in jobs
            if job.get("status") in ("PENDING", "RUNNING") and job.get("type") == "SUBMISSION"
        ]

    def _call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 5) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(  # noqa: S310 - http to our own loopback address
            self._url + path,
            data=data,
            method=method,
            headers={**self._headers, "Content-Type": "application/json"},
        )
        with OPENER.open(request, timeout=timeout_s) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else {}


def answers(url: str) -> bool:
    """Say whether a GET of the URL is answered with 200 within two seconds, asking no proxy."""
    try:
        with OPENER.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except LOST:
        return False


def load_serve_config(path: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """Read a Serve config file, with ``${NAME}`` in its texts replaced.

    A text that is one ``${NAME}`` and becomes a whole number is one, so that a port can be given.

    Raises:
        ConfigError: The file cannot be read, or names a value that is not known.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError("serve_config", str(path), "must be a YAML file", breaks=str(error)) from error  # fmt: skip
    require(isinstance(raw, dict), "serve_config", str(path), "must hold a mapping")

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(item) for key, item in node.items()}
        if isinstance(node, list):
            return [fill(item) for item in node]
        if not isinstance(node, str) or "$" not in node:
            return node
        try:
            text = string.Template(node).substitute(values)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                str(path), node, "must name known values",
                breaks=f"{error}; known: {', '.join(sorted(values))}",
            ) from error  # fmt: skip
        return int(text) if node.startswith("${") and text.isdecimal() else text

    filled: dict[str, Any] = fill(raw)
    return filled


def wait_for_applications(
    api: RayApi, names: list[str], *, deadline: float, clock: Callable[[], float] = time.monotonic
) -> None:
    """Wait until each named application runs.

    Raises:
        Unavailable: One failed, with Serve's reason, or the deadline passed.
    """
    state: dict[str, str] = {}
    while clock() < deadline:
        try:
            state = api.applications()
        except LOST as error:
            state = {"Ray": str(error)}
        failed = {
            name: text
            for name, text in state.items()
            if name in names and text.startswith(("DEPLOY_FAILED", "UNHEALTHY"))
        }
        if failed:
            name, text = next(iter(failed.items()))
            raise Unavailable(f"Serve application {name}", text)
        if all(state.get(name, "").startswith("RUNNING") for name in names):
            return
        time.sleep(0.1)
    raise Unavailable("Ray Serve", f"not ready in time; {state}")


def _last_line(message: str | None) -> str:
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def tail(path: Path, num_lines: int = 15) -> str:
    """Give the last lines of a log for an error message; empty when there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 20_000))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-num_lines:])
