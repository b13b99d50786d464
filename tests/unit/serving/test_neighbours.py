from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from heliostat.access.keys import KeyFile
from heliostat.access.tokens import TokenChecker
from heliostat.cli import app as cli
from heliostat.data import vectors
from heliostat.errors import ConfigError
from heliostat.serving.admission import Door
from heliostat.serving.neighbours import Neighbours
from tests.unit.serving.conftest import Reply, ask

pytest.importorskip("lancedb", reason="vectors need LanceDB: pip install lancedb")

TABLE = "raw/points"


def corners(rows: pa.Table) -> list[list[float]]:
    """Directions of the compass."""
    return [[float(x), float(y)] for x, y in zip(rows["x"].to_pylist(), rows["y"].to_pylist())]  # noqa: B905


def build(folder: Path, names: str = "nesw", version: int = 0) -> vectors.Built:
    places = {"n": (0, 1), "e": (1, 0), "s": (0, -1), "w": (-1, 0), "q": (1, 1)}
    rows = pa.table(
        {
            "name": list(names),
            "x": [places[name][0] for name in names],
            "y": [places[name][1] for name in names],
        }
    )
    return vectors.index([vectors.with_vectors(rows, corners)], TABLE, folder, version=version)


def door(tmp_path: Path, mode: str) -> Door:
    return Door(
        KeyFile(tmp_path / "keys", lambda: 0.0), TokenChecker([]), mode=mode, insecure=False,
        is_reachable=lambda: False, num_replicas=1, clock=lambda: 0.0, timer=lambda: 0.0,
    )  # fmt: skip


def post(tmp_path: Path, path: str, body: Any, *, mode: str = "off", method: str = "POST") -> Reply:
    """Ask an application that has started."""
    served = Neighbours(tmp_path / "vectors", door(tmp_path, mode))

    async def once() -> Reply:
        await served.start()
        try:
            return await ask(served, path, body, method=method)
        finally:
            await served.stop()

    return asyncio.run(once())


def test_the_nearest_rows_come_first_by_vector_and_by_a_row_of_the_table(tmp_path: Path) -> None:
    """The answer says which version of the table it knows."""
    build(tmp_path / "vectors", version=3)

    by_vector = post(tmp_path, f"/vectors/{TABLE}", {"vector": [3.0, 1.0], "num_rows": 2})
    by_row = post(tmp_path, f"/vectors/{TABLE}", {"like": {"name": "s"}, "num_rows": 1})

    assert by_vector.status == by_row.status == 200
    assert by_vector.body["table_version"] == 3
    assert [row["name"] for row in by_vector.body["rows"]] == ["e", "n"]
    assert [row["name"] for row in by_row.body["rows"]] == ["s"]
    assert by_row.body["rows"][0]["distance"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/vectors/", {"vector": [1, 1]}, 404, "no such path; POST /vectors/<table>"),
        ("/vectors/none", {"vector": [1, 1]}, 404, "vector index = 'none': must be built first"),
        ("/vectors/../state", {"vector": [1, 1]}, 404, "table name = '..'"),
        (f"/vectors/{TABLE}", b"{", 400, "body: must be a question"),
        (f"/vectors/{TABLE}", {"vektor": [1]}, 400, "unknown field `vektor`"),
        (f"/vectors/{TABLE}", {}, 400, "body: must have one of vector and like"),
        (f"/vectors/{TABLE}", {"vector": [1, 1], "num_rows": 0}, 400, "num_rows = 0: must be 1"),
        (f"/vectors/{TABLE}", {"vector": [1]}, 400, "vector = 1: must have 2 numbers"),
        (f"/vectors/{TABLE}", {"vector": [0, 0]}, 400, "must be finite, and not all 0"),
        (f"/vectors/{TABLE}", {"like": {"nam": "s"}}, 400, "did you mean 'name'?"),
        (f"/vectors/{TABLE}", {"like": {"name": "' OR 1=1 --"}}, 400, "must name one row; 0 found"),
    ],
)
def test_a_bad_question_is_refused_with_the_reason(
    tmp_path: Path, path: str, body: Any, status: int, says: str
) -> None:
    """No answer of another status, and no trace of our own code."""
    build(tmp_path / "vectors")

    reply = post(tmp_path, path, body)

    assert (reply.status, says in reply.body["error"]) == (status, True), reply.body


def test_where_keys_are_asked_for_a_search_takes_one(tmp_path: Path) -> None:
    """The same door as the gateway's."""
    build(tmp_path / "vectors")

    assert post(tmp_path, f"/vectors/{TABLE}", {"vector": [1, 1]}, mode="on").status == 401
    assert post(tmp_path, f"/vectors/{TABLE}", {}, method="GET").status == 405


def test_a_new_index_takes_the_old_one_s_place_whole(tmp_path: Path) -> None:
    """Until the last block is in, searches see the old one, and a build that fails changes nothing."""
    folder = tmp_path / "vectors"
    build(folder)
    seen = []

    def blocks() -> Any:
        yield vectors.with_vectors(pa.table({"name": ["q"], "x": [1], "y": [1]}), corners)
        seen.append(len(vectors.search(folder, TABLE, [1.0, 1.0])))
        yield pa.table({"name": ["z"], "x": [1], "y": [1]}).append_column(
            vectors.VECTOR, pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3))
        )

    with pytest.raises(ConfigError, match="must make vectors of one width, 2"):
        vectors.index(blocks(), TABLE, folder, version=1)
    assert (seen, vectors.current(folder, TABLE).version) == ([4], 0)

    build(folder, "q", version=2)
    assert [row["name"] for row in vectors.search(folder, TABLE, [1.0, 1.0])] == ["q"]
    assert vectors.current(folder, TABLE) == vectors.Built(table=TABLE, version=2, rows=1, width=2)


def test_the_command_line_lists_the_nearest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    """By a vector, or by a row that a column names."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    monkeypatch.chdir(repository)
    build(tmp_path / "vectors")

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["vector", "search", TABLE, *words])

    told = run("--vector", "[0, 2]", "--rows", "1")
    assert [line.split() for line in told.output.splitlines()] == [
        ["distance", "name", "x", "y"], ["0", "n", "0", "1"],
    ]  # fmt: skip
    (found,) = json.loads(run("--like", "name=w", "--rows", "1", "--json").output)
    assert (found["name"], found["x"], found["y"]) == ("w", -1, 0)
    assert str(run().exception) == "--vector, --like = (None, None): one of them must be given"
    assert "must be a JSON list of numbers" in str(run("--vector", "x").exception)
