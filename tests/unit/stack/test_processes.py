from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.stack import processes, record, tempdir
from heliostat.stack.processes import MARK, Identity
from heliostat.stack.record import StackRecord
from heliostat.stack.settings import Ports, StackSettings

TREE = """
import os, subprocess, sys, time
bare = {k: v for k, v in os.environ.items() if k != "HELIOSTAT_STACK_OF"}
nap = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.Popen(nap, env=bare)                                          # by its session
subprocess.Popen(nap, start_new_session=True)                            # by its mark
subprocess.Popen(nap, env=bare, start_new_session=True)                  # by its parent
print("ready", flush=True)
time.sleep(60)
"""


def _start(root: Path, log: Path) -> Identity:
    child = processes.spawn(
        [sys.executable, "-c", TREE],
        environ={"PATH": os.environ["PATH"], MARK: str(root)},
        log=log,
        folder=root,
    )
    deadline = time.monotonic() + 20
    while "ready" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    identity = processes.identify(child.pid)
    assert identity is not None
    return identity


def test_every_kind_of_descendant_is_found_and_ended(tmp_path: Path) -> None:
    """Members are found by mark, session and parent; another platform's are left alone."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    leader = _start(ours, tmp_path / "a.log")
    other = _start(theirs, tmp_path / "b.log")
    assert len(processes.members(ours, [leader])) == 4
    assert processes.stop(ours, [leader], grace_s=1) == []
    assert processes.members(ours, [leader]) == {}
    assert len(processes.members(theirs, [other])) == 4
    assert processes.stop(theirs, [other], grace_s=1) == []


def test_orphans_of_a_killed_leader_are_found(tmp_path: Path) -> None:
    """After SIGKILL of the leader its session and its marked children are still ours."""
    leader = _start(tmp_path, tmp_path / "a.log")
    orphans = set(processes.members(tmp_path, [leader])) - {leader.pid}
    os.kill(leader.pid, signal.SIGKILL)
    os.waitpid(leader.pid, 0)
    found = set(processes.members(tmp_path, [leader]))
    assert len(found) >= 2
    assert found <= orphans
    assert processes.stop(tmp_path, [leader]) == []
    for pid in orphans - found:
        os.kill(pid, signal.SIGKILL)


def test_a_number_used_again_is_another_process() -> None:
    """A process is its number and its start; the same number later does not match."""
    me = processes.identify(os.getpid())
    assert me is not None
    assert me.is_alive()
    assert not dataclasses.replace(me, start_ticks=me.start_ticks - 1).is_alive()
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert processes.identify(done.pid) is None


def test_this_process_and_its_parents_are_never_members(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """`down` run from inside the platform, as a job, does not end itself."""
    code = f"from heliostat.stack import processes as p; print(p.members({str(tmp_path)!r}, []))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**child_environment, MARK: str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{}\n"


def test_the_record_survives_and_a_damaged_one_is_no_obstacle(tmp_path: Path) -> None:
    """What was written is read back whole; a torn file reads as nothing."""
    first = StackRecord(
        settings=StackSettings(ports=Ports(serve=8001), num_cpus=3),
        repository="/r",
        temp_dir="/tmp/x",
        auth={"RAY_AUTH_MODE": "disabled"},
        clients={"A": "b"},
    )
    half = record.with_part(first, "ray", None)
    whole = record.with_part(half, "ray", Identity(pid=7, start_ticks=9))
    for value in (first, half, dataclasses.replace(whole, is_complete=True)):
        record.write(tmp_path, value)
        assert record.read(tmp_path) == value
    assert whole.leaders == [Identity(pid=7, start_ticks=9)]
    (tmp_path / "stack.json").write_text('{"settings": ')
    assert record.read(tmp_path) is None
    record.remove(tmp_path)
    record.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_run_files_lie_in_a_short_private_folder(tmp_path: Path) -> None:
    """A deep state folder still gives a short path; a folder open to others is refused."""
    deep = tmp_path / ("x" * 120) / "with space"
    folder = tempdir.temp_dir(deep)
    assert len(str(folder)) <= 40
    assert tempdir.temp_dir(deep) == folder != tempdir.temp_dir(tmp_path)
    tempdir.make(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    tempdir.make(folder)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="must be a folder of yours with mode 0700"):
        tempdir.make(folder)
    tempdir.remove(folder)
    assert not folder.exists()
