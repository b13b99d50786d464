"""Alter a registered package in 1,020 ways and count what is refused: `make prove-models`.

1,000 flipped bits at random places of random files, the signature among them, and 20 substitutions
of whole files. Each altered package is given to the predictor as a server would. An audit hook
counts how often each file is opened: once is the hash, more would be reading it; and that ONNX
Runtime is not even imported. Writes ``tests/bench/results/tampering.json``.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from heliostat.inference.predictor import Predictor
from heliostat.registry import signing
from heliostat.registry.package import ModelInput
from heliostat.testing.packages import write_package
from tests.bench import results

opened: Counter[str] = Counter()
imported: set[str] = set()
watching = [False]


def main() -> int:
    """Count, write the results file; 0 if everything was refused unread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=1_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="heliostat-tampering-"))
    sys.addaudithook(_hook)
    try:
        figures = count(folder, options.flips)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results.write("tampering", "make prove-models", rounds=1, figures=figures)
    print(figures)
    return 0 if figures["accepted"] == figures["read_before_refused"] == 0 else 1


def count(folder: Path, flips: int) -> dict[str, int | bool]:
    """Alter, try, restore; the same alterations each time."""
    inputs = [ModelInput(name=f"n{number}", kind="numeric") for number in range(8)]
    inputs.append(ModelInput(name="c", kind="categorical", vocabulary=("red", "blue")))
    for name, bias in (("package", 0.0), ("other", 1.0)):
        write_package(folder / name, model="m", inputs=inputs, bias=bias, keys_dir=None)
        for number in range(3):
            (folder / name / f"extra-{number}.json").write_text(f'{{"of": "{name}"}}' + " " * 5_000)
        signing.sign(folder / name, folder / "keys")
    shutil.copytree(folder / "package", folder / "whole")
    rng = random.Random(17)
    names = sorted(path.name for path in (folder / "package").iterdir())
    changes: list[Callable[[], object]] = [
        lambda: _flip(folder / "package" / rng.choice(names), rng) for _ in range(flips)
    ]
    changes += _substitutions(folder, names, rng)
    refused = read = 0
    for change in changes:
        change()
        opened.clear()
        watching[0] = True
        try:
            Predictor.load(folder / "package", folder / "keys")
        except signing.UntrustedModel:
            refused += 1
        finally:
            watching[0] = False
        read += any(opened[name] > 1 for name in names if name != signing.SIGNATURE)
        shutil.rmtree(folder / "package")
        shutil.copytree(folder / "whole", folder / "package")
    return {
        "flips": flips,
        "substitutions": len(changes) - flips,
        "refused": refused,
        "accepted": len(changes) - refused,
        "read_before_refused": read,
        "onnxruntime_imported": "onnxruntime" in imported,
    }


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _substitutions(
    folder: Path, names: list[str], rng: random.Random
) -> list[Callable[[], object]]:
    """Files of another, equally signed package; of one another; empty, longer, gone, added."""
    package, other = folder / "package", folder / "other"
    differing = [name for name in names if name != "model.json"]
    found: list[Callable[[], object]] = [
        lambda name=name: shutil.copyfile(other / name, package / name)  # type: ignore[misc]
        for name in differing
    ]
    found += [
        lambda name=name: (package / name).write_bytes(b"")  # type: ignore[misc]
        for name in names
    ]
    found += [
        lambda: shutil.copyfile(package / "extra-0.json", package / "model.json"),
        lambda: shutil.copyfile(package / "model.json", package / "extra-0.json"),
        (package / "model.onnx").unlink,
        lambda: (package / "more.onnx").write_bytes(b"x"),
        lambda: (package / "model.onnx").rename(package / "model2.onnx"),
    ]
    while len(found) < 20:
        found.append(lambda: _append(package / rng.choice(names)))
    return found[:20]


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not watching[0]:
        return
    if event == "open" and isinstance(arguments[0], str | Path):
        opened[Path(arguments[0]).name] += 1
    elif event == "import":
        imported.add(str(arguments[0]).split(".")[0])


if __name__ == "__main__":
    sys.exit(main())
