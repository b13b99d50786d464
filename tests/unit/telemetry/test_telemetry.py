from __future__ import annotations

import json
import subprocess
import sys

CODE = """
from heliostat import telemetry
{configure}
telemetry.event("rollout.advanced", model="churn", why="within margin", path=object)
"""


def _stderr(configure: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(configure=configure)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr


def test_an_event_is_one_json_line_with_its_fields_in_order(
    child_environment: dict[str, str],
) -> None:
    """Off a terminal an event is one line of JSON; a value that JSON lacks becomes text."""
    text = _stderr("telemetry.configure('gateway')", child_environment)
    fields = json.loads(text)
    stamp = fields.pop("timestamp")
    assert text.count("\n") == 1
    assert stamp.endswith("Z")
    assert fields == {
        "event": "rollout.advanced",
        "service": "gateway",
        "model": "churn",
        "why": "within margin",
        "path": "<class 'object'>",
    }


def test_events_work_without_being_configured(child_environment: dict[str, str]) -> None:
    """A process that configures nothing still writes events, under the package's name."""
    assert json.loads(_stderr("", child_environment))["service"] == "heliostat"


def test_a_person_reads_key_value_text(child_environment: dict[str, str]) -> None:
    """Asked for text, an event is name and key=value, with quotes around spaces."""
    text = _stderr("telemetry.configure('x', json=False)", child_environment)
    assert text == ('rollout.advanced model=churn why="within margin" path="<class \'object\'>"\n')
