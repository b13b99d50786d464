"""Holding, hurrying and freezing rollouts, and who may ask for it."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from heliostat.access.keys import KeyFile
from heliostat.access.roles import ROLES
from heliostat.control import commands, explain, view
from heliostat.errors import ConfigError
from heliostat.rollout.plan import RolloutPlan
from heliostat.store import schema
from heliostat.store.events import EventLog, Tampered
from tests.unit.control.test_api import Client
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World

PLAN = RolloutPlan(model="m", candidate="2").to_dict()


@pytest.fixture
def it(tmp_path):
    it = World(str(tmp_path / "state.db"), {"1": WORSE_FIT, "2": GOOD})
    it.deploy("1")
    return it


def begin(it, **more):
    return commands.start(it.controller, {**PLAN, **more}, None).rollout_id


def seconds(it, number):
    for _ in range(number):
        it.second()


def tell(it, rollout_id, what):
    return commands.tell(it.controller, rollout_id, what, "lunch", None)


def test_a_pause_holds_for_as_long_as_it_lasts_and_costs_no_time_after(it):
    """Longer than the bound after which an undecided rollout would go back."""
    rollout_id = begin(it, max_inconclusive_s=100.0)
    it.settle()
    tell(it, rollout_id, "pause")
    seconds(it, 150)

    assert it.plane.share("m", "2") == 0.05
    assert it.controller.decision(rollout_id).because == "paused: lunch"

    tell(it, rollout_id, "resume")
    it.run(60)
    assert it.last().outcome == "promoted"


def test_a_step_is_held_for_its_time_and_its_approval_which_can_be_waived(it):
    """Gates are not waived: the rollout goes on step by step."""
    rollout_id = begin(it, hold_s=60.0, approvals_percent=[25])
    seconds(it, 58)
    assert it.plane.share("m", "2") == 0.05
    assert "of 60 s at 5 %" in it.controller.decision(rollout_id).because
    seconds(it, 70)
    assert it.plane.share("m", "2") == 0.25
    assert "somebody must approve" in it.controller.decision(rollout_id).because

    tell(it, rollout_id, "approve")
    seconds(it, 2)
    assert it.plane.share("m", "2") == 0.5

    tell(it, rollout_id, "promote")
    assert it.run(30) < 30
    assert [event for event in it.plane.calls if "publish" in event][-2:] == [
        "publish 5: m@1=0% m@2=100%",
        "publish 6: m@2=100%",
    ]


def test_a_frozen_model_starts_nothing_and_moves_nothing(it):
    """Until it is thawed."""
    rollout_id = begin(it)
    it.settle()
    commands.freeze(it.controller, "m", "holidays", None)
    seconds(it, 60)

    assert it.plane.share("m", "2") == 0.05
    assert it.controller.decision(rollout_id).because == "paused: model frozen, holidays"
    commands.abort(it.controller, rollout_id, "enough", None)
    seconds(it, 5)
    assert it.last().outcome == "aborted"
    with pytest.raises(commands.Busy, match="must not be frozen; holidays"):
        begin(it)

    commands.freeze(it.controller, "m", None, None)
    begin(it)


def test_an_explanation_reads_like_one(it):
    """While it runs and after."""
    rollout_id = begin(it)
    seconds(it, 5)
    lines = explain.explain(view.details(it.controller, it.last()))

    assert lines[0].startswith("Version 2 of m answers 5 % of the units and stays there: ")
    assert "  split passes: " in "\n".join(lines)
    it.run(60)
    lines = explain.explain(view.details(it.controller, commands.find(it.controller, rollout_id)))
    assert lines[0].startswith("Version 2 of m was promoted: all gates pass at 100 % after ")
    assert lines[-1].startswith("It came to 5 % after ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hold_s": 900.0}, "plan.hold_s = 900.0: must be at least 0 and below max_inconclusive_s"),
        (
            {"approvals_percent": [7]},
            "plan.approvals_percent = 7.0: must be one of the steps 5, 25",
        ),
        ({"approvals_percent": 5}, "plan.approvals_percent = 5: must be a list"),
    ],
)
def test_holds_that_cannot_be_meant_are_refused(changed, message):
    """With the value and the rule."""
    with pytest.raises(ConfigError) as caught:
        RolloutPlan.from_dict({**PLAN, **changed})
    assert str(caught.value).startswith(message)


def test_every_route_asks_for_a_key_once_there_are_keys(tmp_path):
    """Roles times routes: whoever lacks the role is refused, before anything else is looked at."""
    file = KeyFile(tmp_path / "keys", time.time)
    made = {role: file.create(role, role=role)[0] for role in ROLES}
    client = Client(tmp_path / "state.db")
    client.app._keys = file
    routes = [
        ("GET", "/v1/status", "predict"),
        ("GET", "/v1/audit", "predict"),
        ("GET", "/v1/rollouts", "predict"),
        ("GET", "/v1/rollouts/m-1", "predict"),
        ("POST", "/v1/labels", "predict"),
        ("POST", "/v1/rollouts", "operate"),
        *(
            ("POST", f"/v1/rollouts/m-1/{what}", "operate")
            for what in ("abort", "pause", "resume", "approve", "promote")
        ),
        ("POST", "/v1/deployments", "admin"),
        ("POST", "/v1/models/m/freeze", "admin"),
        ("POST", "/v1/models/m/thaw", "admin"),
    ]
    try:
        for method, route, needed in routes:
            for wrong in (
                {},
                {"authorization": "Bearer hs_no"},
                {"authorization": made["admin"]},
            ):
                assert client(method, route, [], wrong)[0] == 401
            for role, key in made.items():
                status, _ = client(method, route, [], {"authorization": f"Bearer {key}"})
                allowed = ROLES.index(role) >= ROLES.index(needed)
                assert (status == 403) != allowed, (method, route, role)
    finally:
        client.close()


def test_nobody_needs_a_key_before_there_is_one_and_a_revoked_one_opens_nothing(tmp_path):
    """The file is read again after each change."""
    file = KeyFile(tmp_path / "keys", time.time)
    client = Client(tmp_path / "state.db")
    client.app._keys = file
    try:
        assert client("GET", "/v1/status", [], {})[0] == 200
        text, key = file.create("ci", role="admin")
        headers = {"authorization": f"Bearer {text}"}
        assert client("GET", "/v1/status", [], {})[0] == 401
        assert client("GET", "/v1/status", [], headers)[0] == 200
        file.revoke(key.id)
        assert client("GET", "/v1/status", [], headers)[0] == 401
    finally:
        client.close()


EDITS = {
    "edit": lambda n: sa.update(schema.events).where(schema.events.c.version == n).values(payload="{}"),
    "delete": lambda n: sa.delete(schema.events).where(schema.events.c.version == n),
    "truncate": lambda n: sa.delete(schema.events).where(schema.events.c.version >= n),
    "reorder": lambda n: sa.update(schema.events).where(schema.events.c.version == n).values(version=10_000),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_every_record_that_was_tampered_with_is_found(tmp_path, what):
    """Each of ten records in turn."""
    for number in range(1, 11):
        log = EventLog(tmp_path / f"{what}-{number}.db")
        for event in range(10):
            log.append("s", "made", {"event": event})
        with log._database.write() as connection:
            connection.execute(EDITS[what](number))
        with pytest.raises(Tampered):
            log.verify("s")
        log.close()
