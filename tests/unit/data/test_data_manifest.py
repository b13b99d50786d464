from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.data import manifest
from heliostat.data.manifest import ManifestReport
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, HeliostatError


def test_a_manifest_says_what_came_changed_and_went(tmp_path: Path) -> None:
    """Versions hold what the files held; a file that has changed is never taken for its version."""
    folder, catalog = tmp_path / "images", Catalog(tmp_path / "tables")
    (folder / "cats").mkdir(parents=True)
    for name, content in (("cats/a.png", b"one"), ("cats/b.jpg", b"two"), ("note.txt", b"x")):
        (folder / name).write_bytes(content)

    first = manifest.write(catalog, "images", folder, run_id="a", pattern="cats/*")
    (folder / "cats/a.png").write_bytes(b"other")
    (folder / "cats/b.jpg").unlink()
    (folder / "cats/c.png").write_bytes(b"three")
    second = manifest.write(catalog, "images", folder, run_id="b", pattern="cats/*")

    assert first == ManifestReport(version=0, files=2, num_bytes=6, added=2, changed=0, removed=0)
    assert second == ManifestReport(version=1, files=2, num_bytes=10, added=1, changed=1, removed=1)
    rows = catalog.read("images")
    assert rows["media_type"].to_list() == ["image/png", "image/png"]
    assert manifest.with_bytes(rows.to_arrow())["bytes"].to_pylist() == [b"other", b"three"]
    old = catalog.read("images", 0)
    with pytest.raises(HeliostatError, match=r"a\.png: has changed since this version"):
        manifest.with_bytes(old.head(1).to_arrow())
    with pytest.raises(HeliostatError, match=r"b\.jpg: a file of this version is gone"):
        manifest.with_bytes(old.tail(1).to_arrow())
    with pytest.raises(ConfigError, match="must be a folder"):
        manifest.write(catalog, "images", tmp_path / "absent", run_id="c")
