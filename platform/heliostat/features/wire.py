"""Pure: Feast's bytes for entity keys (serialization version 3) and feature values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from heliostat.config import require
from heliostat.errors import ConfigError, HeliostatError

Value = float | int | str | None

_STRING = 2
_INT64 = 4
_LENGTH = struct.Struct("<I")
_KIND_LENGTH = struct.Struct("<II")
_KIND_LENGTH_INT64 = struct.Struct("<IIq")
_DOUBLE = struct.Struct("<d")
_FLOAT = struct.Struct("<f")

# One byte of a protocol buffer names field and wire type of the Value message.
_TAG_STRING = 0x12
_TAG_INT32 = 0x18
_TAG_INT64 = 0x20
_TAG_DOUBLE = 0x29
_TAG_FLOAT = 0x35
_TAG_BOOL = 0x38

# Of the Timestamp message.
_TAG_SECONDS = 0x08
_TAG_NANOS = 0x10


def key_encoder(
    names: Sequence[str], *, lead: bytes = b""
) -> Callable[[Sequence[str | int]], bytes]:
    """Make an encoder for the values of these keys, given in the order of `names`.

    What it makes begins with `lead`, which is ours, not Feast's.

    >>> key_encoder(["id"])(["a"]).hex()
    '0100000002000000020000006964020000000100000061'
    """
    order = sorted(range(len(names)), key=lambda index: names[index])
    prefix = lead + _LENGTH.pack(len(names))
    for index in order:
        name = names[index].encode()
        prefix += _KIND_LENGTH.pack(_STRING, len(name)) + name
    if len(names) == 1:
        return lambda values: prefix + _key_value(values[0])
    return lambda values: prefix + b"".join(_key_value(values[index]) for index in order)


def _key_value(value: str | int) -> bytes:
    if isinstance(value, str):
        text = value.encode(errors="surrogatepass")
        return _KIND_LENGTH.pack(_STRING, len(text)) + text
    try:
        return _KIND_LENGTH_INT64.pack(_INT64, 8, value)
    except struct.error as error:
        raise ConfigError(
            "entity key", value, "must be text or a whole number of 64 bits"
        ) from error


def encode_double(value: float | None) -> bytes:
    """Feast's Value message of a float; empty if None."""
    return b"" if value is None else b"\x29" + _DOUBLE.pack(value)


def encode_int64(value: int | None) -> bytes:
    """Feast's Value message of an integer; empty if None."""
    return b"" if value is None else b"\x20" + varint(value)


def encode_string(value: str | None) -> bytes:
    """Feast's Value message of a text; empty if None."""
    if value is None:
        return b""
    text = value.encode()
    return b"\x12" + varint(len(text)) + text


ENCODERS: dict[str, Callable[[object], bytes]] = {
    "float64": encode_double,  # type: ignore[dict-item]
    "int64": encode_int64,  # type: ignore[dict-item]
    "string": encode_string,  # type: ignore[dict-item]
}
"""The encoder for each feature type."""

DECODED = frozenset(("float64", "float32", "int64", "int32", "bool", "string"))
"""Types whose messages `decode` reads."""


def decode(message: bytes) -> Value:
    """Read a Value message of a number, a text, a bool or nothing.

    Raises:
        HeliostatError: The value is of a type that this reader does not know, as a list.
    """
    if not message:
        return None
    tag = message[0]
    if tag == _TAG_DOUBLE and len(message) == 9:
        value: float = _DOUBLE.unpack_from(message, 1)[0]
        return value
    if tag == _TAG_STRING:
        size, start = _read_varint(message, 1)
        return message[start : start + size].decode()
    if tag in (_TAG_INT64, _TAG_INT32):
        number, _ = _read_varint(message, 1)
        return number - (1 << 64) if number >> 63 else number
    if tag == _TAG_BOOL:
        return message[1]
    if tag == _TAG_FLOAT and len(message) == 5:
        single: float = _FLOAT.unpack_from(message, 1)[0]
        return single
    if message == b"\x98\x01\x00":
        return None
    raise HeliostatError(f"online value {message[:8].hex()}: is of a type that cannot be read here")


def decode_time(message: bytes) -> int:
    """Read a Timestamp message: microseconds since 1970.

    Raises:
        HeliostatError: It is none.

    >>> decode_time(bytes.fromhex("08011080cab5ee01"))
    1500000
    """
    seconds = nanos = start = 0
    while start < len(message):
        tag = message[start]
        number, start = _read_varint(message, start + 1)
        if tag == _TAG_SECONDS:
            seconds = number - (1 << 64) if number >> 63 else number
        elif tag == _TAG_NANOS:
            nanos = number
        else:
            raise HeliostatError(f"online time {message[:16].hex()}: is no Timestamp message")
    return seconds * 1_000_000 + nanos // 1000


def varint(number: int) -> bytes:
    """A whole number in groups of seven bits, as protocol buffers write it."""
    require(-(1 << 63) <= number < 1 << 64, "int64 value", number, "must fit into 64 bits")
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(message: bytes, start: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[start]
        start += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, start
        shift += 7
