"""Every metric of streams, declared once: name, kind, labels, unit in the name."""

from __future__ import annotations

from collections.abc import Mapping

from heliostat.serving.metrics import Metric

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="heliostat_stream_messages", kind="counter", labels=("stream",),
               words="Messages read."),
        Metric(name="heliostat_stream_dead_letters", kind="counter", labels=("stream", "kind"),
               words="Messages that became dead letters."),
        Metric(name="heliostat_stream_behind", kind="gauge", labels=("stream", "partition"),
               words="Messages that were not read yet."),
        Metric(name="heliostat_stream_watermark_lag_seconds", kind="gauge",
               labels=("stream", "partition"), words="How far the watermark is behind the clock."),
        Metric(name="heliostat_stream_batch_seconds", kind="histogram", labels=("stream",),
               words="Reading, judging, pushing and, where due, committing a micro-batch.",
               edges=_SECONDS),
        Metric(name="heliostat_stream_commit_seconds", kind="histogram", labels=("stream",),
               words="Committing rows, dead letters and answers.", edges=_SECONDS),
        Metric(name="heliostat_stream_pushed", kind="counter", labels=("stream", "view"),
               words="Entities written to the online store."),
        Metric(name="heliostat_stream_push_failures", kind="counter", labels=("stream",),
               words="Micro-batches whose values the online store did not take."),
        Metric(name="heliostat_stream_answers", kind="counter",
               labels=("stream", "model", "version"), words="Events scored, by the version."),
    )
}  # fmt: skip
