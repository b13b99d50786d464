from __future__ import annotations

import random
from datetime import UTC, datetime

import polars as pl
import pytest

from heliostat.data.checks import check, moment
from heliostat.data.contract import Column, Contract, Rule
from heliostat.data.csv_rows import LINE, parse

HEADER = ("id", "name", "amount")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def test_each_line_ends_as_a_row_or_as_a_reason() -> None:
    """Broken lines keep their number and their text, and do not touch their neighbours."""
    raw = (
        b"1,a,1.5\n"
        b"2,b\n"
        b'3,"c, d",2\r\n'
        b'4,"open,2\n'
        b"5,\xff\xfe,3\n"
        b"\n"
        b"6,e,4,extra\n"
        b'7,"f"g,5\n'
        b"8,,NA\n"
        b'9,"say ""hi""",NA'
    )
    chunk = parse(raw, HEADER, ",", ("", "NA"))

    assert chunk.rows.rows() == [
        ("1", "a", "1.5", 0),
        ("3", "c, d", "2", 2),
        ("8", None, None, 8),
        ("9", 'say "hi"', None, 9),
    ]
    assert sorted((item.line, item.reason, chunk.text(item.line)) for item in chunk.malformed) == [
        (1, "line = 2 fields: must have 3 fields, as the header", "2,b"),
        (3, "line: must be well quoted; unexpected end of data", '4,"open,2'),
        (4, "line: must be UTF-8", "5,\\xff\\xfe,3"),
        (6, "line = 4 fields: must have 3 fields, as the header", "6,e,4,extra"),
        (7, "line: must be well quoted; ',' expected after '\"'", '7,"f"g,5'),
    ]
    assert (chunk.num_lines, chunk.num_rows) == (10, 9)


def test_random_bytes_are_accounted_for() -> None:
    """Whatever the bytes are: rows and malformed lines are all lines that are not empty."""
    source = random.Random(7)
    for _ in range(300):
        raw = bytes(source.choices(b'a1,"\n\r\x00\xff\xc3\xa9 NA', k=source.randrange(200)))
        chunk = parse(raw, HEADER, ",", ("", "NA"))

        lines = [line.removesuffix(b"\r") for line in raw.split(b"\n")]
        assert chunk.num_rows == sum(1 for line in lines if line)
        assert chunk.rows.height + len(chunk.malformed) == chunk.num_rows
        assert chunk.num_lines == len(lines) - (lines[-1] == b"" and raw[-1:] in {b"\n", b""})


CONTRACT = Contract(
    table="t",
    columns=(
        Column(name="id", dtype="int64", header="Id", minimum=0, maximum=100),
        Column(name="kind", dtype="string", values=("a", "b")),
        Column(name="code", dtype="string", nullable=True, pattern="[A-Z]{2}"),
        Column(name="amount", dtype="float64", nullable=True),
        Column(name="on", dtype="bool", nullable=True),
        Column(name="day", dtype="date", nullable=True),
        Column(name="begin", dtype="timestamp", not_in_future=True),
        Column(name="end", dtype="timestamp", nullable=True),
    ),
    rules=(Rule(name="forward", expression='"end" >= "begin"', columns=("begin", "end")),),
)


def _rows(**changed: str | None) -> pl.DataFrame:
    good: dict[str, str | None] = {
        "Id": "5",
        "kind": "a",
        "code": "AB",
        "amount": "1e3",
        "on": "TRUE",
        "day": "2026-01-01",
        "begin": "2026-01-01T10:00:00Z",
        "end": None,
        "unused": "x",
    }
    return pl.DataFrame({**good, **changed}, schema=dict.fromkeys(good, pl.String)).with_columns(
        pl.lit(3, pl.Int64).alias(LINE)
    )


def test_a_good_row_is_typed() -> None:
    """Types are the contract's, moments are UTC, and columns without a contract are gone."""
    good, refused = check(_rows(begin="2026-01-01T12:00:00.25+02:00"), CONTRACT, NOW)

    assert refused == []
    assert good.rows(named=True) == [
        {
            LINE: 3,
            "id": 5,
            "kind": "a",
            "code": "AB",
            "amount": 1000.0,
            "on": True,
            "day": datetime(2026, 1, 1, tzinfo=UTC).date(),
            "begin": datetime(2026, 1, 1, 10, 0, 0, 250_000, tzinfo=UTC),
            "end": None,
        }
    ]
    assert pl.Schema(good.drop(LINE).schema) == CONTRACT.schema()


def _reason(**changed: str | None) -> str:
    good, refused = check(_rows(**changed), CONTRACT, NOW)
    assert good.height == 0
    assert refused[0].line == 3
    return refused[0].reason


def test_a_refused_row_says_column_value_and_rule() -> None:
    """Each kind of rule has its sentence; several broken rules are all named."""
    assert _reason(Id="5.0") == "id = '5.0': must be int64"
    assert _reason(Id=None) == "id = None: must not be missing"
    assert _reason(Id="-1") == "id = '-1': must be at least 0"
    assert _reason(Id="101") == "id = '101': must be at most 100"
    assert _reason(Id="99999999999999999999") == "id = '99999999999999999999': must be int64"
    assert _reason(kind="c") == "kind = 'c': must be one of a, b"
    assert _reason(code="ABC") == "code = 'ABC': must match [A-Z]{2}"
    assert _reason(code="AB\n") == "code = 'AB\\n': must match [A-Z]{2}"
    assert _reason(amount="nan") == "amount = 'nan': must be float64"
    assert _reason(on="yes") == "on = 'yes': must be bool"
    assert _reason(day="2026-02-30") == "day = '2026-02-30': must be date"
    assert _reason(begin="10:00") == "begin = '10:00': must be timestamp"
    assert (
        _reason(begin="2026-01-02T00:00:01Z")
        == "begin = '2026-01-02T00:00:01Z': must not be after now, 2026-01-02T00:00:00+00:00"
    )
    assert (
        _reason(end="2026-01-01T09:59:59Z")
        == "begin = '2026-01-01T10:00:00Z', end = '2026-01-01T09:59:59Z': "
        'must keep forward, "end" >= "begin"'
    )
    assert _reason(Id="x", kind=None) == "id = 'x': must be int64; kind = None: must not be missing"


def test_moments_of_several_forms_are_one_moment() -> None:
    """With and without offset, with a blank for the T: text without an offset is UTC."""
    rows = pl.concat(
        _rows(begin=text)
        for text in (
            "2026-01-01T10:00:00Z",
            "2026-01-01T10:00:00",
            "2026-01-01 10:00:00",
            "2026-01-01 11:00:00+0100",
        )
    )
    good, _ = check(rows, CONTRACT, NOW)

    assert good["begin"].to_list() == [datetime(2026, 1, 1, 10, tzinfo=UTC)] * 4


@pytest.mark.parametrize("first", range(7))
def test_moments_of_a_mixed_column_are_the_same_whichever_comes_first(first: int) -> None:
    """A fraction, an offset, a blank, nothing and no moment at all may each be at the top."""
    texts = [
        "2026-01-01T10:00:00Z", "2026-01-01 10:00:00", "2026-01-01T11:00:00.25+01:00",
        "2026-01-01 09:30:00.25-00:30", "2026-01-01T10:00:00.25", None, "soon",
    ]  # fmt: skip
    whole = datetime(2026, 1, 1, 10, tzinfo=UTC)
    part = datetime(2026, 1, 1, 10, 0, 0, 250_000, tzinfo=UTC)
    moments = [whole, whole, part, part, part, None, None]

    found = moment(pl.Series("at", texts[first:] + texts[:first]))

    assert found.to_list() == moments[first:] + moments[:first]
