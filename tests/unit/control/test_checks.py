"""Checks outside: a real Prometheus and a real HTTP server; what fails out there only holds."""

from __future__ import annotations

import pytest

from heliostat.access import signature
from heliostat.control import commands
from heliostat.control.checks import Checks, ask
from heliostat.errors import ConfigError
from heliostat.rollout.allowed import Check
from heliostat.rollout.plan import RolloutPlan
from tests.unit.control.receiver import Receiver
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World
from tests.unit.prometheus import PROGRAM, Server

KEY = b"k" * 64
LEAST = {"model": "m", "candidate": "2"}


@pytest.fixture
def it(tmp_path):
    it = World(str(tmp_path / "state.db"), {"1": WORSE_FIT, "2": GOOD})
    checks = it.controller.checks = Checks(KEY, it.clock)
    it.deploy("1")
    yield it
    checks.close()


def begin(it, *checks, **more):
    return commands.start(it.controller, {**LEAST, "checks": list(checks), **more}, None)


def seconds(it, number):
    for _ in range(number):
        rollout = it.controller.state("m").rollout
        if rollout is None:
            return
        it.controller.checks.refresh(rollout, wait=True)
        it.second()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A real server that scrapes itself; it can be stopped and started."""
    if PROGRAM is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    server = Server(tmp_path_factory.mktemp("prometheus"))
    server.start()
    yield server
    server.stop()


def query(server, text, **limits):
    check = Check(name="c", url=server.url, query=text, **limits)
    return ask(check, None, KEY, 1.0)


def test_a_query_of_a_real_prometheus_passes_or_fails_by_its_number(prometheus):
    """One number is compared; none, several or not a number decide nothing; nonsense is an error."""
    good = query(prometheus, "vector(3)", at_most=4.0)
    assert (good.verdict, good.value, good.because) == ("pass", 3.0, "vector(3) is 3")
    bad = query(prometheus, "scalar(vector(3))", at_most=2.0)
    assert (bad.verdict, bad.because) == (
        "fail", "scalar(vector(3)) is 3, at most 2 is allowed",
    )  # fmt: skip
    assert query(prometheus, "vector(3)", at_least=4.0).verdict == "fail"
    assert query(prometheus, "nothing_like_this", at_most=1.0).verdict == "inconclusive"
    assert query(prometheus, "vector(0)/0", at_most=1.0).verdict == "inconclusive"
    wrong = query(prometheus, "sum(", at_most=1.0)
    assert wrong.verdict == "error"
    assert "status 400" in wrong.because


def test_prometheus_down_in_the_middle_holds_the_rollout_for_as_long(prometheus, it):
    """Five minutes by the rollout's clock: no promotion, no rollback; then it goes on."""
    check = {"name": "up", "url": prometheus.url, "query": "vector(1)", "at_least": 1, "every_s": 5}
    begin(it, {**check, "timeout_s": 1})
    seconds(it, 4)
    prometheus.stop()
    seconds(it, 300)
    held = it.last()
    assert held.outcome is None
    assert held.percent < 100
    decision = it.controller.decision(held.rollout_id)
    assert "up is error: http://127.0.0.1" in decision.because

    prometheus.start()
    seconds(it, 120)
    assert it.last().outcome == "promoted"


def test_an_address_is_told_the_rollout_with_a_signature_and_may_take_it_back(it):
    """The receiver can prove who asks; its fail is a fail."""
    with Receiver() as receiver:
        receiver.answer = {"verdict": "inconclusive", "because": "looking"}
        rollout = begin(it, {"name": "people", "url": receiver.url, "every_s": 5})
        seconds(it, 30)
        assert it.last().percent == 5.0
        headers, body = receiver.posts[0]
        now = it.clock()
        header = headers[signature.HEADER]
        assert signature.verify(KEY, header, body, now)
        assert not signature.verify(KEY, header, body + b" ", now)
        assert not signature.verify(b"other", header, body, now)
        assert not signature.verify(KEY, header, body, now + 301)
        assert not signature.verify(KEY, "t=x,v1=", body, now)
        assert rollout.rollout_id.encode() in body

        receiver.answer = {"verdict": "fail", "because": "the call centre is busy"}
        seconds(it, 10)
    assert it.last().outcome == "rolled_back"
    assert it.last().because == "people: the call centre is busy"


@pytest.mark.parametrize(
    ("status", "answer", "verdict"),
    [
        (200, "fine", "pass"),
        (200, {"verdict": "pass"}, "pass"),
        (200, {"verdict": "maybe"}, "error"),
        (204, "", "error"),
        (404, "", "error"),
        (500, {"verdict": "fail"}, "error"),
    ],
)
def test_only_a_clear_answer_counts(status, answer, verdict):
    """Whatever else comes back is an error, and an error holds."""
    with Receiver() as receiver:
        receiver.status, receiver.answer = status, answer
        it = RolloutPlan(**LEAST)
        check = Check(name="c", url=receiver.url)
        found = ask(check, state_of(it), KEY, 1.0)
    assert found.verdict == verdict


def state_of(plan):
    from heliostat.rollout.state import RolloutState

    return RolloutState(rollout_id="m-1", plan=plan, stable="1", started_at=0.0)


def test_a_check_that_was_never_asked_holds(it):
    """A controller that cannot ask must not promote."""
    it.controller.checks = None
    begin(it, {"name": "people", "url": "http://127.0.0.1:1/"})
    for _ in range(30):
        it.second()
    assert it.last().percent == 5.0
    assert it.controller.decision(it.last().rollout_id).because == (
        "people is inconclusive: was not asked yet"
    )


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"name": "c", "url": "ftp://x"}, "plan.checks.c.url = 'ftp://x': must be an http"),
        ({"name": "errors", "url": "http://x"}, "plan.checks.name = 'errors': must be a name of"),
        ({"name": "c", "url": "http://x", "query": "up"}, "plan.checks.c.query = 'up': needs at_"),
        ({"name": "c", "url": "http://x", "at_most": 1}, "plan.checks.c.query = None: needs at_"),
        ({"name": "c", "url": "http://x", "every_s": 0}, "plan.checks.c.every_s = 0.0: must be"),
        ({"name": "c"}, "plan.checks.url = None: must be given"),
    ],
)
def test_a_check_that_cannot_be_meant_is_refused(check, message):
    """With its place, value and rule."""
    with pytest.raises(ConfigError) as caught:
        RolloutPlan.from_dict({**LEAST, "checks": [check]})
    assert str(caught.value).startswith(message)
