"""Model versions: registered once, found by number or alias, and whole or not there at all.

The registry is MLflow's; the package lies in the artifacts of the run that made it and, as a
verified copy, in the local folder of packages under its content digest. A version counts only
once its tag ``heliostat.complete`` is set, which is the last step of registering it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.config import require, require_name
from heliostat.errors import ConfigError
from heliostat.registry import signing
from heliostat.registry.tracking import Tracking
from heliostat.store.home import Home

_COMPLETE = "heliostat.complete"
_DIGEST = "heliostat.digest"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One registered version of a model."""

    model: str

    version: str
    """Number within the model, as text: ``"1"``, ``"2"``, ..."""

    digest: str
    """Content digest of the package, ``sha256:...``."""

    run_id: str
    """The training run that it came from."""

    path: Path
    """Local folder of the package; there and verified when `Registry.get` or `register` returned
    this, perhaps absent when `list` did."""

    tags: Mapping[str, str]
    """What was recorded at registration: gates, data versions, revision, ..."""

    aliases: tuple[str, ...] = ()


class Registry:
    """Model versions of one MLflow server with their packages in one home."""

    def __init__(self, tracking: Tracking, home: Home) -> None:
        """Use the registry behind `tracking`; nothing is contacted yet."""
        self.tracking = tracking
        self.home = home

    def register(
        self, package_dir: Path, model: str, run_id: str, tags: Mapping[str, str]
    ) -> ModelVersion:
        """Verify a signed package, store it and make it the model's next version.

        Repeating a call, also one that was killed half way, ends with one version per
        package content and run.

        Args:
            package_dir: Signed package; read only.
            model: Name of the model.
            run_id: The run that trained it; the package becomes one of its artifacts.
            tags: Recorded on the version. Names beginning with ``heliostat.`` are ours.

        Raises:
            UntrustedModel: The package is not what a trusted key signed.
            ConfigError: The model's name or a tag is not allowed.
            Unavailable: MLflow does not answer; no version is visible then.
        """
        require_name("model", model)
        for name in tags:
            require(not name.startswith("heliostat."), "tags", name, "must not be reserved")
        digest = signing.verify(package_dir, self.home.keys)
        path = self._store(package_dir, digest)
        with self.tracking._answering() as client:
            known = [
                item
                for item in _all_versions(client, model)
                if item.run_id == run_id and item.tags.get(_DIGEST) == digest
            ]
            finished = [item for item in known if _COMPLETE in item.tags]
            if finished:
                return self._version(client, finished[0])
            if known:
                half = known[0]
            else:
                _ensure_model(client, model)
                source = self.tracking.log_artifacts(run_id, path, f"packages/{_hex(digest)}")
                half = client.create_model_version(
                    model, source, run_id, tags={**tags, _DIGEST: digest}
                )
            client.set_model_version_tag(model, half.version, _COMPLETE, "true")
            return self._version(client, client.get_model_version(model, half.version))

    def get(self, model: str, version: str) -> ModelVersion:
        """Return a version with its package present and verified in the local folder.

        The package is downloaded when it is absent or no longer what was signed.

        Raises:
            ConfigError: There is no such version, or it was never finished.
            UntrustedModel: What MLflow holds is not what was signed and registered.
            Unavailable: MLflow does not answer.
        """
        with self.tracking._answering() as client:
            found = self._version(client, _find(client, model, version))
            if not self._is_whole(found):
                self._download(client, found)
        return found

    def models(self) -> list[str]:
        """Names of all models that were ever registered, sorted."""
        names: list[str] = []
        token: str | None = None
        with self.tracking._answering() as client:
            while True:
                page = client.search_registered_models(page_token=token)
                names.extend(item.name for item in page)
                token = page.token
                if not token:
                    return sorted(names)

    def list(self, model: str) -> list[ModelVersion]:
        """All finished versions of a model, oldest first; empty for an unknown model."""
        with self.tracking._answering() as client:
            items = [item for item in _all_versions(client, model) if _COMPLETE in item.tags]
            aliases = _aliases(client, model) if items else {}
            found = [_plain(item, self._path(item.tags[_DIGEST]), aliases) for item in items]
        return sorted(found, key=lambda item: int(item.version))

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point an alias such as ``stable`` at a finished version.

        MLflow cannot compare and set: let one writer promote versions of a model.

        Raises:
            ConfigError: There is no such finished version, or the alias is not allowed.
        """
        require_name("alias", alias)
        with self.tracking._answering() as client:
            _find(client, model, version)
            client.set_registered_model_alias(model, alias, version)

    def by_alias(self, model: str, alias: str) -> ModelVersion | None:
        """Return the version an alias points at, as `list` would; None if it points nowhere."""
        return next((item for item in self.list(model) if alias in item.aliases), None)

    def _version(self, client: Any, item: Any) -> ModelVersion:
        return _plain(item, self._path(item.tags[_DIGEST]), _aliases(client, item.name))

    def _path(self, digest: str) -> Path:
        return self.home.packages / _hex(digest)

    def _store(self, package_dir: Path, digest: str) -> Path:
        """Copy a verified package into the folder of packages, whole or not at all."""
        target = self._path(digest)
        if _digest_of(target, self.home.keys) == digest:
            return target
        scratch = _scratch(self.home.packages)
        try:
            shutil.copytree(package_dir, scratch / "package", symlinks=True)
            self._adopt(scratch, target, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target

    def _download(self, client: Any, version: ModelVersion) -> None:
        scratch = _scratch(self.home.packages)
        try:
            fetched = client.download_artifacts(
                version.run_id, f"packages/{_hex(version.digest)}", str(scratch)
            )
            Path(fetched).rename(scratch / "package")
            self._adopt(scratch, version.path, version.digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _adopt(self, scratch: Path, target: Path, digest: str) -> None:
        """Move ``scratch/package`` to its final place once it is proven and on disk."""
        package = scratch / "package"
        found = signing.verify(package, self.home.keys)
        if found != digest:
            raise signing.UntrustedModel(package, f"it holds {found}, registered was {digest}")
        _sync(package)
        if target.is_symlink() or target.exists():
            # Whoever has the spoilt copy open keeps reading it until they let go.
            target.rename(scratch / "spoilt")
        try:
            package.rename(target)
        except OSError:
            # Somebody else stored the same content at the same moment.
            if _digest_of(target, self.home.keys) != digest:
                raise
        _sync_folder(target.parent)

    def _is_whole(self, version: ModelVersion) -> bool:
        return _digest_of(version.path, self.home.keys) == version.digest


def _digest_of(package_dir: Path, keys_dir: Path) -> str | None:
    try:
        return signing.verify(package_dir, keys_dir)
    except signing.UntrustedModel:
        return None


def _find(client: Any, model: str, version: str) -> Any:
    items = {str(item.version): item for item in _all_versions(client, model)}
    finished = [name for name, item in items.items() if _COMPLETE in item.tags]
    if version not in finished:
        raise ConfigError(
            f"version of {model}", version, "must be a registered version",
            breaks="its registration never ended" if version in items else None,
            next_step="Known: " + (", ".join(sorted(finished, key=int)) or "none"),
        )  # fmt: skip
    return items[version]


def _all_versions(client: Any, model: str) -> list[Any]:
    require_name("model", model)
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{model}'", page_token=token)
        found.extend(item for item in page if item.name == model)
        token = page.token
        if not token:
            return found


def _aliases(client: Any, model: str) -> dict[str, tuple[str, ...]]:
    by_version: dict[str, tuple[str, ...]] = {}
    for alias, version in sorted(client.get_registered_model(model).aliases.items()):
        by_version[str(version)] = (*by_version.get(str(version), ()), alias)
    return by_version


def _ensure_model(client: Any, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _plain(item: Any, path: Path, aliases: Mapping[str, tuple[str, ...]]) -> ModelVersion:
    return ModelVersion(
        model=item.name,
        version=str(item.version),
        digest=item.tags[_DIGEST],
        run_id=item.run_id,
        path=path,
        tags={name: text for name, text in item.tags.items() if not name.startswith("heliostat.")},
        aliases=aliases.get(str(item.version), ()),
    )


def _hex(digest: str) -> str:
    name = digest.removeprefix("sha256:")
    require(
        len(name) == 64 and not set(name) - set("0123456789abcdef"),
        "digest", digest, "must be sha256: and 64 hexadecimal digits",
    )  # fmt: skip
    return name


def _scratch(packages: Path) -> Path:
    packages.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=packages, prefix=".incoming-"))


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
