"""The process that opens one pickle and answers rows: locked up before the first byte is read.

Started by `pickled`. Frames on standard input and output are a head and arrays as they lie in
memory; whatever the pickle prints goes nowhere.

    in    rows, numeric columns, categorical columns (uint64 each); float32 (B, N); int64 (B, C)
    out   one letter, length in bytes (uint64), content:
          R ready; A answers, float32 (B,); E what went wrong
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

from heliostat.inference import jail

ASK, TELL = struct.Struct("<QQQ"), struct.Struct("<cQ")
READY, ANSWERS, ERROR = b"R", b"A", b"E"
_SAID_BYTES = 2000


def main() -> None:
    """Read where things are from the command line, lock up, open the pickle, answer."""
    asked, told = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    where: dict[str, Any] = json.loads(sys.argv[1])
    try:
        jail.lock(map(Path, where["readable"]), map(Path, where["listable"]))
        # Only now: NumPy starts threads, which must be locked up too.
        fitted = _opened(Path(where["pickle"]))
        _answered(fitted, bytes(4 * where["numeric"]), bytes(8 * where["categorical"]), where)
    except BaseException as error:  # noqa: BLE001 - a pickle may raise anything
        _tell(told, ERROR, _words(error))
        return
    _tell(told, READY, b"")
    while head := asked.read(ASK.size):
        num_rows, num_numeric, num_categorical = ASK.unpack(head)
        shape = {"rows": num_rows, "numeric": num_numeric, "categorical": num_categorical}
        numeric = asked.read(4 * num_rows * num_numeric)
        categorical = asked.read(8 * num_rows * num_categorical)
        try:
            _tell(told, ANSWERS, _answered(fitted, numeric, categorical, shape))
        except BaseException as error:  # noqa: BLE001 - see above
            _tell(told, ERROR, _words(error))


def _opened(path: Path) -> Any:
    from heliostat.inference.estimator import Fitted

    found = pickle.loads(path.read_bytes())  # noqa: S301 - what this process is for
    return Fitted(estimator=found["estimator"], task=found["task"])


def _answered(fitted: Any, numeric: bytes, categorical: bytes, shape: dict[str, Any]) -> bytes:
    import numpy as np

    num_rows = shape.get("rows", 1)
    numeric_BN = np.frombuffer(numeric, np.float32).reshape(num_rows, shape["numeric"])
    categorical_BC = np.frombuffer(categorical, np.int64).reshape(num_rows, shape["categorical"])
    content: bytes = fitted.answers(numeric_BN, categorical_BC).astype(np.float32).tobytes()
    return content


def _tell(told: BinaryIO, kind: bytes, content: bytes) -> None:
    told.write(TELL.pack(kind, len(content)) + content)
    told.flush()


def _words(error: BaseException) -> bytes:
    return f"{type(error).__name__}: {error}".encode()[:_SAID_BYTES]


if __name__ == "__main__":
    main()
