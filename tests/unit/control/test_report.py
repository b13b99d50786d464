"""What people read: the report of an A/B test, the live view, and explanations."""

from __future__ import annotations

import shutil
import subprocess
from io import StringIO

import pytest
from rich.console import Console

from heliostat.commands import watching
from heliostat.control import commands, explain, report, view
from heliostat.testing.traffic import Behaviour
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World
from tests.unit.control.test_kinds import run_ab


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """An A/B test that found its winner."""
    path = str(tmp_path_factory.mktemp("ab") / "state.db")
    it = World(path, {"1": WORSE_FIT, "2": GOOD, "3": GOOD})
    it.deploy("1")
    run_ab(it, lift=0.2)
    return view.details(it.controller, it.last())


def test_the_report_of_an_ab_test_says_what_was_registered_and_what_was_found(compared):
    """Metric, stop rule, effect and interval; the picture has one interval for each look."""
    made = report.report(compared)

    assert "- metric: spent, higher is better; mean per unit" in made.markdown
    assert "- stop rule: 5 looks, obrien-fleming bounds" in made.markdown
    look = compared["looks"][-1]
    assert f"| {look['low']:+.4g} to {look['high']:+.4g} |" in made.markdown
    assert "hold the true difference at 95%" in made.markdown
    assert made.picture.count("<circle") == len(compared["looks"])
    assert look["low"] < 0.2 < look["high"]


def test_a_real_browser_draws_the_picture(compared, tmp_path):
    """A picture of some size with the intervals in it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; apt-get install chromium")
    (tmp_path / "picture.svg").write_text(report.report(compared).picture)
    subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu",
            f"--screenshot={tmp_path / 'shot.png'}", f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "picture.svg").as_uri(),
        ],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip
    assert (tmp_path / "shot.png").stat().st_size > 3_000


def test_what_people_wrote_cannot_break_the_report(compared):
    """A reason with a table's bars and a tag stays a reason."""
    event = {**compared["events"][0], "reason": "a | b\n<img src=x>"}
    made = report.report({**compared, "events": [event]})
    assert "a \\| b &lt;img src=x&gt;" in made.markdown


def drawn(rollout, problem=""):
    console = Console(file=StringIO(), width=140, color_system=None)
    console.print(watching.drawn(rollout, problem))
    return console.file.getvalue()


def test_the_live_view_shows_the_split_the_gates_and_the_last_events(tmp_path):
    """Brackets in what people wrote are no markup."""
    it = World(str(tmp_path / "state.db"), {"1": WORSE_FIT, "2": GOOD})
    it.deploy("1")
    rollout_id = commands.start(it.controller, {"model": "m", "candidate": "2"}, None).rollout_id
    it.second()
    commands.tell(it.controller, rollout_id, "pause", "[bold]lunch[/]", None, "ada")
    for _ in range(20):
        it.second()
    text = drawn(view.details(it.controller, it.last()), "the controller is away")

    assert "5 %  stable 1" in text
    assert "paused (ada)" in text
    assert "[bold]lunch[/]" in text
    assert "latency" in text
    assert text.rstrip().endswith("the controller is away")


def test_an_explanation_names_the_people_and_what_was_found(tmp_path):
    """A paused and resumed rollout that was promoted for a trial, told as a story."""
    it = World(str(tmp_path / "state.db"), {"1": Behaviour(noise=0.8), "2": GOOD})
    it.deploy("1")
    plan = {"model": "m", "candidate": "2", "bake_s": 600.0}
    rollout_id = commands.start(it.controller, plan, None, "ada").rollout_id
    it.second()
    commands.tell(it.controller, rollout_id, "pause", "lunch", None, "bob")
    commands.tell(it.controller, rollout_id, "resume", "back", None, "bob")
    while it.last().phase != "baking":
        it.second()
    it.second()
    lines = explain.explain(view.details(it.controller, it.last()))

    assert lines[0] == (
        "Version 2 of m was promoted and can still be taken back: promoted; 1 of 600 s at 95 % "
        "without harm."
    )
    assert lines[1] == (
        "People had a hand in it: bob paused it after 1 s (lunch); "
        "bob let it go on after 1 s (back)."
    )
    assert any(line.startswith("It came to 5 % after 1 s, 25 % after ") for line in lines)
