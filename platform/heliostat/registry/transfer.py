"""Carry a model version between platforms: the signed package in one file, and nothing else."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.registry import signing
from heliostat.registry.package import PackageDescription
from heliostat.registry.versions import ModelVersion, Registry

MAX_FILES = 10_000
MAX_BYTES = 64 << 30
"""What an archive may unpack to; a model is smaller, a bomb is not."""


def pack(version: ModelVersion, registry: Registry, out: Path) -> str:
    """Write a version's package as a tar file; equal packages give equal bytes.

    Metrics, tags and runs stay where they are: nothing crosses that the signature does not cover.

    Args:
        version: As `Registry.get` gave it.
        registry: By whose trusted keys the package is checked before it leaves.
        out: File to write; replaced whole or not at all.

    Returns:
        The package's content digest.

    Raises:
        UntrustedModel: The package is not what a trusted key signed.
    """
    digest = signing.verify(version.path, registry.home.keys)
    scratch = out.with_name(f".{out.name}.part")
    try:
        with tarfile.open(scratch, "w", format=tarfile.USTAR_FORMAT) as archive:
            for path in sorted(version.path.rglob("*")):
                if path.is_file():
                    entry = tarfile.TarInfo(path.relative_to(version.path).as_posix())
                    entry.size, entry.mode = path.stat().st_size, 0o644
                    with path.open("rb") as file:
                        archive.addfile(entry, file)
        scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)
    return digest


def receive(archive: Path, registry: Registry) -> ModelVersion:
    """Verify an archive that arrived and make it the model's next version here.

    The package must be signed by a key that this platform trusts: copy the sender's public key
    from its ``keys/trusted`` into that folder here, once, by a way of its own. Repeating a call
    gives the same version.

    Raises:
        ConfigError: The file is no archive that `pack` writes.
        UntrustedModel: No trusted key signed it, or a byte changed on the way; nothing was loaded.
        Unavailable: MLflow does not answer.
    """
    home = registry.home
    home.packages.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".arriving-", dir=home.packages))
    try:
        package = scratch / "package"
        package.mkdir()
        _unpack(archive, package)
        digest = signing.verify(package, home.keys)
        model = PackageDescription.read(package).model
        for known in registry.list(model):
            if known.digest == digest:
                return registry.get(model, known.version)
        tags = {"received": archive.name, "digest": digest}
        with registry.tracking.run(f"{model} received", archive.stem, tags) as run_id:
            return registry.register(package, model, run_id, {"received": archive.name})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(archive: Path, target: Path) -> None:
    """Write the plain files of a tar, and refuse every other kind of entry and every way out."""
    try:
        with tarfile.open(archive, "r:") as tar:
            num_bytes = 0
            for number, entry in enumerate(_entries(tar), 1):
                num_bytes += entry.size
                require(
                    number <= MAX_FILES, "archive", number, f"must hold at most {MAX_FILES} files"
                )
                require(num_bytes <= MAX_BYTES, "archive", num_bytes,
                        f"must hold at most {MAX_BYTES} bytes")  # fmt: skip
                path = PurePosixPath(entry.name)
                is_inside = not path.is_absolute() and ".." not in path.parts and bool(path.parts)
                require(entry.isreg() and is_inside, "archive", entry.name[:100],
                        "must be a plain file inside the package")  # fmt: skip
                place = target / path
                require(not place.exists(), "archive", entry.name[:100], "must be there once")
                place.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(entry)
                with place.open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)  # type: ignore[arg-type]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ConfigError(
            "archive", str(archive), "must be a file that `heliostat model pack` wrote",
            breaks=str(error)[:200],
        ) from error  # fmt: skip


def _entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Read entries one at a time, so that a list of millions never lies in memory."""
    while (entry := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps every entry it has read
        yield entry
