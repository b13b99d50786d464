"""What a job's file calls: parse the command line, connect, run, and exit with the right code."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from heliostat import config, telemetry
from heliostat.errors import ConfigError, HeliostatError
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe


def main(until: str) -> None:
    """Run the pipeline's stages until one has ended, and leave the process.

    The exit code is 0, or that of the error: 2 for a config that cannot be meant, 3 for a
    gate that said no, 4 for an outside system that is away, 1 with a traceback for our bugs.

    Args:
        until: Last stage to run; those before it run too, or are reused.
    """
    parser = argparse.ArgumentParser(
        description=f"Run the pipeline until {until!r} has ended.",
        epilog="exit: 0 done  2 your config  3 a gate said no  4 an outside system is down",
    )
    parser.add_argument("--recipe", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument(
        "--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE"
    )
    options = parser.parse_args()
    telemetry.configure("pipeline")
    try:
        # `ray job submit` puts the upload on the path; a run by hand from the root does not.
        sys.path.insert(0, str(Path.cwd()))
        recipe = config.override(config.load(options.recipe), options.assignments)
        if not isinstance(recipe, PipelineRecipe):
            raise ConfigError("--recipe", options.recipe, "must return a PipelineRecipe")
        connection = Connection.from_environment(os.environ)
        from heliostat.pipeline.run import Run

        Run(recipe, connection, Reporter(), Path.cwd()).until(until)
    except HeliostatError as error:
        if type(error).exit_code == 1:
            raise
        sys.stderr.write(f"heliostat: {error}\n")
        raise SystemExit(error.exit_code) from None
