"""What makes a training repeatable: recipe, data versions, code and environment, on its run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heliostat import config
from heliostat.registry.tracking import Tracking


def record(
    tracking: Tracking,
    run_id: str,
    recipe: Any,
    *,
    data_versions: Mapping[str, str | int],
    revision: str,
    changes: str | None = None,
) -> None:
    """Log to a run what is needed to do it again.

    Parameters: every field of the recipe. Artifacts: ``recipe.json``, ``environment.txt``, and
    ``changes.diff`` where the code differs from its commit. Tags: ``revision``, ``recipe_digest``,
    ``data.<table>`` for each table version, which is among the run's datasets too. Calling it again
    with the same arguments changes nothing.

    Args:
        tracking: Where the run is.
        run_id: The run.
        recipe: Any config dataclass, such as a `TrainRecipe`.
        data_versions: Version of each table that was read.
        revision: Revision of the code, such as a commit or `code_digest`.
        changes: What the code changes in that commit; None if nobody knows.
    """
    tracking.log_params(run_id, config.to_dict(recipe))
    tags = {f"data.{table}": str(version) for table, version in data_versions.items()}
    tags |= {"revision": revision, "recipe_digest": config.digest(recipe)}
    tracking.set_tags(run_id, tags)
    tracking.log_datasets(run_id, data_versions)
    tracking.log_text(run_id, config.to_json(recipe) + "\n", "recipe.json")
    tracking.log_text(run_id, "\n".join(environment()) + "\n", "environment.txt")
    if changes:
        tracking.log_text(run_id, changes, "changes.diff")


def environment() -> list[str]:
    """Python and every installed distribution as ``name==version``, sorted."""
    found = {
        f"{item.metadata['Name']}=={item.version}" for item in importlib.metadata.distributions()
    }
    return [f"python=={platform.python_version()}", *sorted(found, key=str.lower)]


def code_digest(roots: Iterable[Path]) -> str:
    """Name the Python sources below some folders by content; the same on every machine.

    Works without version control, as in an uploaded working directory.
    """
    digest = hashlib.sha256()
    for index, root in enumerate(roots):
        for path in sorted(root.rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{index} {path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]
