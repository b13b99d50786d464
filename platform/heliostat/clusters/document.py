"""Read YAML that anybody wrote: bounded, without tags that run code, duplicates refused.

Values are built from the parser's events with a stack of our own, so that neither depth nor
aliases can exhaust the machine: a bomb is counted as if it were written out, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heliostat.clusters.finding import Finding

MAX_BYTES = 2 * 1024**2
"""Largest file; an object of the API server may have 1.5 MiB (etcd's request limit)."""
MAX_DEPTH = 64
MAX_NODES = 200_000
"""Values in one file, aliases counted as if written out."""
MAX_DOCUMENTS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One object of a manifest, as it was written."""

    file: str
    body: Mapping[str, Any]

    @property
    def api_version(self) -> str:
        """The group and version, or an empty text."""
        return _text(self.body.get("apiVersion"))

    @property
    def kind(self) -> str:
        """The kind, or an empty text."""
        return _text(self.body.get("kind"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata; empty where it is missing or no mapping."""
        return mapping(self.body.get("metadata"))

    @property
    def spec(self) -> Mapping[str, Any]:
        """The spec; empty where it is missing or no mapping."""
        return mapping(self.body.get("spec"))

    @property
    def name(self) -> str:
        """The object's name, or an empty text."""
        return _text(self.metadata.get("name"))

    @property
    def namespace(self) -> str:
        """The object's namespace; ``default`` where none is written."""
        return _text(self.metadata.get("namespace")) or "default"

    @property
    def where(self) -> str:
        """File and object, for findings."""
        return f"{self.file}: {self.kind or '?'}/{self.name or '?'}"


class _Refused(Exception):
    """What cannot be read, and why."""

    def __init__(self, line: int, value: str, rule: str, breaks: str | None = None) -> None:
        super().__init__(rule)
        self.line, self.value, self.rule, self.breaks = line, value, rule, breaks


def read_file(path: Path, shown: str) -> tuple[list[Document], list[Finding]]:
    """Read one file; what cannot be read becomes a finding, never an exception.

    Args:
        path: The file.
        shown: How findings name it.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            return [], [
                Finding(
                    check="yaml.size", where=shown, value=f"{size} bytes",
                    rule=f"must be at most {MAX_BYTES} bytes",
                    breaks="the API server refuses objects beyond 1.5 MiB",
                )
            ]  # fmt: skip
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        rule = "must be a readable file of UTF-8 text"
        return [], [Finding(check="yaml.read", where=shown, value=str(error), rule=rule)]
    return read_text(text, shown)


def read_text(text: str, shown: str) -> tuple[list[Document], list[Finding]]:
    """Read a text of YAML documents; see `read_file`. Empty documents are skipped."""
    documents: list[Document] = []
    findings: list[Finding] = []
    if len(text) > MAX_BYTES:
        rule = f"must be at most {MAX_BYTES} bytes"
        return [], [Finding(check="yaml.size", where=shown, value=len(text), rule=rule)]
    try:
        for body in _documents(text):
            if body is None:
                continue
            if len(documents) >= MAX_DOCUMENTS:
                raise _Refused(0, "", f"must hold at most {MAX_DOCUMENTS} documents")
            if not isinstance(body, dict):
                raise _Refused(0, repr(body)[:60], "must be an object with apiVersion and kind")
            items = body.get("items") if body.get("kind") == "List" else [body]
            for item in items if isinstance(items, list) else []:
                _append(documents, item, shown)
    except _Refused as error:
        where = f"{shown}:{error.line}" if error.line else shown
        findings.append(
            Finding(
                check="yaml.read", where=where, value=error.value, rule=error.rule,
                breaks=error.breaks,
            )
        )  # fmt: skip
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{shown}:{mark.line + 1}" if mark else shown
        problem = str(getattr(error, "problem", None) or error)[:200]
        findings.append(
            Finding(check="yaml.read", where=where, value=problem, rule="must be valid YAML")
        )
    return documents, findings


def _append(documents: list[Document], item: Any, shown: str) -> None:
    if isinstance(item, dict):
        documents.append(Document(file=shown, body=item))


def read_value(text: str) -> Any:
    """Read one YAML value inside a manifest, such as ``serveConfigV2``.

    Raises:
        ValueError: It is not valid YAML or goes beyond the limits; the message says why.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES} bytes")
    try:
        values = list(_documents(text))
    except _Refused as error:
        raise ValueError(f"line {error.line}: {error.rule}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(getattr(error, "problem", error))[:200]) from error
    if len(values) > 1:
        raise ValueError("holds more than one document")
    return values[0] if values else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Give the value if it is a mapping, else an empty one: another check names the fault."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """Give the value's elements if it is a list, else none."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return list(value) if is_list else []


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Give those elements of a list that are mappings."""
    return [item for item in items(value) if isinstance(item, Mapping)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_OCTAL = re.compile(r"0o?[0-7]+$")
_HEX = re.compile(r"0x[0-9a-fA-F]+$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "map", "seq", "binary", "timestamp")
}


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Resolve as the Go library of Kubernetes does; dates stay text."""
    text: str = event.value
    if event.tag and event.tag != "!":
        if event.tag not in _TAGS:
            raise _Refused(_line(event), event.tag, "must not use tags", "tags can run code")
        if event.tag.endswith((":str", ":binary", ":timestamp")):
            return text
    elif not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 40 or not (text[0].isdigit() or text[0] in "+-."):
        return text
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _OCTAL.match(text):
        return int(text.removeprefix("0o"), 8)
    if _HEX.match(text):
        return int(text, 16)
    return float(text) if _FLOAT.match(text) else text


class _Open:
    """A mapping or list that is being filled; counts the values below it."""

    __slots__ = ("anchor", "key", "num_nodes", "value")

    def __init__(self, value: Any, anchor: str | None) -> None:
        self.value, self.anchor, self.key, self.num_nodes = value, anchor, _NONE, 1


_NONE: Any = object()


def _documents(text: str) -> Iterator[Any]:
    stack: list[_Open] = []
    anchors: dict[str, tuple[Any, int]] = {}
    root: Any = None
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            stack, anchors, root = [], {}, None
            continue
        if isinstance(event, yaml.DocumentEndEvent):
            yield root
            continue
        num_nodes = 1
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
            if event.anchor:
                anchors[event.anchor] = value, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise _Refused(_line(event), f"*{event.anchor}", "must name an anchor before it")
            value, num_nodes = anchors[event.anchor]
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if event.tag and event.tag != "!" and event.tag not in _TAGS:
                raise _Refused(_line(event), event.tag, "must not use tags", "tags can run code")
            if len(stack) >= MAX_DEPTH:
                raise _Refused(_line(event), "...", f"must nest at most {MAX_DEPTH} levels")
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            stack.append(_Open({} if is_mapping else [], event.anchor))
            continue
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = stack.pop()
            value, num_nodes = closed.value, closed.num_nodes
            if closed.anchor:
                anchors[closed.anchor] = value, num_nodes
        else:
            continue
        if not stack:
            root = value
            continue
        _add(stack[-1], value, num_nodes, event)


def _add(into: _Open, value: Any, num_nodes: int, event: Any) -> None:
    into.num_nodes += num_nodes
    if into.num_nodes > MAX_NODES:
        raise _Refused(
            _line(event), f"{into.num_nodes} values", f"must hold at most {MAX_NODES} values",
            "aliases count as if they were written out",
        )  # fmt: skip
    if isinstance(into.value, list):
        into.value.append(value)
    elif into.key is _NONE:
        if isinstance(value, dict | list):
            raise _Refused(_line(event), "?", "keys must be text")
        into.key = value if isinstance(value, str) else _key_text(value)
        if into.key in into.value:
            raise _Refused(
                _line(event), into.key, "must be written once",
                "of duplicate keys the API server keeps only the last",
            )  # fmt: skip
    else:
        if into.key == "<<" and isinstance(value, dict):
            into.value = {**value, **into.value}
        else:
            into.value[into.key] = value
        into.key = _NONE


def _key_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
