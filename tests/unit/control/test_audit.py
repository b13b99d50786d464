"""The audit trail of a whole rollout: who asked for what, and that no record can be changed unseen."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from heliostat.control import commands
from heliostat.store.events import EventLog, Tampered
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World

COLUMNS = {
    "stream": "'elsewhere'", "version": "version + 1000", "kind": "'x'", "payload": "'{}'",
    "at": "at + 1", "idempotency_key": "'k'", "previous_hash": "'h'", "hash": "'h'",
}  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A rollout with people in it, up to its end."""
    path = tmp_path_factory.mktemp("audit") / "state.db"
    record(path)
    return path


def record(path):
    """Write the log of a rollout with people in it."""
    it = World(str(path), {"1": WORSE_FIT, "2": GOOD})
    it.deploy("1")
    rollout_id = commands.start(it.controller, {"model": "m", "candidate": "2"}, None, "ada")
    rollout_id = rollout_id.rollout_id
    it.second()
    for what, by in (("pause", "bob"), ("resume", "ada"), ("approve", "eve"), ("promote", "eve")):
        commands.tell(it.controller, rollout_id, what, "lunch", None, by)
    commands.freeze(it.controller, "m", "holidays", None, "root")
    commands.freeze(it.controller, "m", None, None, "root")
    it.run(120)
    it.controller.log.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def test_every_event_says_who_asked_for_it(recorded):
    """People by the name of their key; the controller by its own."""
    told = {event.kind: event.payload["by"] for event in EventLog(recorded).read("model/m")}
    assert {kind: by for kind, by in told.items() if by != "controller"} == {
        "rollout.started": "ada",
        "rollout.paused": "bob",
        "rollout.resumed": "ada",
        "rollout.approved": "eve",
        "rollout.promote_requested": "eve",
        "model.frozen": "root",
        "model.thawed": "root",
    }
    assert told["rollout.outcome_decided"] == "controller"


def changes(path):
    """Each record: each of its columns edited, deleted, swapped with the next, cut off with the rest."""
    with sqlite3.connect(path) as connection:
        records = connection.execute("SELECT stream, version FROM events").fetchall()
    for stream, version in records:
        here = f"WHERE stream = '{stream}' AND version"
        for column, value in COLUMNS.items():
            yield (
                f"{stream}/{version} {column}",
                [f"UPDATE events SET {column} = {value} {here} = {version}"],
            )
        yield f"{stream}/{version} delete", [f"DELETE FROM events {here} = {version}"]
        yield f"{stream}/{version} truncate", [f"DELETE FROM events {here} >= {version}"]
        if (stream, version + 1) in records:
            yield (
                f"{stream}/{version} swap",
                [
                    f"UPDATE events SET version = -1 {here} = {version}",
                    f"UPDATE events SET version = {version} {here} = {version + 1}",
                    f"UPDATE events SET version = {version + 1} {here} = -1",
                ],
            )


def test_every_change_of_every_record_is_found(recorded, tmp_path):
    """Counted: as many are found as were made, and before them nothing."""
    log = EventLog(recorded)
    assert all(log.verify(stream) for stream in log.streams())
    log.close()
    made, found = tampered(recorded, tmp_path / "copy.db")
    assert found == made > 200


def tampered(recorded, copy):
    """Make every change in a copy of the log; how many were made, and how many were found."""
    made = found = 0
    for _, statements in changes(recorded):
        shutil.copy(recorded, copy)
        with sqlite3.connect(copy) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        made += 1
        log = EventLog(copy)
        try:
            for stream in ("model/m", "policy"):
                log.verify(stream)
        except Tampered:
            found += 1
        finally:
            log.close()
    return made, found
