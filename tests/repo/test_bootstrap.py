"""The environment's maker, run as the file it is, in small checkouts of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.repo import tree

SCRIPT = tree.PACKAGE / "stack" / "bootstrap.py"


@pytest.fixture
def checkout(tmp_path):
    """A folder with a space in its name, holding only what the maker reads."""
    root = tmp_path / "a check out"
    target = root / SCRIPT.relative_to(tree.ROOT)
    target.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, target)
    shutil.copytree(tree.SOURCE / "constraints", root / "platform" / "constraints")
    shutil.copy(tree.ROOT / "pyproject.toml", root)
    return root


def load(checkout, monkeypatch):
    """The maker as a module whose root is that checkout."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("maker", checkout / SCRIPT.relative_to(tree.ROOT))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_maker_needs_only_the_standard_library():
    """It runs before anything is installed, so it imports nothing else, and nothing of ours."""
    tops = {name.split(".")[0] for _, name in tree.imports(SCRIPT)}

    assert tops - set(sys.stdlib_module_names) == set()


def test_the_maker_can_be_read_by_old_interpreters():
    """An old python3 must get one line on what to install, so nothing newer than 3.6 is used."""
    import ast

    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))

    assert "from __future__ import annotations" not in SCRIPT.read_text()


def test_an_unfit_python_is_told_what_to_install_in_one_line(checkout):
    """Where no CPython of the tested version can make environments, exit code 2."""
    project = checkout / "pyproject.toml"
    project.write_text(project.read_text().replace(">=3.11,<3.12", ">=3.99,<4"))

    done = subprocess.run(
        [sys.executable, "-I", str(checkout / SCRIPT.relative_to(tree.ROOT))],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    version = ".".join(map(str, sys.version_info[:3]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"heliostat: needs CPython 3.99 with its venv module, found CPython {version}; "
        "on Debian or Ubuntu: sudo apt-get install python3.99 python3.99-venv\n"
    )
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("name", ["Darwin", "Windows"])
def test_other_systems_are_refused_with_what_to_use(checkout, monkeypatch, name):
    """Those with macOS or Windows get one line, before anything is written."""
    maker = load(checkout, monkeypatch)
    monkeypatch.setattr("platform.system", lambda: name)

    with pytest.raises(maker.Refused, match="needs Linux"):
        maker.check_system()


def test_a_full_disk_is_refused_with_what_is_free_and_needed(checkout, monkeypatch):
    """Before the download, not in the middle of it."""
    maker = load(checkout, monkeypatch)
    monkeypatch.setattr(maker, "MEGABYTES", {"cpu": (10**9, 10**9)})

    with pytest.raises(maker.Refused, match=r"has \d+ MB free, needs \d+ MB; make room there"):
        maker.announce("cpu")


def test_the_environment_is_stale_when_what_it_is_made_from_changes(checkout, monkeypatch):
    """Dependencies, pins, place and torch's index count; settings of tools do not."""
    maker = load(checkout, monkeypatch)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    project, pins = checkout / "pyproject.toml", checkout / "platform/constraints/py311.txt"
    before = maker.inputs((3, 11))

    project.write_text(project.read_text().replace("line-length = 100", "line-length = 99"))
    after_tools = maker.inputs((3, 11))
    pins.write_text(pins.read_text().replace("rich==", "rich==1."))
    after_pins = maker.inputs((3, 11))
    project.write_text(project.read_text().replace('"rich>=', '"richer>='))
    after_dependencies = maker.inputs((3, 11))
    monkeypatch.setenv("TORCH_INDEX", "https://index.example/cpu")

    assert after_tools == before
    assert len({before, after_pins, after_dependencies, maker.inputs((3, 11))}) == 4


def test_packages_that_were_cut_off_are_forgotten(checkout, monkeypatch):
    """No RECORD, a missing file, an emptied file: pip must install these again; whole ones stay."""
    maker = load(checkout, monkeypatch)
    place = checkout / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("whole", "unrecorded", "missing", "emptied"):
        info = place / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (place / f"{name}.py").write_text("x = 1\n")
        (info / "RECORD").write_text(f"{name}.py,sha256=x,6\n{name}-1.0.dist-info/RECORD,,\n")
    (place / "unrecorded-1.0.dist-info" / "RECORD").unlink()
    (place / "missing.py").unlink()
    (place / "emptied.py").write_text("")
    (place / "~ffline").mkdir()

    dropped = maker.drop_cut_off_packages()

    assert sorted(dropped) == ["emptied-1.0", "missing-1.0", "unrecorded-1.0"]
    assert sorted(path.name for path in place.glob("*.dist-info")) == ["whole-1.0.dist-info"]
    assert not (place / "~ffline").exists()


def test_a_moved_environment_is_not_completed_but_made_anew(checkout, monkeypatch):
    """Scripts name the folder they were made in; in another folder they would run the old one."""
    subprocess.run([sys.executable, "-I", "-m", "venv", str(checkout / ".venv")], check=True)
    moved = checkout.with_name("moved")
    was_usable = load(checkout, monkeypatch).is_usable(sys.version_info[:2])
    checkout.rename(moved)

    assert was_usable
    assert not load(moved, monkeypatch).is_usable(sys.version_info[:2])


def test_a_home_that_cannot_be_written_turns_off_the_cache(checkout, monkeypatch, tmp_path):
    """Otherwise pip fails at the end, after all downloads, on the wheel that it built itself."""
    maker = load(checkout, monkeypatch)
    for name in ("XDG_CACHE_HOME", "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/1")
    without = maker.clean_environment().get("PIP_NO_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert (without, maker.clean_environment().get("PIP_NO_CACHE_DIR")) == ("1", None)


def test_a_second_installation_waits_for_the_first(checkout, monkeypatch):
    """The lock is held by whoever installs, a pip that outlived its parent included."""
    maker = load(checkout, monkeypatch)
    lock = maker.take_turn()
    second = subprocess.Popen(
        [sys.executable, "-I", str(checkout / SCRIPT.relative_to(tree.ROOT))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = second.stdout.readline()
    finally:
        second.kill()
        second.wait()
        second.stdout.close()
        os.close(lock)

    assert line == "another installation is at work in this folder; waiting for it\n"
