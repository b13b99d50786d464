"""Prove the README's two commands from a fresh clone: `make check-fresh`.

Clones HEAD into a long path with a space and runs both commands with `env -i` and an empty HOME:
demo, test, demo, test, then test, demo, test, demo in a second clone, then demo in an unpacked
archive without .git and with a HOME that nobody can write to; each ends with `make down`. Fails
on a non-zero exit, a leftover process or port, a changed tracked file, a file outside the declared
places, or a figure over the limits. About an hour and a half; `--quick` leaves the tests out. Run
by any python3, before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import memory

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests" / "bench" / "results" / "fresh.json"

DEMO_LIMIT_MIN = 6.0
"""Longest `make demo` after installation, on 2 cores."""

MEMORY_LIMIT_GIB = 8.0
"""Highest summed PSS plus /dev/shm while a demo runs."""

TEST_LIMIT_MIN = 15.0
"""Longest `make test` after installation, on 2 cores."""

PASSED_ON = re.compile(
    r"PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|CERT|DEFAULT_TIMEOUT)|TORCH_INDEX"
    r"|(https?|no)_proxy|SSL_CERT_FILE",
    re.IGNORECASE,
)
"""How this machine reaches package indexes; all else of the environment is dropped."""

DECLARED = (".venv/", ".heliostat/")
"""Where the two commands may write in the clone, compiled Python beside its source aside."""


READ_ONLY = Path("/sys")
"""A folder in which even root can make no file."""


class Clone:
    """A clone of HEAD with a HOME of its own, and what the machine looked like before it."""

    def __init__(self, base: Path, name: str, *, archive: bool = False) -> None:
        self.archive = archive
        self.home = READ_ONLY if archive else base / f"home {name}"
        self.home.mkdir(exist_ok=True)
        filler = "a long path with spaces "
        room = 150 - len(str(base / name)) - len("/heliostat")
        self.root = base / (name + " " + (filler * 7)[: max(room, 20)]).strip() / "heliostat"
        if archive:
            self.root.mkdir(parents=True)
            packed = subprocess.check_output(["git", "-C", str(ROOT), "archive", "HEAD"])
            subprocess.run(["tar", "-x", "-C", str(self.root)], input=packed, check=True)
        else:
            run(["git", "clone", "--quiet", str(ROOT), str(self.root)])
        self.ports = listening()
        self.entries = temporary_entries()
        self.steps: list[dict[str, object]] = []
        self.faults: list[str] = []

    def members(self) -> set[int]:
        """Every process that works for this clone."""
        marks = [str(self.root)] if self.archive else [f"HOME={self.home}", str(self.root)]
        return memory.marked(marks)

    def make(self, target: str) -> None:
        """Run one command as a newcomer's shell would, and note what it took."""
        kept = {key: value for key, value in os.environ.items() if PASSED_ON.fullmatch(key)}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), **kept}
        log = self.root.parent / f"{len(self.steps)}-{target}.log"
        started = time.monotonic()
        # Looking costs a tenth of a core, and only a demo's memory has a limit.
        every_s = 2.0 if target == "demo" else 20.0
        with log.open("wb") as out, memory.Sampler(self.members, every_s) as sampler:
            process = subprocess.Popen(
                ["make", target], cwd=self.root, env=environment, stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGINT)
                process.wait()
                raise
        seconds = time.monotonic() - started
        text = log.read_text(errors="replace")
        installing = re.search(r"^environment ready in (\d+) s", text, re.MULTILINE)
        install_s = float(installing[1]) if installing else 0.0
        peak = sampler.peak
        step = {
            "command": f"make {target}",
            "exit_code": code,
            "install_s": install_s,
            "minutes_after_installation": round((seconds - install_s) / 60, 2),
            "peak_gib": round(peak.sum_bytes / 2**30, 2),
            "peak_distinct_gib": round(peak.distinct_bytes / 2**30, 2),
            "peak_processes": peak.num_processes,
        }
        self.steps.append(step)
        print(json.dumps(step), flush=True)
        if code != 0:
            self.faults.append(f"make {target} ended with exit code {code}")
            print("\n".join("    " + line for line in text.splitlines()[-40:]), flush=True)
        self.check_limits(target, step)

    def check_limits(self, target: str, step: dict[str, object]) -> None:
        """Note each figure that is over its limit."""
        minutes, gib = step["minutes_after_installation"], step["peak_gib"]
        for name, value, limit, unit in (
            ("demo", minutes, DEMO_LIMIT_MIN, "min"),
            ("test", minutes, TEST_LIMIT_MIN, "min"),
            ("demo", gib, MEMORY_LIMIT_GIB, "GiB"),
        ):
            if target == name and isinstance(value, float) and value > limit:
                self.faults.append(f"make {target} took {value} {unit}, limit {limit:g} {unit}")

    def check_leftovers(self) -> None:
        """After `make down`: nothing runs, listens or lies where it was not declared."""
        time.sleep(3)
        for pid in self.members():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            self.faults.append(f"still running: {pid} {words[:120]}")
        self.faults += [f"still listening: {port}" for port in sorted(listening() - self.ports)]
        for line in [] if self.archive else git_status(self.root):
            kind, name = line[:2], line[3:].strip('"')
            if kind not in {"!!", "??"}:
                self.faults.append(f"changed tracked file: {name}")
            elif not name.startswith(DECLARED) and "__pycache__" not in name:
                self.faults.append(f"outside the declared places: {name}")
        for path in [] if self.archive else self.home.rglob("*"):
            inside = path.relative_to(self.home)
            if path.is_file() and inside.parts[:2] != (".cache", "pip"):
                self.faults.append(f"left in HOME: {inside}")
        self.faults += [f"left behind: {e}" for e in sorted(temporary_entries() - self.entries)]

    def report(self) -> dict[str, object]:
        """What the newest demo of this clone showed, as it stored it."""
        found = (self.root / ".heliostat" / "reports").glob("*.json")
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            return {}
        report: dict[str, object] = json.loads(newest.read_text(encoding="utf-8"))
        return report

    def sizes(self) -> dict[str, int]:
        """Disk in use by the environment and the state, and what was downloaded, in MB."""
        units = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}
        log = self.root / ".venv" / "install.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        fetched = re.findall(r"Downloading (\S+) \(([\d.]+) (kB|MB|GB)\)", text)
        local = set(re.findall(r"^Processing (/\S+\.whl)$", text, re.MULTILINE))
        return {
            "download_mb": round(sum(float(size) * units[unit] for _, size, unit in fetched)),
            "from_local_files_mb": round(sum(Path(f).stat().st_size for f in local) / 1e6),
            "venv_mb": used_mb(self.root / ".venv"),
            "state_mb": used_mb(self.root / ".heliostat"),
        }


def run(command: list[str]) -> str:
    """Run a command that must succeed; return what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def used_mb(folder: Path) -> int:
    """Disk in use below a folder, in MB."""
    return int(run(["du", "-sm", str(folder)]).split()[0]) if folder.exists() else 0


def git_status(root: Path) -> list[str]:
    """Changed, untracked and ignored files, one a line."""
    return run(["git", "-C", str(root), "status", "--porcelain", "--ignored"]).splitlines()


def listening() -> set[int]:
    """TCP ports that somebody listens on."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def temporary_entries() -> set[str]:
    """What lies at the top of /tmp and /dev/shm."""
    return {str(path) for top in ("/tmp", "/dev/shm") for path in Path(top).iterdir()}


def readme_commands() -> list[str]:
    """The two commands, as the README has them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\$ make (demo|test)\b", text, re.MULTILINE)
    return list(dict.fromkeys(found))


def main() -> int:
    """Run the proof, write the results file and return 1 if anything is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="no tests: the demo twice in a clone, once in an archive",
    )
    parser.add_argument("--keep", action="store_true", help="keep the clones")
    options = parser.parse_args()
    commands = readme_commands()
    if sorted(commands) != ["demo", "test"]:
        print(f"README.md = {commands}: must show the commands make demo and make test")
        return 2
    orders = [commands * 2, commands[::-1] * 2, ["demo"]]
    if options.quick:
        orders = [["demo", "demo"], ["demo"]]
    base = Path(tempfile.mkdtemp(prefix="heliostat fresh "))
    clones: list[Clone] = []
    try:
        for number, order in enumerate(orders, 1):
            clone = Clone(base, str(number), archive=order == ["demo"])
            clones.append(clone)
            print(f"{clone.root} ({len(str(clone.root))} characters)", flush=True)
            try:
                for target in order:
                    clone.make(target)
            finally:
                clone.make("down")
            clone.check_leftovers()
            sizes = clone.sizes()
            print(json.dumps(sizes), flush=True)
            write(clones, commands, quick=options.quick, sizes=sizes, report=clone.report())
            if not options.keep:
                shutil.rmtree(clone.root.parent)
    finally:
        if not options.keep:
            shutil.rmtree(base, ignore_errors=True)
    faults = [fault for clone in clones for fault in clone.faults]
    for fault in faults:
        print(f"FAULT {fault}")
    print("fresh clone:", "failed" if faults else "passed")
    return 1 if faults else 0


def write(
    clones: list[Clone],
    commands: list[str],
    *,
    quick: bool,
    sizes: dict[str, int],
    report: dict[str, object],
) -> None:
    """Keep the figures, so that documents can name them."""
    steps = [step for clone in clones for step in clone.steps]
    demos = [step for step in steps if step["command"] == "make demo"]
    result = {
        "commit": run(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip(),
        "cores": len(os.sched_getaffinity(0)),
        "quick": quick,
        "commands": [f"make {name}" for name in commands],
        "orders": [clone.steps for clone in clones],
        "demo_minutes": max(step["minutes_after_installation"] for step in demos),
        "demo_peak_gib": max(step["peak_gib"] for step in demos),
        "installation_minutes": round(max(step["install_s"] for step in steps) / 60, 2),
        **sizes,
        "last_demo": report,
        "faults": [fault for clone in clones for fault in clone.faults],
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
