"""The daemon as a whole where no other file has it: who may run beside whom, what a bad sector costs."""

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.analysis import Analyst
from edge.capture.recording import Decoder
from edge.config import load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from edge.ledger import Ledger
from edge.recognizer import Recognizer
from edge.station import Station
from edge.store.record import Store
from edge.watched import Watched
from tests import HANGS_S
from tests.conftest import note, write_sound

StationYaml = Callable[..., Path]


@pytest.mark.slow
def test_one_station_per_state_folder(tmp_path: Path, station_yaml: StationYaml) -> None:
    (tmp_path / "in").mkdir()
    config = station_yaml("source: folder", f"folder: {{path: {tmp_path / 'in'}}}", "health: {interval_s: 1}")
    command = [sys.executable, "-m", "edge", "run", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        try:
            deadline = time.monotonic() + 60
            while not (config.parent / "health.json").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            second = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
            assert second.stderr.splitlines()[-1].endswith("another station runs on it; stop it, or give another")
            assert second.returncode == 78
        finally:
            first.terminate()
        assert first.wait(timeout=HANGS_S) == 0


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
        def __init__(self, path: Path) -> None:
            tried.append(path.name[0])
            if path.name.startswith("a") and tried.count("a") < 4:
                raise OSError(5, "Input/output error")
            super().__init__(path)

    monkeypatch.setattr("edge.reader.Decoder", OnBadSectors)
    now = [1000.0]
    clock = SimpleNamespace(sleep=lambda _s: now.__setitem__(0, now[0] + 0.5), monotonic=lambda: now[0])
    monkeypatch.setattr("edge.watched.time", clock)
    watched = Watched(config, Analyst(config, recognizer), ledger, None, lambda _f: None, lambda _g, _s: None)
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
    station = Station(station_yaml())
    Store(station.config.database).close()
    half = station.config.clips_folder / "2019-06-01" / ".midtoo_0.90_20190601T053000.000Z_0123abcd.flac.part"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"fLaC")
    with caplog.at_level("WARNING"):
        station._reconcile()
        station._reconcile()  # nothing is left to say
    assert not half.exists()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("clips: 0 rows without a file cleaned, 1 files without a row removed")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("schedule: [[dawn, sunset]]", r"schedule\[0\]"),
        ("detect: {thresholds: {owl: 0.5}}", "detect.thresholds: .*found owl"),
        ("privacy: {classes: [human]}", "privacy.classes: human"),
    ],
)
def test_settings_that_fit_no_bundle_or_place_end_it(station_yaml: StationYaml, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Station(station_yaml(line)).run()
