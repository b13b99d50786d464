"""The Python of a new workload's recipe, as text; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from heliostat.scaffold.guess import Guesses
from heliostat.scaffold.sizes import LABELLED_PAIRS, Sizes
from heliostat.scaffold.sources import AT, KNOWN_AT, quoted

_SAFE = (
    ("no-leak", "leak_alone", 0.99, "at_most", "an input that tells the label by itself knew it"),
    ("answers-without-inputs", "missing_all_finite", 1.0, "at_least",
     "inputs go missing; an answer that is no number helps nobody"),
)  # fmt: skip

_GATES = {
    "binary": (
        ("ranks", "auc", 0.6, "at_least", "0.5 is chance; raise it once you know what is reached"),
        ("beats-the-base-rate", "log_loss_ratio", 1.0, "at_most",
         "a model must say more than the share of ones does"),
        *_SAFE,
    ),
    "regression": (
        ("beats-the-mean", "r2", 0.1, "at_least",
         "0 is what the mean reaches; raise it once you know what is reached"),
        *_SAFE,
    ),
}  # fmt: skip


_CANDIDATE = (
    ("not-worse-than-production", "production_rise_low", 0.0, "at_most",
     "refused when it is surely worse than what serves, on the same rows"),
)  # fmt: skip


def recipes(name: str, model: str, guesses: Guesses, sizes: Sizes) -> str:
    """Write ``recipes.py``: one function, `run`, and the numbers it needs."""
    task = guesses.label.task
    has_store = guesses.one("entity") is not None
    loss = "log_loss" if task == "binary" else "squared_error"
    service = "SERVICE" if has_store else "None"
    imported = f"from jobs.{name}.features import SERVICE\n" if has_store else ""
    inputs = "" if has_store else "            inputs=(*tables.NUMERIC, *tables.CATEGORICAL),\n"
    optional = "" if sizes.loss_decides else '            optional=("loss",),\n'
    rounds = "" if sizes.rounds == 1 else f"            rounds={sizes.rounds},\n"
    notes = _notes(guesses, sizes)
    return f'''"""The numbers of {name}: periods, training, gates, canary and replay.

Made by `heliostat new`, and yours from here on.
{notes}"""

from __future__ import annotations

from heliostat.pipeline.recipe import (
    DerivedTable,
    Examples,
    Period,
    PipelineRecipe,
    ReplayRecipe,
    SourceTable,
    VersionRecipe,
)
from heliostat.rollout.allowed import ErrorsGate, LatencyGate, LossGate
from heliostat.rollout.plan import RolloutPlan
from heliostat.training.gates import Gate
from heliostat.training.recipe import TrainRecipe, Validation
from jobs.{name} import tables
{imported}
MODEL = {quoted(model)}

START = {_time(sizes.start)}
STABLE_UNTIL = {_time(sizes.stable_until)}
STABLE_MEASURED_UNTIL = {_time(sizes.stable_measured_until)}
CANDIDATE_UNTIL = {_time(sizes.candidate_until)}
REPLAY_FROM = {_time(sizes.replay_from)}
END = {_time(sizes.end)}

TRAINING = TrainRecipe(
    label=tables.LABEL,
    numeric=tables.NUMERIC,
    categorical=tables.CATEGORICAL,
    task={quoted(task)},
    params={{"hidden": 48, "blocks": 1, "dropout": 0.1}},
    epochs={sizes.epochs},
    batch_size={sizes.batch_size},
    learning_rate=5e-3,
    num_workers=1,
    validation=Validation(share=0.15),
    category_min_rows={sizes.category_min_rows},
)

GATES = (
{_gates(_GATES[task])})

NOT_WORSE = (
{_gates(_CANDIDATE)})


def run() -> PipelineRecipe:
    """Two versions: one of the first rows, one of more of them, which has to earn the traffic."""
    return PipelineRecipe(
        model=MODEL,
        sources=(SourceTable(source=tables.SOURCE, contract=tables.ROWS),),
        derived=(
            DerivedTable(name="cases", inputs=("raw/rows",), compute=tables.cases),
            DerivedTable(
                name="outcomes",
                inputs=("raw/rows",),
                compute=tables.outcomes,
                replayed_by="{AT}",
            ),
        ),
        service={service},
        examples=Examples(
            table="cases",
            id=tables.ID,
            time="{AT}",
            labels="outcomes",
            label=tables.LABEL,
            known_at="{KNOWN_AT}",
{inputs}        ),
        stable=VersionRecipe(
            train=Period(start=START, end=STABLE_UNTIL),
            evaluate=Period(start=STABLE_UNTIL, end=STABLE_MEASURED_UNTIL),
            training=TRAINING,
            gates=GATES,
        ),
        candidate=VersionRecipe(
            train=Period(start=START, end=CANDIDATE_UNTIL),
            evaluate=Period(start=CANDIDATE_UNTIL, end=REPLAY_FROM),
            training=TRAINING,
            gates=(*GATES, *NOT_WORSE),
        ),
        canary=RolloutPlan(
            model=MODEL,
            candidate="2",
            steps_percent=(20.0, 50.0, 100.0),
            min_requests_per_step=100,
            errors=ErrorsGate(margin_ratio=0.05, alpha=0.05),
            latency=LatencyGate(quantile=0.5, margin_ms=100.0, margin_ratio=3.0, alpha=0.05),
            loss=LossGate(of={quoted(loss)}, margin={sizes.loss_margin!r}, alpha=0.05),
{optional}        ),
        replay=ReplayRecipe(
            period=Period(start=REPLAY_FROM, end=END),
            requests_per_s=250.0,
            publish_every_s={sizes.publish_every_s!r},
{rounds}        ),
    )
'''


def notes(guesses: Guesses, sizes: Sizes) -> list[str]:
    """What somebody should know about the split and the replay, a sentence each."""
    split = (
        f"{sizes.rows_stable:,} rows train the first version and {sizes.rows_candidate:,} the "
        f"second; the last {sizes.rows_replayed:,} are replayed as live requests."
    )
    found = [split]
    if guesses.at is None:
        found.append(
            "No --time: training, measuring and replay follow the order of the rows. If that order "
            "means something, such as sorted labels, shuffle the file or name a time."
        )
    if guesses.one("entity") is None:
        found.append(
            "No --entity: every request carries all inputs; nothing is read from a feature store."
        )
    if sizes.rounds > 1:
        found.append(
            f"The replay is short, so it runs {sizes.rounds} times: errors and latency gain "
            "evidence by that; labels count once."
        )
    if not sizes.loss_decides:
        found.append(
            f"Fewer than {LABELLED_PAIRS:,} labelled rows are replayed, which may not decide the "
            "loss gate: it is optional, so it can roll back but is not needed to move on."
        )
    return found


def _notes(guesses: Guesses, sizes: Sizes) -> str:
    return "".join(f"\n{_wrapped(text)}\n" for text in notes(guesses, sizes))


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 96)


def _gates(gates: Sequence[tuple[str, str, float, str, str]]) -> str:
    return "".join(
        f"    Gate(\n        name={quoted(name)},\n        metric={quoted(metric)},\n"
        f"        threshold={threshold!r},\n        direction={quoted(direction)},\n"
        f"        why={quoted(why)},\n    ),\n"
        for name, metric, threshold, direction, why in gates
    )


def _time(moment: datetime) -> str:
    return quoted(moment.isoformat())
