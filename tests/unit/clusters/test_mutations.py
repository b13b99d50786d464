from __future__ import annotations

from functools import cache

import pytest

from cluster_configs import recipes
from heliostat.clusters import check, document, render, values
from heliostat.clusters.document import Document
from tests.conftest import ROOT
from tests.unit.clusters.mutations import MUTATIONS, Mutation, apply

OPTIONS = {
    "ray_version": "2.60.0",
    "source_roots": (str(ROOT), str(ROOT / "platform")),
}


@cache
def rendered() -> tuple[Document, ...]:
    platform = recipes.eks()
    files = render.render(platform.cluster, ROOT, dict(platform.jobs))
    return tuple(
        item
        for name, text in files.items()
        if name.endswith(".yaml") and not name.startswith(("values", "overlays"))
        for item in document.read_text(text, name)[0]
        if item.kind != "Kustomization"
    )


def checks_of(documents, *, is_whole: bool) -> set[str]:
    options = check.Options(is_whole=is_whole, **OPTIONS)
    gates = values.gates(recipes.eks().cluster)
    report = check.check_documents(documents, options, gates=gates)
    return {item.check for item in report.findings}


def target(mutation: Mutation) -> int:
    for index, item in enumerate(rendered()):
        if item.kind == mutation.kind and mutation.name in (None, item.name):
            return index
    raise LookupError(str(mutation))


def test_what_is_planted_into_has_no_finding_itself():
    """Each fault below is the only one; a rule that always speaks would catch nothing."""
    assert checks_of(rendered(), is_whole=True) == set()
    assert {check for item in rendered() for check in checks_of([item], is_whole=False)} == set()


@pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=lambda item: f"{MUTATIONS.index(item)}-{item.check}"
)
def test_a_planted_fault_is_named_by_its_check(mutation):
    """Every rule fails on at least one manifest, so none is vacuous."""
    documents = list(rendered())
    index = target(mutation)
    changed = Document(
        file=documents[index].file, body=apply(documents[index].body, mutation.changes)
    )
    documents[index] = changed
    found = checks_of(documents if mutation.is_whole else [changed], is_whole=mutation.is_whole)

    assert mutation.check in found
    assert "check.fault" not in found


def test_there_are_at_least_sixty():
    """The issue asks for 60; every check that exists is proven by one of them."""
    assert len(MUTATIONS) >= 60
