"""Stages leave a trail of OpenLineage events."""

from __future__ import annotations

import json
import pickle
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from heliostat.errors import ConfigError
from heliostat.lineage.events import Lineage, Node, run_uuid
from heliostat.lineage.graph import Graph


def test_a_stage_writes_its_start_and_its_end_with_versions(tmp_path: Path) -> None:
    """Inputs and outputs carry the version that was read or made."""
    table = Node(kind="table", name="rows", version="3")
    model = Node(kind="model", name="tiny", version="1")
    with Lineage(tmp_path).stage("train", "run-1", [table]) as outputs:
        outputs.append(model)
    with pytest.raises(ZeroDivisionError), Lineage(tmp_path).stage("train", "run-2"):
        raise ZeroDivisionError

    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    seen = [(event["eventType"], event["run"]["runId"]) for event in events]
    first, second = run_uuid("train", "run-1"), run_uuid("train", "run-2")
    assert seen == [("START", first), ("COMPLETE", first), ("START", second), ("FAIL", second)]
    (read,), (made,) = events[1]["inputs"], events[1]["outputs"]
    assert (read["namespace"], read["name"]) == ("heliostat/table", "rows")
    assert read["facets"]["version"]["datasetVersion"] == "3"
    assert (made["namespace"], made["name"]) == ("heliostat/model", "tiny")
    assert made["facets"]["version"]["datasetVersion"] == "1"


def pipeline(folder: Path) -> Graph:
    """File -> raw -> rows -> model 1 and 2 -> deployment of 2; and a stage that failed."""
    lineage = Lineage(folder, revision="abc123")
    file = Node(kind="file", name="/data/rows.csv", version="f00d")
    raw = Node(kind="table", name="churn/raw", version="0")
    rows = Node(kind="table", name="churn/rows", version="4")
    models = [Node(kind="model", name="churn", version=number) for number in ("1", "2")]
    place = Node(kind="deployment", name="churn", version="2")
    lineage.emit("COMPLETE", "ingest raw", "r", inputs=[file], outputs=[raw])
    lineage.emit("COMPLETE", "derive rows", "r", inputs=[raw], outputs=[rows])
    for model in models:
        lineage.emit("COMPLETE", "train", f"r{model.version}", inputs=[rows], outputs=[model])
    lineage.emit("COMPLETE", "deploy", "r", inputs=[models[1]], outputs=[place])
    lineage.emit(
        "FAIL",
        "train",
        "bad",
        inputs=[rows],
        outputs=[Node(kind="model", name="churn", version="3")],
    )
    return Graph.read(folder / "events.jsonl")


def test_who_knows_no_revision_takes_none_away(tmp_path: Path) -> None:
    """The controller tells of a deployment that a job has told of with its code."""
    model = Node(kind="model", name="churn", version="2")
    place = Node(kind="deployment", name="churn", version="2")
    Lineage(tmp_path, revision="abc123").emit(
        "COMPLETE", "canary", "r", inputs=[model], outputs=[place]
    )
    Lineage(tmp_path).emit("COMPLETE", "candidate", "c", inputs=[model], outputs=[place])

    (step,) = Graph.read(tmp_path / "events.jsonl").up([str(place)])
    assert (step.stage, step.revision) == ("canary", "abc123")


def test_from_a_model_up_to_its_files_and_code(tmp_path: Path) -> None:
    """Each thing once, nearest first, with the stage and the revision of the code."""
    found = pipeline(tmp_path).up(["model:churn@2"])

    assert [(step.depth, step.node, step.stage, step.revision) for step in found] == [
        (1, "table:churn/rows@4", "train", "abc123"),
        (2, "table:churn/raw@0", "derive rows", "abc123"),
        (3, "file:/data/rows.csv@f00d", "ingest raw", "abc123"),
    ]


def test_from_a_file_down_to_every_model_and_deployment(tmp_path: Path) -> None:
    """What a failed stage would have made is not there."""
    graph = pipeline(tmp_path)

    assert [step.node for step in graph.down(graph.find("rows.csv"))] == [
        "table:churn/raw@0",
        "table:churn/rows@4",
        "model:churn@1",
        "model:churn@2",
        "deployment:churn@2",
    ]


def test_things_are_found_by_parts_of_their_name(tmp_path: Path) -> None:
    """An unknown one is refused with what is near."""
    graph = pipeline(tmp_path)

    assert graph.find("table:churn/raw@0") == ["table:churn/raw@0"]
    assert graph.find("raw") == ["table:churn/raw@0"]
    assert graph.find("model:churn") == ["model:churn@1", "model:churn@2"]
    assert graph.find("model:churn@1") == ["model:churn@1"]
    with pytest.raises(ConfigError) as caught:
        graph.find("churn/row")
    assert str(caught.value) == (
        "lineage id = 'churn/row': must be known; did you mean 'churn/rows@4'?"
    )


def test_a_stream_s_versions_between_those_it_told_of_are_known_too(tmp_path: Path) -> None:
    """It tells of one a minute and makes one a second; a newer one than it told of is not guessed."""
    lineage = Lineage(tmp_path)
    topic = Node(kind="source", name="redis:orders", version="orders")

    def table(version: int) -> Node:
        return Node(kind="table", name="shop/orders", version=str(version))

    def model(version: str) -> Node:
        return Node(kind="model", name="churn", version=version)

    for state, version in (("RUNNING", 10), ("RUNNING", 70), ("COMPLETE", 75)):
        lineage.emit(
            state, "stream orders", "r", inputs=[topic], outputs=[table(version)],  # type: ignore[arg-type]
            is_stream=True,
        )  # fmt: skip
    for number, version in (("1", 42), ("2", 99)):
        lineage.emit("COMPLETE", "train", number, inputs=[table(version)], outputs=[model(number)])
    graph = Graph.read(tmp_path / "events.jsonl")

    assert [step.node for step in graph.up(["model:churn@1"])] == [
        "table:shop/orders@42", "source:redis:orders@orders",
    ]  # fmt: skip
    assert [step.node for step in graph.up(["model:churn@2"])] == ["table:shop/orders@99"]
    assert "model:churn@1" in [step.node for step in graph.down(graph.find("redis:orders"))]


def test_a_lineage_goes_along_with_a_task(tmp_path: Path) -> None:
    """Without the file that it has open; both write to the same one."""
    lineage = Lineage(tmp_path)
    lineage.emit("START", "one", "r")
    pickle.loads(pickle.dumps(lineage)).emit("START", "two", "r")
    lineage.emit("START", "three", "r")

    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["job"]["name"] for line in lines] == ["one", "two", "three"]


def test_a_server_gets_every_event_and_stops_nothing_when_it_is_gone(tmp_path: Path) -> None:
    """The file has them in any case."""
    got: list[dict[str, object]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            got.append(json.loads(self.rfile.read(length)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Lineage(tmp_path / "a", url=url).stage("train", "r"):
            pass
        server.shutdown()
        thread.join()
    with Lineage(tmp_path / "b", url="http://127.0.0.1:9").stage("train", "r"):
        pass

    assert [event["eventType"] for event in got] == ["START", "COMPLETE"]
    assert len((tmp_path / "b" / "events.jsonl").read_text().splitlines()) == 2
