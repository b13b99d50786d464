"""One finding of a check: where, what was found there, the rule, and what breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning"]

_LONGEST = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something in a manifest that is refused, insecure, or would not do what it says."""

    check: str
    """Name of the rule, stable, for filters: ``operator.priority``."""

    where: str
    """File, object and field: ``serve.yaml: RayService/serve spec.serveConfigV2``."""

    value: Any
    """What was found there, shortened; never the content of a Secret."""

    rule: str
    """What must hold instead."""

    breaks: str | None = None
    """What happens, or what exactly is wrong."""

    level: Level = "error"
    """``error``: refused, insecure or without effect; ``warning``: works, and costs later."""

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > _LONGEST:
            shown = shown[:_LONGEST] + "..."
        return f"{self.where} = {shown}: {self.rule}" + (f"; {self.breaks}" if self.breaks else "")

    def to_dict(self) -> dict[str, Any]:
        """Give the finding as JSON values."""
        shown = repr(self.value)
        return {
            "check": self.check,
            "level": self.level,
            "where": self.where,
            "value": shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "...",
            "rule": self.rule,
            "breaks": self.breaks,
        }
