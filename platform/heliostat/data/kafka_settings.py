"""How Kafka's client proves who it is: settings of the environment or of a file, never shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from heliostat.errors import ConfigError, Unavailable

FILE = "KAFKA_PROPERTIES_FILE"
"""Variable of the environment that names a file of lines ``name=value``, as Kafka's tools take."""

Answer = TypeVar("Answer")
Client = TypeVar("Client")
Errors = list[tuple[str, str]]
"""Name and text of each error that a client has told of."""

_KINDS = ("security.", "sasl.", "ssl.")
_SECRETS = ("password", "secret", "pem", "sasl.oauthbearer.config", "sasl.jaas.config")
_REFUSALS = frozenset({"_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED"})


def read(environment: Mapping[str, str]) -> dict[str, str]:
    """Collect what a client needs besides its servers; empty for one that asks for nothing.

    ``KAFKA_SASL_PASSWORD`` is ``sasl.password``, and so on for all of librdkafka's properties that
    begin with ``security.``, ``sasl.`` or ``ssl.``. They come before those of the file that `FILE`
    names. Ray's workers need them too.

    Raises:
        ConfigError: The file cannot be read, or holds what is no such line; its values are not
            shown.

    >>> read({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_HOME": "/opt"})
    {'security.protocol': 'SASL_SSL'}
    """
    found = {
        key.removeprefix("KAFKA_").lower().replace("_", "."): value
        for key, value in environment.items()
        if key.startswith("KAFKA_") and key != FILE
    }
    given = {name: value for name, value in found.items() if name.startswith(_KINDS)}
    path = environment.get(FILE)
    return {**(_of_file(Path(path)) if path else {}), **given}


def hidden(text: str, settings: Mapping[str, str]) -> str:
    """Take secret values out of words that the client says.

    >>> hidden("bad value 'hunter2'", {"sasl.password": "hunter2"})
    "bad value '***'"
    """
    for name, value in settings.items():
        if value and any(word in name for word in _SECRETS):
            text = text.replace(value, "***")
    return text


def opened(
    kind: Callable[[dict[str, Any]], Client],
    plain: Mapping[str, Any],
    errors: Errors,
    environment: Mapping[str, str],
) -> Client:
    """Make a consumer or producer with the settings of the environment.

    Args:
        kind: The client library's class.
        plain: What the caller wants of it.
        errors: Gets what the client tells of while it is used.
        environment: See `read`.

    Raises:
        ConfigError: The library does not take the settings.
    """
    from confluent_kafka import KafkaException

    settings = read(environment)

    def told(error: Any) -> None:
        errors.append((str(error.name()), str(error.str())))

    try:
        return kind({"log_level": 0, **plain, **settings, "error_cb": told})
    except KafkaException as error:
        raise ConfigError(
            "kafka settings", sorted(settings), "must be properties that librdkafka takes",
            breaks=hidden(str(error.args[0].str()), settings),
        ) from None  # fmt: skip


def problem(errors: Sequence[tuple[str, str]], said: str, settings: Mapping[str, str]) -> str:
    """Choose the words for a broker that cannot be used: a refusal explains why nothing came.

    Args:
        errors: Name and text of each error that the client told of on the way.
        said: What it says in the end; mostly that time is over.
        settings: Those of `read`.
    """
    if any(name in _REFUSALS for name, _ in errors):
        return "refuses the user or the password"
    of_tls = next((text for name, text in errors if name == "_SSL"), None)
    return hidden(said if of_tls is None else of_tls, settings)


def asked(where: str, consumer: Any, errors: Errors, question: Callable[[], Answer]) -> Answer:
    """Ask a question through a consumer that `opened` made with the process's environment.

    Raises:
        Unavailable: The client cannot answer it, in the words of `problem`.
    """
    from confluent_kafka import KafkaException

    try:
        return question()
    except KafkaException as error:
        # What the client told of on the way waits for a poll.
        consumer.poll(0)
        raise unavailable(where, errors, str(error.args[0].str())) from None


def unavailable(where: str, errors: Errors, said: str) -> Unavailable:
    """Say why a broker cannot be used, with the secrets of the process's environment hidden."""
    return Unavailable(where, problem(errors, said, read(os.environ)))


def _of_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            FILE, str(path), "must name a file that can be read", breaks=type(error).__name__
        ) from None
    found = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith(("#", "!")):
            continue
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.startswith(_KINDS):
            # Any part of it may be a secret.
            raise ConfigError(
                f"{path}: line {number}", "...",
                f"must be name=value with a name that begins with one of {_KINDS}",
            )  # fmt: skip
        found[name] = value
    return found
