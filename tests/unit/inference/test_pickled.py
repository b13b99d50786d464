"""A pickle that its recipe asked for: opened in a process that may compute and nothing else."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heliostat.errors import ConfigError, Unavailable
from heliostat.inference.pickled import PickledNetwork
from tests.unit.inference import odd_estimators as odd


def pickled(folder: Path, estimator: Any) -> Path:
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps({"estimator": estimator, "task": "regression"}))
    return path


def opened(folder: Path, estimator: Any) -> PickledNetwork:
    return PickledNetwork(pickled(folder, estimator), num_numeric=1, num_categorical=1)


def ask(network: PickledNetwork, *numbers: float) -> list[float]:
    numeric_BN = np.array([[number] for number in numbers], np.float32)
    codes_BC = np.zeros((len(numbers), 1), np.int64)
    (found_B,) = network.run(["score"], {"numeric": numeric_BN, "categorical": codes_BC})
    return [float(value) for value in found_B]


def test_it_answers_one_row_and_many_from_several_threads(tmp_path: Path) -> None:
    """What the estimator prints is lost, no answer reaches another thread, and it leaves nothing."""
    network = opened(tmp_path, odd.Halves())
    many = [float(number) for number in range(50_000)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, [network] * 100, *[many[:100]] * 9))

    assert found == [[number / 2] * 9 for number in many[:100]]
    assert ask(network, *many) == [number / 2 for number in many]
    assert network._process is not None
    child = network._process._child
    assert child.poll() is None
    del network
    gc.collect()
    assert child.poll() is not None


def test_a_process_that_dies_or_sleeps_is_unavailable_and_replaced(tmp_path: Path) -> None:
    """The caller waits no longer than a second for a row, and need do nothing."""
    network = opened(tmp_path, odd.Sleepy())
    with pytest.raises(Unavailable, match="its process has died"):
        ask(network, 13)
    assert again(network, 0) == [0]
    with pytest.raises(Unavailable, match="did not answer in time"):
        ask(network, 3600)
    assert again(network, 0) == [0]


def again(network: PickledNetwork, number: float) -> list[float]:
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s:
        try:
            return ask(network, number)
        except Unavailable as error:
            assert "is being started again" in str(error)  # noqa: PT017 - the only one allowed
            time.sleep(0.1)
    raise AssertionError("no process came up")


def test_a_hostile_pickle_reaches_no_file_no_socket_and_no_process(tmp_path: Path) -> None:
    """Also files of the very user that it runs as, and beside itself; not even on this machine."""
    key = tmp_path / "keys" / "model-signing.pem"
    key.parent.mkdir()
    key.write_text("secret")
    key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        attempts = [
            (odd.read, str(key)),
            (odd.read, str(tmp_path / "model.json")),
            (odd.listed, str(key.parent)),
            (odd.write, str(tmp_path / "model.json")),
            (odd.remove, str(key)),
            (odd.open_up, str(key)),
            (odd.talk, port),
            (odd.throw, port),
            (odd.start, str(tmp_path / "started")),
            (odd.end, os.getpid()),
        ]
        (tmp_path / "model.json").write_text("{}")
        network = opened(tmp_path, odd.Trying(*attempts))

        refused = ask(network, *[0.0] * len(attempts))

    assert refused == [1.0] * len(attempts)
    assert key.read_text() == "secret"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "model.json", "model.pkl"]


def test_what_it_does_when_it_is_opened_is_refused_too(tmp_path: Path) -> None:
    """The rights are gone before its first byte is read, and the error says what it tried."""
    key = tmp_path / "model-signing.pem"
    key.write_text("secret")
    with pytest.raises(ConfigError, match=r"PermissionError: .*model-signing\.pem"):
        opened(tmp_path, odd.Doing(odd.read, str(key)))


def test_what_is_no_estimator_is_refused(tmp_path: Path) -> None:
    """When it is loaded, not at the first request."""
    (tmp_path / "model.pkl").write_bytes(b"\x80\x05 torn")
    with pytest.raises(ConfigError, match=r"UnpicklingError.*that a locked process can open here"):
        PickledNetwork(tmp_path / "model.pkl", num_numeric=1, num_categorical=0)
