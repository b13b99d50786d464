"""Sign a model package with the project's key; verify one before any byte of it is loaded.

Signatures are OpenSSF model-signing bundles (``model.sig``, ECDSA P-256 over a manifest of
SHA-256 digests), so ``model_signing verify key`` checks them without this package.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.errors import ConfigError, HeliostatError
from heliostat.registry import pickles

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNATURE = "model.sig"

_PRIVATE_KEY = "model-signing.pem"
_TRUSTED = "trusted"
_SIGNATURE_LIMIT_BYTES = 4 << 20


class UntrustedModel(HeliostatError):
    """A package is not exactly what a trusted key signed; nothing of it was loaded."""

    exit_code = 3

    def __init__(self, package: Path, problem: str) -> None:
        super().__init__(f"package = {str(package)!r}: must be as it was signed; {problem}")
        self.package = str(package)
        self.problem = problem


def create_key(keys_dir: Path) -> str:
    """Return the fingerprint of the signing key, after creating the key if there is none.

    Two processes that call this at once end with the same key. The public half is added
    to the trusted keys; the private half is readable by its owner only.

    Raises:
        ConfigError: The private key can be read by others.
    """
    private = keys_dir / _PRIVATE_KEY
    if not private.exists():
        _write_new_key(keys_dir, replace=False)
    return _trust(keys_dir, _read_private(private).public_key())


def rotate_key(keys_dir: Path) -> str:
    """Sign with a new key from now on and return its fingerprint; the old one stays trusted.

    `distrust` ends that.
    """
    create_key(keys_dir)
    _write_new_key(keys_dir, replace=True)
    return create_key(keys_dir)


def trusted_keys(keys_dir: Path) -> dict[str, Path]:
    """Public keys (PEM files) that `verify` accepts, by fingerprint."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found: dict[str, Path] = {}
    for path in sorted((keys_dir / _TRUSTED).glob("*.pem")):
        try:
            key = load_pem_public_key(path.read_bytes())
        except ValueError as error:
            raise ConfigError(str(path), str(error), "must be a public key in PEM") from error
        if not isinstance(key, EllipticCurvePublicKey):
            raise ConfigError(str(path), type(key).__name__, "must be an elliptic curve key")
        found[_fingerprint(key)] = path
    return found


def trust(keys_dir: Path, public_key: Path) -> str:
    """Accept packages of another signer, such as another platform; return its fingerprint.

    Raises:
        ConfigError: The file is no public elliptic curve key in PEM.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(public_key.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "public key", str(public_key), "must be a public key in PEM", breaks=str(error)
        ) from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise ConfigError("public key", type(key).__name__, "must be an elliptic curve key")
    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _trust(keys_dir, key)


def distrust(keys_dir: Path, fingerprint: str) -> str:
    """Refuse every package that a key signed, from now on; return its whole fingerprint.

    Args:
        keys_dir: Folder of keys.
        fingerprint: The key's, or the beginning of it, at least 8 digits.

    Raises:
        ConfigError: No trusted key or several begin so, or it is the key that signs now.
    """
    known = trusted_keys(keys_dir)
    found = [name for name in known if len(fingerprint) >= 8 and name.startswith(fingerprint)]
    if len(found) != 1:
        raise ConfigError(
            "key", fingerprint, "must name one trusted key by at least 8 digits",
            next_step="Known: " + (", ".join(name[:16] for name in known) or "none"),
        )  # fmt: skip
    if found[0] == create_key(keys_dir):
        raise ConfigError(
            "key", fingerprint[:16], "must not be the one that signs now",
            next_step="Change it first: heliostat model keys rotate",
        )  # fmt: skip
    known[found[0]].unlink()
    return found[0]


def sign(package_dir: Path, keys_dir: Path) -> str:
    """Write ``model.sig`` over every file of the package and return its content digest.

    The key is created on first use. A package that was signed before is signed again.

    Raises:
        ConfigError: The package is empty or holds a symbolic link, a special file, or a pickle
            that its recipe did not ask for.
    """
    from model_signing import signing

    create_key(keys_dir)
    (package_dir / SIGNATURE).unlink(missing_ok=True)
    try:
        files = _scan(package_dir)
    except UntrustedModel as error:
        raise ConfigError("package", str(package_dir), error.problem) from error
    if not files:
        raise ConfigError("package", str(package_dir), "must hold at least one file")
    unsafe = pickles.refused(package_dir, files)
    if unsafe:
        raise ConfigError("package", ", ".join(unsafe), "must hold no pickle: opening it runs code")
    with tempfile.TemporaryDirectory(dir=keys_dir) as scratch:
        bundle = Path(scratch) / SIGNATURE
        library: Any = signing  # its constructors carry no types
        config = library.Config().use_elliptic_key_signer(private_key=keys_dir / _PRIVATE_KEY)
        config.set_hashing_config(_hashing()).sign(package_dir, bundle)
        content = bundle.read_bytes()
    target = package_dir / SIGNATURE
    target.write_bytes(content)
    return _content_digest(_signed_digests(content))


def verify(package_dir: Path, keys_dir: Path) -> str:
    """Check a package against its signature and return its content digest, ``sha256:...``.

    The digest covers names and contents of all files but the signature, so signing the
    same files again does not change it. A file that changes after this call is not noticed.

    Raises:
        UntrustedModel: No trusted key signed it; or a file was changed, added, removed or
            renamed; or the package holds a symbolic link or anything else that is not a
            plain file or folder; or a pickle that its recipe did not ask for, whoever signed it.
    """
    from model_signing import verifying

    files = _scan(package_dir)
    if SIGNATURE not in files:
        raise UntrustedModel(package_dir, f"{SIGNATURE} is missing")
    path = package_dir / SIGNATURE
    if path.stat().st_size > _SIGNATURE_LIMIT_BYTES:
        raise UntrustedModel(package_dir, f"{SIGNATURE} is larger than any signature")
    content = path.read_bytes()
    signer = _signer(package_dir, content)
    trusted = trusted_keys(keys_dir)
    if signer not in trusted:
        raise UntrustedModel(
            package_dir,
            f"it was signed by key {signer[:16]}, which is not among the"
            f" {len(trusted)} trusted in {keys_dir / _TRUSTED}",
        )
    library: Any = verifying  # its constructors carry no types
    try:
        config = library.Config().use_elliptic_key_verifier(public_key=trusted[signer])
        config.set_hashing_config(_hashing()).verify(package_dir, path)
        digests = _signed_digests(content)
    except Exception as error:  # a hostile bundle makes the parser raise anything
        raise UntrustedModel(package_dir, str(error) or type(error).__name__) from error
    unsigned = files - {SIGNATURE} - digests.keys()
    if unsigned:
        raise UntrustedModel(package_dir, f"added files: {', '.join(sorted(unsigned))}")
    found = pickles.refused(package_dir, files - {SIGNATURE})
    if found:
        raise UntrustedModel(package_dir, f"it holds pickles, which run code: {', '.join(found)}")
    return _content_digest(digests)


def _hashing() -> Any:
    from model_signing import hashing

    library: Any = hashing
    # By default the library leaves .git* files unsigned, so that they could be added.
    return library.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _scan(package_dir: Path) -> set[str]:
    """List all files by relative name, or refuse what could point elsewhere."""
    if package_dir.is_symlink() or not package_dir.is_dir():
        raise UntrustedModel(package_dir, "it is not a plain folder")
    files: set[str] = set()
    waiting = [package_dir]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                name = Path(entry.path).relative_to(package_dir).as_posix()
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    waiting.append(Path(entry.path))
                elif stat.S_ISREG(mode):
                    files.add(name)
                else:
                    raise UntrustedModel(package_dir, f"{name} is not a plain file")
    return files


def _signer(package_dir: Path, content: bytes) -> str:
    try:
        bundle = json.loads(content)
        envelope = bundle["dsseEnvelope"]
        texts = [envelope["payload"], *(item["sig"] for item in envelope["signatures"])]
        # Only one spelling is accepted. Otherwise spare bits at the end of base64 could be
        # flipped, and of two equal JSON keys the library and we might read different ones.
        canonical = json.dumps(bundle, separators=(",", ":")).encode() == content and all(
            base64.b64encode(base64.b64decode(text)).decode() == text for text in texts
        )
        signer = str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UntrustedModel(package_dir, f"{SIGNATURE} is not a readable signature") from error
    if not canonical:
        raise UntrustedModel(package_dir, f"{SIGNATURE} was rewritten after signing")
    return signer


def _signed_digests(content: bytes) -> Mapping[str, str]:
    payload = json.loads(base64.b64decode(json.loads(content)["dsseEnvelope"]["payload"]))
    return {item["name"]: item["digest"] for item in payload["predicate"]["resources"]}


def _content_digest(digests: Mapping[str, str]) -> str:
    lines = [f"{digest} {json.dumps(name)}\n" for name, digest in sorted(digests.items())]
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _fingerprint(key: EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_pem(key)).hexdigest()


def _pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read_private(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            str(path), oct(mode), "must be readable by its owner only",
            next_step=f"If nobody else read it: chmod 600 {path}; else replace the key",
        )  # fmt: skip
    return load_pem_private_key(path.read_bytes(), password=None)


def _write_new_key(keys_dir: Path, *, replace: bool) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    keys_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    scratch = _write_durably(keys_dir, text)
    try:
        if replace:
            scratch.replace(keys_dir / _PRIVATE_KEY)
        else:
            # A link, unlike a rename, leaves the key of whoever was first.
            os.link(scratch, keys_dir / _PRIVATE_KEY)
    except FileExistsError:
        pass
    finally:
        scratch.unlink(missing_ok=True)


def _trust(keys_dir: Path, key: EllipticCurvePublicKey) -> str:
    fingerprint = _fingerprint(key)
    folder = keys_dir / _TRUSTED
    path = folder / f"{fingerprint[:16]}.pem"
    if not path.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        _write_durably(folder, _pem(key)).replace(path)
    return fingerprint


def _write_durably(folder: Path, content: bytes) -> Path:
    """Write a new file with mode 0600 and return its path."""
    handle, name = tempfile.mkstemp(dir=folder, suffix=".new")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
