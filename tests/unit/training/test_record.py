"""A run holds what is needed to do it again."""

from __future__ import annotations

import platform
from pathlib import Path

from heliostat import config
from heliostat.registry.tracking import Tracking
from heliostat.training.recipe import TrainRecipe
from heliostat.training.record import code_digest, environment, record


def test_recipe_versions_revision_and_environment_are_on_the_run(
    tmp_path: Path, tracking: Tracking
) -> None:
    """And recording the same again is no error."""
    run_id = tracking.start_run("exp", "n", {})
    recipe = TrainRecipe(label="y", numeric=("a",))
    for _ in range(2):
        record(
            tracking, run_id, recipe, data_versions={"rows": 3}, revision="abc", changes="+two\n"
        )

    with tracking._answering() as client:
        run = client.get_run(run_id)
        data = run.data
        text = client.download_artifacts(run_id, "recipe.json", str(tmp_path))
        changed = client.download_artifacts(run_id, "changes.diff", str(tmp_path))
    assert (data.params["label"], data.params["validation.share"]) == ("y", "0.1")
    kept = {name: data.tags[name] for name in ("data.rows", "revision", "recipe_digest")}
    assert kept == {"data.rows": "3", "revision": "abc", "recipe_digest": config.digest(recipe)}
    (read,) = run.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("rows", "3")
    assert Path(text).read_text() == config.to_json(recipe) + "\n"
    assert Path(changed).read_text() == "+two\n"
    assert environment()[0] == f"python=={platform.python_version()}"


def test_the_code_digest_follows_content_and_names_alone(tmp_path: Path) -> None:
    """Not times, places or other files."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x = 1\n")
    (tmp_path / "two" / "notes.txt").write_text("x")

    first = code_digest([tmp_path / "one"])
    assert code_digest([tmp_path / "two"]) == first
    (tmp_path / "two" / "a.py").rename(tmp_path / "two" / "b.py")
    assert code_digest([tmp_path / "two"]) != first
