from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat.clusters import check, document, render
from heliostat.clusters.document import Document
from tests.unit.clusters.test_mutations import rendered

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)
BAD = {
    "a bomb of aliases": (BOMB, "must hold at most 200000 values"),
    "a duplicate key": ("a: 1\na: 2\n", "must be written once"),
    "a tag that runs code": ("!!python/object/apply:os.system [x]", "must not use tags"),
    "100,000 levels": ("[" * 100_000, "must nest at most 64 levels"),
    "a list as key": ("? [1]\n: 2\n", "keys must be text"),
    "an anchor that holds itself": ("&a [*a]", "must name an anchor before it"),
    "a control character": ("a: \x00", "must be valid YAML"),
    "a broken line": ("a: b: c", "must be valid YAML"),
    "no object": ("just text", "must be an object with apiVersion and kind"),
    "10 MB": ("a: " + "x" * 10_000_000, "must be at most 2097152 bytes"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input_gets_one_finding_at_once(name, tmp_path):
    """No traceback, no exhausted machine, and the rule that it breaks."""
    text, rule = BAD[name]
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    documents, (finding,) = document.read_file(path, "bad.yaml")

    assert (documents, finding.rule) == ([], rule)


def test_anchors_within_the_bounds_are_read():
    """People use them; what the API server would see is what is checked."""
    documents, findings = document.read_text("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n", "f")

    assert findings == []
    assert documents[0].body == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


def test_scalars_are_read_as_kubernetes_reads_them():
    """Octal, exponents and words; a date stays text, quotes keep text."""
    text = "a: 0755\nb: 1e3\nc: on\nd: 2026-01-01\ne: '1'\nf: =\ng: ~\nh: -3\n"
    (item,) = document.read_text(text, "f")[0]

    assert item.body == {
        "a": 493, "b": 1000.0, "c": True, "d": "2026-01-01", "e": "1", "f": "=", "g": None, "h": -3,
    }  # fmt: skip


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2**40), st.text(max_size=4), st.just([]), st.just({}),
    st.just([None]), st.just({"a": [1]}), st.floats(),
)  # fmt: skip


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_manifest_gets_a_verdict(data):
    """Whatever stands at up to three places of an object, no rule falls over."""
    judge_something(data)


@pytest.mark.proof
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_two_thousand_manifests_get_a_verdict(data):
    """The same at full size."""
    judge_something(data)


def judge_something(data):
    chosen = data.draw(st.sampled_from(rendered()))
    body = copy.deepcopy(dict(chosen.body))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in places(body) if p]))
        node = body
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = copy.deepcopy(data.draw(JUNK))
    report = check.check_documents([Document(file="f", body=body)], check.Options(is_whole=True))

    assert [str(item) for item in report.findings if item.check == "check.fault"] == []


def test_many_files_are_judged_together(tmp_path):
    """Every file is counted; `make prove-clusters` keeps the seconds."""
    files_of(tmp_path, 20)
    report = check.check_paths([tmp_path], check.Options())

    assert (report.num_files, report.num_objects, report.errors) == (20, 20, ())


def files_of(folder, count):
    """Whole RayClusters, 22 kB each."""
    (cluster,) = [item for item in rendered() if item.kind == "RayCluster"]
    text = render.to_yaml(cluster.body)
    name = f"name: {cluster.name}\n"
    for number in range(count):
        changed = text.replace(name, f"name: cluster-{number}\n", 1)
        (folder / f"{number}.yaml").write_text(changed)
