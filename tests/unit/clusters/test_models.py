from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.clusters import kuberay, kubernetes_schemas, schema, structural
from heliostat.clusters.render import to_yaml
from heliostat.errors import ConfigError

WORDS = ("type", "enum", "minimum", "minItems", "minLength", "default", "required")


def differences(ours, crd, path=""):
    """Where our model and a CRD differ; parts that Kubernetes defines are compared elsewhere."""
    if "$ref" in ours:
        return
    if ours.get("x-kubernetes-int-or-string") or crd.get("x-kubernetes-int-or-string"):
        if ours.keys() & {"x-kubernetes-int-or-string"} != crd.keys() & {
            "x-kubernetes-int-or-string"
        }:
            yield path, "int-or-string"
        return
    yield from ((path, word) for word in WORDS if ours.get(word) != crd.get(word))
    mine, theirs = ours.get("properties", {}), crd.get("properties", {})
    yield from ((path, key) for key in set(mine) ^ set(theirs))
    for key in set(mine) & set(theirs):
        yield from differences(mine[key], theirs[key], f"{path}.{key}")
    if isinstance(ours.get("items"), dict):
        yield from differences(ours["items"], crd["items"], f"{path}[]")
    if ours.get("additionalProperties") or crd.get("additionalProperties"):
        yield from differences(
            ours.get("additionalProperties", {}), crd.get("additionalProperties", {}), f"{path}{{}}"
        )


@pytest.mark.parametrize("kind", sorted(kuberay.SPECS))
def test_a_model_is_its_crd_field_by_field(kind, crds):
    """Names, types, enums, bounds, defaults and required fields are those of KubeRay 1.7.0."""
    crd = crds[kuberay.API_VERSION, kind]["properties"]["spec"]

    assert list(differences(schema.structural(kuberay.SPECS[kind]), crd)) == []


def test_a_model_survives_yaml():
    """What is written is read back as the same typed value."""
    spec = kuberay.RayJobSpec(
        entrypoint="python x.py",
        runtime_env_yaml="env_vars: {}\n",
        deletion_strategy=kuberay.DeletionStrategy(
            deletion_rules=(
                kuberay.DeletionRule(
                    policy="DeleteSelf",
                    condition=kuberay.DeletionCondition(job_status="FAILED", ttl_seconds=5),
                ),
            )
        ),
    )
    read = yaml.safe_load(to_yaml(schema.to_manifest(spec)))

    assert "runtimeEnvYAML" in read
    assert schema.from_manifest(kuberay.RayJobSpec, read) == spec


def test_defaults_fill_what_is_absent_and_nothing_else():
    """As the API server does before it looks at required fields."""
    model = schema.structural(kuberay.WorkerGroupSpec)
    filled = structural.with_defaults(model, {"groupName": "a", "minReplicas": None, "priority": 7})

    assert filled == {
        "groupName": "a", "replicas": 0, "minReplicas": 0, "maxReplicas": 2147483647,
        "numOfHosts": 1, "priority": 7,
    }  # fmt: skip


SCHEMA = {
    "type": "object",
    "required": ["a"],
    "additionalProperties": False,
    "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 5},
        "b": {"type": "array", "maxItems": 2, "items": {"type": "string", "minLength": 1}},
        "c": {"type": "string", "enum": ["x", "y"]},
        "d": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "e": {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+$"}]},
    },
}
VALUES = st.recursive(
    st.booleans() | st.integers(-3, 9) | st.sampled_from(["", "x", "7", "zz"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(list("abcdef")), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=VALUES)
def test_our_walk_agrees_with_jsonschema(value):
    """An independent implementation gives the same verdict on any value without nulls."""
    expected = jsonschema.Draft202012Validator(SCHEMA).is_valid(value)

    assert (not list(structural.faults(SCHEMA, value))) == expected


@pytest.mark.parametrize("version", kubernetes_schemas.VERSIONS)
def test_each_version_of_kubernetes_refuses_what_it_does_not_know(version):
    """Fields of a Pod are closed, with the nearest right one named."""
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"containers": [{"name": "a", "resorces": {}}]}}  # fmt: skip
    (fault,) = kubernetes_schemas.object_faults(version, body)

    assert (fault.path, fault.breaks) == (
        "spec.containers[a].resorces",
        "did you mean 'resources'?",
    )


def test_a_version_without_schemas_is_refused():
    """Judging by another version's schema would be a guess."""
    with pytest.raises(ConfigError, match=r"--kubernetes = '1.20': must be one of 1.33"):
        kubernetes_schemas.definitions("1.20")


def test_schemas_are_plain_json():
    """So that a schema can be printed for other tools."""
    for cls in kuberay.SPECS.values():
        assert json.loads(json.dumps(schema.structural(cls))) == schema.structural(cls)
