"""The corpus of bad input against the gateway, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.serving import openapi, routes
from tests.unit.serving.bad_input import CASES, FINE, GOOD, Case
from tests.unit.serving.conftest import Bench, Reply, ask

DECLARED = {route.action: openapi.statuses(route) for route in routes.ROUTES}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway with one model, and a loop to ask it in."""
    bench = Bench(tmp_path_factory.mktemp("bad") / "home")
    with asyncio.Runner() as runner:
        runner.run(bench.gateway.policies.activate(bench.policy(1, bench.stable("1"))))

        def send(case: Case) -> Reply:
            headers = {"content-length": str(len(case.body)), **case.headers}
            reply: Reply = runner.run(
                ask(
                    bench.gateway, case.path, method=case.method, headers=headers,
                    pieces=[case.body],
                )
            )  # fmt: skip
            return reply

        yield send


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_the_clients_fault_and_told_so(served: Any, case: Case) -> None:
    """With one of the statuses meant for it, never 5xx, and JSON with one field."""
    reply = served(case)

    assert reply.status in case.statuses
    if reply.status != 200:
        assert list(reply.body) == ["error"]
        assert len(reply.body["error"]) < 1_000
        assert case.error in reply.body["error"]


@pytest.mark.parametrize("case", FINE, ids=lambda case: case.name)
def test_what_is_only_odd_is_answered(served: Any, case: Case) -> None:
    """A refusal would be our fault."""
    assert served(case).status == 200


def test_the_corpus_is_not_small() -> None:
    """About 120 cases are asked for; a table that shrinks unseen proves nothing."""
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)


PATHS = st.sampled_from(
    [route.path.replace("{model}", "shapes").replace("{version}", "1") for route in routes.ROUTES]
)
BODIES = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda at, raw: GOOD[:at] + raw + GOOD[at + len(raw) :],
        st.integers(0, len(GOOD)),
        st.binary(max_size=8),
    ),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "content-encoding", "inference-header-content-length", "x-heliostat-unit",
            "x-heliostat-request-id", "x-heliostat-at", "x-heliostat-version", "content-type",
        ]
    ),
    st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=12),
    max_size=3,
)  # fmt: skip


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(PATHS, st.sampled_from(["GET", "POST"]), BODIES, HEADERS)
def test_any_bytes_to_any_route_get_a_declared_status(
    served: Any, path: str, method: str, body: bytes, headers: dict[str, str]
) -> None:
    """The OpenAPI document is the list of what may happen; 5xx is never one of them here."""
    reply = served(Case("any", body, path=path, method=method, headers=headers))

    declared = set().union(*DECLARED.values())
    assert reply.status in declared
    assert reply.status < 500
