"""The job client against a real head: a cut connection, an exit code, what is sent and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.testing.ports import free_ports
from tests.e2e.conftest import LivePlatform
from tests.e2e.copied import copied

CHATTY = """
import sys, time
for number in range(40):
    print("line", number, flush=True)
    time.sleep(0.1)
sys.exit(7)
"""

FOLLOW = """
import os, sys
from pathlib import Path
from heliostat.submit import client
from heliostat.submit.archive import JobArchive
home, job = Path(sys.argv[1]), sys.argv[3]
client.connect(home)
os.environ["RAY_ADDRESS"] = sys.argv[2]
from ray.job_submission import JobSubmissionClient
archive = JobArchive(home)
sys.exit(client.follow(JobSubmissionClient(sys.argv[2]), archive, archive.get(job)))
"""


class CuttingProxy:
    """Passes bytes on between clients and the head, and cuts every connection once a second."""

    def __init__(self, port: int) -> None:
        self._to = port
        (self.port,) = free_ports(1)
        self._open: list[socket.socket] = []
        self._over = threading.Event()
        self.num_cut = 0
        self._server = socket.create_server(("127.0.0.1", self.port))
        for work in (self._accept, self._cut):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._server.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _cut(self) -> None:
        while not self._over.wait(1.0):
            cut, self._open = self._open, []
            self.num_cut += len(cut) // 2
            for found in cut:
                # Closing alone would not wake the thread that reads from it.
                with contextlib.suppress(OSError):
                    found.shutdown(socket.SHUT_RDWR)
                found.close()


@pytest.fixture
def proxy(live_platform: LivePlatform) -> Iterator[CuttingProxy]:
    port = int(dict(
        item.split("=") for item in live_platform.environment["HELIOSTAT_SET"].split()
    )["ports.dashboard"])  # fmt: skip
    found = CuttingProxy(port)
    yield found
    found.close()


@pytest.fixture
def clone(live_platform: LivePlatform, tmp_path: Path) -> LivePlatform:
    """A clone of its own, under git, with a script that talks and then fails."""
    folder = tmp_path / "clone"
    folder.mkdir()
    copied(live_platform.repository, folder)
    (folder / "jobs" / "chatty.py").write_text(CHATTY)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)
    path = f"{folder / 'platform'}{os.pathsep}{folder}"
    environment = {**live_platform.environment, "PYTHONPATH": path}
    return dataclasses.replace(live_platform, repository=folder, environment=environment)


def test_cut_connections_change_neither_the_exit_code_nor_the_log(
    clone: LivePlatform, proxy: CuttingProxy
) -> None:
    """Every socket is cut once a second, and the client still ends as the job does: with 7.

    600 MB that git ignores do not hinder it; afterwards log and metadata are on local disk.
    """
    with (clone.repository / ".heliostat").open("wb") as stream:
        stream.truncate(600_000_000)
    (clone.repository / ".gitignore").write_text(".heliostat\n")
    sent = clone.run("job", "submit", "--detach", "--", "jobs/chatty.py")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    (job,) = [word for word in sent.stdout.split() if word.startswith("heliostat-")][:1]
    assert " files, " in sent.stdout
    assert "the largest are " in sent.stdout

    done = subprocess.run(
        [sys.executable, "-c", FOLLOW, str(clone.home), f"http://127.0.0.1:{proxy.port}", job],
        env=clone.environment, cwd=clone.repository, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip

    assert done.returncode == 7, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(40)]
    assert proxy.num_cut >= 2
    kept = json.loads((clone.home / "jobs" / job / "job.json").read_text())
    assert (kept["status"], kept["exit_code"], kept["entrypoint"]) == (
        "FAILED", 7, "python jobs/chatty.py",
    )  # fmt: skip
    assert kept["size_bytes"] < 50_000_000
    log = (clone.home / "jobs" / job / "log.txt").read_text()
    assert [line for line in log.splitlines() if line.startswith("line ")] == lines


def test_a_job_is_stopped_and_listed_and_a_huge_tracked_file_is_refused_before_it_is_sent(
    clone: LivePlatform,
) -> None:
    """`job stop` waits for the end; the refusal names the file and contacts nobody."""
    sent = clone.run("job", "submit", "--detach", "--", "jobs/chatty.py")
    (job,) = [word for word in sent.stdout.split() if word.startswith("heliostat-")][:1]
    stopped = clone.run("job", "stop", job)
    listed = json.loads(clone.run("job", "list", "--json").stdout)

    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert f"job {job} is stopped" in stopped.stdout
    (record,) = [item for item in listed if item["submission_id"] == job]
    assert record["status"] == "STOPPED"

    huge = clone.repository / "jobs" / "huge.bin"
    huge.touch()
    subprocess.run(["git", "-C", clone.repository, "add", "jobs/huge.bin"], check=True)
    with huge.open("wb") as stream:
        stream.truncate(600_000_000)
    refused = clone.run("job", "submit", "--", "jobs/chatty.py")
    assert refused.returncode == 2
    assert "the largest files are jobs/huge.bin (600 MB)" in refused.stderr
    assert "heliostat-" not in refused.stdout
