"""The REST interface over a real controller, its loop and fakes of the outside."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

from heliostat.access.seal import Seal
from heliostat.control.api import ControlApp
from heliostat.control.controller import Controller
from heliostat.control.loop import Loop
from heliostat.rollout.plan import RolloutPlan
from heliostat.serving.forward import sealed
from heliostat.store.events import EventLog
from heliostat.store.leases import Leases
from heliostat.testing.plane import FakePlane, FakeVersions
from heliostat.testing.traffic import Behaviour, Traffic

SEAL = Seal(b"k" * 32)
PLAN = RolloutPlan(model="m", candidate="2", steps_percent=(50, 100)).to_dict()


class Client:
    """Sends requests into the application, in an event loop of its own as Serve would."""

    def __init__(self, path):
        self.plane = FakePlane()
        controller = Controller(
            EventLog(path), Leases(path), self.plane, FakeVersions(), holder="one"
        )
        self.app = ControlApp(controller, Loop(controller), SEAL)
        self.events = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.events.run_forever)
        self.thread.start()
        self.inbox: asyncio.Queue = asyncio.Queue()
        self.life = asyncio.run_coroutine_threadsafe(
            self.app({"type": "lifespan"}, self.inbox.get, self._told), self.events
        )
        self.told: list[str] = []
        self._tell("lifespan.startup")

    async def _told(self, message):
        self.told.append(message["type"])

    def _tell(self, kind):
        self.events.call_soon_threadsafe(self.inbox.put_nowait, {"type": kind})

    def close(self):
        self._tell("lifespan.shutdown")
        self.life.result(10)
        assert self.told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        self.events.call_soon_threadsafe(self.events.stop)
        self.thread.join()
        self.events.close()

    def __call__(self, method, path, body=None, headers=None):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
        }
        sent = []

        async def receive():
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run_coroutine_threadsafe(self.app(scope, receive, send), self.events).result(30)
        return sent[0]["status"], json.loads(sent[1]["body"])

    def until_ended(self, rollout_id, act=lambda: None):
        for _ in range(200):
            act()
            _, rollout = self("GET", f"/v1/rollouts/{rollout_id}")
            if rollout["ended_at"]:
                return rollout
            time.sleep(0.05)
        raise AssertionError(rollout)


@pytest.fixture
def client(tmp_path):
    client = Client(tmp_path / "state.db")
    yield client
    client.close()


def test_a_deployment_answers_once_gateways_obey_and_repeats_safely(client):
    """The same key again deploys nothing again."""
    key = {"idempotency-key": "k1"}
    first = client("POST", "/v1/deployments", {"model": "m", "version": "1"}, key)
    again = client("POST", "/v1/deployments", {"model": "m", "version": "1"}, key)

    assert first == again == (200, {"model": "m", "version": "1", "epoch": 1})
    assert client("GET", "/v1/status") == (
        200,
        {
            "leads": True,
            "epoch": 1,
            "models": {
                "m": {
                    "stable": "1",
                    "shares_percent": {"1": 100.0},
                    "requests_per_s": None,
                    "rollout": None,
                    "deployment": None,
                }
            },
        },
    )


def test_a_rollout_is_started_fed_and_told_about(client):
    """From the plan to the promotion over HTTP alone, with every number in the account of it."""
    client("POST", "/v1/deployments", {"model": "m", "version": "1"})
    status, begun = client("POST", "/v1/rollouts", {"plan": PLAN}, {"idempotency-key": "r"})
    assert (status, begun["state"]) == (201, "starting")
    assert client("POST", "/v1/rollouts", {"plan": PLAN}, {"idempotency-key": "r"})[0] == 201
    traffic = Traffic({"1": Behaviour(noise=0.8), "2": Behaviour()}, requests_per_s=1000)

    def second():
        policy = client.plane.policy
        report, labels = traffic.second(policy.models["m"], policy.epoch)
        body = json.dumps([report.to_dict()]).encode()
        assert client("POST", "/v1/evidence", body, sealed(SEAL, "evidence", 0, body))[0] == 200
        rows = [{"request_id": name, "label": label} for name, label in labels]
        assert client("POST", "/v1/labels", rows)[0] == 200

    rollout = client.until_ended(begun["id"], second)

    assert (rollout["state"], rollout["share_percent"]) == ("promoted", 100.0)
    assert [event["kind"] for event in rollout["events"]] == [
        "rollout.started",
        "rollout.candidate_started",
        "rollout.step_decided",
        "rollout.step_reached",
        "rollout.step_decided",
        "rollout.step_reached",
        "rollout.outcome_decided",
        "rollout.traffic_moved",
        "rollout.ended",
    ]
    reasons = [event["reason"] for event in rollout["events"]]
    assert reasons[:4] == [
        "version 2 against stable 1: 50, 100 %",
        "version 2 answers at http://127.0.0.1:8000/variants/m/2",
        "candidate 2 is up; first step 50 %",
        "version 2 has 50 % of the units",
    ]
    assert reasons[-3].startswith("all gates pass at 100 % after ")
    assert reasons[-2] == "version 2 answers everything, in the gateway's own process"
    assert {gate["gate"]: gate["verdict"] for gate in rollout["gates"]} == {
        "split": "pass",
        "errors": "pass",
        "latency": "pass",
        "loss": "pass",
    }
    stable, candidate = rollout["variants"]["stable"], rollout["variants"]["candidate"]
    assert candidate["log_loss"] < stable["log_loss"]
    assert candidate["requests"] >= 600
    assert 3 < candidate["latency_ms"]["p50"] < 5 < candidate["latency_ms"]["p95"]
    assert client("GET", "/v1/rollouts")[1]["rollouts"][0]["id"] == begun["id"]


def test_an_abort_gives_all_traffic_back_and_may_be_repeated(client):
    """Also after the rollout has ended."""
    client("POST", "/v1/deployments", {"model": "m", "version": "1"})
    rollout_id = client("POST", "/v1/rollouts", {"plan": PLAN})[1]["id"]
    assert client("POST", f"/v1/rollouts/{rollout_id}/abort", {"because": "lunch"})[0] == 200

    rollout = client.until_ended(rollout_id)

    assert (rollout["state"], rollout["because"]) == ("aborted", "aborted: lunch")
    assert client("POST", f"/v1/rollouts/{rollout_id}/abort")[1]["state"] == "aborted"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("GET", "/v1/nothing", None, 404, "path = '/v1/nothing': is not known"),
        ("GET", "/v1/labels", None, 405, "method = GET: must be POST"),
        (
            "GET",
            "/v1/rollouts/m-9",
            None,
            404,
            "rollout = 'm-9': must be the id of a rollout, or a model that had one; GET /v1/rollouts lists all",
        ),
        (
            "POST",
            "/v1/deployments",
            {"model": "m", "version": "9"},
            422,
            "version of m = '9': must be a registered version",
        ),
        (
            "POST",
            "/v1/deployments",
            {"model": "m", "versoin": "1"},
            422,
            "body.versoin = '1': is not known; did you mean 'version'?",
        ),
        (
            "POST",
            "/v1/rollouts",
            {"plan": {**PLAN, "steps_percent": [50, 5]}},
            422,
            (
                "plan.steps_percent = (50.0, 5.0): must rise at every step, from 0 or above to 100; "
                "5 follows 50"
            ),
        ),
        (
            "POST",
            "/v1/rollouts",
            {"plan": PLAN},
            422,
            "plan.model = 'm': must have a stable version. Deploy one: POST /v1/deployments",
        ),
        ("POST", "/v1/labels", {"a": 1}, 400, None),
        ("POST", "/v1/labels", b"{", 400, None),
        (
            "POST",
            "/v1/evidence",
            [],
            403,
            "evidence: must carry the seal of a gateway of this platform",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_value_and_rule(client, method, path, body, status, error):
    """As JSON, with the status that tells whose turn it is."""
    answered, raw = client(method, path, body)

    assert answered == status
    assert set(raw) == {"error"}
    assert error is None or raw["error"] == error


def test_a_model_has_one_rollout_at_a_time(client):
    """The second is refused and told which one is in the way."""
    client("POST", "/v1/deployments", {"model": "m", "version": "1"})
    rollout_id = client("POST", "/v1/rollouts", {"plan": PLAN})[1]["id"]

    assert client("POST", "/v1/rollouts", {"plan": {**PLAN, "candidate": "3"}}) == (
        409,
        {"error": f"plan.model = 'm': must have no other rollout; {rollout_id} is running"},
    )
