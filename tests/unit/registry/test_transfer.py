"""Trained on one target, served on another: the signed package crosses, and only as it was signed."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import ConfigError
from heliostat.inference.predictor import Predictor
from heliostat.registry import signing, transfer
from heliostat.registry.package import ModelInput
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import ModelVersion, Registry
from heliostat.store.home import Home
from heliostat.testing import packages
from tests.unit.registry.mlflow_database import tracking_in

INPUTS = (ModelInput(name="size", kind="numeric"),)


class Target:
    """One platform: its own keys, packages and MLflow."""

    def __init__(self, root: Path, tracking: Tracking) -> None:
        self.home = Home(root=root)
        self.tracking = tracking
        self.registry = Registry(tracking, self.home)

    def receive(self, archive: Path) -> ModelVersion:
        return transfer.receive(archive, self.registry)

    def trust(self, other: Target) -> None:
        theirs = self.home.keys / "trusted"
        theirs.mkdir(parents=True, exist_ok=True)
        for path in (other.home.keys / "trusted").iterdir():
            shutil.copy(path, theirs)


@pytest.fixture
def other_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    (tmp_path / "other").mkdir()
    return tracking_in(tmp_path / "other", monkeypatch)


@pytest.fixture
def trains(tmp_path: Path, tracking: Tracking) -> Target:
    target = Target(tmp_path / "trains", tracking)
    signing.create_key(target.home.keys)
    return target


@pytest.fixture
def serves(tmp_path: Path, other_tracking: Tracking, trains: Target) -> Target:
    target = Target(tmp_path / "serves", other_tracking)
    signing.create_key(target.home.keys)
    target.trust(trains)
    return target


@pytest.fixture
def made(trains: Target, tmp_path: Path) -> ModelVersion:
    folder = tmp_path / "package"
    packages.write_package(
        folder, model="shapes", inputs=INPUTS, bias=0.5, keys_dir=trains.home.keys
    )
    run_id = trains.tracking.start_run("exp", "n", {})
    return trains.registry.register(folder, "shapes", run_id, {"gate": "passed"})


@pytest.fixture
def archive(made: ModelVersion, trains: Target, serves: Target, tmp_path: Path) -> Path:
    path = tmp_path / "shapes-1.tar"
    assert transfer.pack(made, trains.registry, path) == made.digest
    return path


def test_a_version_arrives_as_it_was_signed_and_predicts_the_same(
    made: ModelVersion, archive: Path, serves: Target
) -> None:
    """The same digest under a number of the receiver's own; a second arrival changes nothing."""
    received = serves.receive(archive)

    assert (received.model, received.version, received.digest) == ("shapes", "1", made.digest)
    assert serves.receive(archive) == received
    assert len(serves.registry.list("shapes")) == 1
    rows = {"size": [0.0, 1.0, -2.0]}
    there = Predictor.load(received.path, serves.home.keys).predict(rows)
    here = Predictor.load(made.path, serves.home.keys).predict(rows)
    assert there.tolist() == here.tolist()


def test_only_the_signed_files_and_the_signature_cross(
    made: ModelVersion, archive: Path, serves: Target
) -> None:
    """No run, metric, tag, key or path of the sender's is in the file."""
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        owners = {(item.uid, item.gid, item.uname, item.mtime) for item in tar.getmembers()}

    assert names == {"model.onnx", "model.json", "model.sig"}
    assert owners == {(0, 0, "", 0)}
    assert serves.receive(archive).tags == {"received": "shapes-1.tar"}


def test_equal_packages_make_equal_files(
    made: ModelVersion, trains: Target, archive: Path, tmp_path: Path
) -> None:
    """So a checksum beside the file says something."""
    transfer.pack(made, trains.registry, tmp_path / "again.tar")

    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_no_byte_of_the_package_can_change_on_the_way(archive: Path, serves: Target) -> None:
    """One bit anywhere in any file's content: refused, and no version appears."""
    with tarfile.open(archive) as tar:
        places = [(item.name, item.offset_data, item.size) for item in tar.getmembers()]
    clean = archive.read_bytes()
    for name, start, size in places:
        for offset in {start, start + size // 2, start + size - 1}:
            spoilt = bytearray(clean)
            spoilt[offset] ^= 1
            archive.write_bytes(bytes(spoilt))
            with pytest.raises((signing.UntrustedModel, ConfigError)):
                serves.receive(archive)
            assert serves.registry.models() == [], (name, offset)
    assert not list(serves.home.packages.glob(".arriving-*"))


def test_what_a_stranger_signed_is_refused(
    archive: Path, made: ModelVersion, serves: Target, tmp_path: Path
) -> None:
    """Signed again with a key that the receiver does not trust, after a change."""
    stranger = tmp_path / "stranger"
    folder = tmp_path / "forged"
    shutil.copytree(made.path, folder)
    (folder / "model.onnx").write_bytes(b"other")
    signing.sign(folder, stranger)
    forged = tmp_path / "forged.tar"
    with tarfile.open(forged, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)

    with pytest.raises(signing.UntrustedModel, match="which is not among the"):
        serves.receive(forged)
    assert serves.registry.models() == []


def test_a_receiver_that_trusts_nobody_else_refuses_everything(
    archive: Path, tmp_path: Path, other_tracking: Tracking
) -> None:
    """Trust is given by hand, never by what arrives."""
    lonely = Target(tmp_path / "lonely", other_tracking)
    signing.create_key(lonely.home.keys)

    with pytest.raises(signing.UntrustedModel):
        lonely.receive(archive)


def entry(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    content = fields.pop("content", b"x")
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../../escaped")],
        [entry("/etc/escaped")],
        [entry("a/../../escaped")],
        [entry("link", type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0)],
        [entry("hard", type=tarfile.LNKTYPE, linkname="../x", size=0)],
        [entry("pipe", type=tarfile.FIFOTYPE, size=0)],
        [entry("device", type=tarfile.CHRTYPE, size=0)],
        [entry("twice"), entry("twice")],
        [entry("folder"), entry("folder/file")],
    ],
    ids=lambda items: items[-1][0].name.replace("/", "_"),
)
def test_an_archive_cannot_write_outside_its_place(
    entries: list[tuple[tarfile.TarInfo, bytes]], serves: Target, tmp_path: Path
) -> None:
    """Ways out, links, devices and doubles end in one line, and nothing is left behind."""
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    before = sorted(tmp_path.iterdir())

    with pytest.raises(ConfigError):
        serves.receive(path)

    assert sorted(tmp_path.iterdir()) == before
    assert list(serves.home.packages.iterdir()) == []


def test_what_is_no_archive_is_refused_in_one_line(serves: Target, tmp_path: Path) -> None:
    """Also a compressed one: it could unpack to anything."""
    path = tmp_path / "x.tar"
    for content in (b"", b"not a tar", os.urandom(10_000), b"\x1f\x8b" + b"0" * 100):
        path.write_bytes(content)
        with pytest.raises((ConfigError, signing.UntrustedModel)):
            serves.receive(path)
