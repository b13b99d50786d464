"""How streams stand, from their tables alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from heliostat.data.tables import Catalog
from heliostat.streams.consumer import Consumer
from heliostat.streams.redis_log import RedisLog
from heliostat.streams.status import status
from tests.unit.streams import orders

ALL = ("0", "1", "2", "3")


def fill(server, folder) -> Catalog:
    """Two consumers that share a topic, some poison, and a table that is no stream."""
    catalog = Catalog(folder)
    catalog.write("other", orders.pl.DataFrame({"a": [1]}), run_id="load")
    log = RedisLog(url=server.url, topic="orders")
    log.writer().send([*orders.messages(60), (b"c1", b"poison")])
    for name, partitions in (("left", ALL[:2]), ("right", ALL[2:])):
        consumer = Consumer(orders.recipe(log, views=()), catalog, name=name)
        for _ in range(50):
            found = consumer.work(partitions, 0.05)
            if len(found.behind) == 2 and not sum(found.behind.values()):
                break
        consumer.close()
    return catalog


def test_each_partition_says_where_it_is_and_who_reads_it(redis_server, tmp_path):
    """Positions, watermarks and lag of the newest commit that knows the partition."""
    (found,) = status(fill(redis_server, tmp_path))

    assert (found.name, found.table, found.topic) == ("orders", "orders", "orders")
    assert (found.rows, found.dead_letters) == (60, {"malformed": 1})
    assert [part.place for part in found.partitions] == [f"orders/{p}" for p in ALL]
    assert [part.consumer for part in found.partitions] == ["left", "left", "right", "right"]
    assert all(part.position and part.watermark for part in found.partitions)
    assert [part.behind for part in found.partitions] == [0, 0, 0, 0]


def test_the_command_line_shows_it_for_people_and_for_programs(redis_server, tmp_path):
    """It needs no broker: the server is gone when it is asked."""
    fill(redis_server, tmp_path)
    redis_server.kill()
    asked = [sys.executable, "-m", "heliostat", "stream", "status", "--at", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    people = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    programs = subprocess.run(
        [*asked, "--json"], env=environment, capture_output=True, text=True, check=True
    )

    assert people.stdout.startswith(
        "orders: 60 rows in orders, from topic orders; dead letters: 1 malformed\n"
    )
    (found,) = json.loads(programs.stdout)
    assert [part["behind"] for part in found["partitions"]] == [0, 0, 0, 0]
