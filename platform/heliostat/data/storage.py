"""The folder of a table, on local disk or in an object store: whole files in, out and listed."""

# ruff: noqa: D102 - the two folders say what `Storage` says
from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from heliostat.config import require
from heliostat.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "abfss", "az")
"""Object stores that a URL may name; everything else is a local path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One file that lies in a folder."""

    path: str
    """Relative to the folder."""

    size_bytes: int

    modified_s: float
    """Seconds since 1970."""


class Storage(Protocol):
    """One folder. Paths are relative to it, with ``/``; a written file is seen whole or not."""

    @property
    def url(self) -> str:
        """The folder as deltalake takes it."""

    @property
    def options(self) -> dict[str, str] | None:
        """Credentials and endpoints for deltalake; None where there are none."""

    def write(self, path: str, content: bytes | memoryview) -> None:
        """Write a file, durable and whole by the time this returns."""

    def write_unsynced(self, path: str, content: bytes) -> None:
        """Write a file that a crash of the machine may lose or cut; much quicker on local disk."""

    def read(self, path: str) -> bytes | None:
        """Give a file's bytes, or None if there is no such file."""

    def stat(self, path: str) -> Stored | None:
        """Look at one file."""

    def list(self, path: str = "") -> list[Stored]:
        """The files right in a folder; none if it does not exist."""

    def delete(self, path: str) -> None:
        """Remove a file; nothing happens if it is gone."""

    def make(self) -> None:
        """Make the folder where folders exist."""

    def readable(self, path: str) -> str:
        """Where Ray Data and pyarrow find the file, on `filesystem`."""

    @property
    def filesystem(self) -> FileSystem | None:
        """Arrow's side of an object store; None for local disk."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder on local disk; overrides `Storage`."""

    folder: Path

    @property
    def url(self) -> str:
        # deltalake 1.6 decodes the path once too often and then does not find its own log.
        require(
            unquote(str(self.folder)) == str(self.folder), "tables folder", str(self.folder),
            "must not hold '%' before two hexadecimal digits",
        )  # fmt: skip
        return str(self.folder)

    @property
    def options(self) -> dict[str, str] | None:
        return None

    @property
    def filesystem(self) -> FileSystem | None:
        return None

    def write(self, path: str, content: bytes | memoryview) -> None:
        target = self.folder / path
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _no_room(target.parent, error) from error

    def write_unsynced(self, path: str, content: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.write_bytes(content)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise _no_room(target.parent, error) from error

    def read(self, path: str) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def stat(self, path: str) -> Stored | None:
        try:
            found = (self.folder / path).stat()
        except FileNotFoundError:
            return None
        return Stored(path=path, size_bytes=found.st_size, modified_s=found.st_mtime)

    def list(self, path: str = "") -> list[Stored]:
        base = self.folder / path
        found = []
        for item in sorted(base.iterdir()) if base.is_dir() else ():
            stored = None if item.is_dir() else self.stat(str(item.relative_to(self.folder)))
            if stored is not None:
                found.append(stored)
        return found

    def delete(self, path: str) -> None:
        (self.folder / path).unlink(missing_ok=True)

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def readable(self, path: str) -> str:
        return str(self.folder / path)


def _no_room(folder: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"folder {folder}", f"cannot be written: {error.strerror}",
        next_step="Make room or choose another folder, then repeat: nothing is lost",
    )  # fmt: skip


@dataclass(frozen=True)
class ObjectFolder:
    """A prefix in an object store; overrides `Storage`. Never shows its options."""

    url: str

    settings: Mapping[str, str] = field(repr=False)

    @property
    def options(self) -> dict[str, str] | None:
        return dict(self.settings)

    @cached_property
    def filesystem(self) -> FileSystem:
        return _filesystem(self.url, self.settings)

    def write(self, path: str, content: bytes | memoryview) -> None:
        with self._answering(), self.filesystem.open_output_stream(self.readable(path)) as file:
            file.write(content)

    def write_unsynced(self, path: str, content: bytes) -> None:
        self.write(path, content)

    def read(self, path: str) -> bytes | None:
        try:
            with self._answering(), self.filesystem.open_input_file(self.readable(path)) as file:
                content: bytes = file.read()
                return content
        except FileNotFoundError:
            return None

    def stat(self, path: str) -> Stored | None:
        with self._answering():
            info = self.filesystem.get_file_info(self.readable(path))
        return self._stored(info) if info.is_file else None

    def list(self, path: str = "") -> list[Stored]:
        from pyarrow.fs import FileSelector

        base = self.readable(path).rstrip("/")
        with self._answering():
            found = self.filesystem.get_file_info(FileSelector(base, allow_not_found=True))
        return sorted((self._stored(info) for info in found if info.is_file), key=lambda s: s.path)

    def delete(self, path: str) -> None:
        with self._answering():
            if self.filesystem.get_file_info(self.readable(path)).is_file:
                self.filesystem.delete_file(self.readable(path))

    def make(self) -> None:
        return

    def readable(self, path: str) -> str:
        return f"{_bucket_and_key(self.url)}/{path}"

    def _stored(self, info: Any) -> Stored:
        prefix = len(_bucket_and_key(self.url)) + 1
        return Stored(
            path=info.path[prefix:], size_bytes=info.size, modified_s=info.mtime.timestamp()
        )

    def _answering(self) -> _Answering:
        return _Answering(self.url)


class _Answering:
    """Turns what an object store's client raises into `Unavailable`, without its request."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise unavailable(self._url, error) from None


def unavailable(url: str, error: BaseException) -> Unavailable:
    """Say that an object store did not answer, in words that hold no key."""
    text = str(error)
    refused = any(
        word in text for word in ("403", "ACCESS_DENIED", "InvalidAccessKey", "Forbidden")
    )
    problem = "refuses the credentials" if refused else "does not answer as an object store"
    return Unavailable(
        url, f"{problem} ({type(error).__name__})",
        next_step="Check the endpoint and the credentials in the catalog's options",
    )  # fmt: skip


def is_url(root: Path | str) -> bool:
    """Say whether the root names an object store.

    >>> [is_url("s3://lake/tables"), is_url("/var/tables")]
    [True, False]
    """
    return "://" in str(root)


def folder(root: Path | str, name: str, settings: Mapping[str, str]) -> Storage:
    """Open the folder `name` below a root; touches nothing.

    Args:
        root: Local path, or ``s3://bucket/prefix``, ``gs://...``, ``abfss://...``, ``az://...``.
        name: Below it.
        settings: deltalake's storage options, as ``AWS_ENDPOINT_URL``; ignored for a local path.
    """
    if not is_url(root):
        return LocalFolder(Path(root) / name)
    url = str(root).rstrip("/")
    scheme = url.split("://", maxsplit=1)[0]
    require(scheme in SCHEMES, "tables folder", url, f"must be a path or one of {SCHEMES}")
    return ObjectFolder(f"{url}/{name}" if name else url, settings)


def folders_with(root: Path | str, name: str, settings: Mapping[str, str]) -> list[str]:
    """Folders below a URL that hold a folder of this name, relative to it and sorted."""
    from pyarrow.fs import FileSelector

    inside = ObjectFolder(str(root).rstrip("/"), settings)
    base = _bucket_and_key(inside.url)
    with _Answering(inside.url):
        infos = inside.filesystem.get_file_info(
            FileSelector(base, recursive=True, allow_not_found=True)
        )
    paths = [info.path[len(base) + 1 :] for info in infos]
    return sorted({path.split(f"/{name}/")[0] for path in paths if f"/{name}/" in path})


def _bucket_and_key(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme == "abfss" and "@" in rest:
        container, _, after = rest.partition("@")
        return f"{container}/{after.partition('/')[2]}".rstrip("/")
    return rest.rstrip("/")


def _filesystem(url: str, settings: Mapping[str, str]) -> FileSystem:
    """Open Arrow's file system with the same options that deltalake gets."""
    from pyarrow import fs

    given = {key.upper(): value for key, value in settings.items()}
    scheme = url.partition("://")[0]
    try:
        if scheme == "s3":
            endpoint = given.get("AWS_ENDPOINT_URL", "")
            arguments = {
                "access_key": given.get("AWS_ACCESS_KEY_ID"),
                "secret_key": given.get("AWS_SECRET_ACCESS_KEY"),
                "session_token": given.get("AWS_SESSION_TOKEN"),
                "region": given.get("AWS_REGION"),
                "endpoint_override": endpoint.partition("://")[2] or None,
                "scheme": endpoint.partition("://")[0] or None,
            }
            return fs.S3FileSystem(
                **{key: value for key, value in arguments.items() if value},
                connect_timeout=5, request_timeout=30,
            )  # fmt: skip
        if scheme == "gs":
            endpoint = given.get("GOOGLE_ENDPOINT_URL", "")
            if not endpoint:
                return fs.GcsFileSystem()
            scheme, _, host = endpoint.partition("://")
            return fs.GcsFileSystem(anonymous=True, scheme=scheme, endpoint_override=host)
        arguments = {
            "account_name": given.get("AZURE_STORAGE_ACCOUNT_NAME"),
            "account_key": given.get("AZURE_STORAGE_ACCOUNT_KEY"),
        }
        endpoint = given.get("AZURE_STORAGE_ENDPOINT", "")
        if endpoint:
            scheme, _, host = endpoint.partition("://")
            authority = host.partition("/")[0]
            arguments |= {
                "blob_storage_authority": authority, "blob_storage_scheme": scheme,
                "dfs_storage_authority": authority, "dfs_storage_scheme": scheme,
            }  # fmt: skip
        return fs.AzureFileSystem(**{key: value for key, value in arguments.items() if value})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "tables folder", url, "must be reachable with the options given"
        ) from error
