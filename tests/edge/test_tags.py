"""One comment in every place where containers and converters keep it: time, offset and place are
the same in all."""

import io
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.capture.start_time import StartTime, start_of
from edge.capture.tags import TEXT_BYTES_MAX, texts_of
from edge.contract.errors import RecordingError
from tests.helpers.tagged import (
    GUANO,
    MOTH,
    caf,
    chunk,
    containers,
    flac,
    icmt,
    id3,
    ogg,
    page,
    vorbis,
    wamd,
    wave,
)

NOW = datetime(2024, 6, 1, tzinfo=timezone.utc)
EAST = timezone(timedelta(hours=3))
START = datetime(2024, 5, 12, 4, tzinfo=timezone.utc)
OTHER_NAME = "20240101_120000"  # what a comment says goes before it

PLACES = sorted(containers(MOTH))


def started(folder: Path, content: bytes, name: str = OTHER_NAME) -> StartTime:
    path = folder / f"{name}.bin"
    path.write_bytes(content)
    os.utime(path, (NOW.timestamp() - 9e5,) * 2)
    return start_of(path, zone=EAST, now=NOW)


@pytest.mark.parametrize("place", PLACES)
def test_a_comment_is_found_wherever_it_stands(tmp_path: Path, place: str) -> None:
    found = started(tmp_path, containers(MOTH)[place])
    assert (found.start_utc, found.source, found.utc_offset_minutes) == (START, "audiomoth", 0)
    assert found.zone_source == "recorded"
    found = started(tmp_path, containers(GUANO)[place])
    assert (found.start_utc, found.source, found.utc_offset_minutes) == (START, "guano", 90)
    assert (found.latitude, found.longitude) == (-33.86, 151.21)


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("RF64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("CAF", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_what_libsndfile_writes_is_read(tmp_path: Path, format: str, subtype: str) -> None:
    if subtype not in soundfile.available_subtypes(format):
        pytest.skip(f"libsndfile has no {subtype} here")
    for comment, source, offset in ((MOTH, "audiomoth", 0), (GUANO, "guano", 90)):
        buffer = io.BytesIO()
        with soundfile.SoundFile(buffer, "w", 48_000, 1, subtype, format=format) as file:
            file.comment = comment
            file.write(np.zeros(4_800, np.float32))
        found = started(tmp_path, buffer.getvalue())
        assert (found.start_utc, found.source, found.utc_offset_minutes) == (START, source, offset)


@pytest.mark.parametrize(
    "stamp", ["2024-05-12T14:00:00+10:00 ", "2024-05-12T14:00:00+1000", "2024-05-12T14:00:00.0+10"]
)
@pytest.mark.parametrize(
    "place", ["-27.3866 152.8761", "-27.3866+152.8761", " -27.3866, 152.8761 "]
)
def test_frontier_labs_comments(tmp_path: Path, stamp: str, place: str) -> None:
    fields = {"RecordingStart": stamp, "SensorLocation": place, "SensorUid": "00015F"}
    block = vorbis(*(f"{key}={value}".encode() for key, value in fields.items()))
    shouted = vorbis(*(f"{key.upper()}={value}".encode() for key, value in fields.items()))
    frames = [(b"TXXX", f"\3{key}\0{value}".encode()) for key, value in fields.items()]
    for content in (
        flac((4, block)),
        ogg(b"OpusHead" + bytes(11), b"OpusTags" + shouted),
        id3(4, *frames) + b"\xff\xfb\x90\0",
    ):
        found = started(tmp_path, content)
        assert (found.start_utc, found.source, found.utc_offset_minutes) == (
            START,
            "frontierlabs",
            600,
        )
        assert (found.latitude, found.longitude) == (-27.3866, 152.8761)


def test_frontier_labs_before_offsets_and_without_a_fix(tmp_path: Path) -> None:
    old = flac((4, vorbis(b"RecordingStart=2024-05-12 07:00:00", b"SensorLocation=unknown")))
    found = started(tmp_path, old)
    assert (found.start_utc, found.source, found.zone_source) == (START, "frontierlabs", "config")
    assert found.latitude is None
    unset = flac(
        (4, vorbis(b"RecordingStart=1970-01-01T00:00:00+10:00", b"SensorLocation=0.0 0.0"))
    )
    found = started(tmp_path, unset)
    assert (found.source, found.latitude) == ("name", None)


@pytest.mark.parametrize(
    ("time", "start", "zone_source", "offset"),
    [
        (b"2024-05-11 23:00:00-05:00", START, "recorded", -300),
        (b"2024-05-12 09:45:00.250+05:45\0", START + timedelta(milliseconds=250), "recorded", 345),
        (b"2024-05-12 07:00:00", START, "config", 180),
    ],
)
def test_song_meters(
    tmp_path: Path, time: bytes, start: datetime, zone_source: str, offset: int
) -> None:
    chunks = wamd((5, time), (6, b"WGS84,47.61000,N,122.33000,W,56"))
    for content in (wave(chunks), wave(before=chunks, kind=b"RF64"), flac((2, b"riff" + chunks))):
        found = started(tmp_path, content)
        assert (found.start_utc, found.source) == (start, "wamd")
        assert (found.zone_source, found.utc_offset_minutes) == (zone_source, offset)
        assert (found.latitude, found.longitude) == (47.61, -122.33)


@pytest.mark.parametrize(
    ("pieces", "place"),
    [
        ([(6, b",33.86,S,151.21,E")], (-33.86, 151.21)),  # older ones leave the datum out
        ([(6, b"WGS84, -33.86, 151.21, 12")], (-33.86, 151.21)),  # Echo Meter Touch
        ([(20, b"WGS84,33.86,S,151.21,E")], (-33.86, 151.21)),  # set by hand
        ([(6, b"WGS84,0.0,N,0.0,E"), (20, b"WGS84,1.5,N,2.5,E")], (1.5, 2.5)),
        ([(6, b"WGS84,91.0,N,10.0,E")], (None, None)),
        ([(6, b"WGS84"), (20, b"")], (None, None)),
    ],
)
def test_places_of_song_meters(
    tmp_path: Path, pieces: list[tuple[int, bytes]], place: tuple[float | None, float | None]
) -> None:
    found = started(tmp_path, wave(wamd(*pieces)))
    assert (found.latitude, found.longitude) == place
    assert found.source == "name"


def test_who_is_believed_first(tmp_path: Path) -> None:
    spoken = vorbis(
        f"COMMENT={MOTH}".encode(),
        b"RecordingStart=2024-05-12T01:00:00Z",
        b"SensorLocation=1.5 2.5",
    )
    kept = [
        (2, b"riff" + part)
        for part in (wamd((5, b"2024-05-12 02:00:00Z")), chunk(b"guan", GUANO.encode()))
    ]
    found = started(tmp_path, flac((4, spoken), *kept))
    assert (found.source, found.latitude) == ("guano", -33.86)
    assert started(tmp_path, flac((4, spoken), kept[0])).source == "audiomoth"
    rest = vorbis(b"RecordingStart=2024-05-12T01:00:00Z")
    assert started(tmp_path, flac((4, rest), kept[0])).source == "wamd"
    unset = MOTH.replace("12/05/2024", "01/01/1970")
    assert (
        started(tmp_path, flac((4, vorbis(f"COMMENT={unset}".encode(), rest[15:])))).source
        == "frontierlabs"
    )


@pytest.mark.parametrize("place", PLACES)
def test_what_is_cut_or_changed_never_raises(tmp_path: Path, place: str) -> None:
    whole = containers(GUANO)[place]
    steps = np.random.default_rng(5)
    for _ in range(40):
        damaged = bytearray(whole[: steps.integers(len(whole) + 1)])
        for _ in range(min(len(damaged), 3)):
            damaged[steps.integers(min(len(damaged), 400))] = steps.choice([0, 1, 0x7F, 0x80, 0xFF])
        assert started(tmp_path, bytes(damaged)).start_utc.tzinfo is timezone.utc


def test_an_empty_packet_is_no_comment(tmp_path: Path) -> None:
    assert started(tmp_path, ogg(b"\x7fFLAC" + bytes(46), b"")).source == "name"


PARTS = [
    b"fLaC",
    b"OggS",
    b"caff",
    b".snd",
    b"ID3",
    b"RIFF\0\0\0\0WAVE",
    b"FORM\0\0\0\0AIFF",
    b"LIST",
    b"INFO",
    b"COMT",
]
PARTS += [
    b"\x84\0\0\x40",
    b"\2\0\0\x20riff",
    b"\3vorbis",
    b"OpusTags",
    b"\xff" * 4,
    b"\0" * 4,
    b"TXXX",
    b"COMM",
    b"id3 ",
]
PARTS += [
    b"\3\0\x80\0\0\1\0",
    b"\4\0\x40\0\0\1\0",
    b"\2\0\0\0\0\1\0",
    b"wamd",
    b"guan",
    b"GUANO|Version: 1.0\n",
    b"info",
]
PARTS += [
    b"Timestamp: 2024-05-12T05:30:00\n",
    b"Loc Position: 1 2\n",
    b"RecordingStart=",
    b"SensorLocation=1 2",
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=12)), max_size=30))
def test_any_bytes_give_a_start(tmp_path: Path, parts: list[bytes]) -> None:
    found = started(tmp_path, b"".join(parts))
    assert found.start_utc.tzinfo is timezone.utc
    assert found.source in ("guano", "audiomoth", "frontierlabs", "wamd", "bext", "name")


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.text(max_size=60))
def test_any_name_gives_a_start_or_is_no_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"_{name.replace('/', '')}.wav"
    try:
        path.write_bytes(b"")
    except (OSError, ValueError):  # too long, a zero, lone surrogates
        with pytest.raises(RecordingError):
            start_of(path, zone=EAST, now=NOW)
    else:
        assert start_of(path, zone=EAST, now=NOW).start_utc.tzinfo is timezone.utc
        path.unlink()


def test_no_text_is_read_beyond_its_limit(tmp_path: Path) -> None:
    late = b"x" * TEXT_BYTES_MAX + MOTH.encode()
    for content in (
        wave(icmt(late)),
        wave(chunk(b"guan", late)),
        flac((4, vorbis(b"COMMENT=" + late))),
        flac((2, b"riff" + chunk(b"guan", late))),
        ogg(b"OpusHead", b"OpusTags" + vorbis(b"COMMENT=" + late)),
        id3(3, (b"COMM", b"\0eng\0" + late)),
        caf(late),
    ):
        assert started(tmp_path, content).source == "name"
        (tmp_path / "late").write_bytes(content)
        with (tmp_path / "late").open("rb") as file:
            assert all(len(text.data) <= TEXT_BYTES_MAX for text in texts_of(file))


def test_sizes_that_lie_read_little(tmp_path: Path) -> None:
    class Counting(io.FileIO):
        read_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size) or b""
            self.read_bytes += len(data)
            return data

    sound = bytes(5_000_000)
    liars = {
        "id3": b"ID3\3\0\0" + b"\x7f" * 4 + sound,
        "ogg": page(7, b"\4", b"head", 2)
        + b"".join(page(7, b"\xff" * 255, bytes(255 * 255)) for _ in range(40)),
        "flac": b"fLaC\0\0\0\x22" + bytes(34) + b"\4\xff\xff\xff" + b"\xff" * 5_000_000,
        "caf": b"caff\0\1\0\0info" + b"\x7f" * 8 + sound,
        "au": b".snd\xff\xff\xff\xff" + sound,
        "wav": b"RIFF\0\0\0\0WAVEguan\xff\xff\xff\xff" + sound,
        "many": b"fLaC" + b"\1\0\0\0" * 1_000_000,
    }
    for content in liars.values():
        (tmp_path / "liar").write_bytes(content)
        with Counting(tmp_path / "liar") as file:
            list(texts_of(file))  # type: ignore[arg-type]
            assert file.read_bytes < 1.2e6
