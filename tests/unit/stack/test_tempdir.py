"""Ray's run files lie in a private folder, and Ray meets no space in a path."""

from __future__ import annotations

import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.stack import tempdir


def test_a_python_in_a_path_with_spaces_is_reached_through_a_link(tmp_path: Path) -> None:
    """The link gives the same environment, and removing the folder leaves that alone."""
    environment = tmp_path / "a path with spaces" / ".venv"
    venv.create(environment, symlinks=True)
    folder = tmp_path / "run"
    tempdir.make(folder)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(tempdir.__file__).parents[2])!r})\n"
        "from pathlib import Path; from heliostat.stack import tempdir\n"
        f"print(tempdir.python(Path({str(folder)!r})))"
    )
    python = subprocess.check_output(
        [environment / "bin" / "python", "-c", program], text=True
    ).strip()

    assert python == str(folder / "env" / "bin" / "python")
    prefix = subprocess.check_output([python, "-c", "import sys; print(sys.prefix)"], text=True)
    assert prefix.strip() == str(folder / "env")
    tempdir.remove(folder)
    assert not folder.exists()
    assert (environment / "pyvenv.cfg").exists()


def test_a_python_in_a_plain_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """Nothing is linked where no shell could misread the path."""
    if shlex.quote(sys.executable) != sys.executable:
        pytest.skip(f"this Python's own path is not plain: {sys.executable}")

    assert tempdir.python(tmp_path) == Path(sys.executable)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_can_open_is_refused(tmp_path: Path) -> None:
    """Somebody else may have made it first, to read what Ray writes there."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)

    with pytest.raises(ConfigError, match="must be a folder of yours with mode 0700"):
        tempdir.make(folder)
