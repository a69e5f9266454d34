"""The daemon as a whole where no other file has it: who may run beside whom, what a bad sector
costs."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, BatchResult
from edge.capture.recording import Decoder
from edge.clips.disk_reserve import Reserve
from edge.config import load_config
from edge.contract.audio import RATE_HZ
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from edge.daemon.clip_cleanup import House
from edge.daemon.ledger import Ledger
from edge.daemon.progress_log import Teller
from edge.daemon.station import Station
from edge.daemon.watched_folder import WatchedFolder
from edge.host.clock import Clock
from edge.store.record import Store
from edge.types import Gap
from tests import HANGS_S
from tests.conftest import note, write_sound
from tests.helpers.clip_station import detection, stretch

StationYaml = Callable[..., Path]


@pytest.mark.slow
def test_one_station_per_state_folder(tmp_path: Path, station_yaml: StationYaml) -> None:
    (tmp_path / "in").mkdir()
    config = station_yaml(
        "source: folder", f"folder: {{path: {tmp_path / 'in'}}}", "health: {interval_s: 1}"
    )
    command = [sys.executable, "-m", "edge", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        try:
            deadline = time.monotonic() + HANGS_S
            while not (config.parent / "health.json").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            second = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
            assert second.stderr.splitlines()[-1].endswith(
                "already in use by another station; stop that one or choose another folder"
            )
            assert second.returncode == 78
        finally:
            first.terminate()
        assert first.wait(timeout=HANGS_S) == 0


@pytest.mark.slow
def test_by_hand_it_says_what_it_hears_and_that_it_stops(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    write_sound(tmp_path / "in" / "a_20190601_053000.wav", note("lowtoo", 6))
    config = station_yaml("source: folder", f"folder: {{path: {tmp_path / 'in'}, settle_s: 0}}")
    command = [sys.executable, "-m", "edge", "run", "--config", str(config)]
    said = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as station:
        assert station.stderr
        for line in station.stderr:
            said.append(line)
            if "analysed" in line:
                station.send_signal(signal.SIGINT)
        assert station.wait(timeout=HANGS_S) == 0
    assert said[0].startswith(f"station porch listens to recordings arriving in {tmp_path / 'in'}")
    assert said[1] == "press Ctrl-C to stop\n"
    assert any(
        re.match(r"a_20190601_053000\.wav at 0\.0 s: Low Tooter \d\.\d\d$", line) for line in said
    )
    assert any(
        re.match(r"a_20190601_053000\.wav: 6\.0 s analysed, \d+ new detections$", line)
        for line in said
    )
    assert said[-1].startswith("stopped; the record is ")


def test_a_change_of_sound_is_said_once_and_a_service_names_no_birds(
    bundle_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = read_bundle(bundle_folder)
    row = stretch("night")
    found = BatchResult(row, [detection(row, 3 * RATE_HZ)], [], [], 8.0, 1, [], 0, None)
    with caplog.at_level("INFO"):
        for by_hand in (False, True):
            teller = Teller(bundle, by_hand)
            for _ in range(2):
                teller.sound(None, Gap(0.0, 1.0, "no device", "none is there"))
            teller.sound(None, None)  # being opened
            teller.sound("AudioMoth", None)
            teller.found(found)
    told = ["no sound, no device: none is there", "hearing AudioMoth"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:4] == told + told
    assert lines[4:] == ["2019-05-21 23:30:03: Low Tooter 0.80"]


def test_a_file_that_cannot_be_read_is_asked_less_and_less_often(
    tmp_path: Path, station_yaml: StationYaml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: opening works, reading does not; for the others nothing changes."""
    folder = tmp_path / "in"
    write_sound(folder / "a_20190601_053000.wav", note("lowtoo", 6))
    write_sound(folder / "b_20190602_053000.wav", note("lowtoo", 6))
    config = load_config(station_yaml("source: folder", f"folder: {{path: {folder}, settle_s: 0}}"))
    recognizer = Recognizer(read_bundle(config.bundle_folder))
    ledger = Ledger(config.database, "porch", recognizer.bundle)
    tried: list[str] = []

    class OnBadSectors(Decoder):
        def __init__(self, path: Path, **options: Any) -> None:
            tried.append(path.name[0])
            if path.name.startswith("a") and tried.count("a") < 4:
                raise OSError(5, "Input/output error")
            super().__init__(path, **options)

    monkeypatch.setattr("edge.replay.reader.Decoder", OnBadSectors)
    now = [1000.0]
    clock = SimpleNamespace(
        sleep=lambda _s: now.__setitem__(0, now[0] + 0.5), monotonic=lambda: now[0]
    )
    monkeypatch.setattr("edge.daemon.watched_folder.time", clock)
    watched = WatchedFolder(
        config, Analyst(config, recognizer), ledger, None, lambda _f: None, lambda _g, _s: None
    )
    moments = []
    while tried.count("a") < 4 or "b" not in tried:
        before = len(tried)
        watched.step()
        moments += [now[0] for name in tried[before:] if name == "a"]
        assert now[0] < 2000, "given up"
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps == sorted(gaps)
    assert 4 <= gaps[0] < gaps[1] < gaps[2]
    ledger.flush(now=True)
    assert ledger.store().rows("SELECT path, state FROM recordings ORDER BY path") == [
        ("a_20190601_053000.wav", "analysed"),
        ("b_20190602_053000.wav", "analysed"),
    ]
    ledger.close()


def test_what_a_crash_left_of_a_clip_goes_and_the_log_says_so(
    station_yaml: StationYaml, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(station_yaml())
    Store(config.database).close()
    house = House(lambda: config, Reserve(config.state), Clock(), lambda _: None)
    half = (
        config.clips_folder / "2019-06-01" / ".midtoo_0.90_20190601T053000.000Z_0123abcd.flac.part"
    )
    half.parent.mkdir(parents=True)
    half.write_bytes(b"fLaC")
    with caplog.at_level("WARNING"):
        house.reconcile()
        house.reconcile()  # nothing is left to say
    assert not half.exists()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("clips: 0 rows without a file cleared, 1 files without a row removed")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("schedule: [[dawn, sunset]]", r"schedule\[0\]"),
        ("detect: {thresholds: {owl: 0.5}}", "detect.thresholds: .*found owl"),
        ("privacy: {classes: [human]}", "privacy.classes: .*found human"),
    ],
)
def test_settings_that_fit_no_bundle_or_place_end_it(
    station_yaml: StationYaml, line: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Station(station_yaml(line)).run()
