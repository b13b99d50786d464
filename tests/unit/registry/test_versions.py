"""A model version is whole, proven and registered once, or it is not there."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.registry import signing
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import Registry
from heliostat.store.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def registry(tracking: Tracking, home: Home) -> Registry:
    return Registry(tracking, home)


@pytest.fixture
def run_id(tracking: Tracking) -> str:
    return tracking.start_run("exp", "n", {})


def _package(folder: Path, home: Home, text: str) -> Path:
    folder.mkdir()
    (folder / "model.json").write_text(text)
    signing.sign(folder, home.keys)
    return folder


def test_a_registered_version_is_found_again_with_all_that_was_recorded(
    registry: Registry, home: Home, run_id: str, tmp_path: Path
) -> None:
    """By number, by list and by alias, equal each time."""
    package = _package(tmp_path / "p", home, "one")
    made = registry.register(package, "tiny", run_id, {"data.rows": "3"})

    assert (made.model, made.version, made.run_id) == ("tiny", "1", run_id)
    assert made.digest == signing.verify(made.path, home.keys)
    assert made.path == home.packages / made.digest.removeprefix("sha256:")
    assert made.tags == {"data.rows": "3"}
    assert registry.get("tiny", "1") == made
    registry.set_alias("tiny", "stable", "1")
    assert registry.list("tiny") == [dataclasses.replace(made, aliases=("stable",))]
    assert registry.by_alias("tiny", "stable") == registry.list("tiny")[0]
    assert registry.by_alias("tiny", "other") is None
    assert registry.list("unknown") == []


def test_registering_the_same_content_of_the_same_run_again_makes_no_second_version(
    registry: Registry, home: Home, run_id: str, tracking: Tracking, tmp_path: Path
) -> None:
    """Other content, or another run, does."""
    package = _package(tmp_path / "p", home, "one")
    other = _package(tmp_path / "q", home, "two")
    numbers = [
        registry.register(package, "tiny", run_id, {}).version,
        registry.register(package, "tiny", run_id, {}).version,
        registry.register(other, "tiny", run_id, {}).version,
        registry.register(package, "tiny", tracking.start_run("exp", "m", {}), {}).version,
    ]

    assert numbers == ["1", "1", "2", "3"]
    assert [item.version for item in registry.list("tiny")] == ["1", "2", "3"]


def test_a_version_whose_registration_was_cut_is_invisible_until_it_is_finished(
    registry: Registry, home: Home, run_id: str, tracking: Tracking, tmp_path: Path
) -> None:
    """A killed process leaves an unfinished record: never listed, served or doubled."""
    package = _package(tmp_path / "p", home, "one")
    registry.register(package, "tiny", run_id, {})
    with tracking._answering() as client:
        client.delete_model_version_tag("tiny", "1", "heliostat.complete")

    assert registry.list("tiny") == []
    with pytest.raises(ConfigError) as error:
        registry.get("tiny", "1")
    assert str(error.value) == (
        "version of tiny = '1': must be a registered version; its registration never ended."
        " Known: none"
    )
    with pytest.raises(ConfigError):
        registry.set_alias("tiny", "stable", "1")
    assert registry.register(package, "tiny", run_id, {}).version == "1"
    assert [item.version for item in registry.list("tiny")] == ["1"]


@pytest.mark.parametrize("damage", ["removed", "changed", "replaced by a link"])
def test_a_lost_or_spoilt_local_copy_is_fetched_again(
    damage: str, registry: Registry, home: Home, run_id: str, tmp_path: Path
) -> None:
    """What comes back is verified before it takes the old place."""
    made = registry.register(_package(tmp_path / "p", home, "one"), "tiny", run_id, {})
    if damage == "changed":
        (made.path / "model.json").write_text("evil")
    else:
        shutil.rmtree(made.path)
        if damage == "replaced by a link":
            made.path.symlink_to(tmp_path / "p")

    assert registry.get("tiny", "1") == made
    assert (made.path / "model.json").read_text() == "one"
    assert not made.path.is_symlink()
    assert [path.name for path in home.packages.iterdir()] == [made.path.name]


def test_a_package_swapped_in_the_artifact_store_is_refused(
    registry: Registry, home: Home, run_id: str, tracking: Tracking, tmp_path: Path
) -> None:
    """Even one that our own key signed: the version names its digest."""
    made = registry.register(_package(tmp_path / "p", home, "one"), "tiny", run_id, {})
    other = _package(tmp_path / "q", home, "two")
    shutil.rmtree(made.path)
    tracking.log_artifacts(run_id, other, f"packages/{made.path.name}")

    with pytest.raises(signing.UntrustedModel, match="registered was sha256:"):
        registry.get("tiny", "1")
    assert list(home.packages.iterdir()) == []


def test_an_unsigned_package_is_not_registered(
    registry: Registry, home: Home, run_id: str, tmp_path: Path
) -> None:
    """Nothing of it reaches the registry or the local folder."""
    package = _package(tmp_path / "p", home, "one")
    (package / "model.sig").unlink()

    with pytest.raises(signing.UntrustedModel):
        registry.register(package, "tiny", run_id, {})
    assert registry.list("tiny") == []
    assert not home.packages.exists()


def test_names_that_are_ours_or_unsafe_are_refused(
    registry: Registry, home: Home, run_id: str, tmp_path: Path
) -> None:
    """A model's name becomes part of paths and URLs."""
    package = _package(tmp_path / "p", home, "one")

    with pytest.raises(ConfigError, match="must not be reserved"):
        registry.register(package, "tiny", run_id, {"heliostat.complete": "true"})
    for name in ("../x", "it's", ""):
        with pytest.raises(ConfigError, match="must be 1 to 63 characters"):
            registry.register(package, name, run_id, {})
