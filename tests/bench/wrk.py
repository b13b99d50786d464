"""Runs `wrk` from Debian and reads what it prints; the same body, one thread, kept connections."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCRIPT = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["Content-Type"] = "application/json"
{headers}
done = function(summary, latency, requests)
  io.write(string.format(
    '\\nRESULT {{"requests": %d, "errors": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f}}\\n',
    summary.requests,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status
      + summary.errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


def available() -> bool:
    """Whether wrk is installed; it is a Debian package of that name."""
    return shutil.which("wrk") is not None


def run(
    folder: Path,
    url: str,
    body: bytes,
    *,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Load one address for whole seconds; returns requests per second and latencies.

    Raises:
        RuntimeError: wrk failed or answered nothing that can be read.
    """
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in (headers or {}).items()]
    script = folder / "wrk.lua"
    script.write_text(SCRIPT.format(body=body.decode(), headers="\n".join(lines)))
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(script), url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk: {done.stdout[-500:]} {done.stderr[-500:]}")
    result: dict[str, float] = json.loads(found[1])
    result["per_s"] = result["requests"] / result["seconds"]
    return result


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and range, with the values themselves."""
    rounded = [round(value, 4) for value in values]
    return {
        "median": round(statistics.median(values), 4),
        "least": min(rounded),
        "most": max(rounded),
        "rounds": rounded,
    }
