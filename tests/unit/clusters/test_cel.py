from __future__ import annotations

import copy

import pytest

from heliostat.clusters import cel, check, structural
from heliostat.clusters.document import Document
from tests.unit.clusters.test_mutations import rendered

TOY = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "low": {"type": "integer"},
                "high": {"type": "integer", "default": 3},
                "namespace": {"type": "string"},
                "names": {
                    "type": "array",
                    "items": {
                        "type": "string",
                        "x-kubernetes-validations": [
                            {"rule": "self.find('^[a-z]+').size() > 1", "message": "begins badly"}
                        ],
                    },
                },
            },
            "x-kubernetes-validations": [
                {"rule": "!has(self.low) || self.low <= self.high", "message": "low above high"},
                {
                    "rule": "!has(self.__namespace__) || self.__namespace__ != 'x'",
                    "message": "no x",
                },
                {"rule": "self.low == oldSelf.low", "message": "must not change"},
            ],
        }
    },
}


def found(spec):
    body = structural.with_defaults(TOY, {"spec": spec})
    return [(fault.path, fault.rule, fault.breaks) for fault in cel.faults(TOY, body)]


def test_a_rule_is_judged_on_the_value_with_its_defaults():
    """As on creation: rules about a change do not apply yet, a null field is absent."""
    assert found({"low": 3}) == []
    assert found({"low": None, "names": ["ab", "cd1"]}) == []
    assert found({"low": 4}) == [("spec", "low above high", None)]
    assert found({"names": ["ab", "1"]}) == [("spec.names[1]", "begins badly", None)]
    assert found({"namespace": "x"}) == [("spec", "no x", None)]


def test_a_rule_that_nobody_understands_is_told_and_never_passes():
    """A fault of the evaluator is no verdict in favour."""
    schema = {"x-kubernetes-validations": [{"rule": "self.neverHeardOf()", "message": "m"}]}
    ((fault),) = cel.faults(schema, "x")

    assert fault.breaks.startswith("the rule could not be evaluated")


FAULTS = (
    ("ClusterQueue", ("spec", "resourceGroups", 0, "coveredResources"), ["cpu"]),
    ("ClusterQueue", ("spec", "preemption"), {
        "reclaimWithinCohort": "Never", "borrowWithinCohort": {"policy": "LowerPriority"}}),
    ("Gateway", ("spec", "listeners", 0, "protocol"), "HTTP"),
    ("Gateway", ("spec", "listeners", 0, "tls", "certificateRefs"), []),
    ("HTTPRoute", ("spec", "rules", 0, "matches", 0, "path", "value"), "no-slash"),
    ("HTTPRoute", ("spec", "rules", 0, "timeouts"), {"request": "1s", "backendRequest": "2s"}),
    ("NodePool", ("spec", "template", "spec", "requirements", 0), {
        "key": "karpenter.sh/nodepool", "operator": "In", "values": ["x"]}),
    ("NodePool", ("spec", "template", "spec", "requirements", 0, "values"), []),
    ("EC2NodeClass", ("spec", "subnetSelectorTerms"), [{}]),
    ("EC2NodeClass", ("spec", "role"), ""),
    ("ResourceFlavor", ("spec", "nodeTaints"), [{"key": "a", "effect": "Nope"}]),
)  # fmt: skip


def test_our_objects_break_no_rule_of_a_crd(crds):
    """And every rule of Kueue, Gateway API, Karpenter and the operator of Prometheus is understood."""
    judged, faults = 0, []
    for item in rendered():
        schema = crds.get((item.api_version, item.kind))
        if schema is not None:
            filled = structural.with_defaults(schema, dict(item.body))
            faults += [(item.where, fault) for fault in cel.faults(schema, filled)]
            judged += 1

    assert faults == []
    assert judged > 25


@pytest.mark.parametrize(
    ("kind", "place", "value"), FAULTS,
    ids=[f"{kind}-{place[-1]}-{number}" for number, (kind, place, _) in enumerate(FAULTS)],
)  # fmt: skip
def test_a_planted_fault_breaks_a_rule_of_its_crd(kind, place, value, crds, tmp_path):
    """Found by `check` with the CRDs, in its shape or by its CEL rules."""
    item = next(item for item in rendered() if item.kind == kind)
    body = copy.deepcopy(dict(item.body))
    node = body
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    bundle = check.Bundle(documents=[Document(file="f", body=body)], crds=crds)
    checks = {finding.check for finding in check.shape.custom(bundle)}

    assert checks & {"cel.rule", "schema.crd"}
