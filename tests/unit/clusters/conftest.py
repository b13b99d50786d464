"""CRDs of the named versions, where this machine has them: data for tests, no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heliostat.clusters import check
from tests.conftest import ROOT


@pytest.fixture(scope="session")
def crds():
    """Schemas by (apiVersion, kind), from HELIOSTAT_CRDS or ../shared/crds."""
    folder = Path(os.environ.get("HELIOSTAT_CRDS", ROOT.parent / "shared" / "crds"))
    if not folder.is_dir():
        pytest.skip(f"no CRD files: neither HELIOSTAT_CRDS nor {folder.name} beside this checkout")
    return check.read_crds(folder)
