"""Events told to addresses outside: signed, in order, none lost over failures and restarts."""

from __future__ import annotations

import json

import pytest

from heliostat.access import signature
from heliostat.control import commands, hooks
from heliostat.errors import ConfigError
from heliostat.store.events import EventLog
from tests.unit.control.receiver import Receiver
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World

KEY = b"k" * 64


@pytest.fixture
def it(tmp_path):
    it = World(str(tmp_path / "state.db"), {"1": WORSE_FIT, "2": GOOD})
    it.deploy("1")
    return it


def courier(it, *found):
    return hooks.Courier(EventLog(it.path, clock=it.clock), lambda: found, KEY, it.clock)


def kinds(receiver):
    return [
        event["kind"] for _, body in receiver.posts for event in json.loads(body)["events"]
    ]  # fmt: skip


def test_every_event_reaches_its_receiver_once_and_in_order(it):
    """By kind, signed, without the bulky evidence; a restart repeats nothing."""
    with Receiver() as receiver:
        hook = hooks.Hook(name="chat", url=receiver.url, kinds=("rollout.",))
        first = courier(it, hook)
        commands.start(it.controller, {"model": "m", "candidate": "2"}, None, "ada")
        first.deliver(it.controller.fence())
        it.run(120)
        second = courier(it, hook)
        while second.deliver(it.controller.fence()):
            pass
        log = [e for e in it.controller.log.read("model/m") if e.kind.startswith("rollout.")]

        assert kinds(receiver) == [event.kind for event in log]
        for headers, body in receiver.posts:
            assert signature.verify(KEY, headers[signature.HEADER], body, it.clock())
            for event in json.loads(body)["events"]:
                assert not {"evidence", "verdicts", "plan"} & set(event)
        started = json.loads(receiver.posts[0][1])["events"][0]
        assert (started["by"], started["id"]) == ("ada", f"model/m/{log[0].version}")


def test_a_receiver_that_fails_is_asked_again_and_holds_up_nobody(it):
    """With growing pauses, from where it stopped."""
    with Receiver() as good, Receiver() as bad:
        bad.status = 500
        both = [hooks.Hook(name="bad", url=bad.url), hooks.Hook(name="good", url=good.url)]
        sender = courier(it, *both)
        for _ in range(8):
            sender.deliver(it.controller.fence())
            it.clock.advance(1.0)
        assert kinds(good) == ["deployment.requested", "deployment.done"]
        assert len(bad.posts) == 4  # after 0, 1, 3 and 7 seconds

        bad.status = 200
        bad.posts.clear()
        it.clock.advance(60.0)
        sender.deliver(it.controller.fence())
        assert kinds(bad) == ["deployment.requested", "deployment.done"]


def test_a_controller_that_lost_the_lease_writes_no_cursor(it):
    """What it sent is sent again by the one that leads: at least once."""
    with Receiver() as receiver:
        old = it.controller.fence()
        it.clock.advance(6.0)
        it.begin()
        hook = hooks.Hook(name="chat", url=receiver.url)
        with pytest.raises(Exception, match="is stale"):
            courier(it, hook).deliver(old)
        courier(it, hook).deliver(it.controller.fence())
        assert len(receiver.posts) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("{}", "hooks.json = {}: must be a list of hooks"),
        ('[{"name": "a"}]', "hooks.url = None: must be given"),
        ('[{"name": "a", "url": "x"}]', "hooks.a.url = 'x': must be an http or https URL"),
        ('[{"name": "a", "ulr": "x"}]', "did you mean 'url'?"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text, message):
    """With its place, value and rule; no file means no receivers."""
    assert hooks.read(tmp_path / "hooks.json") == ()
    (tmp_path / "hooks.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        hooks.read(tmp_path / "hooks.json")
    assert message in str(caught.value)
