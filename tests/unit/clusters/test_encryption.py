from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from cluster_configs import recipes
from heliostat.clusters import check
from heliostat.clusters.recipe import TARGETS
from heliostat.errors import ConfigError
from tests.conftest import ROOT


@pytest.mark.parametrize("target", TARGETS)
def test_a_recipe_without_a_key_of_the_customers_is_refused(target):
    """It cannot be built, so nothing can be rendered from it."""
    storage = getattr(recipes, target)().cluster.storage

    for nothing in (None, ""):
        with pytest.raises(ConfigError, match=r"^storage.customer_key = .*: must be set; buckets,"):
            dataclasses.replace(storage, customer_key=nothing)


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_whose_recipe_lost_its_key_is_refused(target, tmp_path):
    """Buckets and databases are made from it, not from the objects beside it."""
    folder = tmp_path / target
    shutil.copytree(ROOT / "cluster_configs" / target, folder)
    path = folder / "recipe.json"
    body = json.loads(path.read_text())
    for change in ({"customer_key": None}, {"customer_key": ""}, {}):
        body["storage"] = {"bucket": body["storage"]["bucket"], **change}
        path.write_text(json.dumps(body))
        checks = [item.check for item in check.check_paths([folder], check.Options()).errors]
        assert checks == ["encryption.recipe"]
    path.write_text("{" * 100_000)
    checks = [item.check for item in check.check_paths([folder], check.Options()).errors]
    assert checks == ["encryption.recipe"]
