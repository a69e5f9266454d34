"""The speech detector hears people whatever the sound comes in, and what hangs on it. The voice is
espeak-ng's."""

import hashlib
import re
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, BatchResult, Stretch
from edge.check.model import check_codes
from edge.clips.maker import ClipMaker
from edge.config import load_config
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Samples
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import BundleError
from edge.replay.archive import replay_folder
from edge.speech import listener as speech
from edge.speech.listener import FRAME_SAMPLES, RUN_SAMPLES, HalfRate, Listener
from edge.store.clips import ClipTable
from edge.store.record import Store
from edge.types import LoadLevel, RecordingRow
from export.speech_network import as_products
from tests.conftest import hiss, noon_zone, note, write_sound
from tests.edge.test_live import NOON, Scene, listening, play
from tests.edge.test_watched import Daemon
from tests.helpers.brokers import until
from tests.helpers.clip_station import stretch
from tests.helpers.spoken import SILERO, scene, voice
from tests.helpers.waveform_bundle import make_waveform_bundle, tone, write_network

StationYaml = Callable[..., Path]


def told(
    sound: Samples, hop: int = WINDOW_SAMPLES // 2, blocks: Sequence[int] = ()
) -> tuple[list[int | None], Listener]:
    """What is said of each window, asked when its sound is there; the sound comes in these blocks,
    then the rest."""
    listener = Listener()
    answers = list[int | None]()
    at = 0
    start = 0
    for size in [*blocks, len(sound)]:
        listener.push(sound[at : at + size])
        at = min(len(sound), at + size)
        while start + WINDOW_SAMPLES <= at:
            answers.append(listener.spoken(start, start + WINDOW_SAMPLES))
            start += hop
    return answers, listener


def spoken(sound: Samples) -> bool:
    """Whether people speak in any window."""
    return any(begin is not None for begin in told(sound)[0])


def test_the_network_is_the_one_that_the_readme_names() -> None:
    readme = (speech.FILE.parent / "README.md").read_text(encoding="utf8")
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (speech.FILE, SILERO)]
    assert sums[0] == speech.SHA256
    assert all(digest in readme for digest in sums)
    assert speech.NETWORK.split()[1] in readme
    assert (
        "Permission is hereby granted, free of charge"
        in (speech.FILE.parent / "LICENSE").read_text()
    )


def test_the_network_is_made_from_silero_vads() -> None:
    assert as_products(onnx.load(SILERO)) == onnx.load(speech.FILE)


def test_the_network_says_what_silero_vads_says() -> None:
    sound = np.concatenate(
        [scene(20, 3, 11), hiss(5, 0.3), np.zeros(RATE_HZ, np.float32), note("midtoo", 4)]
    )[::2]
    frames = np.lib.stride_tricks.sliding_window_view(sound, 576)[::512]
    start = {"h": np.zeros((1, 1, 128), np.float32), "c": np.zeros((1, 1, 128), np.float32)}
    theirs = ort.InferenceSession(SILERO, providers=["CPUExecutionProvider"]).run(
        None, {"input": frames, **start}
    )
    ours = speech._network().run(None, {"input": frames, **start})
    assert theirs[0].max() > 0.99
    np.testing.assert_allclose(ours[0], theirs[0], atol=5e-5)


def test_half_the_rate_keeps_what_lies_below_and_drops_what_lies_above() -> None:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    for hz, gain in ((200, 1.0), (3_000, 1.0), (6_900, 1.0), (9_100, 0.0), (14_000, 0.0)):
        half = HalfRate().push(np.sin(2 * np.pi * hz * time_s).astype(np.float32))
        assert len(half) == RATE_HZ // 2
        assert np.sqrt(2 * np.mean(half[1000:] ** 2)) == pytest.approx(gain, abs=2e-3), hz


def test_speech_is_told_from_notes_noise_and_silence() -> None:
    answers, _ = told(scene(20, 8))
    assert [begin is not None for begin in answers] == [
        False,
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert answers[2] == pytest.approx(8 * RATE_HZ, abs=0.1 * RATE_HZ)
    assert not spoken(note("lowtoo", 20) + note("higtoo", 20))
    assert not spoken(hiss(20, 0.1))
    assert not spoken(np.zeros(20 * RATE_HZ, np.float32))
    assert spoken(scene(20, 8) + note("midtoo", 20, 0.05))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 7.0])
def test_no_number_deafens_it(bad: float) -> None:
    sound = np.concatenate([np.full(RATE_HZ, bad, np.float32), scene(9, 3)])
    sound[-7 * RATE_HZ] = bad
    answers, listener = told(sound)
    assert answers[-1] is not None
    assert all(np.isfinite(state).all() for state in listener._state)
    assert not spoken(np.full(12 * RATE_HZ, bad, np.float32))


def test_clipped_and_faint_voices_are_voices() -> None:
    assert spoken(np.clip(scene(10, 3) * 100, -1, 1))
    assert spoken(hiss(10, 1e-5) + 0.01 * (scene(10, 3) - hiss(10)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(st.integers(0, 3000), st.integers(1, 7 * RATE_HZ)), max_size=40),
    st.sampled_from([800, 16_000, 80_000, 133_600, 160_000]),
    st.floats(0, 12),
)
def test_how_the_sound_is_pushed_changes_nothing(blocks: list[int], hop: int, at_s: float) -> None:
    sound = scene(16, at_s)
    whole, one = told(sound, hop)
    pieces, other = told(sound, hop, blocks)
    assert pieces == whole
    assert all(np.array_equal(a, b) for a, b in zip(one._state, other._state, strict=True)), (
        "to the bit"
    )


@pytest.mark.parametrize("hop", [800, 16_000, 80_000])
def test_the_hop_changes_nothing(hop: int) -> None:
    """A window's answer is the same among many windows and among few."""
    few, _ = told(scene(30, 3, 11.3, 19.2), WINDOW_SAMPLES)
    many, _ = told(scene(30, 3, 11.3, 19.2), hop)
    assert many[:: WINDOW_SAMPLES // hop] == few
    assert None in few
    assert any(few)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(1, 7), st.integers(0, 2**32 - 1))
def test_what_comes_after_a_window_changes_nothing(at_s: float, seed: int) -> None:
    sound = scene(10, at_s)
    other = scene(10, at_s)
    other[WINDOW_SAMPLES:] = hiss(5, 0.2, seed)
    assert told(sound)[0][0] == told(other)[0][0]


def test_a_window_knows_only_what_was_said_by_its_end() -> None:
    """Half a second of speech before a window's end is none yet; it is when it goes on, from where
    it began."""
    begun = told(scene(12, 3))[0][0]
    assert begun is not None
    for before, known in (
        (RUN_SAMPLES - FRAME_SAMPLES, False),
        (RUN_SAMPLES + FRAME_SAMPLES, True),
    ):
        at_s = 3 + (WINDOW_SAMPLES - before - begun) / RATE_HZ
        first, second = told(scene(12, at_s), WINDOW_SAMPLES)[0]
        assert (first is not None) == known
        assert second is not None
        assert abs(second - (WINDOW_SAMPLES - before)) <= FRAME_SAMPLES, (
            "also where that lies before the window"
        )


def test_memory_is_flat() -> None:
    """Eight minutes, every second of them noisy or spoken."""
    minute = scene(60, 1, 9, 17.5, 26)
    said = 0
    minute[30 * RATE_HZ :] += hiss(30, 0.05)
    listener = Listener()
    held = list[int]()
    at = 0
    tracemalloc.start()
    try:
        for number in range(8 * 60):
            listener.push(minute[number % 60 * RATE_HZ :][:RATE_HZ])
            if number >= 4:
                said += listener.spoken(at, at + WINDOW_SAMPLES) is not None
                at += RATE_HZ
            if number % 60 == 59:
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert said > 100
    # Python keeps up to 2,000 small tuples for later; a window has 640 kB
    assert max(held[1:]) - held[1] < 65_536
    assert held[-1] < 4 * 2 * WINDOW_SAMPLES


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


@pytest.fixture(scope="module")
def waveform(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_waveform_bundle(tmp_path_factory.mktemp("waveform") / "bundle")


def song(seconds: float, *at_s: float) -> Samples:
    """A low tooter all the time, and people now and then."""
    return scene(seconds, *at_s) + note("lowtoo", seconds, 0.05)


def heard(analyst: Analyst, sound: Samples, row: RecordingRow | None = None) -> list[BatchResult]:
    listened = Stretch(analyst, row or stretch())
    listened.push(sound)
    listened.close()
    return list(listened.found())


def private(found: list[BatchResult]) -> list[tuple[float, float]]:
    return [span for f in found for span in f.private]


def windows(found: list[BatchResult]) -> list[float]:
    """Where the private windows begin."""
    return [stop - WINDOW_SAMPLES / RATE_HZ for _, stop in private(found)]


def offsets(found: list[BatchResult]) -> list[float]:
    """Of detections."""
    return [d.offset_s for f in found for d in f.detections]


def test_by_default_people_cost_the_clip_and_no_detection(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    analyst = Analyst(load_config(station_yaml()), recognizer)
    found = heard(analyst, song(30, 12))
    assert windows(found) == [10.0, 12.5, 15.0]
    assert offsets(found) == [2.5 * number for number in range(11)]
    assert sum(f.suppressed for f in found) == 0
    assert analyst.stopwatch.seconds["speech"] > 0


def test_all_withholds_detections_and_counts_them(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    found = heard(
        Analyst(load_config(station_yaml("privacy: {human: all}")), recognizer), song(30, 12)
    )
    assert windows(found) == [10.0, 12.5, 15.0]
    assert offsets(found) == [2.5 * number for number in range(11) if number not in (4, 5, 6)]
    assert sum(f.suppressed for f in found) == 3


@pytest.mark.parametrize(
    "line", ["privacy: {human: 'off'}", "privacy: {speech: false}", "clips: {save: false}"]
)
def test_nobody_listens_where_nothing_hangs_on_it(
    line: str, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    analyst = Analyst(load_config(station_yaml(line)), recognizer)
    assert private(heard(analyst, song(30, 12))) == []
    assert "speech" not in analyst.stopwatch.seconds


def test_recordings_are_listened_to_where_clips_are_made_of_them(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    row = replace(stretch(), source="folder")
    for line, listens in (
        ("{}", False),
        ("clips: {of_recordings: true}", True),
        ("privacy: {human: all}", True),
    ):
        analyst = Analyst(
            load_config(station_yaml(line) if listens else station_yaml()), recognizer
        )
        assert bool(private(heard(analyst, song(20, 12), row))) == listens


def test_after_a_gap_it_listens_anew(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    """What was half said before the gap does not go on behind it; times are those of the
    recording."""
    analyst = Analyst(load_config(station_yaml()), recognizer)
    first = Stretch(analyst, stretch())
    first.push(song(10))
    first.close()
    found = list(first.found())
    second = first.after(7.0)
    second.push(song(15, 6))
    second.close()
    found += second.found()
    spans = private(found)
    assert [start for start, _ in spans] == [
        17 + start for start, _ in private(heard(analyst, song(15, 6)))
    ]
    assert min(start for start, _ in spans) >= 17 + 2.5


def test_without_overlap_no_voice_is_forgotten(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Windows that the overload ladder leaves out leave nothing behind."""
    listened = Stretch(Analyst(load_config(station_yaml()), recognizer), stretch())
    listened.shed = LoadLevel.OVERLAP
    found = list[BatchResult]()
    for second in np.split(song(60, 12, 37.4), 60):
        listened.push(second)
        found += listened.found()
    spans = private(found)
    assert all(stop - 5 in range(0, 60, 5) for _, stop in spans)
    assert any(start <= 12.3 and stop >= 15 for start, stop in spans)
    assert sum(stop - start for start, stop in spans) < 25
    assert len(listened._speech) <= 1


def test_no_clip_holds_a_word(
    station_yaml: StationYaml, recognizer: Recognizer, tmp_path: Path
) -> None:
    """Also where the sentence begins at the very end of a window in which there is none yet, and
    clips have no roll."""
    yaml = station_yaml(
        "windows: {hop_s: 5}", "clips: {before_s: 0, after_s: 0, format: wav}", f"state: {tmp_path}"
    )
    config = load_config(yaml)
    analyst = Analyst(config, recognizer)
    row = stretch()
    sound = song(60, 24.7)
    maker = ClipMaker(lambda: ClipTable(config.database), config, analyst.bundle.id)
    with Store(config.database) as store, maker:
        store.add_bundle(analyst.bundle, "{}")
        store.begin(row, "porch", analyst.bundle.id, "a")
        listened = Stretch(analyst, row)
        maker.begin(row)
        for second in [*np.split(sound, 60), None]:
            if second is None:
                listened.close()
            else:
                maker.hear(second)
                listened.push(second)
            for found in listened.found():
                store.add(row.id, analyst.bundle.id, found.detections, [], [])
                maker.decided(found.until_s, found.detections, found.private)
        maker.end()
        assert (maker.failed, maker.last_error) == (0, "")
    with ClipTable(config.database) as table:
        clips = table.rows("SELECT start_utc, seconds FROM clips ORDER BY start_utc")
    assert [seconds for _, seconds in clips] == [20.0, 30.0], (
        "the window before the sentence has no clip either"
    )


def test_a_replay_writes_no_clip_of_people(station_yaml: StationYaml, tmp_path: Path) -> None:
    write_sound(tmp_path / "heard" / "20190601_050000.flac", song(60, 24.7))
    yaml = station_yaml("clips: {of_recordings: true}", f"state: {tmp_path}")
    for jobs in (1, 2):
        replay_folder(load_config(yaml), tmp_path / "heard", jobs=jobs)
    with ClipTable(tmp_path / "station.db") as table:
        clips = table.rows("SELECT c.start_utc, c.seconds FROM clips c ORDER BY c.start_utc")
    assert clips
    for start_utc, seconds in clips:
        begin = float(re.fullmatch(r".*05:00:([\d.]+)Z", start_utc)[1])  # type: ignore[index]
        assert begin + seconds <= 24.9 or begin >= 24.7 + len(voice()) / RATE_HZ


def test_the_microphone_too(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    """Across a full hour, at which a stretch ends and another begins."""
    kept = {}
    for human in ("off", "all"):
        config = load_config(station_yaml(f"privacy: {{human: '{human}'}}", name=human))
        card = Scene(NOON - 20)
        card.sound(song(40, 6, 30))
        with listening(config, card, recognizer) as live:
            play(live, card)
        with Store(config.database) as store:
            kept[human] = {row[0] for row in store.rows("SELECT start_utc FROM detections")}
    lost = [text[14:21] for text in sorted(kept["off"] - kept["all"])]
    assert lost[0] in ("59:42.5", "59:45.0")
    assert lost[-1] in ("00:10.0", "00:12.5")
    assert kept["all"]


@pytest.mark.slow
def test_the_daemon_at_its_folder_counts_what_it_keeps_back(
    station_yaml: StationYaml, tmp_path: Path
) -> None:
    zone = noon_zone()
    yaml = station_yaml(
        "source: folder",
        f"folder: {{path: {tmp_path / 'card'}, settle_s: 0.2}}",
        "privacy: {human: all}",
        "clips: {of_recordings: true}",
        "health: {interval_s: 1}",
        station=f"id: porch, timezone: {zone}",
    )
    name = f"{datetime.now(ZoneInfo(zone)):%Y%m%d}_110000.flac"
    write_sound(tmp_path / "card" / name, song(60, 24.7))
    daemon = Daemon(yaml)
    with daemon.running():
        assert until(
            lambda: (
                daemon.finished() == {name: "analysed"} and daemon.health().get("suppressed_today")
            )
        )
        withheld = daemon.health()["suppressed_today"]
    ((kept,),) = daemon.rows("SELECT count(*) FROM detections")
    assert kept + withheld == 23
    assert 2 <= withheld <= 4
    assert daemon.rows("SELECT count(*) FROM clips") == [(2,)]


def test_the_upgrade_analyses_no_archive_anew(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """What rows depend on is what it was; only where detections are withheld does the detector
    count."""

    def digest(line: str) -> str:
        return Analyst(load_config(station_yaml(*([line] if line else []))), recognizer).digest()

    assert digest("") == digest("privacy: {speech: false}") == digest("privacy: {human: 'off'}")
    kept = digest("privacy: {human: all, speech: false}")
    assert kept == digest(""), "nothing tells speech then"
    assert digest("privacy: {human: all}") != kept
    assert digest("privacy: {human: all, classes: [higtoo]}") != digest(
        "privacy: {human: all, classes: [higtoo], speech: false}"
    )


def test_bundles_that_take_the_sound_itself_hear_people_too(
    waveform: Bundle, station_yaml: StationYaml, tmp_path: Path
) -> None:
    """Their windows wait for no context: each is told about at the very end of its sound. Their
    human class and a network of one's own count beside the detector."""
    yaml = station_yaml("privacy: {human: all}", bundle=waveform.folder)
    sound = scene(30, 12) + tone("lowtoo", 30, 0.05)
    listened = Stretch(Analyst(load_config(yaml), Recognizer(waveform)), stretch())
    found = list[BatchResult]()
    for second in np.split(sound, 30):
        listened.push(second)
        found += listened.found()
    assert windows(found)[:3] == [10.0, 12.5, 15.0]
    sound[20 * RATE_HZ :] += tone("human1", 10)
    write_network(tmp_path / "own.onnx", gain=1.0)  # 0.475 for silence
    own = f"privacy: {{detector: {tmp_path / 'own.onnx'}, threshold: 0.47}}"
    for line, told_of in (
        ("", {12.5, 20.0}),
        ("privacy: {speech: false}", {20.0}),
        (own, {12.5, 20.0, 22.5}),
    ):
        config = load_config(station_yaml(*([line] if line else []), bundle=waveform.folder))
        spans = windows(heard(Analyst(config, Recognizer(waveform)), sound))
        assert told_of <= set(spans), line
        assert (0.0 in spans) == (line == own), "the network of one's own takes all for voices"
    assert check_codes(config, waveform)[0].found.endswith(
        "recognised by silero-vad 6.2.3, human1, own.onnx"
    )


def test_check_says_by_what_speech_is_told(station_yaml: StationYaml, bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    said = {
        line: check_codes(load_config(station_yaml(f"privacy: {{{line}}}")), bundle)[0]
        for line in (
            "human: clips",
            "human: all, classes: [higtoo]",
            "speech: false",
            "human: 'off'",
        )
    }
    assert said["human: clips"].found == "human: clips; speech is recognised by silero-vad 6.2.3"
    assert (
        said["human: all, classes: [higtoo]"].found
        == "human: all; speech is recognised by silero-vad 6.2.3, higtoo"
    )
    assert said["speech: false"].verdict == "warning"
    assert "voices are not recognised" in said["speech: false"].found
    assert said["human: 'off'"].verdict == "ok"
    assert "human: off" in said["human: 'off'"].found


def test_a_network_that_is_not_ours_is_refused(
    station_yaml: StationYaml,
    recognizer: Recognizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the first sound, and only where somebody listens."""
    speech._network.cache_clear()
    for path in (tmp_path / "absent.onnx", write_bytes(tmp_path / "other.onnx")):
        monkeypatch.setattr(speech, "FILE", path)
        with pytest.raises(BundleError, match=rf"{path.name}: .*reinstall birdstation"):
            Analyst(load_config(station_yaml()), recognizer)
        Analyst(load_config(station_yaml("privacy: {speech: false}")), recognizer)


def write_bytes(path: Path) -> Path:
    path.write_bytes(b"no network")
    return path
