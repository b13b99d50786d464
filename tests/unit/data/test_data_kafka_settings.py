"""Kafka behind TLS and a password: librdkafka's client against its mock cluster behind a door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.data import kafka_settings
from heliostat.data.kafka_source import KafkaTopic
from heliostat.errors import ConfigError, Unavailable
from heliostat.streams.kafka_log import KafkaLog
from heliostat.testing.kubernetes import write_certificates
from tests.unit.data import kafka_door

PASSWORD = "hunter2-is-secret"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates("127.0.0.1", folder)
    return folder


@pytest.fixture
def door(
    kafka: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, pytest.MonkeyPatch]]:
    """A cluster behind TLS and a password, and an environment that has all but the password."""
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_MECHANISMS", "PLAIN")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("KAFKA_SSL_CA_LOCATION", str(certificates / "ca.crt"))
    with kafka_door.before(kafka, certificates, "me", PASSWORD) as servers:
        yield servers, monkeypatch


def _sent(kafka: str, topic: str, *messages: bytes) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka})
    for message in messages:
        producer.produce(topic, message, partition=0)
    assert producer.flush(10) == 0


def test_a_topic_behind_tls_and_a_password_is_read(
    kafka: str, door: tuple[str, pytest.MonkeyPatch]
) -> None:
    """With the password of the environment; a stream's log takes the same, and writes too."""
    servers, environment = door
    environment.setenv("KAFKA_SASL_PASSWORD", PASSWORD)
    _sent(kafka, "behind-a-door", b'{"id": 1}', b'{"id": 2}')

    source = KafkaTopic(servers=servers, topic="behind-a-door")
    member = source.plan()[0]
    log = KafkaLog(servers=servers, topic="behind-a-door")
    writer = log.writer()
    writer.send([(b"k", b'{"id": 3}')])
    writer.close()

    assert source.read_chunk(member, 0) == b'{"id": 1}\n{"id": 2}\n'
    assert "0" in log.partitions()
    assert sum(item.size_bytes for item in source.plan()) == 3


def test_a_wrong_password_is_told_and_never_shown(door: tuple[str, pytest.MonkeyPatch]) -> None:
    """By the reader of a topic and by a stream's log, with exit code 4."""
    servers, environment = door
    environment.setenv("KAFKA_SASL_PASSWORD", "wrong-secret")
    expected = "refuses the user or the password"

    with pytest.raises(Unavailable) as source:
        KafkaTopic(servers=servers, topic="t", timeout_s=2).plan()
    with pytest.raises(Unavailable) as log:
        KafkaLog(servers=servers, topic="t", timeout_s=2).partitions()

    assert str(source.value).startswith(f"kafka {servers}: {expected}")
    assert str(log.value).startswith(f"kafka {servers} topic t: {expected}")
    for error in (source.value, log.value):
        assert "wrong-secret" not in str(error) + repr(error) + repr(error.__cause__)


def test_a_server_that_the_authority_does_not_know_is_told(
    door: tuple[str, pytest.MonkeyPatch], tmp_path: Path
) -> None:
    """The reason is the certificate, and not that nobody answered."""
    servers, environment = door
    environment.setenv("KAFKA_SASL_PASSWORD", PASSWORD)
    write_certificates("127.0.0.1", tmp_path)
    environment.setenv("KAFKA_SSL_CA_LOCATION", str(tmp_path / "ca.crt"))

    with pytest.raises(Unavailable, match="certificate verify failed") as caught:
        KafkaTopic(servers=servers, topic="t", timeout_s=2).plan()
    assert PASSWORD not in str(caught.value)


def test_a_certificate_of_the_client_comes_from_a_file_of_settings(
    kafka: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's own settings come before those of the file."""
    file = tmp_path / "client.properties"
    file.write_text(
        "# of the cluster\nsecurity.protocol=SASL_SSL\nsasl.mechanisms = PLAIN\n"
        f"sasl.username=me\nsasl.password=other\nssl.ca.location={certificates / 'ca.crt'}\n"
        f"ssl.certificate.location={certificates / 'client.crt'}\n"
        f"ssl.key.location={certificates / 'client.key'}\n"
    )
    monkeypatch.setenv(kafka_settings.FILE, str(file))
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", PASSWORD)
    _sent(kafka, "certified", b"{}")

    with kafka_door.before(
        kafka, certificates, "me", PASSWORD, asks_for_certificate=True
    ) as servers:
        assert KafkaTopic(servers=servers, topic="certified").plan()[0].size_bytes == 1


@pytest.mark.parametrize(
    ("line", "where"), [("sasl.password hunter2", "line 1"), ("hunter2=sasl.password", "line 1")]
)
def test_a_line_that_is_no_setting_is_told_by_its_number(
    tmp_path: Path, line: str, where: str
) -> None:
    """Any part of it may be a secret."""
    file = tmp_path / "client.properties"
    file.write_text(f"{line}\n")

    with pytest.raises(ConfigError, match=where) as caught:
        kafka_settings.read({kafka_settings.FILE: str(file)})
    with pytest.raises(ConfigError, match="must name a file that can be read"):
        kafka_settings.read({kafka_settings.FILE: str(tmp_path / "none")})
    assert "hunter2" not in str(caught.value)


def test_a_setting_that_the_client_does_not_know_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before any server is asked, without the values."""
    pytest.importorskip("confluent_kafka", reason="Kafka needs its client")
    monkeypatch.setenv("KAFKA_SASL_PASWORD", "hunter2")

    with pytest.raises(ConfigError) as caught:
        KafkaTopic(servers="127.0.0.1:9", topic="t").plan()

    assert str(caught.value) == (
        "kafka settings = ['sasl.pasword']: must be properties that librdkafka takes; "
        'No such configuration property: "sasl.pasword"'
    )
