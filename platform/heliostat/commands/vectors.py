"""`heliostat vector`: which rows of a table are nearest to a vector, or to one of its rows."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from heliostat.commands import shown
from heliostat.commands.place import AsJson, home_root
from heliostat.commands.shown import Name

vector_app = typer.Typer(
    help="Search tables by vectors; jobs/embed.py builds the indexes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@vector_app.command("search")
def vector_search(
    name: Name,
    *,
    vector: Annotated[
        str | None, typer.Option("--vector", metavar="JSON", help="Such as [0.1,0.2].")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="COLUMN=VALUE", help="The vector of the row with this."),
    ] = None,
    num_rows: Annotated[int, typer.Option("--rows", min=1, help="At most so many.")] = 10,
    as_json: AsJson = False,
) -> None:
    """List the rows whose vectors point most nearly the same way, nearest first."""
    from heliostat.config import require
    from heliostat.data import vectors

    require(
        (vector is None) != (like is None), "--vector, --like", (vector, like),
        "one of them must be given",
    )  # fmt: skip
    folder = home_root() / "vectors"
    if like is not None:
        column, equals, text = like.partition("=")
        require(bool(equals), "--like", like, "must be COLUMN=VALUE")
        asked = vectors.vector_of(folder, name, {column: _value(text)})
    else:
        asked = _numbers(str(vector))
    rows = vectors.search(folder, name, asked, num_rows=num_rows)
    if as_json:
        shown.as_json(rows)
        return
    # Columns that hold parts of the vector would bury the others.
    columns = ["distance", *[key for key in rows[0] if key != "distance"][:6]] if rows else []
    shown.as_table(columns, [[_text(row[key]) for key in columns] for row in rows])


def _numbers(text: str) -> list[float]:
    from heliostat.errors import ConfigError

    try:
        return [float(number) for number in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise ConfigError("--vector", text, "must be a JSON list of numbers") from error


def _value(text: str) -> str | int | float:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, int | float) else text


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
