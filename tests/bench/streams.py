"""Long proofs of streams: nothing lost or doubled under kills, and how fresh the online store is.

``make prove-streams``, or parts of it: ``make prove-streams STREAMS="--events 100000 --only redis"``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from heliostat.data.tables import Catalog
from heliostat.errors import Unavailable
from heliostat.features.online import OnlineReader
from heliostat.streams.driver import Driver
from heliostat.streams.kafka_log import KafkaLog
from heliostat.streams.online import SqliteOnline
from heliostat.streams.recipe import AnyLog
from heliostat.streams.redis_log import RedisLog
from heliostat.testing import brokers
from heliostat.testing.redis import RedisServer
from tests.bench import results
from tests.local.stream_story import Story, play
from tests.unit.streams import orders

PARTS = ("redis", "kafka", "latency")
PROBES = [f"probe-{number}" for number in range(50)]
"""Customers whose every event is timed: a twentieth of all."""


@contextmanager
def own_ray() -> Iterator[None]:
    """A Ray of two CPUs for the block."""
    import ray

    folder = tempfile.mkdtemp(prefix="ht-", dir="/tmp")
    path = f"{results.ROOT / 'platform'}:{results.ROOT}"
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=512 * 1024**2, _temp_dir=folder,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis_log(topic: str) -> Iterator[RedisLog]:
    """A topic on a server of its own."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder)
    server.start()
    try:
        yield RedisLog(url=server.url, topic=topic)
    finally:
        server.kill()
        shutil.rmtree(folder)


class Paced(threading.Thread):
    """Sends orders at a rate, and remembers when each of the probes' was sent."""

    def __init__(self, log: AnyLog, rate_per_s: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self._log, self._rate, self._seconds = log, rate_per_s, seconds
        self.sent_at: dict[str, list[float]] = defaultdict(list)
        self.sent = 0

    def run(self) -> None:
        writer = self._log.writer()
        began = time.monotonic()
        while (elapsed_s := time.monotonic() - began) < self._seconds:
            chunk, at = [], time.monotonic()
            while self.sent < elapsed_s * self._rate:
                more: dict[str, Any] = {}
                if self.sent % 20 == 0:
                    more["customer"] = PROBES[self.sent // 20 % len(PROBES)]
                    self.sent_at[more["customer"]].append(at)
                chunk.append(orders.message(self.sent, datetime.now(UTC), customers=1_000, **more))
                self.sent += 1
            if chunk:
                writer.send(chunk)
            time.sleep(0.005)


def latency(log: AnyLog, folder: Path, *, rate_per_s: int, seconds: float) -> dict[str, Any]:
    """Time from the sending of an event to the first read of the online store that counts it."""
    catalog = Catalog(folder / "tables")
    online = SqliteOnline(path=folder / "online.db", project="shop")
    recipe = orders.recipe(log, batch_every_s=0.1, commit_every_s=1.0)
    producer = Paced(log, rate_per_s, seconds)
    driver = Driver(recipe, catalog, online=online)
    stop = threading.Event()
    took: list[tuple[float, float]] = []

    def watch() -> None:
        reader = OnlineReader(online.path, online.project, [orders.VIEW])
        seen = dict.fromkeys(PROBES, 0)
        while not stop.is_set():
            try:
                counts = reader.read({"customer": PROBES}, None)["count_1h"]
            except Unavailable:
                time.sleep(0.05)  # the consumers have not made the store yet
                continue
            now = time.monotonic()
            for name, count in zip(PROBES, counts, strict=True):
                new = producer.sent_at[name][seen[name] : int(count or 0)]
                took.extend((sent, now) for sent in new)
                seen[name] = max(seen[name], int(count or 0))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch, daemon=True)
    # The first messages import everything and make the tables; what is timed is a stream that runs.
    warm = [orders.message(n, datetime.now(UTC), customers=1_000) for n in range(2_000)]
    log.writer().send(warm)
    while driver.behind != 0:
        driver.step()
    for _ in range(10):
        driver.step()
    began = time.monotonic()
    producer.start()
    watcher.start()
    while producer.is_alive() or len(took) < sum(map(len, producer.sent_at.values())):
        driver.step()
        if time.monotonic() - began > seconds + 60:
            break
    stop.set()
    watcher.join()
    driver.close()
    warm_s = 5.0
    waits = np.array([seen - sent for sent, seen in took if sent - began >= warm_s])
    return {
        "rate_per_s": rate_per_s,
        "seconds": seconds,
        "events": producer.sent,
        "rows": catalog.num_rows("orders") - len(warm),
        "timed_events": len(waits),
        "never_seen": sum(map(len, producer.sent_at.values())) - len(took),
        "left_out_first_s": warm_s,
        **{
            name: round(float(np.quantile(waits, share)), 4)
            for name, share in (("p50_s", 0.5), ("p99_s", 0.99), ("max_s", 1.0))
        },
    }


def main() -> None:
    """Run the parts that are asked for; figures of others stay as they are in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kafka-events", type=int, default=200_000)
    parser.add_argument("--rebalances", type=int, default=10)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    options = parser.parse_args()
    path = results.ROOT / "tests" / "bench" / "results" / "streams.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures = {part: figures[part] for part in PARTS if part in figures}
    with own_ray():
        for part in options.only:
            figures[part] = {**run(part, options), "commit": results.commit()}
            print(part, json.dumps(figures[part]), flush=True)
            results.write("streams", "make prove-streams", rounds=1, figures=figures)


def run(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part, with its raw counts."""
    with tempfile.TemporaryDirectory(prefix="streams-") as name:
        folder = Path(name)
        if part == "latency":
            rounds = []
            for number in range(options.rounds):
                with redis_log(f"orders{number}") as log:
                    rounds.append(
                        latency(
                            log, folder / str(number), rate_per_s=2_000, seconds=options.seconds
                        )
                    )
            worst = max(item["p99_s"] for item in rounds)
            return {"broker": "Redis Streams", "worst_p99_s": worst, "rounds": rounds}
        events = options.events if part == "redis" else options.kafka_events
        story = Story(
            events=events, rebalances=options.rebalances, kills=options.kills,
            # The mock cluster keeps 5 MiB of each partition and then drops the oldest.
            ahead=None if part == "redis" else 40_000,
        )  # fmt: skip
        if part == "redis":
            with redis_log("orders") as log:
                return asdict(play(log, folder, story))
        with brokers.kafka_cluster() as servers:
            return asdict(play(KafkaLog(servers=servers, topic="orders"), folder, story))


if __name__ == "__main__":
    main()
