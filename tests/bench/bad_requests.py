"""Bad input against the real chain, counted: a part of `make prove-serving`.

The corpus over raw sockets, slow and half-sent requests, every route and port that Serve opens,
every class of forged token, and Schemathesis over the OpenAPI document. Writes
``tests/bench/results/serving.json``, section ``bad_requests``.

Usage: ``python -m tests.bench.run tests.bench.bad_requests [--environments FOLDER]``, where FOLDER
keeps the environment with Schemathesis; without it one is made and thrown away.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import time
from pathlib import Path
from typing import Any

from heliostat.access.keys import KeyFile
from tests.bench import schemathesis
from tests.bench.serving import keep
from tests.local import chain_story, raw_sockets
from tests.local.chain import Chain
from tests.unit.access import forged
from tests.unit.serving import bad_input

REFUSED = frozenset({400, 401, 431})
"""What may answer a forged token: the ingress refuses some before anybody reads them."""


def corpus(chain: Chain) -> dict[str, Any]:
    """All of bad input, while slow clients hold what they can."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(chain_story.slow, chain)
        found, slow = chain_story.bad(chain), waiting.result()
    tables = (bad_input.CASES, bad_input.FINE, bad_input.RAW, bad_input.SMUGGLED)
    return {
        "cases": sum(map(len, tables)),
        "wrongly_answered": found["wrong"],
        "statuses": found["seen"],
        "healthy_after": found["healthy"],
        "slow_clients": {
            name: {"closed_after_s": round(took_s, 1), "status": status}
            for name, (took_s, status) in slow.items()
        },
    }


def doors(chain: Chain) -> dict[str, Any]:
    """Ask every route of Serve through the ingress and at each replica's own port."""
    chain.publish(chain.stable("1"), chain.candidate("2"), share=0.5)
    found = chain_story.doors(chain)
    return {
        "applications": sorted(found["routes"]),
        "asked": len(found["asked"]),
        "unguarded": found["unguarded"],
    }


def guard(chain: Chain) -> str:
    """Ask for credentials from now on; return an administrator's key."""
    keys = chain.home / "keys"
    (keys / "issuer.json").write_text(json.dumps({"keys": [forged.jwk(forged.KEY, "k1")]}))
    issuer = {
        "issuer": "https://id.example", "audience": "heliostat", "algorithm": "RS256",
        "jwks": str(keys / "issuer.json"),
    }  # fmt: skip
    (keys / "issuers.json").write_text(json.dumps({"issuers": [issuer]}))
    text, _ = KeyFile(keys, time.time).create("bench", role="admin")
    chain.args["admission"] = "on"
    chain.put()
    chain.wait(lambda: ask_with(chain, "") == [401], timeout_s=120.0)
    chain.wait(lambda: ask_with(chain, forged.signed()) == ask_with(chain, text) == [200])
    # The replica before may still answer for a moment.
    chain.wait(lambda: len(chain.gateways()) == 1, timeout_s=120.0)
    return text


def ask_with(chain: Chain, credential: str) -> list[int]:
    """Ask for a prediction with a credential; the status of each answer."""
    lines = (
        f"content-length: {len(bad_input.GOOD)}", f"authorization: Bearer {credential}",
        "connection: close",
    )  # fmt: skip
    return raw_sockets.statuses(chain.port, bad_input._head(*lines) + bad_input.GOOD)


def tokens(chain: Chain) -> dict[str, Any]:
    """Every class of forged token; a good one before and after."""
    good = [ask_with(chain, forged.signed())]
    answers = {name: ask_with(chain, token) for name, token in forged.forged().items()}
    good.append(ask_with(chain, forged.signed()))
    return {
        "classes": len(answers),
        "let_in": sorted(
            name for name, found in answers.items()
            if len(found) != 1 or found[0] not in REFUSED
        ),
        "by_status": dict(collections.Counter(str(found[0]) for found in answers.values())),
        "good_ones": good,
    }  # fmt: skip


def main() -> None:
    """Run all with one chain; keep the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ports")
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--examples", type=int, default=50, help="of Schemathesis, per operation")
    asked = parser.parse_args()
    program = schemathesis.program(asked.environments or asked.folder / "environments")
    ports = [int(port) for port in asked.ports.split(",")]
    with Chain(asked.folder, ports) as chain:
        chain.serve()
        found: dict[str, Any] = {"corpus": corpus(chain), "doors": doors(chain)}
        chain.publish(chain.stable("1"))
        key = guard(chain)
        found["forged_tokens"] = tokens(chain)
        found["schemathesis"] = schemathesis.runs(
            chain, program, key, asked.folder, examples=asked.examples
        )
        found["healthy_after_all"] = chain.is_ready()
    keep("bad_requests", {**found, "load_average": round(os.getloadavg()[0], 1)})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
