"""Every error that Heliostat raises on purpose, sorted by what the reader should do.

HeliostatError          our bug, with a traceback                            exit 1
  ConfigError           the caller wrote something wrong; fix it             exit 2
  GateRefused           the system worked and said no; look at the evidence  exit 3
  Unavailable           an outside system did not answer; retry may help     exit 4
  Interrupted           the user asked to stop                               exit 130

Messages read ``where = value: rule; what breaks it``, then the next step. They carry
the bad value and never a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def _restore(cls: type[HeliostatError], message: str, state: dict[str, Any]) -> HeliostatError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class HeliostatError(Exception):
    """Base of all errors below; type and fields survive pickling, so they cross Ray workers."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self), self.__dict__)


class ConfigError(HeliostatError):
    """The caller wrote something that cannot be meant; says where, the value and the rule.

    >>> print(ConfigError("canary.steps", (5, 2), "must rise", breaks="2 follows 5"))
    canary.steps = (5, 2): must rise; 2 follows 5
    """

    exit_code = 2

    def __init__(
        self,
        where: str,
        value: object,
        rule: str,
        *,
        breaks: str | None = None,
        next_step: str | None = None,
    ) -> None:
        """Build the message from its parts.

        Args:
            where: The field, column, file or option at fault, as the user names it.
            value: What was found there. Never pass a secret.
            rule: What must hold instead.
            breaks: What exactly breaks the rule, if the value alone does not show it.
            next_step: What to type or change now.
        """
        message = f"{where} = {value!r}: {rule}"
        if breaks:
            message += f"; {breaks}"
        if next_step:
            message += f". {next_step}"
        super().__init__(message)
        self.where = where
        self.value = value
        self.rule = rule


class GateRefused(HeliostatError):
    """A model version, a table or a rollout may not move on; the evidence says no."""

    exit_code = 3

    def __init__(self, subject: str, check: str, saw: object, need: str) -> None:
        super().__init__(f"{subject} stays where it is: {check} is {saw}, needs {need}")
        self.subject = subject
        self.check = check
        self.saw = saw
        self.need = need


class Unavailable(HeliostatError):
    """An outside system did not answer; nothing is wrong with the request itself."""

    exit_code = 4

    def __init__(self, system: str, problem: str, *, next_step: str | None = None) -> None:
        super().__init__(f"{system}: {problem}" + (f". {next_step}" if next_step else ""))
        self.system = system


class Interrupted(HeliostatError):
    """The user pressed Ctrl-C; the message says what still runs."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the closest known word for an error message, or list what is known.

    >>> nearest("stpes", ["steps", "margin"])
    "did you mean 'steps'?"
    >>> nearest("zzz", ["b", "a"])
    'known: a, b'
    """
    choices = sorted(known)
    close = get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(choices)
