"""Make the virtual environment `.venv`, with any python3 and before anything is installed.

A finished installation leaves a stamp that names what it was made from; without an equal one
nothing in `.venv` is trusted: packages that were cut off are installed again, and one whose Python
or pip does not run is made anew. Only syntax that old interpreters can read, to say what to install.
"""

import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "heliostat-environment.json")
LOG = os.path.join(VENV, "install.log")

CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # builds without CUDA, x86_64 and arm64

MEGABYTES = {"cpu": (870, 3300), "cuda": (3420, 8550)}
"""Download and disk by kind of torch build, of the tested set on x86_64; cuda disk is an estimate."""

ISOLATED = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT")


class Refused(Exception):
    """This machine cannot hold the environment; the message is one line with what to do."""

    exit_code = 2


class Failed(Refused):
    """pip did not finish; running again goes on where it stopped."""

    exit_code = 4


def main() -> int:
    """Make or complete the environment; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        version = supported_version()
        check_system()
        lock = take_turn()
        if not is_finished(version):
            install(find_python(version), version, lock)
    except Refused as error:
        print(f"heliostat: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nheliostat: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def supported_version() -> "tuple[int, int]":
    """Return the one CPython version that pyproject.toml allows, as (major, minor)."""
    text = read(os.path.join(ROOT, "pyproject.toml"))
    major, minor = re.findall(r'^requires-python = ">=(\d+)\.(\d+),<', text, re.MULTILINE)[0]
    return int(major), int(minor)


def read(path: str) -> str:
    """Return a file's text, "" where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def check_system() -> None:
    """Refuse what the tested wheels do not exist for, before anything is written."""
    wanted = "Linux (WSL2 included) on x86_64 or aarch64 with glibc 2.28 or newer"
    name, machine = platform.system(), platform.machine()
    if name != "Linux" or machine not in {"x86_64", "aarch64", "arm64"}:
        hint = "use WSL2" if name == "Windows" else "use a Linux machine, VM or container"
        raise Refused(f"needs {wanted}, found {name} on {machine}; {hint}")
    libc, number = platform.libc_ver()
    parts = tuple(int(part) for part in number.split(".")[:2]) if libc == "glibc" else (0, 0)
    if parts < (2, 28):
        raise Refused(f"needs {wanted}, found {libc or 'another C library'} {number}; "
                      "use a newer or another distribution")  # fmt: skip


def find_python(version: "tuple[int, int]") -> str:
    """Return an interpreter of that version which can make environments.

    Raises:
        Refused: Neither this interpreter nor ``pythonX.Y`` on PATH can.
    """
    number = "{}.{}".format(*version)
    probe = (
        "import sys, ensurepip, venv; ok = sys.implementation.name == 'cpython' and "
        f"sys.version_info[:2] == {version} and sys.maxsize > 2**32; "
        "print(sys.executable if ok else '')"
    )
    for candidate in (sys.executable, shutil.which("python" + number), "/usr/bin/python" + number):
        if candidate and os.access(candidate, os.X_OK):
            answer = run_quietly([candidate, "-I", "-c", probe])
            if answer:
                return answer
    found = f"{platform.python_implementation()} {platform.python_version()}"
    raise Refused(
        f"needs CPython {number} with its venv module, found {found}; "
        f"on Debian or Ubuntu: sudo apt-get install python{number} python{number}-venv"
    )


def run_quietly(command: "list[str]") -> str:
    """Return what a command prints, or "" where it cannot run."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_environment(),
            stdin=subprocess.DEVNULL, timeout=120, check=False, cwd=ROOT,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


def clean_environment() -> "dict[str, str]":
    """Return the caller's environment without what would redirect Python or pip."""
    kept = {key: value for key, value in os.environ.items() if key not in ISOLATED}
    if not can_cache():
        # With a HOME that cannot be written, pip 23 fails where it keeps a wheel it built.
        kept["PIP_NO_CACHE_DIR"] = "1"
    # pip asks `rustc` for its version; where that is rustup's, it would write a file into HOME.
    kept["RUSTUP_HOME"] = os.path.join(VENV, ".cache", "rustup")
    return dict(kept, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PYTHONUNBUFFERED="1")


def can_cache() -> bool:
    """Say whether pip can write its cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.environ.get("PIP_CACHE_DIR") or os.path.join(home, "pip")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def take_turn() -> int:
    """Wait until no other installation runs here; pip holds the lock too, should it outlive us."""
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another installation is at work in this folder; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        say("this file system has no locks: do not install twice at once here")
    return lock


def is_finished(version: "tuple[int, int]") -> bool:
    """Say whether `.venv` is complete, made from these very inputs, and runs."""
    runs = [PYTHON, "-I", "-c", "import heliostat, pip; print('ok')"]
    return read(STAMP) == inputs(version) and run_quietly(runs) == "ok"


def constraints(version: "tuple[int, int]") -> str:
    """Return the path of the tested set for this Python."""
    return os.path.join(ROOT, "platform", "constraints", "py{}{}.txt".format(*version))


def inputs(version: "tuple[int, int]") -> str:
    """Name everything the environment is made from; another text means: install again."""
    text, section = read(constraints(version)), ""
    for line in read(os.path.join(ROOT, "pyproject.toml")).splitlines():
        section = line if line.startswith("[") else section
        # Settings of tools may change without a new installation.
        if not section.startswith("[tool.") or section.startswith("[tool.setuptools"):
            text += line
    named = {
        "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "python": version,
        "machine": platform.machine(),
        "root": ROOT,
        "torch_index": os.environ.get("TORCH_INDEX", ""),
    }
    return json.dumps(named, sort_keys=True)


def install(python: str, version: "tuple[int, int]", lock: int) -> None:
    """Bring `.venv` to the tested set and stamp it; each step can be cut off and repeated."""
    started = time.time()
    kind = torch_kind()
    usable = is_usable(version)
    if usable:
        say("completing .venv")
        if os.path.exists(STAMP):
            os.unlink(STAMP)
        drop_cut_off_packages()
    if not usable or not installed_torch():
        announce(kind)
    if not usable:
        say(f"making .venv with {python}")
        shutil.rmtree(VENV, ignore_errors=True)
        code, last = run_step([python, "-I", "-m", "venv", VENV], lock)
        if code != 0:
            raise Failed(f"{python} -m venv ended with exit code {code}: {' '.join(last)}")
    pins = constraints(version)
    install_torch(re.findall(r"^torch==\S+", read(pins), re.MULTILINE)[0], kind, lock)
    pip = ["install", "--constraint", pins]
    run_pip([*pip, "setuptools"], lock)
    run_pip([*pip, "--no-build-isolation", "--editable", ".[demo,dev]"], lock)
    for leftover in glob.glob(os.path.join(glob.escape(ROOT), "platform", "*.egg-info")):
        shutil.rmtree(leftover, ignore_errors=True)
    broken = drop_cut_off_packages()
    if broken:
        raise Failed(f"{', '.join(sorted(broken))} did not install completely; run again")
    temporary = STAMP + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(inputs(version))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, STAMP)
    say(f"environment ready in {time.time() - started:.0f} s")


def is_usable(version: "tuple[int, int]") -> bool:
    """Say whether `.venv` can be completed; a moved one cannot: its scripts name the old place."""
    probe = "import sys, pip; print(sys.version_info[:2], sys.prefix, sep='|')"
    answer = run_quietly([PYTHON, "-I", "-c", probe]).split("|")
    activate = read(os.path.join(VENV, "bin", "activate"))
    return answer == [str(version), VENV] and VENV in activate


def torch_kind() -> str:
    """Say which build of torch fits; a driver shows in /proc, or on WSL2 as a device."""
    index = os.environ.get("TORCH_INDEX")
    if index:
        return "cpu" if index.rstrip("/").endswith("cpu") else "cuda"
    wsl = os.path.exists("/dev/dxg") and bool(shutil.which("nvidia-smi"))
    return "cuda" if wsl or os.path.exists("/proc/driver/nvidia/version") else "cpu"


def announce(kind: str) -> None:
    """Say how much will be downloaded, and refuse where a disk would run full."""
    download, installed = MEGABYTES[kind]
    say(f"downloading about {download} MB ({installed} MB on disk) with torch for {kind}")
    needs = {ROOT: installed}
    temporary = tempfile.gettempdir()
    busy = ROOT if os.stat(temporary).st_dev == os.stat(ROOT).st_dev else temporary
    needs[busy] = needs.get(busy, 0) + download
    for folder, megabytes in needs.items():
        free = shutil.disk_usage(folder).free // 1_000_000
        if free < megabytes * 1.05:
            more = "" if folder == ROOT else ", or set TMPDIR to a folder with more"
            raise Refused(
                f"{folder} has {free} MB free, needs {megabytes * 1.05:.0f} MB; "
                f"make room there{more}"
            )


def install_torch(torch: str, kind: str, lock: int) -> None:
    """Install torch before what needs it, in the smallest build that this machine can use.

    Without its dependencies, since an index of builds holds only some of them.
    """
    index = os.environ.get("TORCH_INDEX")
    if index:
        # Another index is another build, also where the version is the same.
        run_pip(["install", "--no-deps", "--force-reinstall", "--index-url", index, torch], lock)
        return
    if torch.split("==")[1] == installed_torch():
        return
    alone = ["install", "--no-deps"]
    if kind == "cpu":
        if run_pip([*alone, torch + "+cpu"], lock, may_be_missing=True):
            return
        public = [*alone, "--index-url", CPU_INDEX, torch]
        if answers(CPU_INDEX + "/torch/") and run_pip(public, lock, may_be_missing=True):
            return
        if platform.machine() == "x86_64":
            say("no index here offers torch without CUDA; TORCH_INDEX=<url> names one")
            announce("cuda")
    run_pip([*alone, torch], lock)


def installed_torch() -> str:
    """Return the version of torch in `.venv` without its local label, or ""."""
    found = installed("torch-*.dist-info")
    return re.split(r"-|\+|\.dist", os.path.basename(found[0]))[1] if found else ""


def installed(pattern: str) -> "list[str]":
    """Return the paths in site-packages that match."""
    return glob.glob(os.path.join(glob.escape(VENV), "lib", "python3*", "site-packages", pattern))


def answers(url: str) -> bool:
    """Say whether a web address can be read within 10 s."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - https, ours
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def drop_cut_off_packages() -> "list[str]":
    """Forget packages whose unpacking was cut off, so that pip installs them again; name them.

    pip writes RECORD last; a file it lists may still be lost when the machine went down.
    """
    dropped = []
    for folder in installed("*.dist-info"):
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            dropped.append(os.path.basename(folder)[: -len(".dist-info")])
    for stray in installed("~*"):
        shutil.rmtree(stray, ignore_errors=True)
    return dropped


def is_whole(folder: str) -> bool:
    """Say whether every file that a package's RECORD lists is there, and none came out empty.

    Sizes are not compared: two packages may bring the same file.
    """
    rows = [row.rsplit(",", 2) for row in read(os.path.join(folder, "RECORD")).splitlines()]
    paths = [(os.path.join(folder, "..", row[0].strip('"')), row[-1]) for row in rows]
    return bool(rows) and all(
        os.path.exists(path) and (size in {"", "0"} or os.path.getsize(path) > 0)
        for path, size in paths
        if not path.endswith(".pyc")
    )


def run_pip(arguments: "list[str]", lock: int, *, may_be_missing: bool = False) -> bool:
    """Run pip in `.venv`; say whether it found what was asked for, if that may be missing."""
    pip = [PYTHON, "-I", "-m", "pip", "--no-color", *arguments, "--progress-bar", "off"]
    code, last = run_step(pip, lock)
    if code == 0:
        return True
    # With a machine-wide constraint on the same package, pip calls it a conflict.
    absent = ("No matching distribution", "ResolutionImpossible")
    if may_be_missing and any(word in line for word in absent for line in last):
        return False
    print("\n".join("    " + line for line in last), file=sys.stderr)
    raise Failed(f"pip ended with exit code {code} (all of it: {LOG}); run again to go on")


def run_step(command: "list[str]", lock: int) -> "tuple[int, list[str]]":
    """Run a command quietly, with a line now and then; return its exit code and last lines."""
    last: "list[str]" = []
    shown = time.time()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        env=clean_environment(), cwd=ROOT, pass_fds=(lock,),
    )  # fmt: skip
    try:
        with open(LOG if os.path.isdir(VENV) else os.devnull, "ab") as log:
            for raw in process.stdout or ():
                log.write(raw)
                line = raw.decode("utf-8", "replace").rstrip()
                last = [*last[-11:], line]
                shown = show_progress(line, shown)
        return process.wait(), last
    except BaseException:
        process.terminate()
        process.wait()
        raise


def show_progress(line: str, shown: float) -> float:
    """Say what pip is busy with: every large download, the rest at most each 5 s."""
    large = re.search(r"Downloading (\S+?)-\d\S* \((\d{2,}\.\d MB)\)", line)
    if large:
        say("  {}, {}".format(*large.groups()))
    elif line.startswith("Installing collected packages") and "," in line:
        say(f"  unpacking {line.count(',') + 1} packages; takes a minute or two")
    elif line.lstrip().startswith("Collecting ") and time.time() - shown > 5:
        say("  " + line.strip()[:60])
    else:
        return shown
    return time.time()


def say(text: str) -> None:
    """Print a progress line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
