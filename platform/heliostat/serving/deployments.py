"""Carries out on Ray Serve what the controller decides: variant applications and policies.

All functions block; call them in a thread when an event loop runs. They work inside a
Serve replica and in any process with an initialised Ray.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from heliostat import telemetry
from heliostat.config import require_name
from heliostat.errors import ConfigError, Unavailable
from heliostat.inference.predictor import read_verified
from heliostat.rollout.policy import Policy
from heliostat.serving import plane
from heliostat.serving.settings import (
    DEFAULT_ENDPOINT,
    GatewaySettings,
    ReplicaSettings,
    VariantSettings,
    from_args,
)
from heliostat.store.home import Home

_PLANE_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 120.0


def gateway_application(args: dict[str, Any]) -> Any:
    """Build the Serve application of the gateway; `serve_apps.gateway:build` calls it.

    Raises:
        ConfigError: An argument is unknown, missing or out of range.
    """
    from ray import serve

    settings = from_args(GatewaySettings, args)

    def start_gateway() -> Any:
        from heliostat.serving.replica import gateway

        return gateway(settings)

    options = replica_options(
        "gateway",
        settings,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
    )
    return serve.deployment(**options)(serve.ingress(start_gateway)()).bind()


def variant_application(args: dict[str, Any]) -> Any:
    """Build the Serve application of one version; `serve_apps.variant:build` calls it."""
    from ray import serve

    settings = from_args(VariantSettings, args)

    def start_variant_app() -> Any:
        from heliostat.serving.replica import variant

        return variant(settings)

    options = replica_options(
        "variant",
        settings,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_ongoing_requests,
    )
    return serve.deployment(**options)(serve.ingress(start_variant_app)()).bind()


def neighbours_application(args: dict[str, Any]) -> Any:
    """Build the Serve application of vector searches; `serve_apps.vectors:build` calls it."""
    from ray import serve

    settings = from_args(GatewaySettings, args)

    def start_neighbours() -> Any:
        from heliostat.serving.replica import neighbours

        return neighbours(settings)

    options = replica_options(
        "neighbours",
        settings,
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
    )
    return serve.deployment(**options)(serve.ingress(start_neighbours)()).bind()


def start_neighbours(args: dict[str, Any]) -> None:
    """Serve vector searches at ``/vectors``; nothing changes where that is done already.

    Raises:
        Unavailable: It did not come up; Serve's own reason is in the message.
    """
    from ray import serve

    if _status("vectors") in ("RUNNING", "DEPLOYING"):
        return
    try:
        serve.run(neighbours_application(args), name="vectors", route_prefix="/vectors")
    except RuntimeError as error:
        raise Unavailable("vectors", str(error)[:500]) from error


def start_variant(
    model: str,
    version: str,
    package_path: Path | str,
    digest: str,
    home: Path | str,
    *,
    endpoint: str | None = None,
    max_replicas: int | None = None,
    timeout_s: float = _START_TIMEOUT_S,
) -> str:
    """Start the application of a version and return its base URL once it answers there.

    Calling it for a version that already runs changes nothing.

    Args:
        endpoint: Base URL of the ingress; default is ``HELIOSTAT_ENDPOINT``.
        max_replicas: Up to so many processes under load; None for the one.

    Raises:
        Unavailable: It did not come up in time; Serve's own reason is in the message.
    """
    from ray import serve

    name, route = _names(model, version)
    url = (endpoint or os.environ.get("HELIOSTAT_ENDPOINT", DEFAULT_ENDPOINT)) + route
    ends = time.monotonic() + timeout_s
    if _status(name) not in ("RUNNING", "DEPLOYING"):
        args: dict[str, Any] = {
            "model": model,
            "version": version,
            "package_path": str(package_path),
            "package_digest": digest,
            "home": str(home),
        }
        if max_replicas is not None:
            args["max_replicas"] = max_replicas
        description = read_verified(Path(package_path), Home(root=Path(home)).keys, digest)
        if description.serving.device == "cuda":
            args["num_gpus"] = 1.0
        application = variant_application(args)
        try:
            serve.run(application, name=name, route_prefix=route)
        except RuntimeError as error:
            raise Unavailable(f"variant {model} {version}", str(error)[:500]) from error
    while not _answers(f"{url}/ready", version):
        if time.monotonic() > ends:
            raise Unavailable(
                f"variant {model} {version}",
                f"no answer at {url}/ready within {timeout_s:g} s; Serve says {_status(name)}",
            )
        time.sleep(0.1)
    telemetry.event("variant.started", model=model, version=version, url=url)
    return url


def stop_variant(model: str, version: str) -> None:
    """Begin to stop the application of a version; nothing happens if there is none.

    Returns at once: Serve keeps a replica for some seconds more, so that what the ingress
    still sends it is answered.
    """
    from ray import serve

    name, _ = _names(model, version)
    if _status(name) in (None, "DELETING"):
        return
    serve.delete(name, _blocking=False)
    telemetry.event("variant.stopped", model=model, version=version)


def publish(policy: Policy, *, wait_s: float = 0.0) -> bool:
    """Hand the policy to all gateways; say whether all that live obey it already.

    Args:
        wait_s: How long to wait for them. With 0 the answer is whether they did at once.

    Raises:
        ConfigError: A higher epoch was published before.
        Unavailable: The plane actor did not answer.
    """
    handle = _plane()
    _ask(handle.publish.remote(policy.epoch, plane.encode(policy)))
    return wait_active(policy.epoch, wait_s)


def active_epochs() -> dict[str, int]:
    """Epoch that each living gateway obeys, by gateway id."""
    found: dict[str, int] = _ask(_plane().active.remote())
    return found


def wait_active(epoch: int, timeout_s: float) -> bool:
    """Wait until there are gateways and all obey this epoch or a later one."""
    ends = time.monotonic() + timeout_s
    while True:
        epochs = active_epochs()
        if epochs and min(epochs.values()) >= epoch:
            return True
        if time.monotonic() >= ends:
            return False
        time.sleep(0.05)


def replica_options(name: str, settings: ReplicaSettings, **limits: int) -> dict[str, Any]:
    """Options of a Serve deployment: placement, scale, health, draining, surge.

    Args:
        name: Of the deployment.
        settings: Of its replicas.
        limits: Serve's own ``max_ongoing_requests`` and ``max_queued_requests``.
    """
    # The work is short and shares the machine with training; Ray must not refuse to place it
    # because all CPUs are reserved.
    resources: dict[str, Any] = {"num_cpus": 0}
    if settings.num_gpus is not None:
        resources["num_gpus"] = settings.num_gpus
    return {
        "name": name,
        "ray_actor_options": resources,
        # By default Serve stops the old replica before it starts the new one.
        "max_surge_percent": 100.0,
        "rolling_update_percentage": 1.0,
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 10.0,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": 35.0,
        "logging_config": {"enable_access_log": False},
        **_scale(settings),
        **limits,
    }


def _scale(settings: ReplicaSettings) -> dict[str, Any]:
    if settings.max_replicas is None:
        return {"num_replicas": settings.num_replicas}
    # A replica that goes is drained first, so a short lull costs nothing; the other way round,
    # one takes seconds to start, so Serve is not told to wait long.
    return {
        "autoscaling_config": {
            "min_replicas": settings.num_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_ongoing,
            "upscale_delay_s": settings.upscale_delay_s,
            "downscale_delay_s": settings.downscale_delay_s,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 5.0,
        }
    }


def _names(model: str, version: str) -> tuple[str, str]:
    require_name("model", model)
    if not (version.isascii() and version.isalnum() and len(version) <= 32):
        raise ConfigError("version", version, "must be at most 32 letters and digits")
    return f"variant-{model}-{version}", f"/variants/{model}/{version}"


def _status(name: str) -> str | None:
    from ray import serve

    application = serve.status().applications.get(name)
    return None if application is None else application.status.value


def _answers(url: str, version: str) -> bool:
    """Say whether the version itself answers; the ingress may not know its route yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2.0) as response:
            return bool(json.load(response).get("version") == version)
    except (OSError, ValueError, AttributeError, urllib.error.HTTPError):
        return False


def _plane() -> Any:
    try:
        return plane.connect()
    except Exception as error:
        raise Unavailable("plane", f"{type(error).__name__}: {error}"[:300]) from error


def _ask(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference, timeout=_PLANE_TIMEOUT_S)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from error
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise Unavailable("plane", f"{type(error).__name__}: {error}"[:300]) from error
