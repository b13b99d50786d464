"""Commands and variables of the platform's two process trees: the Ray head and MLflow."""

from __future__ import annotations

import sys
from pathlib import Path

from heliostat.stack.settings import StackSettings

_RAY_VARIABLES = {
    # Without it, SIGTERM waits for Serve to drain, which nobody needs when all goes down.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # One more process per training that waits for a spot instance's notice; there is none here.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # With the default, 2 on 2 cores, Ray warns of each training's workers.
    "RAY_worker_maximum_startup_concurrency": "4",
}


def ray_command(settings: StackSettings, temp_dir: Path, python: Path) -> list[str]:
    """Start a Ray head in the foreground; no autoscaler, which one node does not need."""
    ports = settings.ports
    return [
        str(python),
        "-c",
        "from ray.scripts.scripts import main; main()",
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        f"--port={ports.gcs}",
        f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.ray_agent}",
        f"--ray-client-server-port={ports.ray_client}",
        f"--metrics-export-port={ports.ray_metrics}",
        f"--num-cpus={settings.num_slots}",
        f"--object-store-memory={settings.object_store_mib * 1024 * 1024}",
        f"--temp-dir={temp_dir}",
        "--disable-usage-stats",
        "--no-monitor",
    ]


def ray_variables(settings: StackSettings) -> dict[str, str]:
    """Variables of the Ray head beyond those of all processes."""
    return {**_RAY_VARIABLES, "DASHBOARD_METRIC_PORT": str(settings.ports.ray_dashboard_metrics)}


def mlflow_command(settings: StackSettings) -> list[str]:
    """Start MLflow's server as ``mlflow server`` would, in one process instead of two.

    That command loads all of MLflow only to start this one: 4 s of CPU time and 210 MiB.
    """
    return [
        sys.executable,
        "-m",
        "uvicorn",
        "--host=127.0.0.1",
        f"--port={settings.ports.mlflow}",
        "--log-level=warning",
        "mlflow.server.fastapi_app:app",
    ]


def mlflow_variables(settings: StackSettings, folder: Path) -> dict[str, str]:
    """What ``mlflow server`` passes on: SQLite and artifacts in `folder`, no job execution.

    Job execution would start eight more processes and is never used here.
    """
    port = settings.ports.mlflow
    return {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
