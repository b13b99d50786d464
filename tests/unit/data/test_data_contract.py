from __future__ import annotations

import pytest

from heliostat.data.contract import Column, Contract, Rule
from heliostat.errors import ConfigError

ID = Column(name="id", dtype="int64")
AT = Column(name="at", dtype="timestamp")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Column(name="Id", dtype="int64"),
            (
                "column.name = 'Id': must be 1 to 63 characters of a-z, 0-9, _ and -, beginning with "
                "a letter"
            ),
        ),
        (
            lambda: Column(name="id", dtype="string", minimum=1),
            "column id.minimum = 1: belongs to int64 and float64",
        ),
        (
            lambda: Column(name="id", dtype="int64", minimum=2, maximum=1),
            "column id.minimum = 2: must be at most maximum, 1",
        ),
        (
            lambda: Column(name="id", dtype="string", pattern="("),
            (
                "column id.pattern = '(': must be a regular expression; missing ), unterminated "
                "subpattern at position 0"
            ),
        ),
        (
            lambda: Contract(table="t", columns=(ID,), keys=("ip",)),
            "contract t.keys = 'ip': must be one of the columns",
        ),
        (
            lambda: Contract(table="t", columns=(ID, ID)),
            "contract t.columns = ('id',): must each have an own name",
        ),
        (
            lambda: Contract(table="t", columns=(ID,), max_quarantined_ratio=2),
            "contract t.max_quarantined_ratio = 2: must be between 0 and 1",
        ),
        (
            lambda: Contract(
                table="t",
                columns=(ID,),
                rules=(Rule(name="r", expression="id + 1", columns=("id",)),),
            ),
            "rule r.expression = 'id + 1': must be true or false; it is Int64",
        ),
    ],
)
def test_a_contract_that_cannot_be_meant_is_refused_when_built(build, message: str) -> None:
    """The error names the column, the value and the rule."""
    with pytest.raises(ConfigError) as caught:
        build()

    assert str(caught.value) == message


def test_a_rule_must_read_columns_that_exist() -> None:
    """A misspelt column in an expression is found before any row is read."""
    rule = Rule(name="r", expression="idd > 1", columns=("id",))

    with pytest.raises(ConfigError, match="must read the columns of t"):
        Contract(table="t", columns=(ID,), rules=(rule,))


def test_a_contract_is_named_by_its_content() -> None:
    """Equal contracts have one digest; a changed bound has another."""
    one = Contract(table="t", columns=(ID, AT), keys=("id",))
    same = Contract(table="t", columns=(ID, AT), keys=("id",))
    other = Contract(table="t", columns=(Column(name="id", dtype="int64", minimum=0), AT))

    assert one.digest() == same.digest()
    assert one.digest() != other.digest()
