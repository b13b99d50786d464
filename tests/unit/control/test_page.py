"""The status page, drawn from a real rollout and looked at by a real browser."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from heliostat.control import commands, page, view
from heliostat.rollout.plan import RolloutPlan
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World


@pytest.fixture
def document(tmp_path):
    it = World(str(tmp_path / "state.db"), {"1": WORSE_FIT, "2": GOOD})
    it.deploy("1")
    plan = RolloutPlan(model="m", candidate="2").to_dict()
    rollout_id = commands.start(it.controller, plan, None).rollout_id
    it.settle()
    commands.tell(it.controller, rollout_id, "pause", "<script>alert(1)</script>", None)
    for _ in range(30):
        it.second()
    found = view.details(it.controller, it.last())
    return page.render(view.status(it.controller), [found]).html


def test_the_page_shows_models_gates_and_events_and_escapes_what_people_wrote(document):
    """A reason is text, whatever is in it."""
    assert "version 1 95 %, version 2 5 %" in document
    assert "<td class=pass>pass" in document
    assert "rollout.step_reached" in document
    assert "<script" not in document
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document


def test_a_real_browser_draws_it(document, tmp_path):
    """Chromium parses it into the elements that people look at, and finds no script."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; apt-get install chromium")
    file = tmp_path / "page.html"
    file.write_text(document, encoding="utf-8")
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=90)

    assert done.stdout.count("<section>") == 1
    assert "<polyline points=" in done.stdout
    assert '<td class="pass">pass</td>' in done.stdout
    assert "<script" not in done.stdout
