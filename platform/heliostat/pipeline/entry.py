"""What a job's file calls: parse the command line, connect, run, and exit with the right code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from heliostat import config, telemetry
from heliostat.errors import ConfigError, HeliostatError
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe

T = TypeVar("T")


def main(until: str) -> None:
    """Run the pipeline's stages until one has ended, and leave the process.

    The exit code is 0, or that of the error: 2 for a config that cannot be meant, 3 for a
    gate that said no, 4 for an outside system that is away, 1 with a traceback for our bugs.

    Args:
        until: Last stage to run; those before it run too, or are reused.
    """
    parser = recipe_parser(f"Run the pipeline until {until!r} has ended.")
    options = parser.parse_args()
    with exit_code():
        recipe = recipe_of(options, PipelineRecipe)
        connection = Connection.from_environment(os.environ)
        from heliostat.pipeline.run import Run

        Run(recipe, connection, Reporter(), Path.cwd()).until(until)


def parser_for(description: str) -> argparse.ArgumentParser:
    """Begin the command line of a job."""
    return argparse.ArgumentParser(
        description=description,
        epilog="exit: 0 done  2 your config  3 a gate said no  4 an outside system is down",
    )


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """Begin the command line of a job that runs a recipe; `recipe_of` reads it."""
    parser = parser_for(description)
    parser.add_argument("--recipe", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument(
        "--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE"
    )
    return parser


def recipe_of(options: argparse.Namespace, kind: type[T]) -> T:
    """Load the recipe that was named, with its fields set.

    Raises:
        ConfigError: It cannot be meant, or is of another kind.
    """
    recipe = config.override(config.load(options.recipe), options.assignments)
    if not isinstance(recipe, kind):
        raise ConfigError("--recipe", options.recipe, f"must return a {kind.__name__}")
    return recipe


@contextmanager
def exit_code() -> Iterator[None]:
    """Prepare a job's process, and leave it with the exit code of the block's error, if any."""
    telemetry.configure("pipeline")
    # `ray job submit` puts the upload on the path; a run by hand from the root does not.
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    except HeliostatError as error:
        if type(error).exit_code == 1:
            raise
        sys.stderr.write(f"heliostat: {error}\n")
        raise SystemExit(error.exit_code) from None


def connect() -> None:
    """Connect to the Ray that this job runs on.

    Ray Data would print its plan and a dozen lines a second; the stages say what matters.
    """
    import ray
    from ray.data import DataContext

    if ray.is_initialized():
        return
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
