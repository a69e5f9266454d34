"""A recording that is left in the middle, again and again, comes to its end, and its rows are those
of a quiet day."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, BatchResult
from edge.capture.file_states import state_of
from edge.config import Config, load_config
from edge.contract.audio import RATE_HZ, Image
from edge.contract.blend import Blend, Scores
from edge.contract.bundle import read_bundle
from edge.contract.errors import StopSignal
from edge.replay.replay import Replay
from edge.store.record import Store
from tests.conftest import hiss, make_bundle, note, write_sound
from tests.edge.test_folded import fold
from tests.helpers.records import differences, dump
from tests.helpers.spoken import scene

StationYaml = Callable[..., Path]
NAME = "20240512_040000.wav"


class Counting(Recognizer):
    """A real one that counts what it is asked."""

    def __init__(self, bundle_folder: Path) -> None:
        super().__init__(read_bundle(bundle_folder), threads=1)
        self.asked = 0
        compute = self.engine.scores

        def scores(images: Image, members: Any = None) -> Scores:
            self.asked += len(images)
            return compute(images, members)

        self.engine.scores = scores  # type: ignore[method-assign]


def replay(
    config: Config, recognizer: Recognizer, path: Path, batches: int | None = None
) -> str | None:
    """How a recording ends; None if it is left after so many batches."""
    left = iter(range(batches if batches is not None else 1_000_000))

    def alive(_: BatchResult) -> None:
        if next(left, None) is None:
            raise StopSignal

    with Store(config.database) as store, suppress(StopSignal):
        return (
            Replay(Analyst(config, recognizer), store, alive=alive).recording(path, path.name).state
        )
    return None


def songs(seconds: float, seed: int = 0) -> Any:
    """Notes that come and go, at no round time."""
    sound = hiss(seconds)
    chance = random.Random(seed)
    at = 0.0
    while at < seconds - 3:
        call = note(chance.choice(("lowtoo", "midtoo", "higtoo")), chance.uniform(0.5, 2.5))
        begin = round(at * RATE_HZ)
        sound[begin : begin + len(call)] += call[: len(sound) - begin] * np.float32(
            chance.uniform(0.1, 1)
        )
        at += chance.uniform(1, 9)
    return sound


@pytest.fixture(scope="module")
def smoothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in which a window's neighbours count."""
    blend = Blend("logit", 1.0)
    return make_bundle(
        tmp_path_factory.mktemp("smoothing") / "bundle", replace(blend, smoothing=0.3)
    )


CASES: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "a short hop": ("windows: {hop_s: 0.5}",),
    "an odd hop": ("windows: {hop_s: 1.25}",),
    "people": ("privacy: {human: all, speech: true}", "windows: {hop_s: 1.0}"),
}


@pytest.mark.parametrize("what", CASES)
def test_left_again_and_again(
    tmp_path: Path, station_yaml: StationYaml, smoothing: Path, what: str
) -> None:
    sound = songs(90)
    if what == "people":
        sound += scene(90.0, 8.0, 31.5, 33.0, 60.2)
    path = write_sound(tmp_path / "in" / NAME, sound)
    lines = ("runtime: {batch: 4, threads: 1}", *CASES[what])
    config, quiet = (
        load_config(station_yaml(*lines, name=name, bundle=smoothing)) for name in ("left", "quiet")
    )
    recognizer = Counting(smoothing)
    assert replay(quiet, recognizer, path) == "analysed"
    once = recognizer.asked
    recognizer.asked = 0
    stops = 0
    while replay(config, recognizer, path, batches=random.Random(stops).choice((3, 5, 8))) is None:
        stops += 1
        assert stops < 60, "it does not get on"
    assert stops > 1
    assert differences(dump(config.database), dump(quiet.database)) == []
    with Store(config.database) as store:
        assert store.rows("SELECT * FROM attempts") == []
    hop_s = config.windows.hop_s
    assert recognizer.asked < once + stops * 3 * (40 / hop_s + 8)  # no more than around each stop


def test_left_on_both_sides_of_a_gap(
    tmp_path: Path, station_yaml: StationYaml, smoothing: Path
) -> None:
    """A recorder left out ten minutes: what is decided is counted in sound, not in time."""
    sound = np.round(songs(80) * 32_767).astype(np.int16)
    first = 12 + 256 * 3_000
    folded = np.concatenate([sound[:first], fold(75_000), sound[first:]])
    path = tmp_path / "in" / "20240512_040000T.wav"
    path.parent.mkdir()
    soundfile.write(path, folded, RATE_HZ)
    lines = ("runtime: {batch: 4, threads: 1}", "windows: {hop_s: 1.0}")
    config, quiet = (
        load_config(station_yaml(*lines, name=name, bundle=smoothing)) for name in ("left", "quiet")
    )
    recognizer = Counting(smoothing)
    assert replay(quiet, recognizer, path) == "analysed"
    stops = 0
    while replay(config, recognizer, path, batches=4 + stops) is None:
        stops += 1
        assert stops < 60
    assert stops > 2
    assert differences(dump(config.database), dump(quiet.database)) == []
    assert dump(quiet.database)["gaps"]


def test_other_settings_begin_anew(
    tmp_path: Path, station_yaml: StationYaml, bundle_folder: Path
) -> None:
    path = write_sound(tmp_path / "in" / NAME, songs(60))
    config = load_config(station_yaml("runtime: {batch: 4, threads: 1}"))
    recognizer = Counting(bundle_folder)
    assert replay(config, recognizer, path, batches=4) is None
    other = replace(config, detect=replace(config.detect, threshold=0.123))
    assert replay(other, recognizer, path) == "analysed"
    quiet = replace(other, state=tmp_path / "quiet")
    assert replay(quiet, recognizer, path) == "analysed"
    assert differences(dump(other.database), dump(quiet.database)) == []


MTIME_S = 1_715_000_000.123456


def left_then_met(
    folder: Path, config: Config, recognizer: Counting, names: tuple[str, str], copied_s: float
) -> int:
    """A recording that is left under one name and goes on under another; what the networks were
    asked the second time. The second file was made, or touched, so many seconds later."""
    first, second = (folder / name for name in names)
    write_sound(first, songs(60))
    os.utime(first, (MTIME_S, MTIME_S))
    assert replay(config, recognizer, first, batches=4) is None
    recognizer.asked = 0
    first.rename(second)
    os.utime(second, (MTIME_S + copied_s, MTIME_S + copied_s))
    assert replay(config, recognizer, second) == "analysed"
    return recognizer.asked


TOLD = "2024-05-12T04:00:00.000Z"
BY_MTIME = "2024-05-06T12:52:20.123Z"


@pytest.mark.parametrize(
    ("names", "copied_s", "start", "path", "goes_on"),
    [
        ((NAME, "link.wav"), 9_999, (TOLD, "name"), NAME, True),
        ((NAME, "XC1 2024-05-12.wav"), 9_999, (TOLD, "name"), NAME, True),
        (
            ("a_20240512_040000_[52.1 13.4].wav", NAME),
            0,
            (TOLD, "name"),
            "a_20240512_040000_[52.1 13.4].wav",
            True,
        ),
        (("REC1.wav", "REC2.wav"), 9_999, (BY_MTIME, "mtime"), "REC2.wav", True),
        (("REC2.wav", "REC1.wav"), 0, (BY_MTIME, "mtime"), "REC1.wav", True),
        (
            ("late.wav", "first.wav"),
            -3_600,
            ("2024-05-06T11:52:20.123Z", "mtime"),
            "first.wav",
            False,
        ),
        (("REC1.wav", NAME), 0, (TOLD, "name"), NAME, False),
        (("XC1 2024-05-12.wav", NAME), 0, (TOLD, "name"), NAME, False),
    ],
)
def test_left_under_one_name_and_met_under_another(
    tmp_path: Path,
    station_yaml: StationYaml,
    bundle_folder: Path,
    names: tuple[str, str],
    copied_s: float,
    start: tuple[str, str],
    path: str,
    goes_on: bool,
) -> None:
    """All of it has one time, the best that is known."""
    config = load_config(
        station_yaml("runtime: {batch: 4, threads: 1}", "detect: {threshold: 0.02}")
    )
    recognizer = Counting(bundle_folder)
    asked = left_then_met(tmp_path, config, recognizer, names, copied_s)
    with Store(config.database) as store:
        assert store.rows("SELECT start_utc, time_source, path FROM recordings") == [(*start, path)]
        times = store.rows(
            "SELECT round(86400 * (julianday(d.start_utc) - julianday(r.start_utc)) - d.offset_s, "
            "2) FROM detections d JOIN recordings r ON r.id = d.recording"
        )
        assert times
        assert {abs(off_s) for (off_s,) in times} == {0.0}
        assert store.rows("SELECT round(sum(analysed_s), 3) FROM effort") == [(60.0,)]
        assert store.rows(
            "SELECT count(*) - count(DISTINCT round(offset_s, 1) || species) FROM detections"
        ) == [(0,)]
    assert (asked < 23) is goes_on  # of 23 windows


def test_a_name_without_a_time_takes_none_away_under_other_settings(
    tmp_path: Path, station_yaml: StationYaml, bundle_folder: Path
) -> None:
    """Neither where the first analysis was whole; another dated name of these bytes stays another
    recording."""
    path = write_sound(tmp_path / NAME, songs(20))
    config = load_config(
        station_yaml("runtime: {batch: 4, threads: 1}", "detect: {threshold: 0.02}")
    )
    recognizer = Counting(bundle_folder)
    assert replay(config, recognizer, path) == "analysed"
    link = path.rename(path.with_name("link.wav"))
    other = replace(config, detect=replace(config.detect, threshold=0.123))
    assert replay(other, recognizer, link) == "analysed"
    rows = "SELECT start_utc, time_source, path FROM recordings ORDER BY path"
    with Store(config.database) as store:
        assert store.rows(rows) == [(TOLD, "name", NAME)]
        assert store.rows("SELECT DISTINCT substr(start_utc, 1, 14) FROM detections") == [
            ("2024-05-12T04:",)
        ]
    assert (
        replay(other, recognizer, link.rename(link.with_name("20240512_050000.wav"))) == "analysed"
    )
    with Store(config.database) as store:
        assert [start for start, *_ in store.rows(rows)] == [TOLD, "2024-05-12T05:00:00.000Z"]


def test_a_refusal_under_another_name_takes_no_time_away(
    tmp_path: Path, station_yaml: StationYaml, bundle_folder: Path
) -> None:
    path = write_sound(tmp_path / NAME, songs(60))
    config = load_config(station_yaml("runtime: {batch: 4, threads: 1}"))
    assert replay(config, Counting(bundle_folder), path, batches=4) is None
    with Store(config.database) as store:
        ((recording,),) = store.rows("SELECT id FROM recordings")
        store.refuse(recording, config.station.id, "link.wav", state_of(path), "now", "damaged")
        assert store.rows("SELECT path, time_source, state FROM recordings") == [
            (NAME, "name", "refused")
        ]
