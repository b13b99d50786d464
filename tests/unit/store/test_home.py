from __future__ import annotations

import json
from pathlib import Path

import pytest

from heliostat import __version__
from heliostat.errors import ConfigError
from heliostat.store.home import FORMAT, Home, open_home


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_home_is_private_and_says_its_format(tmp_path: Path) -> None:
    """A new folder has mode 0700 and records the format and the version that wrote it."""
    home = open_home(tmp_path / "deep" / "state folder")
    assert home == Home(root=tmp_path / "deep" / "state folder")
    assert _mode(home.root) == 0o700
    assert json.loads(home.format_file.read_text()) == {
        "format": FORMAT,
        "written_by": __version__,
    }


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    """A home of this format is opened as it is."""
    home = open_home(tmp_path / "h")
    before = home.format_file.stat().st_mtime_ns
    (home.root / "state.db").write_text("x")
    assert open_home(tmp_path / "h") == home
    assert home.format_file.stat().st_mtime_ns == before


def test_a_home_from_before_formats_is_migrated(tmp_path: Path) -> None:
    """A folder with state and no format file is format 0: closed to others, then marked."""
    root = tmp_path / "h"
    (root / "keys").mkdir(parents=True)
    root.chmod(0o755)
    (root / "keys").chmod(0o755)
    (root / "state.db").write_text("precious")
    home = open_home(root)
    assert (_mode(root), _mode(home.keys)) == (0o700, 0o700)
    assert home.state_db.read_text() == "precious"
    assert json.loads(home.format_file.read_text())["format"] == FORMAT


def test_a_newer_home_is_refused_with_the_command_to_use(tmp_path: Path) -> None:
    """Newer state is left alone: the message says who wrote it and what to run."""
    home = open_home(tmp_path / "h")
    written = json.dumps({"format": FORMAT + 1, "written_by": "9.1.0"})
    home.format_file.write_text(written)
    with pytest.raises(ConfigError) as caught:
        open_home(tmp_path / "h")
    assert str(caught.value) == (
        f"{home.format_file} = {FORMAT + 1}: must be at most {FORMAT} for Heliostat "
        f"{__version__}; it was written by Heliostat 9.1.0. Run `git pull && make demo` to use "
        "that version, or keep this one and choose another folder with HELIOSTAT_HOME"
    )
    assert home.format_file.read_text() == written


@pytest.mark.parametrize("text", ["", "[1]", '{"format": "1"}', '{"format": true}'])
def test_a_damaged_format_file_is_refused(tmp_path: Path, text: str) -> None:
    """What cannot be read is not guessed."""
    home = open_home(tmp_path / "h")
    home.format_file.write_text(text)
    with pytest.raises(ConfigError, match="must read"):
        open_home(tmp_path / "h")


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    """A file in the way is named as such, not met later as a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="must be a folder that can be written"):
        open_home(tmp_path / "file" / "home")
