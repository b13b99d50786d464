"""A kubectl that talks to nobody: takes a RayJob, and tells states that a test has written."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
words = sys.argv[2:]
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps(words) + "\\n")
verb = words[2]
if verb in json.loads((folder / "refuses.json").read_text()):
    sys.stderr.write(f"Error from server (Forbidden): may not {verb}\\n")
    sys.exit(1)
if verb == "create":
    (folder / "created.yaml").write_text(sys.stdin.read())
elif verb == "get":
    states = json.loads((folder / "states.json").read_text())
    if len(states) > 1:
        (folder / "states.json").write_text(json.dumps(states[1:]))
    print(json.dumps({"status": states[0]}))
elif verb == "logs":
    print("what the job said")
"""


class FakeKubectl:
    """An executable, and what it was asked."""

    def __init__(
        self, folder: Path, states: Sequence[Mapping[str, Any]] = (), refuses: Sequence[str] = ()
    ) -> None:
        """Write the executable.

        Args:
            folder: Where it lies with its notes.
            states: The RayJob's status at each `get`; the last one stays.
            refuses: Verbs that the server forbids.
        """
        self.folder = folder
        self.executable = folder / "kubectl"
        (folder / "kubectl.py").write_text(_PROGRAM, encoding="utf-8")
        (folder / "states.json").write_text(json.dumps(list(states)), encoding="utf-8")
        (folder / "refuses.json").write_text(json.dumps(list(refuses)), encoding="utf-8")
        script = f'#!/bin/sh\nexec "{sys.executable}" "{folder}/kubectl.py" "{folder}" "$@"\n'
        self.executable.write_text(script, encoding="utf-8")
        self.executable.chmod(0o700)

    @property
    def calls(self) -> list[list[str]]:
        """The words of every call, the context first."""
        path = self.folder / "calls.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    @property
    def created(self) -> str:
        """What was created, as it came."""
        return (self.folder / "created.yaml").read_text(encoding="utf-8")
