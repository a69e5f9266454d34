"""Brokers of every kind: with passwords and certificates, of older versions, and such as never
answer."""

import socket
import subprocess
import time
from pathlib import Path

import pytest

from edge.config import MqttSettings, TlsSettings
from edge.contract.errors import ConfigError
from edge.publisher.credentials import password
from tests.helpers.brokers import (
    Broker,
    counts,
    fill,
    free_port,
    numbered,
    publisher_of,
    stand_in,
    until,
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "station.db"


@pytest.mark.slow
def test_a_wrong_password_is_named_and_not_hammered(
    database: Path, tmp_path: Path, bundle_folder: Path
) -> None:
    port = free_port()
    (tmp_path / "passwords").write_text("me:right\n")
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "passwords"], check=True)
    (tmp_path / "wrong").write_text("wrong\n")
    (tmp_path / "right").write_text("right\n")
    fill(database, bundle_folder, numbered(range(3)))
    with Broker(tmp_path, port, "allow_anonymous false", f"password_file {tmp_path / 'passwords'}"):
        for protocol in ("5", "3.1.1"):
            settings = {"username": "me", "password_file": tmp_path / "wrong", "protocol": protocol}
            with publisher_of(database, port, **settings) as publisher:
                assert until(lambda: publisher.last_error)
                assert "mqtt.password_file" in publisher.last_error
                assert "next attempt within 5 minutes" in publisher.last_error
                assert not publisher.drain(1)
        assert counts(database)["waiting"] == 3
        with publisher_of(
            database, port, username="me", password_file=tmp_path / "right"
        ) as publisher:
            assert publisher.drain(10)


def test_a_password_comes_from_a_file_or_from_systemd(tmp_path: Path) -> None:
    own = tmp_path / "own"
    credentials = tmp_path / "credentials"
    own.write_text("s3cret \nnot this\n")
    credentials.mkdir()
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert password(MqttSettings("h"), environment) is None
    (credentials / "mqtt_password").write_text("systemd's")
    assert password(MqttSettings("h"), environment) == "systemd's"
    assert password(MqttSettings("h", password_file=own), environment) == "s3cret "
    assert password(MqttSettings("h"), {}) is None


@pytest.mark.parametrize("content", [None, "", b"\xff\xfe"])
def test_a_password_file_that_cannot_be_read_is_a_setting_to_mend(
    tmp_path: Path, content: str | bytes | None
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=r"^mqtt\.password_file: .*file: [^\n]+$"):
        publisher_of(tmp_path / "station.db", 1, username="me", password_file=tmp_path / "file")


# TLS


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA, a certificate for the broker, one for a station, and a CA that nobody
    here knows."""
    folder = tmp_path_factory.mktemp("tls")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for ca in ("ca", "stranger"):
        files = ["-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}"]
        run = [
            "openssl",
            "req",
            "-x509",
            *key,
            *files,
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
    for name in ("broker", "station"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
        run = [
            "openssl",
            "req",
            "-x509",
            *key,
            *files,
            *signed,
            "-addext",
            "basicConstraints=CA:FALSE",
        ]
        subprocess.run(run, cwd=folder, check=True, capture_output=True)
    return folder


def tls_lines(folder: Path) -> list[str]:
    return [
        f"cafile {folder}/ca.pem",
        f"certfile {folder}/broker.pem",
        f"keyfile {folder}/broker.key",
    ]


def test_tls_with_certificates_on_both_sides(
    database: Path, tmp_path: Path, bundle_folder: Path, authority: Path
) -> None:
    port = free_port()
    fill(database, bundle_folder, numbered(range(5)))
    own = TlsSettings(authority / "ca.pem", authority / "station.pem", authority / "station.key")
    with Broker(tmp_path, port, *tls_lines(authority), "require_certificate true"):
        with publisher_of(database, port, tls=TlsSettings(authority / "ca.pem")) as publisher:
            assert until(lambda: publisher.last_error)
            assert not publisher.drain(0.5)
        with publisher_of(database, port, tls=own) as publisher:
            assert publisher.drain(20)
    assert counts(database)["sent"] == 5


def test_a_broker_of_an_unknown_authority_is_not_trusted(
    database: Path, tmp_path: Path, authority: Path
) -> None:
    port = free_port()
    with Broker(tmp_path, port, *tls_lines(authority)):
        for tls in (TlsSettings(authority / "stranger.pem"), TlsSettings()):
            with publisher_of(database, port, tls=tls) as publisher:
                assert until(lambda: publisher.last_error)
                assert "certificate" in publisher.last_error
                assert "mqtt.tls.ca_file" in publisher.last_error
                assert not publisher.connected


def test_tls_where_the_broker_speaks_none(database: Path, mosquitto: int) -> None:
    with publisher_of(database, mosquitto, tls=TlsSettings()) as publisher:
        assert until(lambda: publisher.last_error)
        assert "TLS" in publisher.last_error


@pytest.mark.parametrize(
    ("tls", "key"),
    [
        (TlsSettings(ca_file=Path("none.pem")), "ca_file"),
        (TlsSettings(key_file=Path("k")), "key_file without cert_file"),
        (TlsSettings(cert_file=Path("none.pem")), "cert_file"),
    ],
)
def test_certificates_that_are_not_there_are_settings_to_mend(
    tmp_path: Path, tls: TlsSettings, key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^mqtt\.tls.*{key}[^\n]*$"):
        publisher_of(tmp_path / "station.db", 1, tls=tls)


def test_another_ones_key_is_a_setting_to_mend(tmp_path: Path, authority: Path) -> None:
    wrong = TlsSettings(authority / "ca.pem", authority / "station.pem", authority / "broker.key")
    with pytest.raises(ConfigError, match=r"^mqtt\.tls\.cert_file and key_file: [^\n]+$"):
        publisher_of(tmp_path / "station.db", 1, tls=wrong)


# Versions of MQTT


def test_mosquitto_speaks_3_1_1_too(database: Path, bundle_folder: Path, mosquitto: int) -> None:
    fill(database, bundle_folder, numbered(range(50)))
    with publisher_of(database, mosquitto, protocol="3.1.1") as publisher:
        assert publisher.drain(20)
        assert publisher.last_error == ""
    assert counts(database)["sent"] == 50


@pytest.mark.parametrize("refusal", [bytes([0x20, 3, 0, 0x84, 0]), bytes([0x20, 2, 0, 1]), b""])
def test_a_broker_that_refuses_mqtt_5_is_asked_for_3_1_1(
    database: Path, bundle_folder: Path, refusal: bytes
) -> None:
    """Refused as MQTT 5 says it, as 3.1.1 says it, and by closing without a word."""
    fill(database, bundle_folder, numbered(range(50)))

    def answer(version: int, connection: socket.socket) -> bool:
        if version == 5:
            connection.sendall(refusal)
        return version == 4

    with stand_in(answer) as (port, offered), publisher_of(database, port) as publisher:
        assert publisher.drain(20)
        assert publisher.connected
        assert "3.1.1" in publisher.state().last_error
    assert offered == [5, 4]
    assert counts(database)["sent"] == 50


def test_protocol_5_does_not_fall_back(database: Path) -> None:
    def answer(_version: int, connection: socket.socket) -> bool:
        connection.sendall(bytes([0x20, 3, 0, 0x84, 0]))
        return False

    with (
        stand_in(answer) as (port, offered),
        publisher_of(database, port, protocol="5") as publisher,
    ):
        assert until(lambda: publisher.last_error == "Unsupported protocol version")
        assert until(lambda: len(offered) >= 2)
    assert set(offered) == {5}


# Nothing waits for a broker


@pytest.mark.slow
def test_a_black_hole_blocks_nobody(database: Path, bundle_folder: Path) -> None:
    """One accepts the connection and says nothing; the other is a backlog that is full, so not even
    that."""
    fill(database, bundle_folder, numbered(range(5)))
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for number, filler in enumerate(fillers):
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            if number not in (0, 3):
                continue
            begun = time.monotonic()
            with publisher_of(database, port) as publisher:
                publisher.tell_health("{}")
                publisher.state()
                assert time.monotonic() - begun < 4.0, (
                    "a connection is given up after 5 s, an answer after 10"
                )
                time.sleep(0.3)
                begun = time.monotonic()
            assert time.monotonic() - begun < 8.0, "its thread is left behind after 2.8 s"
            assert not publisher.connected
        for filler in fillers:
            filler.close()
    assert counts(database)["waiting"] == 5
