"""Run a script of the clone as a RayJob on a cluster: the same words, another place."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from heliostat.clusters import check, folder, ray_objects, render
from heliostat.clusters.document import Document
from heliostat.config import require
from heliostat.errors import ConfigError, GateRefused, Interrupted, Unavailable

POLL_S = 2.0
_CODE = re.compile(r"failed with exit code (-?\d+)")
_OVER = ("Complete", "Failed", "ValidationFailed")


def command(words: Sequence[str]) -> str:
    """Give the entrypoint of a job, here and on every cluster.

    >>> command(["jobs/train.py", "--set", "a=b c"])
    "python jobs/train.py --set 'a=b c'"
    """
    return f"python {shlex.join(script(words))}"


def script(words: Sequence[str]) -> list[str]:
    """Give the words without a Python in front, which people write out of habit."""
    return list(words[1:] if words and words[0] in ("python", "python3") else words)


def ray_job(
    platform: render.Platform, words: Sequence[str], *,
    role: Literal["train", "batch"] = "train", name: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Build the RayJob that runs a script in the image, in the role's queue.

    A failed job is not repeated: its exit code says why it failed, and a gate that said no would
    only say it again.

    Args:
        platform: What a recipe of ``cluster_configs`` returns.
        words: Script, relative to the clone, and its arguments.
        role: Whose account, priority and queue.
        name: Name after the recipe's; None makes one that is new.

    Raises:
        ConfigError: The object would be refused; the message is the first finding.
    """
    words = script(words)
    require(bool(words), "script", "", "must be given after --")
    if name is None:
        stem = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(words[0]).stem.lower()).strip("-")
        name = f"{stem[:16] or 'job'}-{secrets.token_hex(3)}"
    body = ray_objects.job(platform.cluster, name, role, command(words), retries=0)
    report = check.check_documents([Document(file="--on", body=body)], check.Options())
    for item in report.errors:
        raise ConfigError(item.where, item.value, item.rule, breaks=item.breaks)
    return body


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubectl:
    """The user's own kubectl, in a context that was named."""

    context: str
    executable: str = "kubectl"
    poll_s: float = field(default=POLL_S)

    def call(self, *words: str, sent: str | None = None) -> str:
        """Run it and give its output.

        Raises:
            Unavailable: It is not installed, or says no.
        """
        line = [self.executable, "--context", self.context, *words]
        try:
            done = subprocess.run(line, input=sent, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise Unavailable(
                "kubectl", "is not installed", next_step="Install it, then repeat"
            ) from error
        if done.returncode:
            raise Unavailable(f"kubectl {words[0]}", done.stderr.strip()[-400:] or "failed")
        return done.stdout


def run(body: Mapping[str, Any], kubectl: Kubectl) -> int:
    """Create a RayJob, tell its states, print its output, and return the script's exit code.

    Ctrl-C deletes the job and its cluster.

    Raises:
        GateRefused: It still holds names of the examples.
        Unavailable: kubectl or the operator could not do it; the operator's reason is told.
        Interrupted: The job was stopped.
    """
    text = render.to_yaml(body)
    if left := folder.examples_in(text):
        raise GateRefused("--on", f"the number of example values, first {left[0][1]!r}",
                          len(left), "0: put your own names into the recipe")  # fmt: skip
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    kubectl.call("create", "-f", "-", sent=text)
    sys.stderr.write(f"RayJob {name} runs {body['spec']['entrypoint']}\n")
    try:
        status = _followed(name, namespace, kubectl)
    except KeyboardInterrupt:
        kubectl.call("delete", "rayjob", name, "-n", namespace, "--wait=false")
        raise Interrupted(f"RayJob {name} is deleted, its cluster goes with it") from None
    try:
        sys.stdout.write(kubectl.call("logs", f"job/{name}", "-n", namespace))
    except Unavailable as error:
        sys.stderr.write(f"no log: {error}\n")
    return exit_code(name, status)


def _followed(name: str, namespace: str, kubectl: Kubectl) -> Mapping[str, Any]:
    told = ""
    while True:
        found = json.loads(kubectl.call("get", "rayjob", name, "-n", namespace, "-o", "json"))
        status: Mapping[str, Any] = found.get("status") or {}
        words = (status.get("jobDeploymentStatus") or "waits", status.get("jobStatus") or "")
        if (state := " ".join(words).strip()) != told:
            sys.stderr.write(f"  {state}\n")
            told = state
        if words[0] in _OVER:
            return status
        time.sleep(kubectl.poll_s)


def exit_code(name: str, status: Mapping[str, Any]) -> int:
    """Give the exit code of a RayJob's script out of the status that the operator wrote.

    >>> exit_code("x", {"jobStatus": "FAILED", "message": "Job entrypoint command failed with exit code 3, last"})
    3

    Raises:
        Interrupted: It was stopped.
        Unavailable: It never ran, or nobody knows how it ended.
    """
    message = str(status.get("message") or status.get("reason") or "ended without a word")
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    if status.get("jobStatus") == "STOPPED":
        raise Interrupted(f"RayJob {name} was stopped")
    match = _CODE.search(message)
    if status.get("jobStatus") != "FAILED" or match is None:
        raise Unavailable(f"RayJob {name}", " ".join(message.split())[-800:])
    code = int(match[1])
    return code if code >= 0 else 128 - code
