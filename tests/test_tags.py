"""One comment in every place where containers and converters keep it: time, offset and place are the same in all."""

import io
import os
import struct
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

NOW = datetime(2024, 6, 1, tzinfo=timezone.utc)
EAST = timezone(timedelta(hours=3))
START = datetime(2024, 5, 12, 4, tzinfo=timezone.utc)
OTHER_NAME = "20240101_120000"  # what a comment says goes before it

MOTH = "Recorded at 04:00:00 12/05/2024 (UTC) by AudioMoth 24F31901603710E5 at medium gain while battery was 4.1V."
GUANO = "GUANO|Version: 1.0\nTimestamp: 2024-05-12T05:30:00.000+01:30\nLoc Position: -33.86 151.21\nMake: X\n"


def chunk(name: bytes, data: bytes, order: str = "<") -> bytes:
    return name + struct.pack(order + "I", len(data)) + data + b"\0" * (len(data) % 2)


def wave(*after: bytes, before: bytes = b"", kind: bytes = b"RIFF") -> bytes:
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 32_000, 64_000, 2, 16))
    body = b"WAVE" + fmt + before + chunk(b"data", bytes(64)) + b"".join(after)
    return kind + struct.pack("<I", len(body)) + body


def icmt(text: bytes) -> bytes:
    return chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"Lavf") + chunk(b"ICMT", text + b"\0"))


def aiff(*chunks: bytes, kind: bytes = b"AIFF") -> bytes:
    comm = chunk(b"COMM", struct.pack(">hIh", 1, 8, 16) + bytes.fromhex("400dfa00000000000000"), ">")
    body = kind + comm + b"".join(chunks) + chunk(b"SSND", bytes(24), ">")
    return b"FORM" + struct.pack(">I", len(body)) + body


def aiff_comment(text: bytes) -> bytes:
    data = struct.pack(">H", 2) + struct.pack(">IhH", 0, 0, 3) + b"odd\0" + struct.pack(">IhH", 0, 0, len(text)) + text
    return chunk(b"COMT", data, ">")


def vorbis(*comments: bytes) -> bytes:
    sized = (struct.pack("<I", len(comment)) + comment for comment in comments)
    return struct.pack("<I", 3) + b"abc" + struct.pack("<I", len(comments)) + b"".join(sized)


def flac(*blocks: tuple[int, bytes]) -> bytes:
    """Blocks by their kind: 2 application, 4 comments, 6 a picture."""
    whole = [(0, bytes(34)), *blocks]
    marks = (kind | (0x80 if index == len(whole) - 1 else 0) for index, (kind, _) in enumerate(whole))
    parts = (bytes([mark]) + len(data).to_bytes(3, "big") + data for mark, (_, data) in zip(marks, whole, strict=True))
    return b"fLaC" + b"".join(parts) + b"\xff\xf8sound"


def page(stream: int, lacing: bytes, body: bytes, flags: int = 0) -> bytes:
    head = b"OggS" + bytes([0, flags]) + bytes(8) + struct.pack("<III", stream, 0, 0) + bytes([len(lacing)])
    return head + lacing + body


def ogg(first: bytes, second: bytes, per_page: int = 255, stream: int = 7) -> bytes:
    """A stream of two packets; the second goes over as many pages as it needs."""
    pages = [page(stream, bytes([len(first)]), first, flags=2)]
    lacing = bytes([255] * (len(second) // 255) + [len(second) % 255])
    at = 0
    for start in range(0, len(lacing), per_page):
        here = lacing[start : start + per_page]
        pages.append(page(stream, here, second[at : at + sum(here)]))
        at += sum(here)
    return b"".join(pages) + page(stream, b"\4", b"tone")


def sync_safe(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def id3(
    version: int, *frames: tuple[bytes, bytes], unsync: bool = False, extended: bool = False, plain: bool = False
) -> bytes:
    body, flags = b"", 0
    for name, data in frames:
        if version == 2:
            body += name + len(data).to_bytes(3, "big") + data
            continue
        mark = 0
        if version == 4 and unsync:
            data, mark = data.replace(b"\xff", b"\xff\0"), 2
        size = sync_safe(len(data)) if version == 4 and not plain else struct.pack(">I", len(data))
        body += name + size + bytes([0, mark]) + data
    if extended and version > 2:
        flags |= 0x40
        body = (sync_safe(6) + b"\1\0" if version == 4 else struct.pack(">I", 6) + bytes(6)) + body
    if unsync:
        flags |= 0x80
        body = body if version == 4 else body.replace(b"\xff", b"\xff\0")
    return b"ID3" + bytes([version, 0, flags]) + sync_safe(len(body)) + body


def comm(text: bytes) -> tuple[bytes, bytes]:
    return b"COMM", b"\3eng\0" + text


def caf(text: bytes) -> bytes:
    info = struct.pack(">I", 2) + b"title\0x\0comment\0" + text + b"\0"
    return b"caff\0\1\0\0" + b"desc" + struct.pack(">q", 32) + bytes(32) + b"info" + struct.pack(">q", len(info)) + info


def containers(comment: str) -> dict[str, bytes]:
    text = comment.encode()
    wide, mpeg = comment.encode("utf-16"), b"\xff\xfb\x90\0" + bytes(64)
    wide_pair = "comment".encode("utf-16") + b"\0\0" + wide  # each with its mark
    picture = vorbis(b"METADATA_BLOCK_PICTURE=" + b"A" * 200_000, b"DESCRIPTION=" + text)
    return {
        "wav": wave(before=icmt(text)),
        "wav, behind the sound": wave(icmt(text)),
        "wav, id3": wave(chunk(b"id3 ", id3(3, comm(text)))),
        "wav, ID3": wave(chunk(b"ID3 ", id3(4, comm(text)))),
        "wav, id3 in front": id3(3, (b"TIT2", b"\0moth")) + wave(icmt(text)),
        "rf64": wave(icmt(text), kind=b"RF64"),
        "bw64": wave(icmt(text), kind=b"BW64"),
        "aiff": aiff(chunk(b"ANNO", text, ">")),
        "aiff, comt": aiff(aiff_comment(text)),
        "aiff, id3": aiff(chunk(b"ID3 ", id3(4, comm(text)), ">")),
        "aifc": aiff(chunk(b"NAME", b"x", ">"), chunk(b"ANNO", text, ">"), kind=b"AIFC"),
        "flac, COMMENT": flac((4, vorbis(b"ARTIST=x", b"COMMENT=" + text))),
        "flac, description": flac((3, bytes(18)), (4, vorbis(b"description=" + text)), (1, bytes(99))),
        "flac, own key": flac((4, vorbis(b"Notes on it=" + text))),
        "flac, picture": flac((6, bytes(300_000)), (4, picture)),
        "flac, riff": flac((4, vorbis()), (2, b"riff" + b"RIFF\0\0\0\0WAVE"), (2, b"riff" + icmt(text))),
        "flac, aiff": flac((2, b"aiff" + chunk(b"ANNO", text, ">"))),
        "flac, id3 in front": id3(4, comm(text)) + flac((4, vorbis(b"title=x"))),
        "vorbis": ogg(b"\1vorbis" + bytes(23), b"\3vorbis" + vorbis(b"COMMENT=" + text)),
        "vorbis, picture": ogg(b"\1vorbis" + bytes(23), b"\3vorbis" + picture),
        "opus, small pages": ogg(b"OpusHead" + bytes(11), b"OpusTags" + vorbis(b"DESCRIPTION=" + text), per_page=1),
        "ogg flac": ogg(b"\x7fFLAC" + bytes(46), b"\4\0\0\0" + vorbis(b"Comment=" + text)),
        "caf": caf(text),
        "au": b".snd" + struct.pack(">6I", 24 + len(text), 4, 3, 32_000, 1, 0)[:20] + text + bytes(4),
        "mp3, 2.2": id3(2, (b"COM", b"\0eng\0" + text)) + mpeg,
        "mp3, 2.3 TXXX": id3(3, (b"TXXX", b"\0comment\0" + text)) + mpeg,
        "mp3, 2.3 UTF-16": id3(3, (b"TXXX", b"\1" + wide_pair)) + mpeg,
        "mp3, 2.3 unsync": id3(3, (b"COMM", b"\1eng\xff\xfe\0\0" + wide), unsync=True, extended=True) + mpeg,
        "mp3, 2.4 UTF-16BE": id3(4, (b"COMM", b"\2eng\0d\0\0" + comment.encode("utf-16-be"))) + mpeg,
        "mp3, 2.4 unsync": id3(4, (b"COMM", b"\1eng\xff\xfe\0\0" + wide), unsync=True, extended=True) + mpeg,
        "mp3, 2.4 with plain sizes": id3(4, (b"TIT2", b"\3" + b"x" * 199), comm(text), plain=True) + mpeg,
        "mp3, second tag": id3(3, (b"TIT2", b"\0x")) + id3(4, (b"TXXX", b"\3comment\0" + text)) + mpeg,
    }


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
@pytest.mark.parametrize("place", ["-27.3866 152.8761", "-27.3866+152.8761", " -27.3866, 152.8761 "])
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
        assert (found.start_utc, found.source, found.utc_offset_minutes) == (START, "frontierlabs", 600)
        assert (found.latitude, found.longitude) == (-27.3866, 152.8761)


def test_frontier_labs_before_offsets_and_without_a_fix(tmp_path: Path) -> None:
    old = flac((4, vorbis(b"RecordingStart=2024-05-12 07:00:00", b"SensorLocation=unknown")))
    found = started(tmp_path, old)
    assert (found.start_utc, found.source, found.zone_source) == (START, "frontierlabs", "config")
    assert found.latitude is None
    unset = flac((4, vorbis(b"RecordingStart=1970-01-01T00:00:00+10:00", b"SensorLocation=0.0 0.0")))
    found = started(tmp_path, unset)
    assert (found.source, found.latitude) == ("name", None)


def wamd(*pieces: tuple[int, bytes]) -> bytes:
    whole = [(0, b"\1\0"), (1, b"SM4"), (0xFFFF, bytes(5)), *pieces]
    return chunk(b"wamd", b"".join(struct.pack("<HI", kind, len(value)) + value for kind, value in whole))


@pytest.mark.parametrize(
    ("time", "start", "zone_source", "offset"),
    [
        (b"2024-05-11 23:00:00-05:00", START, "recorded", -300),
        (b"2024-05-12 09:45:00.250+05:45\0", START + timedelta(milliseconds=250), "recorded", 345),
        (b"2024-05-12 07:00:00", START, "config", 180),
    ],
)
def test_song_meters(tmp_path: Path, time: bytes, start: datetime, zone_source: str, offset: int) -> None:
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
    spoken = vorbis(f"COMMENT={MOTH}".encode(), b"RecordingStart=2024-05-12T01:00:00Z", b"SensorLocation=1.5 2.5")
    kept = [(2, b"riff" + part) for part in (wamd((5, b"2024-05-12 02:00:00Z")), chunk(b"guan", GUANO.encode()))]
    found = started(tmp_path, flac((4, spoken), *kept))
    assert (found.source, found.latitude) == ("guano", -33.86)
    assert started(tmp_path, flac((4, spoken), kept[0])).source == "audiomoth"
    rest = vorbis(b"RecordingStart=2024-05-12T01:00:00Z")
    assert started(tmp_path, flac((4, rest), kept[0])).source == "wamd"
    unset = MOTH.replace("12/05/2024", "01/01/1970")
    assert started(tmp_path, flac((4, vorbis(f"COMMENT={unset}".encode(), rest[15:])))).source == "frontierlabs"


@pytest.mark.parametrize("place", PLACES)
def test_what_is_cut_or_changed_never_raises(tmp_path: Path, place: str) -> None:
    whole = containers(GUANO)[place]
    steps = np.random.default_rng(5)
    for _ in range(40):
        damaged = bytearray(whole[: steps.integers(len(whole) + 1)])
        for _ in range(min(len(damaged), 3)):
            damaged[steps.integers(min(len(damaged), 400))] = steps.choice([0, 1, 0x7F, 0x80, 0xFF])
        assert started(tmp_path, bytes(damaged)).start_utc.tzinfo is timezone.utc


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
PARTS += [b"Timestamp: 2024-05-12T05:30:00\n", b"Loc Position: 1 2\n", b"RecordingStart=", b"SensorLocation=1 2"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=12)), max_size=30))
def test_any_bytes_give_a_start(tmp_path: Path, parts: list[bytes]) -> None:
    found = started(tmp_path, b"".join(parts))
    assert found.start_utc.tzinfo is timezone.utc
    assert found.source in ("guano", "audiomoth", "frontierlabs", "wamd", "bext", "name")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        assert all(len(text.data) <= TEXT_BYTES_MAX for text in texts_of(io.BytesIO(content)))


def test_sizes_that_lie_read_little() -> None:
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    sound = bytes(5_000_000)
    liars = {
        "id3": b"ID3\3\0\0" + b"\x7f" * 4 + sound,
        "ogg": page(7, b"\4", b"head", 2) + b"".join(page(7, b"\xff" * 255, bytes(255 * 255)) for _ in range(40)),
        "flac": b"fLaC\0\0\0\x22" + bytes(34) + b"\4\xff\xff\xff" + b"\xff" * 5_000_000,
        "caf": b"caff\0\1\0\0info" + b"\x7f" * 8 + sound,
        "au": b".snd\xff\xff\xff\xff" + sound,
        "wav": b"RIFF\0\0\0\0WAVEguan\xff\xff\xff\xff" + sound,
        "many": b"fLaC" + b"\1\0\0\0" * 1_000_000,
    }
    for content in liars.values():
        file = Counting(content)
        list(texts_of(file))
        assert file.read_bytes < 1.2e6
