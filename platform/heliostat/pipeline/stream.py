"""Run a stream on Ray until it is stopped: what ``jobs/stream.py`` runs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Literal

from heliostat.data.tables import Catalog
from heliostat.errors import Unavailable
from heliostat.features.stores import FILE, Store
from heliostat.lineage.events import Lineage, Node
from heliostat.pipeline import entry
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.streams.driver import Driver
from heliostat.streams.recipe import StreamRecipe
from heliostat.streams.scoring import Models, PlanePolicies, Scorer

STAGE = "stream"

_RETRY_S = 2.0

_TELL_S = 60.0
"""Between two events of lineage: each commit would be one a second."""


def main() -> None:
    """Read the command line, run the stream, and leave the process with the right exit code."""
    parser = entry.recipe_parser("Bring a topic's messages into tables and the online store.")
    parser.add_argument("--model", required=True, help="the folder of tables that it writes to")
    parser.add_argument(
        "--until-idle-s", type=float, help="end when nothing came for so long; default: never"
    )
    parser.add_argument(
        "--online", metavar="file|URL",
        help="the online store of its views; default: that of the platform",
    )  # fmt: skip
    options = parser.parse_args()
    with entry.exit_code():
        recipe = entry.recipe_of(options, StreamRecipe)
        connection = Connection.from_environment(os.environ)
        entry.connect()
        run(
            recipe, connection, Reporter(), model=options.model,
            online=options.online or connection.online_store, until_idle_s=options.until_idle_s,
        )  # fmt: skip


def run(
    recipe: StreamRecipe,
    connection: Connection,
    reporter: Reporter,
    *,
    model: str,
    online: str = FILE,
    until_idle_s: float | None,
) -> None:
    """Run on the connected Ray; see `main`. A broker that is away is waited for.

    Args:
        recipe: The stream.
        connection: The platform.
        reporter: Told progress.
        model: Folder of tables that it writes to.
        online: The online store, as `heliostat.features.stores` names it.
        until_idle_s: End when nothing came for so long; None never ends.

    Raises:
        ConfigError: The topic does not exist or lost messages, or the table does not fit.
    """
    home = connection.home
    catalog = Catalog(home.tables / model)
    scorer = None
    if recipe.scoring is not None:
        models = Models(keys_dir=home.keys, online_db=home.online_db, online_store=online)
        scorer = partial(_scorer, recipe, catalog, models)
    store = Store(where=online, file=home.online_db, project=recipe.project)
    store.open().close()  # a URL that is none is told here, not by every consumer
    driver = _driver(recipe, catalog, store, scorer, reporter)
    told = _Told(connection.lineage(), recipe, catalog)
    quiet_since, last = time.monotonic(), -1
    try:
        while True:
            driver.step()
            told.now_and_then()
            done = sum(found.messages for found in driver.progress.values())
            now = time.monotonic()
            if done != last or driver.behind != 0:
                quiet_since, last = now, done
            problems = {found.problem for found in driver.progress.values() if found.problem}
            said = "; ".join(sorted(problems))
            behind = "?" if driver.behind is None else f"{driver.behind:,}"
            reporter.progress(
                STAGE, done, None, f"{done:,} messages, {behind} behind {said}".strip()
            )
            if until_idle_s is not None and now - quiet_since >= until_idle_s:
                break
    finally:
        driver.close()
        told.end()
    reporter.line(
        STAGE,
        f"{recipe.name}: {catalog.num_rows(recipe.contract.table):,} rows in "
        f"{recipe.contract.table}; see heliostat stream status --model {model}",
    )


class _Told:
    """Tells lineage which versions of its tables a stream has made, now and then and in the end."""

    def __init__(self, lineage: Lineage, recipe: StreamRecipe, catalog: Catalog) -> None:
        self._lineage, self._recipe, self._catalog = lineage, recipe, catalog
        self._run_id = uuid.uuid4().hex
        kind = type(recipe.log).__name__.removesuffix("Log").lower()
        self._source = Node(kind="source", name=f"{kind}:{recipe.log.topic}", version=recipe.name)
        self._told_at = time.monotonic()
        self._before: dict[str, int] = {}
        self._emit("START", [])

    def now_and_then(self) -> None:
        """Tell once a minute, if there is a new version."""
        if time.monotonic() - self._told_at >= _TELL_S:
            self._told_at = time.monotonic()
            found = self._versions()
            if found != self._before:
                self._before = found
                self._emit("RUNNING", self._nodes(found))

    def end(self) -> None:
        """Tell the last versions."""
        self._emit("COMPLETE", self._nodes(self._versions()))

    def _emit(self, state: Literal["START", "RUNNING", "COMPLETE"], made: list[Node]) -> None:
        read = [self._source]
        self._lineage.emit(
            state, f"stream {self._recipe.name}", self._run_id, inputs=read, outputs=made,
            is_stream=True,
        )  # fmt: skip

    def _versions(self) -> dict[str, int]:
        contract, scoring = self._recipe.contract, self._recipe.scoring
        names = [contract.table, self._recipe.dead_letters]
        names += [] if scoring is None else [scoring.into]
        found = {name: self._catalog.version(name) for name in names}
        return {name: number for name, number in found.items() if number is not None}

    def _nodes(self, versions: dict[str, int]) -> list[Node]:
        return [
            self._lineage.table(self._catalog.storage(name).url, number)
            for name, number in versions.items()
        ]


def _scorer(recipe: StreamRecipe, catalog: Catalog, models: Models) -> Scorer:
    """Built in each consumer's process, where Ray is connected."""
    return Scorer(recipe, catalog, models, PlanePolicies())


def _driver(
    recipe: StreamRecipe,
    catalog: Catalog,
    online: Store,
    scorer: Callable[[], Scorer] | None,
    reporter: Reporter,
) -> Driver:
    while True:
        try:
            return Driver(recipe, catalog, online=online, scorer=scorer)
        except Unavailable as error:
            reporter.line(STAGE, f"waiting: {error}")
            time.sleep(_RETRY_S)
