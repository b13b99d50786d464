"""Judge files, mutations and broken manifests; run the rendered service and job on this machine.

``make prove-clusters``, which runs both parts; ``PARTS=judge`` or ``PARTS=loopback`` runs one and
keeps what the file says of the other.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT)]

from heliostat.clusters import check, render  # noqa: E402
from heliostat.clusters.document import Document  # noqa: E402
from heliostat.clusters.recipe import TARGETS  # noqa: E402
from heliostat.testing import pods  # noqa: E402
from tests.bench import results  # noqa: E402

RESULT = ROOT / "tests" / "bench" / "results" / "clusters.json"
PARTS = ("judge", "loopback")
ROUNDS = 5
NUM_BROKEN = 5_000
JUNK = (None, True, 3, 2**40, "", "x", [], {}, [None], {"a": [1]}, 1.5, -1, ["a"], {"": None})


def main() -> int:
    """Measure, write the results file; 1 where a rule fell over or the story did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS)
    chosen = parser.parse_args().parts or list(PARTS)
    result = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    if "judge" in chosen:
        result |= judge()
    if "loopback" in chosen:
        result["loopback"] = loopback()
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    fallen = result["broken_manifests"]["rules_that_fell_over"]
    return int(fallen > 0 or not result["property"]["passed"])


def machine() -> dict[str, object]:
    """Commit and size of the machine."""
    return {"commit": results.commit(), "cores": len(os.sched_getaffinity(0))}


def loopback() -> dict[str, object]:
    """What was seen where the rendered service and job ran as Ray processes of this machine."""
    if reason := pods.why_not():
        raise SystemExit(f"no loopback proof here: {reason}")
    with tempfile.TemporaryDirectory(prefix="hl-", dir="/tmp") as folder:
        done = subprocess.run(
            pods.isolated([sys.executable, "-m", "tests.local.clusters_story", folder]),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return {**machine(), **json.loads(done.stdout.splitlines()[-1])}


def judge() -> dict[str, object]:
    """What the checks say of sound, faulty and broken manifests."""
    seconds = hundred_files()
    num_faults = broken()
    return {
        "command": "make prove-clusters",
        **machine(),
        "hundred_files": {
            "rounds": ROUNDS,
            "seconds": [round(item, 2) for item in seconds],
            "median_s": round(statistics.median(seconds), 2),
            "slowest_s": round(max(seconds), 2),
        },
        "broken_manifests": {"seed": 1, "judged": NUM_BROKEN, "rules_that_fell_over": num_faults},
        "mutations": mutations(),
        "property": property_test(),
    }


def documents() -> list[Document]:
    """Every object of the four committed targets."""
    folders = ("foundation", "queues", "platform", "ray", "jobs")
    return [
        item
        for target in TARGETS
        for item in check.read_bundle(
            [ROOT / "cluster_configs" / target / name for name in folders]
        ).documents
        if item.kind != "Kustomization"
    ]


def hundred_files() -> list[float]:
    """Seconds of whole processes: `heliostat cluster check` on 100 RayClusters."""
    (cluster, *_) = [item for item in documents() if item.kind == "RayCluster"]
    text = render.to_yaml(cluster.body)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(100):
            name = f"name: {cluster.name}\n"
            changed = text.replace(name, f"name: cluster-{number}\n", 1)
            (Path(folder) / f"{number}.yaml").write_text(changed, encoding="utf-8")
        for _ in range(ROUNDS):
            started = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "heliostat", "cluster", "check", folder],
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            found.append(time.monotonic() - started)
    return found


def broken() -> int:
    """Put junk at one to three places of an object, thousands of times; count rules that raise."""
    chance = random.Random(1)
    chosen = documents()
    fallen = 0
    for _ in range(NUM_BROKEN):
        body = copy.deepcopy(dict(chance.choice(chosen).body))
        for _ in range(chance.randint(1, 3)):
            path = chance.choice([path for path in places(body) if path])
            node = body
            for step in path[:-1]:
                node = node[step]
            node[path[-1]] = copy.deepcopy(chance.choice(JUNK))
        options = check.Options(is_whole=True)
        report = check.check_documents([Document(file="f", body=body)], options)
        fallen += any(item.check == "check.fault" for item in report.findings)
    return fallen


def places(value, path=()):
    """Every path into a value."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def property_test() -> dict[str, object]:
    """Hypothesis at full size: 2,000 manifests of its choice, judged whole."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "proof", "tests/unit/clusters"],
        cwd=ROOT,
        check=False,
        stdout=subprocess.DEVNULL,
    )
    seconds = round(time.monotonic() - began, 1)
    return {"examples": 2_000, "passed": done.returncode == 0, "seconds": seconds}


def mutations() -> dict[str, int]:
    """Planted faults and how many of them their check named."""
    from tests.unit.clusters import test_mutations as planted

    caught = 0
    for mutation in planted.MUTATIONS:
        items = list(planted.rendered())
        index = planted.target(mutation)
        body = planted.apply(items[index].body, mutation.changes)
        items[index] = Document(file=items[index].file, body=body)
        judged = items if mutation.is_whole else [items[index]]
        caught += mutation.check in planted.checks_of(judged, is_whole=mutation.is_whole)
    return {"planted": len(planted.MUTATIONS), "caught": caught}


if __name__ == "__main__":
    sys.exit(main())
