"""Score rows with the model beside this file. Needs Python, numpy and onnxruntime, nothing else.

This file is copied into every edge bundle. ``python predict.py < rows.jsonl`` reads one JSON object
per line, from input name to value, and prints one score per line.
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2


class Model:
    """The model of a bundle, loaded once."""

    def __init__(self, folder: Path) -> None:
        """Check every file against ``SHA256SUMS``, then open the network.

        Raises:
            ValueError: A file is not what was exported.
        """
        for line in (folder / "SHA256SUMS").read_text().splitlines():
            wanted, name = line.split("  ", 1)
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if found != wanted:
                raise ValueError(f"{name}: must be the file that was exported; it was changed")
        description = json.loads((folder / "model.json").read_text())
        inputs = description["inputs"]
        self._numeric = [item["name"] for item in inputs if item["kind"] == "numeric"]
        self._codes = {
            item["name"]: {
                word: code for code, word in enumerate(item["vocabulary"], start=FIRST_KNOWN)
            }
            for item in inputs
            if item["kind"] == "categorical"
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)

    def score(self, rows: list[dict[str, Any]]) -> list[float]:
        """Score rows, each a mapping from input name to value; null and NaN are missing."""
        feed = {}
        if self._numeric:
            feed["numeric"] = np.array(
                [[row.get(name) for name in self._numeric] for row in rows], np.float32
            )
        if self._codes:
            feed["categorical"] = np.array(
                [
                    [_code(row.get(name), table) for name, table in self._codes.items()]
                    for row in rows
                ],
                np.int64,
            )
        (scores,) = self._session.run(None, feed)
        return [float(value) for value in (scores if scores.ndim == 1 else scores[:, -1])]


def _code(value: object, table: dict[str, int]) -> int:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return table.get(str(value), UNKNOWN)


def main() -> None:
    """Read rows from standard input and print their scores."""
    model = Model(Path(__file__).resolve().parent)
    rows = [json.loads(line) for line in sys.stdin if line.strip()]
    for score in model.score(rows) if rows else []:
        sys.stdout.write(f"{score:.7g}\n")


if __name__ == "__main__":
    main()
