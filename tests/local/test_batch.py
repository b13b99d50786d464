"""A batch scores every row once, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heliostat.data.tables import Catalog
from heliostat.inference.predictor import Predictor
from heliostat.registry.signing import UntrustedModel
from tests.local import batch_story


def test_a_killed_batch_goes_on_and_scores_each_row_once(
    ray_session: Any, child_environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    """SIGKILL after some parts: nothing is visible, the next call scores the rest only, and the
    answers are those of the online path.
    """
    batch_story.prepare(tmp_path)
    address = ray_session.get_runtime_context().gcs_address
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.local.batch_story", address, str(tmp_path)],
        env=child_environment, cwd=repository, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(3)]
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert [line.split()[0] for line in lines] == ["2000", "4000", "6000"]
    catalog = Catalog(tmp_path / "tables")
    assert catalog.version("scored") is None

    report = batch_story.run(tmp_path)

    answers = catalog.read("scored")
    assert (report.rows, report.version) == (batch_story.NUM_ROWS, 0)
    assert 3 * batch_story.ROWS_PER_PART <= report.rows_kept < report.rows
    assert answers["id"].to_list() == list(range(batch_story.NUM_ROWS))
    online = Predictor.load(tmp_path / "package", tmp_path / "keys")
    rows = catalog.read("rows")
    for number in range(0, batch_story.NUM_ROWS, 997):
        given = {name: [rows[name][number]] for name in ("n0", "n1", "n2", "color")}
        np.testing.assert_allclose(answers["score"][number], online.predict(given)[0], atol=1e-6)
    assert batch_story.run(tmp_path) == report
    files = [path.name for path in (tmp_path / "tables" / "scored").glob("*.parquet")]
    assert len(files) == len(catalog.active("scored"))


def test_a_changed_package_scores_nothing(ray_session: Any, tmp_path: Path) -> None:
    """It is refused before any row is read."""
    assert ray_session.is_initialized()
    batch_story.prepare(tmp_path)
    network = tmp_path / "package" / "model.onnx"
    network.write_bytes(network.read_bytes()[:-1] + b"\0")

    with pytest.raises(UntrustedModel):
        batch_story.run(tmp_path)
    assert Catalog(tmp_path / "tables").version("scored") is None
