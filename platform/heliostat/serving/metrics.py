"""Every metric of the data plane, declared once: name, kind, labels, unit in the name.

Requests only add to counts in memory; once a second they are handed to a sink. Inside Ray that is
Ray's own exporter, so that all replicas of a node are scraped at its one metrics port.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

Kind = Literal["counter", "gauge", "histogram"]

_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip
_MAX_OBSERVED = 20_000
_PIECE = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric; Prometheus sees it as ``ray_<name>``, a counter with ``_total`` behind."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    words: str
    edges: tuple[float, ...] = ()
    """Upper edges of a histogram's buckets, in the unit of the name."""


_OF_VERSION = ("model", "version")

METRICS: Mapping[str, Metric] = {
    name: Metric(
        name=name,
        kind=cast("Kind", kind),
        labels=labels,
        words=words,
        edges=_SECONDS if kind == "histogram" else (),
    )
    for name, kind, labels, words in (
        ("heliostat_requests", "counter", ("model", "version", "variant", "status"),
         "Answered requests, by the version that answered."),
        ("heliostat_request_seconds", "histogram", ("model", "version", "variant"),
         "From the arrival of a request to its answer."),
        ("heliostat_refusals", "counter", ("action", "status"),
         "Requests that got no prediction, by what they asked for."),
        ("heliostat_fallbacks", "counter", _OF_VERSION,
         "Requests of a version that the stable one answered."),
        ("heliostat_breaker_open", "gauge", _OF_VERSION, "1 while a variant is not asked."),
        ("heliostat_split_ratio", "gauge", ("model", "version", "variant"),
         "Share of the units that the version answers under the policy."),
        ("heliostat_shadow_rows", "counter", _OF_VERSION, "Rows that stable and version scored."),
        ("heliostat_shadow_beyond", "counter", _OF_VERSION,
         "Of them, those whose scores differ by more than the tolerance."),
        ("heliostat_shadow_flips", "counter", _OF_VERSION,
         "Of them, those on different sides of one half."),
        ("heliostat_ongoing", "gauge", ("model",), "Requests being worked on."),
        ("heliostat_pairs_waiting", "gauge", (), "Answered requests that wait to be paired."),
        ("heliostat_model_load_seconds", "histogram", ("model",),
         "Time to verify, load and warm a version."),
        ("heliostat_models_resident", "gauge", (), "Versions in this process's memory."),
        ("heliostat_model_bytes", "gauge", (), "Memory that they are estimated to take."),
        ("heliostat_feature_seconds", "histogram", ("model",), "Reading features by key."),
        ("heliostat_feature_defaults", "counter", ("model",),
         "Requests answered with declared defaults, the online store being silent."),
        ("heliostat_feature_feast_reads", "counter", ("model",),
         "Requests whose features Feast's own reader fetched, their types being no others'."),
        ("heliostat_feast_reader_ready", "gauge", (),
         "1 while the process with Feast's reader answers; absent where there is none."),
        ("heliostat_policy_epoch", "gauge", (), "Epoch of the policy that is obeyed."),
        ("heliostat_exposures_waiting", "gauge", (), "Records that wait for the disk."),
        ("heliostat_exposures_dropped", "gauge", (), "Records lost since the start."),
        ("heliostat_loop_lag_seconds", "gauge", (), "How late the event loop runs timers."),
    )
}  # fmt: skip


class Sink(Protocol):
    """Takes what was counted."""

    def add(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Raise a counter."""
        ...

    def set(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        ...

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Add one value to a histogram."""
        ...


class Meter:
    """Counts in memory; labels are given in the order of the table."""

    def __init__(self, table: Mapping[str, Metric] = METRICS) -> None:
        self._table = table
        self._counts: dict[tuple[str, tuple[str, ...]], float] = {}
        self._values: dict[tuple[str, tuple[str, ...]], float] = {}
        self._observed: dict[tuple[str, tuple[str, ...]], list[float]] = {}

    def add(self, name: str, labels: tuple[str, ...], value: float = 1) -> None:
        """Raise a counter."""
        key = (name, labels)
        self._counts[key] = self._counts.get(key, 0) + value

    def set(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        self._values[name, labels] = value

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Add one value to a histogram; beyond what a second can hold they are left out."""
        key = (name, labels)
        values = self._observed.get(key)
        if values is None:
            values = self._observed[key] = []
        if len(values) < _MAX_OBSERVED:
            values.append(value)

    def drain(self, sink: Sink) -> None:
        """Hand over what came since the last call."""
        for _ in self.pieces(sink):
            pass

    def pieces(self, sink: Sink) -> Iterator[None]:
        """As `drain`, but yields after some tenths of a millisecond again and again.

        Ray takes microseconds for each value: those of a whole second in one go would make every
        request of that moment wait.
        """
        counts, self._counts = self._counts, {}
        values, self._values = self._values, {}
        observed, self._observed = self._observed, {}
        for (name, labels), value in counts.items():
            sink.add(self._table[name], labels, value)
        for (name, labels), value in values.items():
            sink.set(self._table[name], labels, value)
        for (name, labels), several in observed.items():
            for start in range(0, len(several), _PIECE):
                yield
                for value in several[start : start + _PIECE]:
                    sink.observe(self._table[name], labels, value)


class RaySink:
    """Hands counts to Ray's exporter; works inside Ray's workers only."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def add(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Raise a counter."""
        if value > 0:
            self._of(metric).inc(value, dict(zip(metric.labels, labels, strict=True)))

    def set(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        self._of(metric).set(value, dict(zip(metric.labels, labels, strict=True)))

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Add one value to a histogram."""
        self._of(metric).observe(value, dict(zip(metric.labels, labels, strict=True)))

    def _of(self, metric: Metric) -> Any:
        made = self._made.get(metric.name)
        if made is None:
            from ray.util import metrics

            kinds = {
                "counter": metrics.Counter,
                "gauge": metrics.Gauge,
                "histogram": metrics.Histogram,
            }
            more = {"boundaries": list(metric.edges)} if metric.edges else {}
            made = kinds[metric.kind](metric.name, metric.words, tag_keys=metric.labels, **more)
            self._made[metric.name] = made
        return made
