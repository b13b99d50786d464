from __future__ import annotations

import io

import pytest

from heliostat.submit.screen import ProgressLine, Screen, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[ingest] 0%", ProgressLine(stage="ingest", percent=0, text="")),
        ("[train v2] 100% done\r", ProgressLine(stage="train v2", percent=100, text="done")),
        ("[ingest]  7% 12 of 170 files", ProgressLine(stage="ingest", percent=7, text="12 of 170 files")),
        ("[ingest] 101% of it", None),
        ("[ingest] 5 % of it", None),
        (" [ingest] 5% of it", None),
        ("ingest 5%", None),
        ("[2026-11-23] 5%x", None),
    ],
)  # fmt: skip
def test_only_lines_of_the_agreed_form_are_progress(
    line: str, expected: ProgressLine | None
) -> None:
    """``[stage] NN% text`` is progress; whatever else a job prints is text."""
    assert parse(line) == expected


def test_without_a_terminal_lines_pass_through_unchanged() -> None:
    """Pieces of any size become whole lines; an unfinished last line is not lost."""
    stream = io.StringIO()
    with Screen(stream) as screen:
        for piece in ("[a] 1", "0% x\nplain [b]x[/b]\n", "\nla", "st"):
            screen.feed(piece)
    assert stream.getvalue() == "[a] 10% x\nplain [b]x[/b]\n\nlast\n"


def test_rays_own_lines_are_left_out() -> None:
    """What Ray writes into a job's log before the job begins is noise to a reader."""
    stream = io.StringIO()
    with Screen(stream) as screen:
        screen.feed(
            "2026-11-23 16:11:59,123\tINFO job_manager.py:610 -- Runtime env is setting up.\n"
            "Running entrypoint for job heliostat-1: exec python jobs/a.py\nhello\n"
        )
    assert stream.getvalue() == "hello\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_text_scrolls_and_markup_is_text() -> None:
    """Plain lines are printed as they are, finished stages in one line, progress is live."""
    stream = _Terminal()
    with Screen(stream) as screen:
        screen.feed("[a] 50% half\nplain [bold]x\n[a] 100% 12 rows\n")
    text = stream.getvalue()
    assert "plain [bold]x\n" in text
    assert "a: 12 rows\n" in text
    assert "[a] 50% half\n" not in text
