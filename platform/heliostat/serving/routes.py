"""Every path that the gateway answers, with the method, the role it takes, and what it does."""

from __future__ import annotations

from dataclasses import dataclass

from heliostat.serving.refused import Refused

_NO_PATH = "no such path; models are served under /v2/models, see /v2/openapi.json"
_MAX_NAME_CHARS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One kind of request."""

    action: str
    """Names what is done; unique."""

    method: str
    path: str
    """With ``{model}`` and ``{version}`` where they stand."""

    role: str | None
    """Least role that a caller needs where keys are asked for; None for anybody."""

    summary: str
    predicts: bool
    """Whether it takes a body and answers with predictions."""


ROUTES = tuple(
    Route(
        action=action, method=method, path=path, role=role, summary=summary,
        predicts=action.startswith(("infer", "invocations")),
    )
    for action, method, path, role, summary in (
        ("server", "GET", "/v2", None, "Name, version and extensions of the server"),
        ("live", "GET", "/v2/health/live", None, "Whether the process runs"),
        ("ready", "GET", "/v2/health/ready", None, "Whether policy and models are there"),
        ("openapi", "GET", "/v2/openapi.json", None, "This description"),
        ("ping", "GET", "/ping", None, "Whether policy and models are there, as MLflow asks it"),
        ("index", "GET", "/v2/models", "predict", "Every model with its versions"),
        ("repository", "POST", "/v2/repository/index", "predict", "The same, as Triton asks it"),
        ("model", "GET", "/v2/models/{model}", "predict", "Inputs and outputs of a model"),
        # The controller and load balancers ask these without a credential.
        ("model_ready", "GET", "/v2/models/{model}/ready", None, "Whether the model is loaded"),
        ("version", "GET", "/v2/models/{model}/versions/{version}", "predict",
         "Inputs and outputs of one version"),
        ("version_ready", "GET", "/v2/models/{model}/versions/{version}/ready", None,
         "Whether the version is loaded"),
        ("shadow", "GET", "/v2/models/{model}/versions/{version}/shadow", "operate",
         "How the version's scores differ from those of the stable one"),
        ("infer", "POST", "/v2/models/{model}/infer", "predict",
         "Predictions of the version that the unit is assigned to"),
        ("infer_version", "POST", "/v2/models/{model}/versions/{version}/infer", "operate",
         "Predictions of one version, without split, fallback and evidence"),
        ("invocations", "POST", "/invocations", "predict",
         "Predictions of the only model, in MLflow's format"),
        ("invocations_of", "POST", "/v2/models/{model}/invocations", "predict",
         "Predictions of a model, in MLflow's format"),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Match:
    """A path taken apart."""

    route: Route
    model: str | None
    version: str | None


_FIXED = {route.path: Match(route, None, None) for route in ROUTES if "{" not in route.path}
_OF_MODEL = {
    tuple(route.path.split("/")[4:]): route
    for route in ROUTES
    if route.path.startswith("/v2/models/{model}") and "{version}" not in route.path
}
_OF_VERSION = {
    tuple(route.path.split("/")[6:]): route for route in ROUTES if "{version}" in route.path
}


def find(path: str, method: str) -> Match:
    """Say which route a path is of.

    Raises:
        Refused: 404 for no such path; 405 for another method than the route's.

    >>> find("/v2/models/churn/versions/3/infer", "POST").version
    '3'
    """
    match = _FIXED.get(path.rstrip("/") or "/") or _in_models(path)
    if match.route.method != method:
        refused = Refused(405, f"method {method[:20]}: must be {match.route.method}")
        refused.fields = ((b"allow", match.route.method.encode()),)
        raise refused
    return match


def _in_models(path: str) -> Match:
    parts = path.split("/")
    if len(parts) < 4 or parts[:3] != ["", "v2", "models"] or not _is_name(parts[3]):
        raise Refused(404, _NO_PATH)
    route, version = _OF_MODEL.get(tuple(parts[4:])), None
    if route is None and len(parts) > 5 and parts[4] == "versions" and _is_name(parts[5]):
        route, version = _OF_VERSION.get(tuple(parts[6:])), parts[5]
    if route is None:
        raise Refused(404, _NO_PATH)
    return Match(route, parts[3], version)


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _MAX_NAME_CHARS
