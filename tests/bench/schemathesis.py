"""Schemathesis over the gateway's OpenAPI document; a part of `tests.bench.bad_requests`.

It runs twice. First over the document as it is served: it knows no model, so what fits it need not
be accepted. Then over the document narrowed to the one model that is served, with its tensors'
names and kinds: there what fits must be answered and what does not must be refused.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.environments import python_with, version_in
from tests.local.chain import MODEL, Chain

REQUIREMENTS = ("schemathesis==4.32.5",)
_FLOAT32_MAX = 3.4e38


def program(environments: Path) -> Path:
    """The executable, in an environment of its own."""
    return Path(python_with("schemathesis", REQUIREMENTS, environments)).with_name("schemathesis")
