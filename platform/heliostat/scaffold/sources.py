"""The Python of a new workload's tables and features, as text; pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

from heliostat.scaffold.guess import Guess, Guesses
from heliostat.scaffold.sizes import FIRST

AT, KNOWN_AT, ROW = "asked_at", "known_at", "row_number"


def quoted(text: str) -> str:
    """Write a text as the formatter would."""
    return json.dumps(text, ensure_ascii=False)


def listed(name: str, items: Iterable[str]) -> str:
    """Write a tuple of texts, one a line."""
    lines = "".join(f"    {quoted(item)},\n" for item in items)
    return f"{name} = (\n{lines})" if lines else f"{name}: tuple[str, ...] = ()"


def numeric(guesses: Guesses) -> list[str]:
    """Names of the numbers that the model reads."""
    dates = [f"{item.column.name}_{part}" for item in guesses.of("date") for part in _PARTS]
    return [item.column.name for item in guesses.of("numeric")] + dates


def categorical(guesses: Guesses) -> list[str]:
    """Names of the categories that the model reads."""
    dates = [f"{item.column.name}_weekday" for item in guesses.of("date")]
    return [item.column.name for item in guesses.of("categorical")] + dates


def label(guesses: Guesses) -> str:
    """Name of the label."""
    found = guesses.one("label")
    assert found is not None
    return found.column.name


def row_id(guesses: Guesses) -> str:
    """Name of the column that names a row."""
    found = guesses.one("id")
    return ROW if found is None else found.column.name


_PARTS = ("days", "month")


def tables(name: str, guesses: Guesses, source: str, text: str) -> str:
    """Write ``tables.py``.

    Args:
        name: Of the workload.
        guesses: What the columns are.
        source: Expression of the file's path.
        text: Delimiter, words for missing, ... as arguments of `CsvFiles`.
    """
    entity = guesses.one("entity")
    head = (
        f'"""Tables of {name}: what a row of the file must keep, and what is made of it.\n\n'
        "Made by `heliostat new`, and yours from here on. Beside each column stands what it was\n"
        'taken for: to change that, change its type below and the list that it is in.\n"""'
    )
    parts = [
        head,
        _imports(guesses, source),
        f"SOURCE = CsvFiles(\n    paths=({source},),\n{text})",
        _contract(guesses),
        "\n".join(
            [
                f"ID = {quoted(row_id(guesses))}",
                f"LABEL = {quoted(label(guesses))}",
                *([] if entity is None else [f"ENTITY = {quoted(entity.column.name)}"]),
                "",
                "LABEL_KNOWN_AFTER = timedelta(0)",
                '"""How long after the prediction a label is known; the file does not tell."""',
            ]
        ),
        listed("NUMERIC", numeric(guesses)),
        listed("CATEGORICAL", categorical(guesses)),
        _left_out(guesses),
    ]
    return "\n\n".join(parts) + "\n" + _functions(guesses)


def _imports(guesses: Guesses, source: str) -> str:
    clock = ["timedelta"]
    if guesses.at is None:
        clock = ["UTC", "datetime", *clock]
    path = "from pathlib import Path\n" if "Path(" in source else ""
    return (
        "from __future__ import annotations\n\nfrom collections.abc import Mapping\n"
        f"from datetime import {', '.join(clock)}\n{path}\nimport polars as pl\n\n"
        "from heliostat.data.contract import Column, Contract\n"
        "from heliostat.data.sources import CsvFiles"
    )


def _contract(guesses: Guesses) -> str:
    entity, time = guesses.one("entity"), guesses.one("time")
    found = guesses.one("id")
    keys: list[str] = []
    if entity is not None and time is not None:
        keys = [entity.column.name, time.column.name]
    elif found is not None:
        keys = [found.column.name]
    lines = ["ROWS = Contract(", '    table="raw/rows",']
    if keys:
        lines.append(f"    keys=({', '.join(map(quoted, keys))}{',' * (len(keys) == 1)}),")
    lines.append("    columns=(")
    for item in guesses.columns:
        column = item.column
        given = [f"name={quoted(column.name)}", f"dtype={quoted(column.dtype)}"]
        if column.header is not None:
            given.append(f"header={quoted(column.header)}")
        if column.nullable:
            given.append("nullable=True")
        lines += [
            f"        # Taken as {item.role}, {item.why}.",
            f"        Column({', '.join(given)}),",
        ]
    return "\n".join([*lines, "    ),", ")"])


def _left_out(guesses: Guesses) -> str:
    found = guesses.of("left out")
    if not found:
        return "LEFT_OUT: dict[str, str] = {}"
    lines = "".join(f"    {quoted(item.column.name)}: {quoted(item.why)},\n" for item in found)
    return (
        f"LEFT_OUT = {{\n{lines}}}\n"
        '"""Columns that the model does not read, with the reason. To use one after all, name it in\n'
        'NUMERIC or CATEGORICAL, and in `_rows`."""'
    )


def _functions(guesses: Guesses) -> str:
    entity = guesses.one("entity")
    asked = "ENTITY, " if entity is not None else ""
    rows = "\n".join(f"        {line}," for line in _expressions(guesses))
    return f'''

def cases(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """What is known when a prediction is due; no labels."""
    return _rows(tables).select(ID, "{AT}", {asked}*NUMERIC, *CATEGORICAL)


def outcomes(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The label of every row that has one, and when it was known."""
    known = _rows(tables).filter(pl.col(LABEL).is_not_null())
    return known.select(ID, "{AT}", LABEL, {KNOWN_AT}=pl.col("{AT}") + LABEL_KNOWN_AFTER)


def _rows(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    rows = tables["raw/rows"].with_columns({_moment(guesses)})  # fmt: skip
{_moments(guesses)}    return rows.select(
        "{AT}",
{rows}
    )  # fmt: skip
'''


def _moment(guesses: Guesses) -> str:
    time = guesses.one("time")
    if time is None:
        stamp = f"datetime({FIRST.year}, {FIRST.month}, {FIRST.day}, tzinfo=UTC)"
        return f"{AT}=pl.lit({stamp}) + pl.duration(minutes=pl.int_range(pl.len()))"
    return f'{AT}={_date(time)}.dt.truncate("1s")'


def _moments(guesses: Guesses) -> str:
    """Write how the columns with dates become moments, a line each."""
    return "".join(
        f"    rows = rows.with_columns({item.column.name}={_date(item)})  # fmt: skip\n"
        for item in guesses.of("date")
        if item.form is not None or item.column.dtype != "timestamp"
    )


def _expressions(guesses: Guesses) -> list[str]:
    lines = []
    found = guesses.one("id")
    lines.append(f"pl.int_range(pl.len()).alias({quoted(ROW)})" if found is None else "ID")
    entity = guesses.one("entity")
    if entity is not None:
        whole = entity.column.dtype == "int64"
        lines.append("ENTITY" if whole else "pl.col(ENTITY).cast(pl.String)")
    lines.append(_label(guesses))
    lines += [
        f"pl.col({quoted(item.column.name)}).cast(pl.Float64)" for item in guesses.of("numeric")
    ]
    for item in guesses.of("date"):
        name = item.column.name
        moment = f"pl.col({quoted(name)})"
        if guesses.at is not None:
            days = f"(pl.col({quoted(AT)}) - {moment}).dt.total_seconds() / 86_400"
        else:
            days = f"({moment} - datetime(2000, 1, 1, tzinfo=UTC)).dt.total_seconds() / 86_400"
        lines.append(f"({days}).alias({quoted(name + '_days')})")
        lines.append(f"{moment}.dt.month().cast(pl.Float64).alias({quoted(name + '_month')})")
        lines.append(f"{moment}.dt.weekday().cast(pl.String).alias({quoted(name + '_weekday')})")
    lines += [quoted(item.column.name) for item in guesses.of("categorical")]
    return lines


def _label(guesses: Guesses) -> str:
    found = guesses.label
    if found.positive is not None:
        one = quoted(found.positive.lower())
        return f"(pl.col(LABEL).str.to_lowercase() == {one}).cast(pl.Int64).alias(LABEL)"
    kind = "Int64" if found.task == "binary" else "Float64"
    return f"pl.col(LABEL).cast(pl.{kind})"


def _date(item: Guess) -> str:
    """Write how a column becomes a moment in UTC."""
    column = f"pl.col({quoted(item.column.name)})"
    zone = '.dt.replace_time_zone("UTC")'
    if item.form is not None and "%H" in item.form:
        return f'{column}.str.to_datetime({quoted(item.form)}, time_unit="us", strict=False){zone}'
    if item.form is not None:
        day = f"{column}.str.to_date({quoted(item.form)}, strict=False)"
        return f'{day}.cast(pl.Datetime("us")){zone}'
    if item.column.dtype == "date":
        return f'{column}.cast(pl.Datetime("us")){zone}'
    if item.column.dtype in ("int64", "float64"):
        return f'({column} * 1_000_000).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))'
    return column


def features(name: str, guesses: Guesses) -> str:
    """Write ``features.py``, of a workload whose requests name an entity."""
    entity = guesses.one("entity")
    assert entity is not None
    whole = entity.column.dtype == "int64"
    integer = "            integer_keys=(tables.ENTITY,),\n" if whole else ""
    return f'''"""What the online store knows of each {entity.column.name}: its newest row, from that row's time on."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from heliostat.features.definitions import Feature, FeatureService, FeatureView
from jobs.{name} import tables


def newest(known: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All that a row says, as of its time."""
    return known["cases"].select(
        tables.ENTITY, *tables.NUMERIC, *tables.CATEGORICAL, event_timestamp="{AT}"
    )


SERVICE = FeatureService(
    project={quoted(name)},
    name="newest",
    views=(
        FeatureView(
            name="newest",
            keys=(tables.ENTITY,),
{integer}            inputs=("cases",),
            compute=newest,
            features=(
                *(Feature(name=name, dtype="float64") for name in tables.NUMERIC),
                *(Feature(name=name, dtype="string") for name in tables.CATEGORICAL),
            ),
            ttl_s=None,
        ),
    ),
)
'''
