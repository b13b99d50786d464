"""MLflow's ``/invocations`` payloads, for people who come from ``mlflow models serve``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from heliostat.serving import protocol
from heliostat.serving.refused import Refused, bad

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class _Split(msgspec.Struct, frozen=True):
    columns: list[str]
    data: list[list[Any]]


class _Payload(msgspec.Struct, frozen=True):
    dataframe_split: _Split | UnsetType = UNSET
    dataframe_records: list[dict[str, Any]] | UnsetType = UNSET
    instances: list[Any] | UnsetType = UNSET
    inputs: dict[str, Any] | list[Any] | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Payload).decode
_PLAIN = (str, int, float, type(None))


def columns(body: bytes, names: Sequence[str]) -> tuple[dict[str, list[Any]], int]:
    """Read a payload in one of MLflow's four JSON forms.

    Args:
        body: The request's body.
        names: The model's inputs in order, for rows that come without names.

    Returns:
        Values by column, and the number of rows.

    Raises:
        Refused: 400; it is no such JSON, or its rows are no table of plain values.
    """
    payload = protocol.strict(_decode, body)
    given = [form for form in _FORMS if getattr(payload, form) is not UNSET]
    if len(given) != 1:
        raise bad("body", given, f"must have exactly one of {', '.join(_FORMS)}")
    form = given[0]
    table = _table(form, getattr(payload, form), names)
    num_rows = max((len(values) for values in table.values()), default=0)
    if not num_rows:
        raise bad(form, table, "must have at least one row")
    if num_rows > protocol.MAX_ROWS:
        raise Refused(413, f"{form} = {num_rows} rows: at most {protocol.MAX_ROWS}")
    for name, values in table.items():
        if len(values) != num_rows:
            raise bad(f"column {name}", len(values), f"must have {num_rows} rows like the others")
        for value in values:
            if not isinstance(value, _PLAIN) or isinstance(value, bool):
                raise bad(f"column {name}", value, "must be a number, a text or null")
    return table, num_rows


def answer(scores: Sequence[float]) -> bytes:
    """Encode predictions as MLflow does."""
    return protocol.encode({"predictions": list(scores)})


def _table(form: str, value: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    if form == "dataframe_split":
        return _rows(form, value.data, value.columns)
    if isinstance(value, dict):
        return {
            name: [item for cell in cells for item in (cell if isinstance(cell, list) else [cell])]
            if isinstance(cells, list) else [cells]
            for name, cells in value.items()
        }  # fmt: skip
    if value and all(isinstance(row, dict) for row in value):
        keys = list(value[0])
        for row in value:
            if row.keys() != value[0].keys():
                raise bad(form, sorted(row), f"every row must have the columns {keys}")
        return {key: [row[key] for row in value] for key in keys}
    return _rows(form, value, names)


def _rows(form: str, rows: Sequence[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    if len(set(names)) != len(names):
        raise bad(f"{form}: columns", list(names), "must differ")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(names):
            raise bad(form, row, f"every row must be a list of {len(names)} values")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}
