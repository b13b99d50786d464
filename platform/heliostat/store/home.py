"""The layout of the state folder ``.heliostat`` and its format version."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heliostat import __version__
from heliostat.errors import ConfigError

FORMAT = 1
"""Version of the layout below; raise it with every change that older code cannot read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where everything of one platform lives; building it touches no disk."""

    root: Path

    @property
    def state_db(self) -> Path:
        """Event log, leases and stage results (SQLite)."""
        return self.root / "state.db"

    @property
    def tables(self) -> Path:
        """Delta tables, one folder each."""
        return self.root / "tables"

    @property
    def online_db(self) -> Path:
        """Online features in Feast's SQLite layout."""
        return self.root / "features" / "online.db"

    @property
    def feast(self) -> Path:
        """The Feast repository: registry database and feature_store.yaml."""
        return self.root / "features"

    @property
    def packages(self) -> Path:
        """Verified model packages by content digest."""
        return self.root / "packages"

    @property
    def keys(self) -> Path:
        """Signing keys, the gateway's key, Ray's token; mode 0700."""
        return self.root / "keys"

    @property
    def spool(self) -> Path:
        """Exposure records waiting for the lake."""
        return self.root / "spool"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.root / "mlflow"

    @property
    def logs(self) -> Path:
        """Logs of the processes that Heliostat starts."""
        return self.root / "logs"

    @property
    def format_file(self) -> Path:
        """Format version and the Heliostat that wrote it, as JSON."""
        return self.root / "format"


def open_home(root: Path) -> Home:
    """Make the state folder, or check and migrate the one that is there.

    Safe to call again and from several processes. An older format is brought up to date
    step by step; each step can be repeated, so one cut short is done again.

    Args:
        root: The folder; made with mode 0700 when it is missing.

    Raises:
        ConfigError: It is not a folder that can be written, its format is newer than this
            Heliostat knows, or its format file cannot be read.
    """
    root = root.absolute()
    home = Home(root=root)
    try:
        is_new = not root.exists() or not any(root.iterdir())
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "HELIOSTAT_HOME", str(root), "must be a folder that can be written",
            breaks=error.strerror or str(error),
        ) from error  # fmt: skip
    found = FORMAT if is_new else _read_format(home)
    if found > FORMAT:
        written_by = json.loads(home.format_file.read_text()).get("written_by", "a newer one")
        raise ConfigError(
            str(home.format_file), found, f"must be at most {FORMAT} for Heliostat {__version__}",
            breaks=f"it was written by Heliostat {written_by}",
            next_step="Run `git pull && make demo` to use that version, or keep this one and "
            "choose another folder with HELIOSTAT_HOME",
        )  # fmt: skip
    for version in range(found, FORMAT):
        MIGRATIONS[version](home)
    if is_new or found < FORMAT:
        _write_format(home)
    return home


def _read_format(home: Home) -> int:
    if not home.format_file.exists():
        return 0
    try:
        found = json.loads(home.format_file.read_text())["format"]
    except (ValueError, KeyError, TypeError) as error:
        found = error
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ConfigError(
            str(home.format_file), home.format_file.read_text()[:80],
            'must read {"format": N}',
            next_step="Move the folder away, or restore the file if you know its format",
        )  # fmt: skip
    return found


def _write_format(home: Home) -> None:
    text = json.dumps({"format": FORMAT, "written_by": __version__}) + "\n"
    temporary = home.format_file.with_name(f"format.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(home.format_file)


def _close_to_others(home: Home) -> None:
    """Format 0, before the file existed: the same layout, with folders open to others."""
    home.root.chmod(0o700)
    if home.keys.is_dir():
        home.keys.chmod(0o700)


MIGRATIONS: dict[int, Callable[[Home], None]] = {0: _close_to_others}
