"""A signed package is accepted as it is and refused after any change."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.registry import signing


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "a package"
    (folder / "extra").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(random.Random(0).randbytes(5000))
    (folder / "model.json").write_text('{"format": 1}\n')
    (folder / "extra" / "card.md").write_text("# card\n")
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_an_untouched_package_verifies_to_the_digest_it_was_signed_with(
    package: Path, keys: Path
) -> None:
    """The digest names the content: a copy elsewhere, signed again, has the same one."""
    digest = signing.sign(package, keys)
    copy = shutil.copytree(package, package.parent / "copy")

    assert signing.verify(package, keys) == digest
    assert signing.sign(copy, keys) == digest
    assert digest.startswith("sha256:")
    assert len(digest) == 71


def test_keys_are_made_once_and_only_their_owner_reads_them(keys: Path) -> None:
    """The second call returns the first key."""
    fingerprint = signing.create_key(keys)

    assert signing.create_key(keys) == fingerprint
    assert list(signing.trusted_keys(keys)) == [fingerprint]
    assert keys.stat().st_mode & 0o777 == 0o700
    assert (keys / "model-signing.pem").stat().st_mode & 0o777 == 0o600


def test_a_private_key_that_others_can_read_is_refused(package: Path, keys: Path) -> None:
    """A leaked key must not sign on."""
    signing.create_key(keys)
    (keys / "model-signing.pem").chmod(0o644)

    with pytest.raises(ConfigError, match="must be readable by its owner only"):
        signing.sign(package, keys)


def _append(package: Path) -> None:
    with (package / "model.onnx").open("ab") as file:
        file.write(b"x")


def _swap(package: Path) -> None:
    (package / "model.json").rename(package / "x")
    (package / "extra" / "card.md").rename(package / "model.json")
    (package / "x").rename(package / "extra" / "card.md")


def _hide(package: Path) -> None:
    (package / ".git").mkdir()
    (package / ".git" / "hook").write_text("x")


def _move_away(package: Path) -> None:
    elsewhere = package.parent / "model.onnx"
    (package / "model.onnx").rename(elsewhere)
    (package / "model.onnx").symlink_to(elsewhere)


def _respell(package: Path) -> None:
    signature = package / "model.sig"
    signature.write_text(
        signature.read_text().replace('{"payload":', '{"payload":"e30=","payload":')
    )


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed file": _append,
    "added file": lambda package: (package / "more.txt").write_text("x"),
    "added git file": lambda package: (package / ".gitignore").write_text("x"),
    "added hidden folder": _hide,
    "missing file": lambda package: (package / "model.json").unlink(),
    "renamed file": lambda package: (package / "model.json").rename(package / "model2.json"),
    "swapped files": _swap,
    "symlink": lambda package: (package / "link").symlink_to("model.onnx"),
    "symlinked folder": lambda package: (package / "link").symlink_to("extra"),
    "file replaced by symlink": _move_away,
    "fifo": lambda package: os.mkfifo(package / "pipe"),
    "no signature": lambda package: (package / "model.sig").unlink(),
    "empty signature": lambda package: (package / "model.sig").write_text(""),
    "signature of another form": lambda package: (package / "model.sig").write_text("[1]"),
    "signature spelled differently": _respell,
    "huge signature": lambda package: (package / "model.sig").write_text(" " * (5 << 20)),
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_change_after_signing_is_refused(change: str, package: Path, keys: Path) -> None:
    """Not one of the ways to alter a folder goes unnoticed."""
    signing.sign(package, keys)
    CHANGES[change](package)

    with pytest.raises(signing.UntrustedModel):
        signing.verify(package, keys)


def test_a_flipped_bit_anywhere_is_refused(package: Path, keys: Path) -> None:
    """Also in the signature itself, whatever its parser makes of it."""
    digest = signing.sign(package, keys)
    rng = random.Random(1)
    accepted = []
    for path in sorted(file for file in package.rglob("*") if file.is_file()):
        whole = path.read_bytes()
        for _ in range(15):
            changed = bytearray(whole)
            place = rng.randrange(len(whole))
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            try:
                signing.verify(package, keys)
            except signing.UntrustedModel:
                continue
            accepted.append((path.name, place))
        path.write_bytes(whole)

    assert accepted == []
    assert signing.verify(package, keys) == digest


def test_a_stranger_cannot_sign(package: Path, keys: Path, tmp_path: Path) -> None:
    """A valid signature by an unknown key is no trusted signature."""
    signing.create_key(keys)
    signing.sign(package, tmp_path / "stranger")

    with pytest.raises(signing.UntrustedModel, match="not among the 1 trusted"):
        signing.verify(package, keys)


def test_after_a_rotation_old_packages_stay_trusted_until_their_key_is_removed(
    package: Path, keys: Path
) -> None:
    """Rotation alone breaks no served model; removing the key does."""
    digest = signing.sign(package, keys)
    old = signing.create_key(keys)
    new = signing.rotate_key(keys)

    assert set(signing.trusted_keys(keys)) == {old, new}
    assert signing.verify(package, keys) == digest
    signing.trusted_keys(keys)[old].unlink()
    with pytest.raises(signing.UntrustedModel, match="not among the 1 trusted"):
        signing.verify(package, keys)
    assert signing.sign(package, keys) == digest
    assert signing.verify(package, keys) == digest


def test_the_public_tool_accepts_our_signature(package: Path, keys: Path) -> None:
    """The format is OpenSSF's, not ours."""
    signing.sign(package, keys)
    (public,) = signing.trusted_keys(keys).values()
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(package)]
    command += ["--signature", str(package / "model.sig"), "--public_key", str(public)]

    done = subprocess.run(
        [*command, "--ignore-paths", str(package / "model.sig")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr


def test_another_platforms_key_can_be_trusted_and_distrusted(
    package: Path, keys: Path, tmp_path: Path
) -> None:
    """Its models are accepted in between; the key that signs now cannot be distrusted."""
    stranger = signing.create_key(tmp_path / "stranger")
    digest = signing.sign(package, tmp_path / "stranger")
    own = signing.create_key(keys)
    public = tmp_path / "stranger" / "trusted" / f"{stranger[:16]}.pem"

    assert signing.trust(keys, public) == stranger
    assert signing.verify(package, keys) == digest
    assert signing.distrust(keys, stranger[:16]) == stranger
    with pytest.raises(signing.UntrustedModel, match="not among the 1 trusted"):
        signing.verify(package, keys)
    with pytest.raises(ConfigError, match="must not be the one that signs now"):
        signing.distrust(keys, own)
    with pytest.raises(ConfigError, match="must name one trusted key by at least 8 digits"):
        signing.distrust(keys, own[:3])
    with pytest.raises(ConfigError, match="must be a public key in PEM"):
        signing.trust(keys, package / "model.onnx")


def _sign_by_the_library(package: Path, keys: Path) -> None:
    """Sign as another program with the same key would, which looks at no file's content."""
    from model_signing import hashing
    from model_signing import signing as library

    signing.create_key(keys)
    bundle = keys / "model.sig"
    ignored = hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False)
    config = library.Config().use_elliptic_key_signer(private_key=keys / "model-signing.pem")
    config.set_hashing_config(ignored).sign(package, bundle)
    bundle.rename(package / "model.sig")


@pytest.mark.parametrize("name", ["model.pkl", "weights.bin", "state", "old.pt"])
def test_a_pickle_is_neither_signed_nor_accepted(name: str, package: Path, keys: Path) -> None:
    """By ending, by content, or inside an archive; also one that a trusted key has signed."""
    if name == "state":
        with zipfile.ZipFile(package / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    else:
        (package / name).write_bytes(pickle.dumps({"weights": list(range(100))}))

    with pytest.raises(ConfigError, match=f"package = '{name}': must hold no pickle"):
        signing.sign(package, keys)
    _sign_by_the_library(package, keys)
    with pytest.raises(signing.UntrustedModel, match=f"holds pickles, which run code: {name}"):
        signing.verify(package, keys)


def test_other_files_that_begin_like_a_pickle_are_none(package: Path, keys: Path) -> None:
    """Safetensors begin with the length of their header, which may be any number."""
    (package / "weights.safetensors").write_bytes(b"\x80\x02\0\0\0\0\0\0" + b"{" * 640)
    assert signing.sign(package, keys) == signing.verify(package, keys)
