"""The pictures: where they come from, how a file is written, and what is read in one."""

from __future__ import annotations

import gzip
import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SIDE = 8
MOST = 16
"""Value of a black pixel in the data."""

START = datetime(2024, 1, 1, tzinfo=UTC)
EVERY = timedelta(minutes=30)
PIXELS = tuple(f"p{place:02d}" for place in range(SIDE * SIDE))
BROKEN = "00000.cut.pgm"
"""A file whose writer was killed, so that the quarantine has something to show."""


def write(folder: Path) -> None:
    """Write each picture as a file named for its number, and the labels as CSV."""
    digits = _digits()
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(digits):
        (images / f"{number:05d}.pgm").write_bytes(encode(row[:-1].astype(np.uint8)))
    (images / BROKEN).write_bytes(encode(digits[0, :-1].astype(np.uint8))[:-9])
    lines = [
        f"{number},{(START + number * EVERY).isoformat()},{int(row[-1] > 4)}\n"
        for number, row in enumerate(digits)
    ]
    # Last: a folder with labels is whole.
    (folder / "labels.csv").write_text("image,at,above_four\n" + "".join(lines))


def encode(pixels_P: NDArray[np.uint8]) -> bytes:
    """Write a picture as PGM; P pixels, row by row."""
    return f"P5 {SIDE} {SIDE} {MOST}\n".encode() + pixels_P.tobytes()


def decode(path: str, content: bytes) -> dict[str, object]:
    """Read a PGM file: its number, its time, and each pixel from 0 to 1.

    Raises:
        ValueError: It is no such picture, or not all of it.
    """
    header, _, body = content.partition(b"\n")
    if header != f"P5 {SIDE} {SIDE} {MOST}".encode():
        raise ValueError(f"its header is {header[:40]!r}")
    if len(body) != SIDE * SIDE:
        raise ValueError(f"it has {len(body)} pixels of {SIDE * SIDE}")
    number = int(Path(path).name.partition(".")[0])
    shades = np.frombuffer(body, dtype=np.uint8) / MOST
    return {
        "image": number,
        "at": START + number * EVERY,
        **{name: float(shade) for name, shade in zip(PIXELS, shades, strict=True)},
    }


def embed(rows: pa.Table) -> list[list[float]]:
    """A picture's pixels are its vector."""
    columns = [rows[name].to_pylist() for name in PIXELS]
    return [list(shades) for shades in zip(*columns, strict=True)]


def _digits() -> NDArray[np.float64]:
    """Read scikit-learn's file without loading scikit-learn; the last column is the digit."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",")
