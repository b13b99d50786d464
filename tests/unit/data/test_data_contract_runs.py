from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from heliostat.data import contract_changes, contract_report, pii
from heliostat.data.checks import check
from heliostat.data.contract import Column, Contract, Freshness
from heliostat.data.infer import infer, source_text
from heliostat.data.profile import Failure, judge, profile, together
from heliostat.data.rows import LINE
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CONTRACT = Contract(
    table="t",
    columns=(
        Column(name="id", dtype="int64"),
        Column(name="x", dtype="float64", nullable=True, max_null_ratio=0.25),
        Column(name="at", dtype="timestamp"),
    ),
    freshness=Freshness(column="at", max_age_s=3600),
    min_rows=4,
)


def block(ids: list[int], x: list[float | None], hours_old: float) -> pl.DataFrame:
    at = NOW - timedelta(hours=hours_old)
    return pl.DataFrame({"id": ids, "x": x, "at": [at] * len(ids)})


def test_rules_about_the_whole_table_are_judged_over_all_blocks() -> None:
    """One block may break them where the table does not."""
    names = ["id", "x", "at"]
    good = [
        profile(block([1, 2], [None, 1.0], 5), names),
        profile(block([3, 4], [2.0, 3.0], 0.5), names),
    ]

    assert judge(CONTRACT, together(good), NOW) == ()
    assert judge(CONTRACT, together(good[:1]), NOW) == (
        Failure(check="number of good rows", saw="2", need="4"),
        Failure(check="share of missing values of x", saw="0.5", need="at most 0.25"),
        Failure(
            check="newest at",
            saw="2026-01-01 19:00:00+00:00, 18000 s old",
            need="at most 3600 s old",
        ),
    )


def test_rows_that_have_types_already_keep_the_same_contract() -> None:
    """A value that the column's type would change is refused, with the value."""
    contract = Contract(
        table="t",
        columns=(
            Column(name="n", dtype="int64", minimum=0),
            Column(name="day", dtype="date", not_in_future=True),
            Column(name="at", dtype="timestamp"),
        ),
    )
    rows = pl.DataFrame(
        {
            "n": [1.0, 2.5, -3.0, 4.0],
            "day": [date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 1), date(2030, 1, 1)],
            "at": [datetime(2026, 1, 1)] * 4,
            LINE: [0, 1, 2, 3],
        }
    )

    good, refused = check(rows, contract, NOW)

    assert good.drop(LINE).rows() == [(1, date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC))]
    assert [item.reason for item in refused] == [
        "n = 2.5: must be int64",
        "n = -3.0: must be at least 0",
        f"day = datetime.date(2030, 1, 1): must not be after now, {NOW.isoformat()}",
    ]


def test_a_changed_contract_gets_the_next_version_and_says_what_changed() -> None:
    """Another description is no change."""
    first = contract_changes.stored(CONTRACT, None)
    words = Contract(
        table="t",
        columns=CONTRACT.columns,
        freshness=CONTRACT.freshness,
        min_rows=4,
        description="said otherwise",
    )
    fewer = Contract(table="t", columns=CONTRACT.columns[:2], min_rows=3)

    same = contract_changes.stored(words, first)
    second = contract_changes.stored(fewer, same)

    assert (first["version"], same["version"], second["version"]) == (1, 1, 2)
    assert second["changes"] == [
        "column at: removed",
        "freshness: {'column': 'at', 'max_age_s': 3600} is None",
        "min_rows: 4 is 3",
    ]


def test_tags_of_personal_data_go_into_every_table_made_from_a_column(tmp_path: Path) -> None:
    """By name, over versions and two steps; under another name, by its values."""
    catalog = Catalog(tmp_path)
    people = pl.DataFrame(
        {"mail": [f"p{row}@example.org" for row in range(40)], "age": list(range(40))}
    )
    raw = catalog.write("people", people, run_id="raw", tags={"mail": "email"})
    copy = people.select(contact="mail", mail="mail", hashed=pl.col("mail").hash(), age="age")

    renamed = pii.renamed(catalog, copy, {"people": raw})
    made = catalog.write("copy", copy, run_id="made", inputs={"people": raw}, tags=renamed)
    catalog.write("last", copy.select("contact", "age"), run_id="last", inputs={"copy": made})

    assert pii.tags(catalog, "people") == {"mail": "email"}
    assert pii.tags(catalog, "copy") == {"contact": "email", "mail": "email"}
    assert pii.tags(catalog, "last") == {"contact": "email"}
    assert catalog.read("last").height == 40


def test_a_contract_is_drafted_from_rows_that_then_keep_it() -> None:
    """Types, bounds, sets, nulls, key and personal data; the text builds the same contract."""
    frame = pl.DataFrame(
        {
            "Cust Id": [str(row) for row in range(60)],
            "zip": ["01234"] * 60,
            "kind": ["a", "b", None] * 20,
            "score": ["1.5", "2"] * 30,
            "mail": [f"p{row}@example.org" for row in range(60)],
            "when": ["2026-01-01T00:00:00Z"] * 60,
            "day": ["2026-01-01"] * 60,
            "ok": ["true", "FALSE"] * 30,
        }
    )

    drafted = infer(frame, "raw/customers")

    assert drafted.keys == ("cust_id",)
    assert [(column.name, column.dtype, column.nullable) for column in drafted.columns] == [
        ("cust_id", "int64", False),
        ("zip", "string", False),
        ("kind", "string", True),
        ("score", "float64", False),
        ("mail", "string", False),
        ("when", "timestamp", False),
        ("day", "date", False),
        ("ok", "bool", False),
    ]
    assert drafted.columns[0].header == "Cust Id"
    assert (drafted.columns[0].minimum, drafted.columns[0].maximum) == (0, 59)
    assert drafted.columns[2].values == ("a", "b")
    assert drafted.pii == {"mail": "email"}
    rebuilt = eval(source_text(drafted), {"Contract": Contract, "Column": Column})
    assert rebuilt == drafted
    good, refused = check(frame.with_row_index(LINE), drafted, NOW)
    assert (good.height, refused) == (60, [])


def test_the_page_of_a_run_shows_no_value_of_personal_data() -> None:
    """It draws each numeric column and why rows were refused, and needs no file beside it."""
    contract = Contract(
        table="t",
        columns=(Column(name="id", dtype="int64"), Column(name="born", dtype="int64", pii="birth")),
    )
    rows = pl.DataFrame({"id": [1, 2, 3], "born": [1971, 1972, 1973]})
    report = {
        "rows_read": 4, "rows_written": 3, "rows_quarantined": 1, "version": 7,
        "contract_version": 2, "contract_changes": ["column id.minimum: 1 is 0"],
        "reasons": {"<id>: must be int64": 1},
    }  # fmt: skip

    page = contract_report.page(contract, report, profile(rows, ["id", "born"]), NOW)

    assert "4 rows read = 3 written + 1 quarantined" in page
    assert "&lt;id&gt;: must be int64" in page
    assert "column id.minimum: 1 is 0" in page
    assert "197" not in page
    assert page.count("<svg") == 3
    assert "http" not in page


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Column(name="id", dtype="int64", max_null_ratio=0.5),
            (
                "column id.max_null_ratio = 0.5: must be at least 0 and below 1, and belongs to a "
                "nullable column"
            ),
        ),
        (
            lambda: Contract(
                table="t", columns=CONTRACT.columns, freshness=Freshness(column="x", max_age_s=1)
            ),
            "contract t.freshness.column = 'x': must be one of the timestamp columns",
        ),
        (
            lambda: Contract(table="t", columns=CONTRACT.columns, partition_by=("y",)),
            "contract t.partition_by = 'y': must be one of the columns",
        ),
    ],
)  # fmt: skip
def test_what_a_contract_cannot_mean_is_refused(build, message: str) -> None:
    """When it is built."""
    with pytest.raises(ConfigError) as caught:
        build()

    assert str(caught.value) == message


def test_a_clock_in_the_future_does_not_make_an_old_source_fresh() -> None:
    """Its row goes to quarantine, and the newest of the others is too old."""
    rows = pl.DataFrame(
        {"id": ["1", "2"], "at": ["2026-01-01T00:00:00Z", "2031-01-01T00:00:00Z"], LINE: [0, 1]}
    )
    contract = Contract(
        table="t",
        columns=(Column(name="id", dtype="int64"), Column(name="at", dtype="timestamp")),
        freshness=Freshness(column="at", max_age_s=60),
    )
    now = datetime(2026, 1, 2, tzinfo=UTC)

    good, refused = check(rows, contract, now)

    assert good["id"].to_list() == [1]
    assert [item.reason for item in refused] == [
        "at = '2031-01-01T00:00:00Z': must not be after now, 2026-01-02T00:00:00+00:00"
    ]
    assert [item.saw for item in judge(contract, profile(good, ["id", "at"]), now)] == [
        "2026-01-01 00:00:00+00:00, 86400 s old"
    ]
