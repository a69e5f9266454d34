"""Recordings of a recorder that keeps no silence (AudioMoth's T.WAV): the sound in its place, the
silence as gaps."""

import os
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edge.config import load_config
from edge.contract.audio import RATE_HZ
from edge.replay.archive import replay_folder
from edge.store.record import Store
from tests.conftest import hiss, note
from tests.helpers.records import differences, dump

StationYaml = Callable[..., Path]
BLOCK = 256  # samples of a block of 512 bytes
NOTE = (
    "Recorded at 04:00:00 12/05/2024 (UTC) by AudioMoth 24F31901603710E5 at medium gain while "
    "battery was 4.1V."
)
Part = NDArray[np.float32] | int  # sound, or the number of blocks that the recorder did not keep


def folded(blocks: int) -> bytes:
    """The block that stands for so many."""
    bits = [1 if blocks >> bit & 1 else -1 for bit in range(32)]
    return struct.pack("<32h", *bits) + bytes(512 - 64)


def audiomoth(
    path: Path, parts: list[Part], unfolded: bool = False, rate_hz: int = RATE_HZ
) -> Path:
    """As AudioMoth writes it: a header of 488 bytes, so that sound lies on blocks of 512 bytes of
    the file."""
    comment = NOTE.encode().ljust(384, b"\0")
    artist = b"AudioMoth 24F31901603710E5".ljust(32, b"\0")
    info = (
        b"INFO"
        + b"ICMT"
        + struct.pack("<I", 384)
        + comment
        + b"IART"
        + struct.pack("<I", 32)
        + artist
    )
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    head += b"LIST" + struct.pack("<I", len(info)) + info
    data = b""
    for part in parts:
        if not isinstance(part, int):
            data += np.round(part * 32767).astype("<i2").tobytes()
        else:
            data += bytes(512 * part) if unfolded else folded(part)
    size = struct.pack("<I", len(data))
    whole = b"RIFF" + struct.pack("<I", len(head) + 8 + len(data)) + head + b"data" + size + data
    assert (len(whole) - len(data)) == 488
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole)
    return path


def on_blocks(*sounds: NDArray[np.float32], lead: int = 12) -> list[NDArray[np.float32]]:
    """Sounds cut so that all but the last end on a block; the header leaves the first one 24
    bytes."""
    first, *rest = sounds
    return [
        first[: lead + (len(first) - lead) // BLOCK * BLOCK],
        *(s[: len(s) // BLOCK * BLOCK] for s in rest),
    ]


@pytest.fixture
def song() -> list[NDArray[np.float32]]:
    parts = [hiss(seconds, seed=seed) for seed, seconds in enumerate((20, 12, 40))]
    for part, code, at_s in ((0, "midtoo", 8), (1, "lowtoo", 3), (2, "higtoo", 5)):
        parts[part][at_s * RATE_HZ : (at_s + 6) * RATE_HZ] += note(code, 6)
    return on_blocks(*parts)


def replayed(path: Path, config: Path, jobs: int = 1) -> None:
    (outcome,) = replay_folder(load_config(config), path, jobs=jobs).outcomes
    assert outcome.state == "analysed", outcome.reason


def rows(config: Path, sql: str) -> list[tuple[object, ...]]:
    with Store(load_config(config).database) as store:
        return store.rows(sql)


FOLDS = (600 * RATE_HZ // BLOCK, 7 * RATE_HZ // BLOCK)  # blocks: ten minutes, seven seconds
DETECTIONS = (
    "SELECT start_utc, species, offset_s, round(score, 4) FROM detections ORDER BY start_utc, "
    "species"
)


def test_sound_is_in_its_place_and_silence_is_a_gap(
    tmp_path: Path, station_yaml: StationYaml, song: list[NDArray[np.float32]]
) -> None:
    name = "20240512_040000T.WAV"
    parts: list[Part] = [song[0], FOLDS[0], song[1], FOLDS[1], song[2]]
    config = station_yaml("clips: {of_recordings: true}", name="folded")
    replayed(audiomoth(tmp_path / "folded" / name, parts), config)
    heard = rows(config, DETECTIONS)
    assert {species for _, species, _, _ in heard} == {"lowtoo", "midtoo", "higtoo"}

    begins = []
    at = 0
    for part in parts:
        begins.append(at / RATE_HZ)
        at += part * BLOCK if isinstance(part, int) else len(part)
    start = datetime.fromisoformat("2024-05-12T04:00:00+00:00")
    gaps = rows(config, "SELECT start_utc, seconds, reason FROM gaps ORDER BY start_utc")
    assert [(text, reason) for text, _, reason in gaps] == [
        (
            (start + timedelta(seconds=begins[part])).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            "triggered",
        )
        for part in (1, 3)
    ]
    assert [seconds for _, seconds, _ in gaps] == pytest.approx(
        [blocks * BLOCK / RATE_HZ for blocks in FOLDS]
    )
    ((effort,),) = rows(config, "SELECT sum(analysed_s) FROM effort")
    sound_s = sum(map(len, song)) / RATE_HZ
    assert effort == pytest.approx(sound_s, abs=0.01)
    assert rows(config, "SELECT round(audio_s, 1), reason FROM recordings") == [
        (round(sound_s, 1), None)
    ]

    # each stretch is as if it had been recorded alone
    for kept, part in zip(song, (0, 2, 4), strict=True):
        alone = station_yaml(name=f"alone{part}")
        sole: list[Part] = [kept]
        replayed(audiomoth(tmp_path / f"alone{part}" / name, sole), alone)
        expected = [
            (species, offset, score) for _, species, offset, score in rows(alone, DETECTIONS)
        ]
        end_s = begins[part] + len(kept) / RATE_HZ
        there = [
            (species, offset - begins[part], score)
            for _, species, offset, score in heard
            if begins[part] <= offset < end_s
        ]
        assert expected
        assert there == expected
        for text, species, offset, _ in heard:
            late = datetime.fromisoformat(str(text).replace("Z", "+00:00")) - start
            assert late / timedelta(seconds=1) == pytest.approx(offset, abs=0.001), species


def test_no_clip_reaches_over_a_gap(
    tmp_path: Path, station_yaml: StationYaml, song: list[NDArray[np.float32]]
) -> None:
    loud = [
        hiss(len(part) / RATE_HZ, seed=9) + note("midtoo", len(part) / RATE_HZ)[: len(part)]
        for part in song
    ]
    config = station_yaml("clips: {of_recordings: true, before_s: 3, after_s: 3}")
    path = audiomoth(
        tmp_path / "in" / "20240512_040000T.WAV", [loud[0], FOLDS[1], loud[1], 9, loud[2]]
    )
    replayed(path, config)
    assert rows(config, "SELECT count(*) FROM detections WHERE clip IS NULL") == [(0,)]
    folder = load_config(config).clips_folder
    for name, seconds in rows(config, "SELECT path, seconds FROM clips"):
        sound, _ = soundfile.read(folder / str(name))
        assert len(sound) / RATE_HZ == pytest.approx(seconds)
        assert np.sqrt(np.mean(sound[: RATE_HZ // 10] ** 2)) > 0.1, "silence at its beginning"
        assert np.sqrt(np.mean(sound[-RATE_HZ // 10 :] ** 2)) > 0.1, "silence at its end"


def test_the_record_does_not_depend_on_batches_and_threads(
    tmp_path: Path, station_yaml: StationYaml, song: list[NDArray[np.float32]]
) -> None:
    for number in range(3):
        begin = song[0][: 12 + (40 + 700 * number) * BLOCK]
        shorts: list[Part] = [
            part for short in song for part in (short[: (16 + number) * BLOCK], 1 + number)
        ]
        audiomoth(
            tmp_path / "in" / f"20240512_04{number}000T.WAV", [begin, FOLDS[1], *shorts, song[2]]
        )
    dumps = []
    for batch, jobs in ((1, 1), (32, 1), (5, 3)):
        state = tmp_path / f"state{batch}"
        config = station_yaml(
            f"runtime: {{batch: {batch}}}", f"state: {state}", name=f"batch{batch}"
        )
        outcomes = replay_folder(load_config(config), tmp_path / "in", jobs=jobs).outcomes
        assert [o.state for o in outcomes] == ["analysed"] * 3
        dumps.append(dump(load_config(config).database))
    assert len(dumps[0]["gaps"]) == 12
    assert differences(dumps[1], dumps[0]) == differences(dumps[2], dumps[0]) == []


def test_channels_that_cancel_are_heard_and_the_row_says_so(
    tmp_path: Path, station_yaml: StationYaml, song: list[NDArray[np.float32]]
) -> None:
    sound = np.concatenate(song)
    (tmp_path / "in").mkdir()
    soundfile.write(
        tmp_path / "in" / "20240512_040000.wav", np.stack([sound, -sound], axis=1), RATE_HZ
    )
    soundfile.write(tmp_path / "in" / "20240512_050000.wav", sound, RATE_HZ)
    config = station_yaml()
    replay_folder(load_config(config), tmp_path / "in")
    found = rows(
        config, "SELECT recording, species, offset_s FROM detections ORDER BY offset_s, species"
    )
    both = rows(config, "SELECT id, note, reason FROM recordings ORDER BY start_utc")
    heard = [[row[1:] for row in found if row[0] == recording] for recording, _, _ in both]
    assert heard[0] == heard[1] != []
    assert [reason for _, _, reason in both] == [None, None]
    assert both[1][1] is None
    assert "cancel" in str(both[0][1])


def test_a_start_from_the_end_of_a_file_counts_all_of_its_sound(
    tmp_path: Path, station_yaml: StationYaml
) -> None:
    """The modification time is when a recording ended; a FLAC from a pipe does not say how long it
    is."""
    (tmp_path / "in").mkdir()
    said = tmp_path / "in" / "said.flac"
    unsaid = tmp_path / "in" / "unsaid.flac"
    for seed, path in enumerate((said, unsaid)):
        soundfile.write(path, hiss(20, seed=seed), RATE_HZ)
    content = bytearray(unsaid.read_bytes())
    content[21:26] = bytes([content[21] & 0xF0]) + bytes(4)  # its number of samples
    unsaid.write_bytes(content)
    for path in (said, unsaid):
        os.utime(path, (1_715_486_420, 1_715_486_420))
    config = station_yaml()
    replay_folder(load_config(config), tmp_path / "in")
    assert (
        rows(config, "SELECT start_utc, time_source FROM recordings")
        == [("2024-05-12T04:00:00.000Z", "mtime")] * 2
    )
