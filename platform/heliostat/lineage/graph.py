"""The graph that lineage events draw, walked up to what a thing is made of, or down to its uses."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliostat.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing on the way, with the stage that links it to the step before."""

    node: str
    """As ``table:raw/orders@3``."""

    depth: int
    """Stages away from where the walk began."""

    stage: str
    """Stage that made it (down), or that made the step before from it (up)."""

    revision: str | None
    """Code revision of that stage, if it was told."""


@dataclass(slots=True)
class Graph:
    """What was made from what, over all events of a file."""

    made_from: dict[str, dict[str, tuple[str, str | None]]] = field(default_factory=dict)
    """For each node the nodes that it was made from, with stage and code revision."""

    used_in: dict[str, dict[str, tuple[str, str | None]]] = field(default_factory=dict)
    """The same, the other way."""

    grown: dict[str, set[int]] = field(default_factory=dict)
    """Versions that streams told of, by table."""

    @staticmethod
    def read(path: Path) -> Graph:
        """Read events; a line that a writer has not finished is left out."""
        graph = Graph()
        if path.exists():
            lines = path.read_bytes().split(b"\n")
            graph.add(json.loads(line) for line in lines[:-1] if line)
            graph.fill()
        return graph

    def add(self, events: Iterable[dict[str, Any]]) -> None:
        """Take events; only those of stages that completed, or never end, tell what was made."""
        for event in events:
            facets = event["job"].get("facets") or {}
            is_stream = (facets.get("jobType") or {}).get("processingType") == "STREAMING"
            if event["eventType"] != "COMPLETE" and not (
                is_stream and event["eventType"] == "RUNNING"
            ):
                continue
            revision = (facets.get("sourceCodeLocation") or {}).get("version")
            by = (event["job"]["name"], revision)
            inputs = [_node(item) for item in event["inputs"]]
            for made in (_node(item) for item in event["outputs"]):
                self._link(made, inputs, by)
                table, _, version = made.rpartition("@")
                if is_stream and version.isdecimal():
                    self.grown.setdefault(table, set()).add(int(version))

    def fill(self) -> None:
        """Say where versions came from that a stream made between two that it told of."""
        for node in self.nodes():
            table, _, version = node.rpartition("@")
            if table not in self.grown or not version.isdecimal() or node in self.made_from:
                continue
            later = [number for number in self.grown[table] if number > int(version)]
            if later:
                for source, by in self.made_from[f"{table}@{min(later)}"].items():
                    self._link(node, [source], by)

    def _link(self, made: str, inputs: Iterable[str], by: tuple[str, str | None]) -> None:
        self.made_from.setdefault(made, {})
        for node in inputs:
            known = self.made_from[made].get(node)
            # The controller tells again what a job told, and knows no revision.
            if known is not None and known[1] is not None and by[1] is None:
                continue
            self.made_from[made][node] = by
            self.used_in.setdefault(node, {})[made] = by

    def nodes(self) -> list[str]:
        """Everything that some event names, sorted."""
        return sorted({*self.made_from, *self.used_in})

    def find(self, text: str) -> list[str]:
        """Nodes that a text names: whole, or by name with or without kind and version.

        Raises:
            ConfigError: There is none; names the nearest.
        """
        nodes = self.nodes()
        found = [text] if text in nodes else [node for node in nodes if _names(node, text)]
        if not found:
            names = {node.partition(":")[2] for node in nodes}
            raise ConfigError("lineage id", text, "must be known", breaks=_hint(text, names))
        return found

    def up(self, starts: Iterable[str]) -> list[Step]:
        """Everything that the nodes were made from, nearest first; each thing once."""
        return _walk(starts, self.made_from)

    def down(self, starts: Iterable[str]) -> list[Step]:
        """Everything that was made from the nodes, nearest first; each thing once."""
        return _walk(starts, self.used_in)


def _walk(starts: Iterable[str], links: dict[str, dict[str, tuple[str, str | None]]]) -> list[Step]:
    waiting = deque((node, 0) for node in starts)
    seen = {node for node, _ in waiting}
    steps = []
    while waiting:
        node, depth = waiting.popleft()
        for other, (stage, revision) in sorted(links.get(node, {}).items()):
            if other not in seen:
                seen.add(other)
                steps.append(Step(node=other, depth=depth + 1, stage=stage, revision=revision))
                waiting.append((other, depth + 1))
    return steps


def _node(dataset: dict[str, Any]) -> str:
    kind = dataset["namespace"].rpartition("/")[2]
    version = dataset["facets"]["version"]["datasetVersion"]
    return f"{kind}:{dataset['name']}@{version}"


def _names(node: str, text: str) -> bool:
    whole = node.partition(":")[2]
    name = whole.rpartition("@")[0]
    plain = text.partition(":")[2] if text.split(":", maxsplit=1)[0] in _KINDS else text
    if plain != text and not node.startswith(text.split(":", maxsplit=1)[0] + ":"):
        return False
    return plain in (whole, name) or whole.endswith(f"/{plain}") or name.endswith(f"/{plain}")


_KINDS = (
    "table", "model", "package", "file", "source", "sink", "index", "deployment", "view", "online",
)  # fmt: skip


def _hint(text: str, names: set[str]) -> str:
    if len(names) > 20:
        close = nearest(text, names)
        return close if close.startswith("did you") else f"{len(names)} things are known"
    return nearest(text, names)
