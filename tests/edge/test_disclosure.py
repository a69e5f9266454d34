"""What of a place leaves the station once a sensitive species is named: in fields, names, retained
topics, clips."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge.capture.file_name import told_by_name
from edge.capture.place_in_name import without_places
from edge.clips.guano import guano_text
from edge.config import Config, load_config
from edge.contract.audio import RATE_HZ
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from edge.disclosure import Disclosure
from edge.publisher import Publisher, detection_message, station_presence
from edge.reports.pictures import write_pictures
from edge.store.outbox import OutboxTable
from edge.store.record import Store
from edge.types import ClipRow, Detection, Message, Place, RecordingRow
from tests.conftest import note
from tests.edge.test_presence import retained
from tests.helpers.brokers import Listener, fill, until

START = datetime(2026, 5, 1, 4, 12, 7, 500_000, tzinfo=timezone.utc)
NAME = "52.123456N_13.654321E/20240512T040000+0000_REC [52.123456 13.654321].ogg"
SENSITIVE = "sensitive: {species: [lowtoo], decimals: 1}"
FINE = ("52.12", "13.65", "52.123", "52123", "13654")

PLACES = {
    "20240512T040000+0000_REC [52.123456 13.654321].ogg": "20240512T040000+0000_REC.ogg",
    "52.123456N_13.654321E/a_20240512_050000.ogg": "a_20240512_050000.ogg",
    "N52.1234E013.6543/a.wav": "a.wav",
    "site+52.123456-013.654321/a.wav": "site/a.wav",
    "lat52.12_lon13.65/20240512_034500.wav": "20240512_034500.wav",
    "lat/52.123456/lon/13.654321/a.wav": "lat/lon/a.wav",
    "hill 52°07'24.4\"N 13°39'15.6\"E/x.wav": "hill/x.wav",
    "hill 52º07′24″N 13º39′15″E/x.wav": "hill/x.wav",
    "52d07m24sN_013d39m15sE.wav": "recording.wav",
    "52-07-24N_013-39-15E_20240512_034500.wav": "20240512_034500.wav",
    "5207N_01339E_20240512_034500.wav": "20240512_034500.wav",
    "52.12_13.65/a.wav": "a.wav",
    "-27.3866,152.8761_x.flac": "x.flac",
    "52,1234_13,6543.wav": "recording.wav",
    "33U_390123_5812345/20240512_034500.wav": "20240512_034500.wav",
    "33UUU9012312345.wav": "recording.wav",
    "9F4M4MX7+2X.wav": "recording.wav",
    "52123456_13654321_20240512_034500.wav": "20240512_034500.wav",
    "\uff15\uff12.\uff11\uff12\uff13\uff14 "
    "\uff11\uff13.\uff16\uff15\uff14\uff13.wav": "recording.wav",
    "cannot be read (/data/52.123456N_13.654321E/a.wav: denied)": "cannot be read (/data/a.wav: "
    "denied)",
}
NO_PLACES = (
    "microphone/2026-05-01T04:00:00.000Z",
    "S20240512T034500.982648+1000_E20240512T044500.982648+1000.wav",
    "SITE_0+1_20240512_034500_123.wav",
    "2024-05-12 at 3.45.00 PM.m4a",
    "12.05.2024 06.23.00.wav",
    "671629352.240512034500.wav",
    "7019_COR_20190904.ogg",
    "SwiftOne_20220719_000000_-0400.wav",
    "2024-05-12-birdnet-RTSP_1-03:45:00.wav",
    "SM4_S4A01234_20240512_034500.wav",
    "20240512T034500-0930_REC.wav",
    "porch/a.wav",
)


@pytest.mark.parametrize("name", PLACES)
def test_a_place_is_cut_out_of_a_name(name: str) -> None:
    assert without_places(name) == PLACES[name]
    assert without_places(PLACES[name]) == PLACES[name]


@pytest.mark.parametrize("name", NO_PLACES)
def test_a_name_without_a_place_is_left(name: str) -> None:
    assert without_places(name) == name


def test_what_names_tell_of_time_stays_and_of_places_goes() -> None:
    """Whatever the station reads as a place in a name is cut; at random, with a fixed seed."""
    random = np.random.default_rng(20)
    for _ in range(300):
        north = random.uniform(-89, 89)
        east = random.uniform(-179, 179)
        decimals = int(random.integers(3, 8))
        written = (
            f"20240512T034500+0100_REC [{north:.{decimals}f} {east:.{decimals}f}]",
            f"20240512T034500+0100_{north:+0{decimals + 4}.{decimals}f}"
            f"{east:+0{decimals + 5}.{decimals}f}",
            "20240512T034500+0100 "
            f"{'NS'[north < 0]}{abs(north):.{decimals}f}{'EW'[east < 0]}{abs(east):.{decimals}f}",
        )
        for name in written:
            assert len(told_by_name(name).split()) == 3, name
            assert told_by_name(without_places(name)) == "2024-05-12T03:45:00+01:00", name


# Messages


@pytest.fixture
def config_of(station_yaml: Callable[..., Path]) -> Callable[..., Config]:
    def load(port: int, *lines: str) -> Config:
        place = "id: porch, latitude: 52.123456, longitude: 13.654321"
        mqtt = f"mqtt: {{host: 127.0.0.1, port: {port}, place_decimals: 3}}"
        return load_config(station_yaml(mqtt, *lines, station=place))

    return load


def heard(config: Config, name: str = NAME, number: int = 0) -> Message:
    place = Place(52.123456, 13.654321)
    row = RecordingRow(
        "r", name, 1, 1, "", START, "guano", "guano", 120, place, "microphone", "rtc"
    )
    end = START + timedelta(seconds=5)
    found = Detection(
        f"d{number}",
        "r",
        START,
        end,
        12.5,
        "midtoo",
        0.91,
        0.8,
        0.1,
        0.5,
        "bundle",
        0.7,
        0.9,
        -40.0,
    )
    return detection_message(found, row, config, read_bundle(config.bundle_folder))


def publisher_of(config: Config, presence: bool) -> Publisher:
    assert config.mqtt
    said = (
        station_presence(config, read_bundle(config.bundle_folder), "1", START)
        if presence
        else None
    )
    return Publisher(
        lambda: OutboxTable(config.database),
        config.mqtt,
        "birdstation-porch",
        said,
        Disclosure.of(config),
    )


def fine_in(listener: Listener) -> list[str]:
    """Messages that tell more than a tenth of a degree."""
    return [
        text
        for m in listener.messages
        if any(fine in (text := m.payload.decode()) for fine in FINE)
    ]


@pytest.mark.parametrize("presence", [True, False])
def test_what_waited_from_before_the_setting_is_sent_without(
    config_of: Callable[..., Config], bundle_folder: Path, mosquitto: int, presence: bool
) -> None:
    """Of the daemon and of a replay; and with names that say where."""
    before = config_of(mosquitto)
    fill(before.database, bundle_folder, [heard(before)])
    with (
        Listener(mosquitto) as listener,
        publisher_of(config_of(mosquitto, SENSITIVE), presence) as publisher,
    ):
        publisher.tell_health(
            json.dumps({"schema": "health/1", "problems": [f"{NAME}: Permission denied"]})
        )
        assert publisher.drain(60)
        assert until(lambda: listener.payloads("birdstation/v1/porch/detection"))
        assert not presence or until(lambda: listener.payloads("birdstation/v1/porch/health"))
        told = json.loads(listener.payloads("birdstation/v1/porch/detection")[0])
    assert (told["latitude"], told["longitude"]) == (52.1, 13.7)
    assert told["recording"] == "20240512T040000+0000_REC.ogg"
    assert fine_in(listener) == []


def test_a_reload_renews_what_is_retained(
    config_of: Callable[..., Config], bundle_folder: Path, mosquitto: int
) -> None:
    """Meta, the last detection, health: nobody who comes later is told more than the settings allow
    by then."""
    before = config_of(mosquitto)
    fill(before.database, bundle_folder, [heard(before)])
    with publisher_of(before, presence=True) as publisher:
        publisher.tell_health(json.dumps({"schema": "health/1", "problems": [NAME]}))
        assert publisher.drain(60)
        assert until(lambda: retained(mosquitto, "birdstation/v1/porch/source/microphone/last"))
        assert "52.123" in retained(mosquitto, "birdstation/v1/porch/meta")[0]
        after = config_of(mosquitto, SENSITIVE)
        publisher.take(station_presence(after, read_bundle(after.bundle_folder), "1", START))
        base = "birdstation/v1/porch"
        for topic in (f"{base}/meta", f"{base}/source/microphone/last", f"{base}/health"):
            assert until(
                lambda t=topic: not any(fine in retained(mosquitto, t)[0] for fine in FINE)
            )


def test_a_start_takes_away_what_an_earlier_one_has_told(
    config_of: Callable[..., Config], bundle_folder: Path, mosquitto: int
) -> None:
    before = config_of(mosquitto)
    fill(before.database, bundle_folder, [heard(before)])
    last = "birdstation/v1/porch/source/microphone/last"
    with publisher_of(before, presence=True) as publisher:
        assert publisher.drain(60)
        assert until(lambda: retained(mosquitto, last))
    with publisher_of(config_of(mosquitto, SENSITIVE), presence=True):
        assert until(lambda: retained(mosquitto, last) == [])


def test_rounding_is_done_once(config_of: Callable[..., Config]) -> None:
    """52.1451 is 52.1; by way of 52.15 it would be 52.2, and who sees both knows the second
    decimal."""
    text = json.dumps({"schema": "detection/1", "latitude": 52.1451, "longitude": 13.0})
    assert json.loads(Disclosure.of(config_of(1, SENSITIVE)).payload(text))["latitude"] == 52.1
    assert json.loads(heard(config_of(1)).payload)["latitude"] == 52.123456, "what waits is exact"


def test_without_a_word_nothing_fine_is_told(config_of: Callable[..., Config]) -> None:
    """A caller that forgets to say what may leave lets least out."""
    told = json.loads(Disclosure().payload(heard(config_of(1)).payload))
    assert (told["latitude"], told["recording"]) == (52.0, "20240512T040000+0000_REC.ogg")
    config = config_of(1)
    told = json.loads(Disclosure.of(config).payload(heard(config).payload))
    assert (told["latitude"], told["recording"]) == (52.123, NAME), (
        "no sensitive species: as before"
    )


def test_health_and_foreign_payloads_keep_all_else() -> None:
    told = Disclosure(hides=True)
    for text in ('{"n": 1.23456}', "online", "[52.123456]", ""):
        assert told.payload(text) == text
    health = {
        "schema": "health/1",
        "time_utc": "2026-05-01T04:12:07.500Z",
        "lag_s": 2.123456,
        "problems": ["a"],
    }
    assert told.payload(json.dumps(health)) == json.dumps(health)


# Clips and pages


def test_a_clip_tells_no_more(config_of: Callable[..., Config]) -> None:
    place = Place(52.123456, 13.654321)
    row = RecordingRow("r", NAME, 1, 1, "", START, "guano", "guano", 120, place, "folder", "rtc")
    clip = ClipRow("c", "2026-05-01/lowtoo_0.91_x.flac", "r", START, 5.0, 1)
    text = guano_text(clip, row, [], Disclosure.of(config_of(1, SENSITIVE)), "b")
    assert "Loc Position: 52.1 13.7" in text
    assert "birdstation|Recording: 20240512T040000+0000_REC.ogg" in text
    assert not any(fine in text for fine in FINE)
    assert "52.123456 13.654321" in guano_text(clip, row, [], Disclosure.of(config_of(1)), "b")


REPLAY = (sys.executable, "-m", "edge")


@pytest.mark.slow
def test_a_page_and_its_sounds_tell_no_more(
    station_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "N52.123456E013.654321"
    folder.mkdir()
    name = "20240512T040000+0000_REC [52.123456 13.654321].wav"
    soundfile.write(folder / name, note("midtoo", 6.0), RATE_HZ)
    path = station_yaml(SENSITIVE, "detect: {prior: off, threshold: 0.2}", "privacy: {human: off}")
    subprocess.run([*REPLAY, "replay", folder, "--config", path], check=True, capture_output=True)
    config = load_config(path)
    with Store(config.database) as store:
        made = write_pictures(store, config, tmp_path / "out", folder)
        assert made.with_sound
        slip = load_config(station_yaml("sensitive: {species: [lowto]}"))
        with pytest.raises(
            ConfigError, match=r"^sensitive\.species: expected codes .* found lowto; "
        ):
            write_pictures(store, slip, tmp_path / "out", folder)
    for file in made.page.parent.rglob("*"):
        assert file.is_dir() or not any(fine.encode() in file.read_bytes() for fine in FINE[2:4]), (
            file
        )


@pytest.mark.slow
def test_the_daemon_takes_a_sensitive_species_over_at_a_reload(
    station_yaml: Callable[..., Path], tmp_path: Path, mosquitto: int
) -> None:
    """And a slip in it changes nothing, but is said."""
    (tmp_path / "in").mkdir()
    lines = [f"mqtt: {{host: 127.0.0.1, port: {mosquitto}, place_decimals: 4}}", "source: folder"]
    lines += [f"folder: {{path: {tmp_path / 'in'}}}"]
    place = "id: porch, latitude: 52.123456, longitude: 13.654321"
    path = station_yaml(*lines, station=place)
    meta = "birdstation/v1/porch/meta"
    with subprocess.Popen(
        [*REPLAY, "run", "--config", str(path)], stderr=subprocess.PIPE, text=True
    ) as daemon:
        try:
            assert until(lambda: "52.1235" in "".join(retained(mosquitto, meta)))
            station_yaml(*lines, SENSITIVE, station=place)
            os.kill(daemon.pid, signal.SIGHUP)
            assert until(lambda: "52.1," in "".join(retained(mosquitto, meta)))
            station_yaml(*lines, "sensitive: {species: [lowto]}", station=place)
            os.kill(daemon.pid, signal.SIGHUP)
            assert daemon.stderr is not None
            assert any(
                "not applied: sensitive.species: expected codes" in line for line in daemon.stderr
            )
            assert "52.1," in "".join(retained(mosquitto, meta))
        finally:
            daemon.terminate()
            daemon.communicate()
