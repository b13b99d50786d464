"""The local ring: one small Ray for the whole session, in this process's own cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Ray reads these when it is imported, which a test module may do before any fixture runs.
os.environ.update(
    {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        # As the platform sets them.
        "RAY_worker_niceness": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "FEAST_USAGE": "False",
    }
)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """A started Ray with two CPUs; workers import this checkout's code.

    Its folder is short, since Unix sockets allow 107 bytes, and gone afterwards.
    """
    import ray

    root = Path(__file__).resolve().parents[2]
    folder = Path(tempfile.mkdtemp(prefix="ht-", dir="/tmp"))
    path = f"{root / 'platform'}{os.pathsep}{root}"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=512 * 1024**2,
        _temp_dir=str(folder),
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
