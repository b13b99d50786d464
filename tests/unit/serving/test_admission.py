"""Who is let in: the whole table of routes and roles, limits over replicas, the bound socket."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat.access.roles import ROLES
from heliostat.serving import routes
from heliostat.serving.listening import is_reachable
from heliostat.serving.plane import Plane
from heliostat.serving.sharing import share_rates
from heliostat.testing.clock import Clock
from tests.unit.serving.conftest import Bench, Reply, ask, by_inputs

INFER = "/v2/models/shapes/infer"


@pytest.fixture
def guarded(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path / "home", settings={"admission": "on"})
    asyncio.run(bench.gateway.policies.activate(bench.policy(1, bench.stable("1"))))
    return bench


def key(bench: Bench, **options: Any) -> str:
    text, _ = bench.keys.create("test", **options)
    bench.door.look()
    return text


def send(bench: Bench, credential: str | None = None, path: str = INFER, **more: Any) -> Reply:
    headers = dict(more.pop("headers", {}))
    if credential is not None:
        headers["authorization"] = f"Bearer {credential}"
    body = more.pop("body", by_inputs(1.0, "red"))
    reply: Reply = asyncio.run(ask(bench.gateway, path, body, headers=headers, **more))
    return reply


def asked(bench: Bench, route: routes.Route, credential: str | None) -> int:
    path = route.path.replace("{model}", "shapes").replace("{version}", "1")
    body = by_inputs(1.0, "red") if route.method == "POST" else None
    if "invocations" in route.action:
        body = {"dataframe_records": [{"size": 1.0, "colour": "red"}]}
    return send(bench, credential, path, body=body, method=route.method).status


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda route: route.action)
def test_every_route_asks_for_its_role_and_no_other(guarded: Bench, route: routes.Route) -> None:
    """Without a credential only what is on the short list; with one, what the role may do."""
    may = {role: asked(guarded, route, key(guarded, role=role)) for role in ROLES}

    open_to_all = {"server", "live", "ready", "openapi", "ping", "model_ready", "version_ready"}
    assert asked(guarded, route, None) == (200 if route.action in open_to_all else 401)
    least = ROLES.index(route.role or ROLES[0])
    assert may == {role: 200 if rank >= least else 403 for rank, role in enumerate(ROLES)}


def test_a_refusal_says_what_is_needed_and_shows_no_credential(guarded: Bench) -> None:
    """With the challenge that HTTP asks for."""
    reply = send(guarded, "hs_aaaaaaaa_" + "s" * 43)

    assert (reply.status, reply.headers["www-authenticate"]) == (401, 'Bearer realm="heliostat"')
    assert "ssss" not in json.dumps(reply.body)


def test_a_key_may_come_in_its_own_header(guarded: Bench) -> None:
    """As many clients send it."""
    reply = send(guarded, headers={"x-api-key": key(guarded)})
    wrong = send(guarded, headers={"authorization": f"Basic {key(guarded)}"})

    assert (reply.status, wrong.status) == (200, 401)


def test_a_key_for_some_models_is_for_no_other(guarded: Bench) -> None:
    """Also where the path does not name the model."""
    credential = key(guarded, models=("other",))
    body = {"dataframe_records": [{"size": 1.0, "colour": "red"}]}

    assert send(guarded, credential).status == 403
    assert send(guarded, credential, "/invocations", body=body).status == 403


def test_naming_a_version_takes_the_role_operate(guarded: Bench) -> None:
    """Whether by path or by header."""
    headers = {"x-heliostat-version": "1"}

    assert send(guarded, key(guarded), headers=headers).status == 403
    reply = send(guarded, key(guarded, role="operate"), headers=headers)
    assert (reply.status, reply.headers["x-heliostat-version"]) == (200, "1")


def test_a_revoked_key_ends_with_the_next_look(guarded: Bench) -> None:
    """Gateways look at the file several times a second."""
    credential = key(guarded)
    before = send(guarded, credential).status
    guarded.keys.revoke(credential.split("_")[1])
    guarded.door.look()

    assert (before, send(guarded, credential).status) == (200, 401)


def test_a_key_file_that_cannot_be_trusted_lets_nobody_in(guarded: Bench) -> None:
    """Nobody can say then which keys were revoked."""
    credential = key(guarded)
    path = guarded.root / "keys" / "api_keys.json"
    path.chmod(0o644)
    path.write_text(path.read_text() + " ")
    guarded.door.look()

    assert send(guarded, credential).status == 401


@pytest.mark.parametrize(
    ("mode", "insecure", "reachable", "status"),
    [
        ("auto", False, False, 200),
        ("auto", False, True, 401),
        ("auto", False, None, 401),
        ("auto", True, True, 401),
        ("on", False, False, 401),
        ("off", False, False, 200),
        ("off", False, True, 503),
        ("off", False, None, 503),
        ("off", True, True, 200),
    ],
)
def test_only_loopback_is_open_unless_somebody_insists(
    tmp_path: Path, mode: str, insecure: bool, reachable: bool | None, status: int
) -> None:
    """Decided by the sockets that are really bound; open elsewhere needs `insecure`."""
    bench = Bench(
        tmp_path / "home",
        settings={"admission": mode, "insecure": insecure},
        reachable=reachable,
    )
    asyncio.run(bench.gateway.policies.activate(bench.policy(1, bench.stable("1"))))

    assert send(bench).status == status
    ready = send(bench, path="/v2/health/ready", body=None, method="GET").status
    assert ready == (503 if status == 503 else 200)


def test_beyond_its_rate_a_caller_is_told_when_to_come_again(guarded: Bench) -> None:
    """The burst passes, the next is refused, and after Retry-After it passes."""
    credential = key(guarded, rate_per_s=2.0, burst=3)
    replies = [send(guarded, credential) for _ in range(5)]
    guarded.now += float(replies[-1].headers["retry-after"])

    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    assert send(guarded, credential).status == 200
    assert send(guarded, key(guarded)).status == 200


def test_a_rate_holds_over_all_replicas(tmp_path: Path) -> None:
    """Two gateways, five times the rate offered to one and a little to the other."""
    clock = Clock(0.0)
    plane = Plane(clock)
    benches = [
        Bench(tmp_path / name, settings={"admission": "on", "num_replicas": 2}) for name in "ab"
    ]
    for bench in benches:
        asyncio.run(bench.gateway.policies.activate(bench.policy(1, bench.stable("1"))))
    text = key(benches[0], rate_per_s=20.0, burst=1)
    for name in ("api_keys.json", "api_keys.pepper"):
        (benches[1].root / "keys" / name).write_bytes(
            (benches[0].root / "keys" / name).read_bytes()
        )
        (benches[1].root / "keys" / name).chmod(0o600)
    benches[1].door.look()

    passed = offered = 0
    for tick in range(2_000):
        now = tick / 100
        clock.advance(0.01)
        for number, bench in enumerate(benches):
            bench.now = now
            if tick % 50 == 0:
                asyncio.run(share_rates(bench.door, Joined(plane, f"g{number}")))
            if number == 0 or tick % 50 == 1:
                offered += 1
                passed += send(bench, text).status == 200
    assert offered == 2_040
    seconds = 20
    assert 0.9 * 20.0 * seconds <= passed <= 1.05 * 20.0 * seconds


def test_without_a_control_plane_each_replica_has_an_equal_share(guarded: Bench) -> None:
    """Never no limit."""
    asyncio.run(share_rates(guarded.door, guarded.rates))
    credential = key(guarded, rate_per_s=10.0, burst=1)
    guarded.door._num_replicas = 2
    send(guarded, credential)
    passed = 0
    for tick in range(1_000):
        guarded.now += 0.01
        if tick % 50 == 0:
            asyncio.run(share_rates(guarded.door, guarded.rates))
        passed += send(guarded, credential).status == 200
    assert math.isclose(passed, 50, abs_tol=6)


class Joined:
    """A rate source that asks a plane of this process."""

    def __init__(self, plane: Plane, gateway: str) -> None:
        self._plane, self._gateway = plane, gateway

    async def divide(self, wanted: Any) -> Any:
        return await self._plane.divide(self._gateway, wanted)


@pytest.fixture
def proc(tmp_path: Path) -> Callable[..., Path]:
    def write(*sockets: tuple[str, int, str], own: tuple[str, ...] = ()) -> Path:
        (tmp_path / "net").mkdir()
        (tmp_path / "self" / "fd").mkdir(parents=True)
        head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n"
        for name, length in (("tcp", 8), ("tcp6", 32)):
            lines = [
                f"   0: {address}:{port:04X} 00000000:0000 0A 00:00 00:00 00 0 0 {inode} 1\n"
                for address, port, inode in sockets
                if len(address) == length
            ]
            (tmp_path / "net" / name).write_text(head + "".join(lines))
        for number, inode in enumerate(own):
            (tmp_path / "self" / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        return tmp_path

    return write


V6_ANY = "0" * 32
V6_LOOPBACK = "00000000000000000000000001000000"
MAPPED = "0000000000000000FFFF00000100007F"


@pytest.mark.parametrize(
    ("sockets", "own", "expected"),
    [
        ([], (), None),
        ([("0100007F", 8000, "1")], (), False),
        ([("00000000", 8000, "1")], (), True),
        ([("0100007F", 8000, "1"), (V6_ANY, 8000, "2")], (), True),
        ([(V6_LOOPBACK, 8000, "1")], (), False),
        ([(MAPPED, 8000, "1")], (), False),
        ([("0100007F", 8000, "1"), ("0500000A", 30001, "7")], (), False),
        ([("0100007F", 8000, "1"), ("0500000A", 30001, "7")], ("7",), True),
        ([("00000000", 9000, "1")], ("1",), None),
    ],
)
def test_the_kernel_says_who_could_connect(proc, sockets, own, expected) -> None:
    """The ingress' port, whoever holds it, and this process's own direct port."""
    assert is_reachable(8000, range(30000, 31001), proc(*sockets, own=own)) is expected


def test_the_real_kernel_is_read_as_well() -> None:
    """A socket of this very process, on loopback and then on every address."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert is_reachable(server.getsockname()[1], range(1, 2)) is False
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert is_reachable(server.getsockname()[1], range(1, 2)) is True
