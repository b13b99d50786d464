"""Search a version's training, train with what was found, register: what ``jobs/tune.py`` runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from heliostat.pipeline import entry
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe
from heliostat.training.search import SearchRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneRecipe:
    """A search for one version of a pipeline."""

    pipeline: PipelineRecipe
    search: SearchRecipe
    role: Literal["stable", "candidate"] = "candidate"


def main() -> None:
    """Read the command line, search, train the best, register, leave with the right exit code."""
    parser = entry.recipe_parser("Search, train with the best values, and register.")
    options = parser.parse_args()
    with entry.exit_code():
        recipe = entry.recipe_of(options, TuneRecipe)
        connection, reporter = Connection.from_environment(os.environ), Reporter()
        from heliostat.pipeline.run import Run

        found = Run(recipe.pipeline, connection, reporter, Path.cwd()).search(
            recipe.role, recipe.search
        )
        Run(found, connection, reporter, Path.cwd()).until("register")
