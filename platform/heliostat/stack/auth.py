"""Ray's token authentication in its three states: unset, a token of the user's, disabled."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from heliostat.config import require
from heliostat.errors import ConfigError

TOKEN_NAME = "ray_token"  # noqa: S105 - a file's name


def resolve(environ: Mapping[str, str], keys: Path) -> dict[str, str]:
    """Say which variables make Ray's processes and clients agree on a token.

    Unset: the user's token if there is one (``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``,
    ``~/.ray/auth_token``), else one made here under `keys` with mode 0600. ``disabled``
    stays disabled. A token given as ``RAY_AUTH_TOKEN`` is inherited and never repeated.

    Args:
        environ: The user's environment.
        keys: Folder for a token of our own; made when needed.

    Returns:
        ``RAY_AUTH_MODE`` and, unless it is disabled or given by value, ``RAY_AUTH_TOKEN_PATH``.

    Raises:
        ConfigError: Another mode, or a token file that is missing or empty.
    """
    mode = environ.get("RAY_AUTH_MODE", "").lower()
    require(mode in ("", "token", "disabled"), "RAY_AUTH_MODE", mode, "must be token or disabled")
    if mode == "disabled":
        return {"RAY_AUTH_MODE": "disabled"}
    if environ.get("RAY_AUTH_TOKEN"):
        return {"RAY_AUTH_MODE": "token"}
    if given := environ.get("RAY_AUTH_TOKEN_PATH"):
        _require_token(Path(given))
        return _by_path(Path(given).absolute())
    own = keys / TOKEN_NAME
    users = Path(environ["HOME"]) / ".ray" / "auth_token" if environ.get("HOME") else None
    if users is not None and users.is_file() and users.read_text().strip():
        return _by_path(users)
    if not own.exists():
        _create(own)
    _require_token(own)
    return _by_path(own)


def token(variables: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """Read the token that `variables` (of `resolve`) point to; None when authentication is off.

    Raises:
        ConfigError: The token was given by value when the platform started and is not in
            the environment now.
    """
    if variables.get("RAY_AUTH_MODE") != "token":
        return None
    if path := variables.get("RAY_AUTH_TOKEN_PATH"):
        _require_token(Path(path))
        return Path(path).read_text().strip()
    value = environ.get("RAY_AUTH_TOKEN")
    if not value:
        raise ConfigError("RAY_AUTH_TOKEN", None, "must be set as it was when the platform started")
    return value


def _by_path(path: Path) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def _require_token(path: Path) -> None:
    try:
        filled = bool(path.read_text().strip())
    except OSError:
        filled = False
    require(filled, "RAY_AUTH_TOKEN_PATH", str(path), "must be a readable file with a token")


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32))
    temporary.replace(path)
