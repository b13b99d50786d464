"""The whole way on a live platform: data to a version that earned, or did not earn, its traffic."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from heliostat.data.origins import files_digest
from heliostat.data.tables import Catalog
from tests.e2e.conftest import LivePlatform
from tests.e2e.interruptions import interrupt, running_runs

SUBMIT_S = 420.0
MAKING = ("train", "evaluate", "register")

pytestmark = pytest.mark.timeout(600)


def _submit(platform: LivePlatform, recipe: str, *, job: str = "jobs/pipeline.py") -> Any:
    return platform.run("submit", "--recipe", recipe, "--", job, timeout_s=SUBMIT_S)


def _newest_report(platform: LivePlatform) -> dict[str, Any]:
    newest = max((platform.home / "reports").glob("*.json"), key=lambda path: path.stat().st_mtime)
    report: dict[str, Any] = json.loads(newest.read_text())
    return report


@pytest.fixture(scope="module")
def small(live_platform: LivePlatform) -> subprocess.CompletedProcess[str]:
    """The reference workload's small recipe, run once for this module."""
    return _submit(live_platform, "jobs.flights:small")


def test_the_reference_workload_ends_with_a_version_that_earned_its_traffic(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str]
) -> None:
    """Real rows, two real trainings, live requests: no request fails and nothing differs."""
    assert small.returncode == 0, small.stdout + small.stderr
    told = re.findall(
        r"^\[canary\] (feature parity: .* 0 different|preparing)", small.stdout, re.MULTILINE
    )
    assert [line.partition(":")[0] for line in told] == ["feature parity", "preparing"]
    report = _newest_report(live_platform)

    assert report["rollout"]["state"] == "promoted"
    assert report["failed"] == 0
    assert report["exposures"] == report["requests"] == 2964
    assert report["features_online_vs_offline"]["different"] == 0
    assert report["features_online_vs_offline"]["values"] == 2964 * 35
    assert report["scores_online_vs_offline"] == {
        "rows": 2964, "values": 2964, "different": 0, "examples": [],
    }  # fmt: skip
    assert report["versions"]["candidate"]["answered"] > 0
    assert [event["reason"] for event in report["rollout"]["events"] if not event["reason"]] == []


def test_the_printed_curl_works_as_printed(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str]
) -> None:
    """Entity keys only; the answer names the version that took over."""
    (command,) = re.findall(r"^  (curl .*)$", small.stdout, re.MULTILINE)

    answer = json.loads(subprocess.check_output(command, shell=True, text=True))

    version = _newest_report(live_platform)["versions"]["candidate"]["version"]
    assert answer["model_version"] == version
    assert 0 < answer["outputs"][0]["data"][0] < 1


def test_lineage_goes_from_a_prediction_to_the_files_and_back(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str]
) -> None:
    """Each in one command: the rows' files by content and the code; all versions and deployments."""
    (command,) = re.findall(r"^  (curl .*)$", small.stdout, re.MULTILINE)
    answer = json.loads(subprocess.check_output(command, shell=True, text=True))
    revision = subprocess.check_output(
        ["git", "-C", str(live_platform.repository), "rev-parse", "HEAD"], text=True
    ).strip()
    answered = f"model:flight-delay@{answer['model_version']}"

    up = _lineage(live_platform, "up", answer["id"])
    down = _lineage(live_platform, "down", "weather.csv")

    assert up["starts"] == [answered]
    files = sorted(step["node"] for step in up["steps"] if step["node"].startswith("file:"))
    assert [Path(node.partition("@")[0]).name for node in files] == [
        "airports.csv", "flights.csv.zip", "planes.csv", "weather.csv",
    ]  # fmt: skip
    assert any(step["node"].startswith("view:") for step in up["steps"])
    path, _, content = files[-1].removeprefix("file:").rpartition("@")
    assert files_digest([path]) == content
    assert {step["revision"] for step in up["steps"]} == {revision}
    report = _newest_report(live_platform)
    versions = {report["versions"][name]["version"] for name in ("stable", "candidate")}
    made = {step["node"] for step in down["steps"]}
    assert {f"model:flight-delay@{version}" for version in versions} <= made
    deployed = {node for node in made if node.startswith("deployment:")}
    assert {node.rpartition("@")[2] for node in deployed} >= versions
    assert down["predictions"][answered] > 0


def _lineage(platform: LivePlatform, *words: str) -> dict[str, Any]:
    for _ in range(40):
        done = platform.run("lineage", *words, "--json")
        # The gateway writes its records each second.
        if done.returncode == 0:
            break
        time.sleep(0.25)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_candidate_trained_on_shuffled_labels_is_refused_by_the_offline_gate(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str]
) -> None:
    """Exit code 3, with the gate, what it saw and what it needs; no version is registered.

    All the way there no stage opens the labels to come: the sealed tables' rows are gone.
    """
    assert small.returncode == 0
    tables = live_platform.home / "tables" / "flight-delay"
    sealed = ("labels_replay", "movements_replay", "raw/flights", "raw/airports")
    rows = [path for name in sealed for path in (tables / name).glob("*.parquet")]
    assert len(rows) >= len(sealed)
    for path in rows:
        path.rename(path.with_suffix(".hidden"))
    shutil.rmtree(tables / "features")
    shutil.rmtree(tables / "examples")
    try:
        refused = _submit(live_platform, "jobs.flights:small_bad")
    finally:
        for path in rows:
            path.with_suffix(".hidden").rename(path)

    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "[ingest] reused" in refused.stdout
    assert "[features] done" in refused.stdout
    assert "[train candidate] done" in refused.stdout
    assert "candidate version stays where it is: ranks-well (auc) is 0." in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr


@pytest.mark.proof
def test_with_that_gate_waived_live_evidence_rolls_it_back_although_the_driver_was_killed(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str]
) -> None:
    """Killed in the middle of the canary: the same command reuses every stage and replays it in
    full; the stable version serves everything again, no request has failed, no run is RUNNING.
    """
    assert small.returncode == 0
    waived = "jobs.flights:small_bad_waived"
    killed = interrupt(live_platform, "canary", signal.SIGKILL, ["--recipe", waived])
    assert killed.exit_code not in {0, 3, None}, killed.output
    assert "waived: to show that live evidence alone stops it" in killed.output

    rolled_back = _submit(live_platform, waived)

    assert rolled_back.returncode == 3, rolled_back.stdout + rolled_back.stderr
    for stage in ("ingest", "features", "train stable", "train candidate", "register candidate"):
        assert f"[{stage}] reused: code, recipe and inputs are unchanged" in rolled_back.stdout
    assert running_runs(live_platform) == []
    report = _newest_report(live_platform)
    assert report["rollout"]["state"] == "rolled_back"
    assert (report["requests"], report["failed"]) == (2964, 0)
    stable = report["versions"]["stable"]["version"]
    with urllib.request.urlopen(f"{live_platform.endpoint}/v1/status") as response:
        model = json.load(response)["models"]["flight-delay"]
    assert model["shares_percent"] == {stable: 100.0}


def test_a_workload_of_another_shape_needs_nothing_but_its_own_folder(
    live_platform: LivePlatform,
) -> None:
    """Generated data, integer keys, one worker: the same way to a promoted version."""
    done = _submit(live_platform, "tests.e2e.machines:recipe")

    assert done.returncode == 0, done.stdout + done.stderr
    report = _newest_report(live_platform)
    assert report["rollout"]["state"] == "promoted"
    assert (report["requests"], report["failed"]) == (2400, 0)
    assert report["features_online_vs_offline"]["different"] == 0
    (told,) = re.findall(r"^\[ingest\] raw/readings: (.*)$", done.stdout, re.MULTILINE)[-1:]
    assert told.startswith(
        "86,404 rows read, 86,400 written, 4 quarantined: "
        "line: must have 4 fields, as the header (1); temperature: must be float64 (1); "
        "at: must not be after now, "
    )
    assert told.endswith(" (1); machine, at: must be unique (1)")


def test_a_source_without_a_column_is_refused_in_one_line(live_platform: LivePlatform) -> None:
    """Exit code 2, the table and the column are named, and nothing is written."""
    refused = _submit(live_platform, "tests.e2e.machines:without_column", job="jobs/ingest.py")

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    assert refused.stdout.splitlines()[-1].endswith(
        "readings-short.csv: column = 'vibration': must be in the header; "
        "known: at, machine, temperature"
    )


def test_a_recipe_with_an_unknown_key_or_a_bad_value_starts_nothing(
    live_platform: LivePlatform,
) -> None:
    """Exit code 2, one line, naming the nearest right key."""
    typo = live_platform.run(
        "submit", "--recipe", "jobs.flights:small", "--set", "replay.request_per_s=5",
        "--", "jobs/pipeline.py",
    )  # fmt: skip
    bad = live_platform.run(
        "submit", "--recipe", "jobs.flights:small", "--set", "replay.requests_per_s=-5",
        "--", "jobs/pipeline.py",
    )  # fmt: skip

    assert (typo.returncode, bad.returncode) == (2, 2)
    assert "did you mean 'requests_per_s'?" in typo.stderr
    assert "replay.requests_per_s = -5.0: must be above 0" in bad.stderr
    assert "job heliostat-" not in typo.stdout + bad.stdout


def test_each_stage_can_be_submitted_alone(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str]
) -> None:
    """It runs up to its stage, reusing what is there, and leaves the live store alone."""
    assert small.returncode == 0

    registered = _submit(live_platform, "jobs.flights:small", job="jobs/register.py")

    assert registered.returncode == 0, registered.stdout + registered.stderr
    stages = re.findall(r"^\[([a-z ]+)\] (\w+)", registered.stdout, re.MULTILINE)
    made = [f"{step} {role}" for role in ("stable", "candidate") for step in MAKING]
    assert [found for found in stages if found[0] != "pipeline"] == [
        (name, "reused") for name in ("ingest", "features", *made)
    ]


def test_a_batch_gives_the_answers_of_the_gateway(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str]
) -> None:
    """A table of examples scored by the stable version, in one job."""
    assert small.returncode == 0

    done = live_platform.run(
        "submit", "--", "jobs/batch_predict.py", "--model", "flight-delay", "--table", "examples",
        "--keep", "flight_key", timeout_s=SUBMIT_S,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = re.findall(r"^\[batch_predict\] flight-delay .*$", done.stdout, re.MULTILINE)
    counted = re.search(r"version (\d+): ([\d,]+) rows .* into (\S+) version", told)
    assert counted is not None, told
    catalog = Catalog(live_platform.home / "tables" / "flight-delay")
    answers, rows = catalog.read(counted[3]), catalog.read("examples")
    assert f"{answers.height:,}" == counted[2]
    assert answers["flight_key"].to_list() == rows["flight_key"].to_list()
    assert answers["score"].is_between(0, 1).all()


def test_registered_versions_can_be_looked_at_compared_and_checked(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    """From the command line, as JSON or text; an unknown version is refused with the known ones."""
    assert small.returncode == 0

    listed = json.loads(live_platform.run("model", "list", "flight-delay", "--json").stdout)
    shown = json.loads(live_platform.run("model", "show", "flight-delay", "2", "--json").stdout)
    compared = live_platform.run("model", "compare", "flight-delay", "1", "2")
    verified = live_platform.run("model", "verify", "flight-delay", "2")
    card = live_platform.run("model", "card", "flight-delay", "2")
    unknown = live_platform.run("model", "show", "flight-delay", "99")
    bundle = live_platform.run(
        "model", "export", "flight-delay", "2", "--edge", str(tmp_path / "edge"), "--json"
    )

    assert [item["version"] for item in listed][:2] == ["1", "2"]
    assert (shown["digest"], shown["passed"]) == (listed[1]["digest"], True)
    assert shown["tables"]["examples"] >= 0
    assert re.search(r"^auc +0\.\d{4} +0\.\d{4} +-?0\.\d{4}$", compared.stdout, re.MULTILINE)
    assert verified.stdout.strip() == listed[1]["digest"]
    assert card.stdout.startswith("# flight-delay")
    assert (unknown.returncode, unknown.stderr[:50]) == (
        2, "heliostat: version of flight-delay = '99': must be",
    )  # fmt: skip
    exported = json.loads(bundle.stdout)
    assert exported["largest_difference"] <= 0.01
    assert exported["rows"] == 20_000


def test_the_finished_rollout_explains_itself_in_words(
    live_platform: LivePlatform, small: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    """Whole sentences with the numbers, the same ones as in its report and its audit trail."""
    assert small.returncode == 0

    rows = json.loads(live_platform.run("rollout", "list", "--json").stdout)
    promoted = [item for item in rows if item["state"] == "promoted"]
    row = next(item for item in promoted if item["model"] == "flight-delay")
    explained = live_platform.run("rollout", "explain", row["id"]).stdout.splitlines()
    audit = live_platform.run("rollout", "audit")
    report = live_platform.run("rollout", "report", row["id"], "--out", str(tmp_path / "report"))

    assert re.fullmatch(
        r"Version \d+ of flight-delay was promoted: all gates pass at 100 % after \d+ requests\.",
        explained[0],
    )
    assert explained[1] == "The gates, when they were last asked:"
    assert all(line.endswith((".", ":")) for line in explained)
    assert re.search(r"the candidate [\d,]+ times; [\d,]+ rows were scored by both", explained[-3])
    assert explained[-2].startswith("Both versions scored the same ")
    assert explained[-1].startswith("It came to ")
    assert (audit.returncode, "unbroken" in audit.stdout) == (0, True)
    assert report.returncode == 0
    assert explained[0] in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.proof
def test_trees_on_trial_against_a_network_go_the_whole_way(live_platform: LivePlatform) -> None:
    """Trained, judged, signed and answering live requests as a network does, in the same rollout."""
    done = _submit(live_platform, "jobs.flights:small_trees")

    assert done.returncode == 0, done.stdout + done.stderr
    report = _newest_report(live_platform)
    assert report["rollout"]["state"] == "promoted"
    assert (report["failed"], report["features_online_vs_offline"]["different"]) == (0, 0)
    assert report["scores_online_vs_offline"]["different"] == 0
    assert report["versions"]["candidate"]["answered"] > 0


@pytest.mark.proof
def test_images_go_the_same_way_to_a_version_that_earned_its_traffic(
    live_platform: LivePlatform,
) -> None:
    """Files as rows of a manifest, the cut one in quarantine; then the nearest pictures of one."""
    done = _submit(live_platform, "jobs.digits:small")

    assert done.returncode == 0, done.stdout + done.stderr
    report = _newest_report(live_platform)
    assert report["rollout"]["state"] == "promoted"
    assert (report["failed"], report["features_online_vs_offline"]["different"]) == (0, 0)
    assert (
        "[ingest] raw/images: 1,798 rows read, 1,797 written, 1 quarantined: "
        "file: must be readable (1)"
    ) in done.stdout

    table = "digit-above-four/raw/images"
    embedded = live_platform.run(
        "submit", "--", "jobs/embed.py", "--table", table, "--embed", "jobs.digits.images:embed",
        "--serve",
    )  # fmt: skip
    assert embedded.returncode == 0, embedded.stdout + embedded.stderr
    assert "1,797 vectors of 64 numbers" in embedded.stdout
    told = live_platform.run(
        "vector", "search", table, "--like", "image=17", "--rows", "5", "--json"
    )
    assert told.returncode == 0, told.stdout + told.stderr
    request = urllib.request.Request(
        f"{live_platform.endpoint}/vectors/{table}",
        data=json.dumps({"like": {"image": 17}, "num_rows": 5}).encode(),
    )
    with urllib.request.urlopen(request) as response:
        answered = json.load(response)
    nearest = [row["image"] for row in json.loads(told.stdout)]
    assert nearest[0] == 17
    assert [row["image"] for row in answered["rows"]] == nearest
    assert answered["table_version"] == 0
