"""Containers x ways to damage them: seconds decoded + seconds in gaps and losses = the seconds that
were put in."""

import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ
from edge.contract.errors import RecordingError
from edge.types import Gap

Sound = npt.NDArray[np.float32]
LONG_S = 6.0
SHORT_S = 4.0
TOLERANCE_S = 0.1


@dataclass(frozen=True)
class Container:
    """How libsndfile writes one, and where its header says how long it is: (place behind a mark,
    struct, mark)."""

    format: str
    subtype: str
    length: tuple[bytes, int, str] | None = None
    rate_hz: int = RATE_HZ
    endian: str = "FILE"


CONTAINERS = {
    "wav": Container("WAV", "PCM_16", (b"data", 4, "<I")),
    "wav 24 bit": Container("WAVEX", "PCM_24", (b"data", 4, "<I")),
    "wav float": Container("WAV", "FLOAT", (b"data", 4, "<I")),
    "wav adpcm": Container("WAV", "IMA_ADPCM", (b"data", 4, "<I")),
    "wav 8 bit": Container("WAV", "PCM_U8", (b"data", 4, "<I")),
    "wav a-law": Container("WAV", "ALAW", (b"data", 4, "<I")),
    "rf64": Container("RF64", "PCM_16", (b"ds64", 16, "<Q")),
    "w64": Container("W64", "PCM_16", (b"data\xf3\xac", 16, "<Q")),
    "w64 double": Container("W64", "DOUBLE", (b"data\xf3\xac", 16, "<Q")),
    "aiff": Container("AIFF", "PCM_16", (b"SSND", 4, ">I")),
    "aifc": Container("AIFF", "PCM_16", (b"SSND", 4, ">I"), endian="LITTLE"),
    "caf": Container("CAF", "PCM_16", (b"data\0\0", 4, ">q")),
    "aiff 24 bit": Container("AIFF", "PCM_24", (b"SSND", 4, ">I")),
    "caf float": Container("CAF", "FLOAT", (b"data\0\0", 4, ">q")),
    "alac": Container("CAF", "ALAC_16", (b"data\0\0", 4, ">q")),
    "au": Container("AU", "PCM_16", (b".snd", 8, ">I")),
    "au float": Container("AU", "FLOAT", (b".snd", 8, ">I")),
    "au little": Container("AU", "PCM_16", (b"dns.", 8, "<I"), endian="LITTLE"),
    "flac": Container("FLAC", "PCM_16"),
    "vorbis": Container("OGG", "VORBIS"),
    "opus": Container("OGG", "OPUS", rate_hz=48_000),
    "mp3": Container("MP3", "MPEG_LAYER_III"),
}
LENGTH_UNKNOWN = ("vorbis", "opus")  # nothing in the file tells how long it was before it was cut
# the last packet, of up to 0.13 s, is filled up, or cut off whole
IN_PACKETS = ("wav adpcm", "alac")
PLAIN = [name for name, container in CONTAINERS.items() if container.length]
ID3 = b"ID3\x04\0\0\0\0\x07\x68" + bytes(1_000)
APE_SIZE = 40
APE = b"x" * 8 + b"APETAGEX" + struct.pack("<IIII", 2_000, APE_SIZE, 1, 0) + bytes(8)
LYRICS = b"LYRICSBEGININD0000200" + b"000021LYRICS200"
JUNK_BEFORE = {
    "ID3v2": ID3,
    "random bytes": np.random.default_rng(9).bytes(2_000),
    "zeros": bytes(700),
}
JUNK_BEHIND = {
    "ID3v1": b"TAG" + bytes(125),
    "APE": APE,
    "Lyrics3 and ID3v1": LYRICS + b"TAG" + bytes(125),
    "zeros": bytes(30_000),
    "room that was set aside": bytes(3 << 20),
    "random bytes": np.random.default_rng(8).bytes(700),
}


def noise(duration_s: float, rate_hz: int, seed: int) -> Sound:
    return (
        np.random.default_rng(seed)
        .uniform(-0.4, 0.4, round(duration_s * rate_hz))
        .astype(np.float32)
    )


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, float], bytes]:
    folder = tmp_path_factory.mktemp("originals")
    made = {}
    for name, kind in CONTAINERS.items():
        for duration_s in (LONG_S, SHORT_S):
            path = folder / f"{name}{duration_s}"
            options = (kind.rate_hz, 1, kind.subtype, kind.endian, kind.format)
            with soundfile.SoundFile(path, "w", *options) as file:
                sound = noise(duration_s, kind.rate_hz, int(duration_s))
                for at in range(0, len(sound), kind.rate_hz):
                    file.write(sound[at : at + kind.rate_hz])
            made[name, duration_s] = path.read_bytes()
    return made


@dataclass(frozen=True)
class Outcome:
    decoded_s: float
    lost_s: float  # in gaps and at the end
    warning: str | None

    @property
    def total_s(self) -> float:
        return self.decoded_s + self.lost_s


def outcome(path: Path) -> Outcome:
    with Decoder(path) as decoder:
        frames = 0
        gaps_s = 0.0
        for piece in decoder:
            if isinstance(piece, Gap):
                assert piece.at_s == pytest.approx(frames / RATE_HZ + gaps_s, abs=0.001)
                gaps_s += piece.seconds
            else:
                frames += len(piece)
        assert decoder.decoded_s == pytest.approx(frames / RATE_HZ, abs=0.001)
        assert decoder.position_s == pytest.approx(decoder.decoded_s + gaps_s)
        assert (gaps_s + decoder.lost_s > 0) <= (decoder.warning is not None), (
            "a loss has its reason"
        )
        return Outcome(decoder.decoded_s, gaps_s + decoder.lost_s, decoder.warning)


def of_bytes(folder: Path, content: bytes) -> Outcome:
    path = folder / "x.bin"
    path.write_bytes(content)
    return outcome(path)


def with_length(name: str, content: bytes, change: Callable[[int], int]) -> bytes:
    """The file with another length in its header."""
    length = CONTAINERS[name].length
    assert length is not None
    mark, place, form = length
    changed = bytearray(content)
    at = content.index(mark) + place
    (old,) = struct.unpack_from(form, content, at)
    struct.pack_into(form, changed, at, change(old))
    return bytes(changed)


def with_frames(name: str, content: bytes, frames: int) -> bytes:
    """A FLAC or MP3 file that says another length."""
    changed = bytearray(content)
    if name == "flac":
        changed[21] &= 0xF0
        changed[22:26] = struct.pack(">I", frames)
    else:
        at = content.index(b"Xing") + 8
        changed[at : at + 4] = struct.pack(">I", round(frames / 1_152))
    return bytes(changed)


@pytest.mark.parametrize("name", CONTAINERS)
def test_whole(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str) -> None:
    found = of_bytes(tmp_path, originals[name, LONG_S])
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.warning is None


@pytest.mark.parametrize("share", [0.3, 0.75])
@pytest.mark.parametrize("name", CONTAINERS)
def test_cut(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, share: float
) -> None:
    content = originals[name, LONG_S]
    found = of_bytes(tmp_path, content[: int(len(content) * share)])
    assert found.warning is not None
    lossy_page_s = 1.0 if CONTAINERS[name].format == "OGG" else 0.35
    assert found.decoded_s == pytest.approx(LONG_S * share, abs=lossy_page_s)
    if name in LENGTH_UNKNOWN:
        assert "no end mark" in found.warning
        assert "how much is missing is unknown" in found.warning
    else:
        packet_s = 0.13 if name in IN_PACKETS else 0.0
        assert found.total_s == pytest.approx(LONG_S, abs=TOLERANCE_S + packet_s)
        assert f"header says {found.total_s:.1f} s" in found.warning


@pytest.mark.parametrize("said", ["0", "-1", "2**31 - 1", "2**32 - 1"])
@pytest.mark.parametrize("name", PLAIN)
def test_never_closed(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, said: str
) -> None:
    form = CONTAINERS[name].length[2]  # type: ignore[index]
    most = 2 ** (8 * struct.calcsize(form)) - 1
    number = {"0": 0, "-1": -1 if form == ">q" else most}.get(said, eval(said))
    found = of_bytes(tmp_path, with_length(name, originals[name, LONG_S], lambda _: number))
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.lost_s == 0
    assert found.warning is not None
    assert found.warning.startswith("not closed: its header gives no length; ")
    assert found.warning.endswith(" could be read, more may be missing")


def test_a_flac_from_a_pipe(tmp_path: Path, originals: dict[tuple[str, float], bytes]) -> None:
    content = with_frames("flac", originals["flac", LONG_S], 0)
    found = of_bytes(tmp_path, content)
    assert (found.decoded_s, found.warning) == (LONG_S, None)
    found = of_bytes(tmp_path, content[: len(content) // 2])
    assert found.decoded_s == pytest.approx(LONG_S / 2, abs=0.2)
    assert found.warning is not None
    assert "how much is missing is unknown" in found.warning


@pytest.mark.parametrize("share", [0.1, 0.501])
@pytest.mark.parametrize("name", [*PLAIN, "flac", "mp3"])
def test_grown_or_counted_too_small(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, share: float
) -> None:
    content = originals[name, LONG_S]
    if name in PLAIN:
        content = with_length(name, content, lambda size: int(size * share))
    else:
        content = with_frames(name, content, int(LONG_S * RATE_HZ * share))
    found = of_bytes(tmp_path, content)
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.warning is None


@pytest.mark.parametrize("name", [*(name for name in PLAIN if name != "alac"), "flac", "mp3"])
def test_counted_too_large(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    content = originals[name, LONG_S]
    if name in PLAIN:
        content = with_length(name, content, lambda size: size * 2)
    else:
        content = with_frames(name, content, int(2 * LONG_S * RATE_HZ))
    found = of_bytes(tmp_path, content)
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.total_s == pytest.approx(2 * LONG_S, abs=2 * TOLERANCE_S)


@pytest.mark.parametrize("order", [(LONG_S, SHORT_S), (SHORT_S, LONG_S), (LONG_S, LONG_S, SHORT_S)])
@pytest.mark.parametrize("name", CONTAINERS)
def test_joined(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, order: tuple[float, ...]
) -> None:
    found = of_bytes(tmp_path, b"".join(originals[name, duration_s] for duration_s in order))
    blocks_s = 0.06 * len(order) if name == "wav adpcm" else 0.0  # each last block is filled up
    assert found.decoded_s == pytest.approx(sum(order) + blocks_s, abs=TOLERANCE_S)
    assert found.warning is None


# where a beginning inside can be told
SPLICED = [*(name for name in PLAIN if name not in IN_PACKETS), "flac"]


@pytest.mark.parametrize("name", SPLICED)
def test_cut_and_then_joined(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    """What is missing of the first is a gap, and the second sounds at its time."""
    first = originals[name, LONG_S]
    found = of_bytes(tmp_path, first[: len(first) // 2] + originals[name, SHORT_S])
    assert found.total_s == pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S)
    assert found.lost_s == pytest.approx(LONG_S / 2, abs=0.2)
    assert found.warning is not None
    assert "header says 10.0 s" in found.warning


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in IN_PACKETS])
def test_never_closed_and_then_joined(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    most = 2 ** (8 * struct.calcsize(CONTAINERS[name].length[2]) - 1) - 1  # type: ignore[index]
    first = with_length(name, originals[name, LONG_S], lambda _: most)
    found = of_bytes(tmp_path, first + originals[name, SHORT_S])
    assert found.decoded_s == pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S)
    assert found.warning is None


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in ("opus", "wav adpcm")])
def test_joined_with_what_does_not_fit(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    kind = CONTAINERS[name]
    other = tmp_path / "other"
    stereo = np.repeat(noise(3, 48_000, 7)[:, None], 2, axis=1)
    with soundfile.SoundFile(other, "w", 48_000, 2, kind.subtype, kind.endian, kind.format) as file:
        for at in range(0, len(stereo), 48_000):
            file.write(stereo[at : at + 48_000])
    found = of_bytes(tmp_path, originals[name, LONG_S] + other.read_bytes())
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.lost_s == pytest.approx(3, abs=TOLERANCE_S)
    assert found.warning is not None
    assert found.warning.startswith(
        "joined with sound of 48000 Hz and 2 channels: header says 9.0 s"
    )


@pytest.mark.parametrize("name", ["flac", "vorbis", "opus", "wav", "aiff"])
def test_junk_between(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str) -> None:
    junk = np.random.default_rng(6).bytes(2_700)
    if name in PLAIN:
        junk = {"wav": LIST, "aiff": ANNO}[name] + junk[:1_500]
    found = of_bytes(tmp_path, originals[name, SHORT_S] + junk + originals[name, LONG_S])
    assert found.total_s == pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S)


OGG = ["vorbis", "opus"]


@pytest.mark.parametrize("share", [0.4, 0.6, 0.95, "a page's end"])
@pytest.mark.parametrize("name", OGG)
def test_an_ogg_that_was_cut_and_then_joined(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, share: float | str
) -> None:
    """All that is there sounds, and that the first one lost something is said."""
    first = originals[name, LONG_S]
    second = originals[name, SHORT_S]
    cut = first[: first.rfind(b"OggS\0") if isinstance(share, str) else int(len(first) * share)]
    alone = of_bytes(tmp_path, cut).decoded_s
    assert alone > 1.0
    for content, whole_s in (
        (cut + second, SHORT_S),
        (second + cut + first, SHORT_S + LONG_S),
        (cut + b"\0" * 5_000 + second, SHORT_S),
    ):
        found = of_bytes(tmp_path, content)
        assert found.decoded_s == pytest.approx(alone + whole_s, abs=TOLERANCE_S)
        assert found.warning is not None
        assert found.warning.startswith("truncated: no end mark")


@pytest.mark.parametrize(
    "junk", [np.random.default_rng(6).bytes(3_000), np.random.default_rng(7).bytes(300_000)]
)
@pytest.mark.parametrize("name", OGG)
def test_junk_behind_an_ogg_is_named(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, junk: bytes
) -> None:
    first = originals[name, LONG_S]
    second = originals[name, SHORT_S]
    for content, expected_s in ((first + junk + second, LONG_S + SHORT_S), (first + junk, LONG_S)):
        found = of_bytes(tmp_path, content)
        assert found.decoded_s == pytest.approx(expected_s, abs=TOLERANCE_S)
        assert (
            found.warning
            == f"holds {len(junk)} bytes that are not read as sound: {expected_s:.1f} s could be "
            f"read"
        )
    found = of_bytes(tmp_path, first + bytes(len(junk)) + second)
    assert (found.decoded_s, found.warning) == (
        pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S),
        None,
    )


@pytest.mark.parametrize("behind", ["flac", "wav", "aiff", "w64"])
def test_an_ogg_before_another_container(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], behind: str
) -> None:
    first = originals["vorbis", LONG_S]
    second = originals[behind, SHORT_S]
    assert of_bytes(tmp_path, first + second) == Outcome(
        pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S), 0.0, None
    )
    found = of_bytes(tmp_path, first[: len(first) // 2] + second)
    assert found.decoded_s > SHORT_S + 1.5
    assert found.warning is not None
    short = tmp_path / "short.flac"
    soundfile.write(short, noise(0.25, RATE_HZ, 3), RATE_HZ, format="FLAC")
    assert of_bytes(tmp_path, first + short.read_bytes()).decoded_s == pytest.approx(
        LONG_S + 0.25, abs=0.01
    )


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "alac"])
def test_what_looks_like_mpeg_before_a_recording(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    """Two bytes of junk may look like a frame's."""
    for sync, seed in ((b"\xff\xfb\x90\x40", 1), (b"\xff\xe3\x18\xc4", 2), (b"\xff\xf3\x40", 3)):
        junk = sync + np.random.default_rng(seed).bytes(5_000)
        found = of_bytes(tmp_path, junk + originals[name, LONG_S])
        assert (found.decoded_s, found.warning) == (pytest.approx(LONG_S, abs=TOLERANCE_S), None)


@pytest.mark.parametrize("junk", JUNK_BEFORE)
@pytest.mark.parametrize("name", CONTAINERS)
def test_junk_before(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, junk: str
) -> None:
    found = of_bytes(tmp_path, JUNK_BEFORE[junk] + originals[name, LONG_S])
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.warning is None


@pytest.mark.parametrize("junk", JUNK_BEHIND)
@pytest.mark.parametrize("name", CONTAINERS)
def test_junk_behind(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, junk: str
) -> None:
    found = of_bytes(tmp_path, originals[name, LONG_S] + JUNK_BEHIND[junk])
    assert found.total_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.warning is None


def test_bw64_is_rf64_by_another_name(
    tmp_path: Path, originals: dict[tuple[str, float], bytes]
) -> None:
    content = b"BW64" + originals["rf64", LONG_S][4:]
    assert of_bytes(tmp_path, content) == Outcome(LONG_S, 0.0, None)
    assert of_bytes(tmp_path, content[: len(content) // 2]).total_s == pytest.approx(
        LONG_S, abs=TOLERANCE_S
    )


# What follows the sound and is none

LIST = b"LIST" + struct.pack("<I", 26) + b"INFOICMT" + struct.pack("<I", 14) + b"a nightingale\0"
GUANO = b"guan" + struct.pack("<I", 2_400) + b"GUANO|Version: 1.0\n".ljust(2_400)
UNKNOWN = b"Xyz1" + struct.pack("<I", 40_000) + bytes(range(256)) * 156 + bytes(64)
W64_LIST = (
    b"list\x2f\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
    + struct.pack("<Q", 8_024)
    + bytes(8_000)
)
ANNO = b"ANNO" + struct.pack(">I", 9_001) + b"x" * 9_002
CAF_INFO = b"info" + struct.pack(">q", 9_001) + b"x" * 9_001
CHUNKS = {
    "wav": [LIST, GUANO, UNKNOWN, LIST + GUANO, UNKNOWN + LIST],
    "wav 24 bit": [LIST + UNKNOWN],
    "rf64": [GUANO, UNKNOWN],
    "w64": [W64_LIST],
    "aiff": [ANNO, ANNO * 3, b"ID3 " + struct.pack(">I", 10_000) + bytes(10_000)],
    "caf": [CAF_INFO, CAF_INFO * 2],
}


@pytest.mark.parametrize("extra", ["", "tag", "another file", "cut", "zeros"])
@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_are_no_sound(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, extra: str
) -> None:
    """Neither sound nor a loss; whatever stands behind them, or if they are cut."""
    for chunks in CHUNKS[name]:
        if extra == "cut" and UNKNOWN in chunks:
            continue  # what nobody knows and leads out of the file counts as sound
        content = originals[name, LONG_S] + chunks
        behind = {
            "tag": JUNK_BEHIND["ID3v1"],
            "another file": originals[name, SHORT_S],
            "zeros": bytes(512),
        }
        content += behind.get(extra, b"")
        found = of_bytes(
            tmp_path, content[:-1_000] if extra == "cut" and len(chunks) > 2_000 else content
        )
        expected_s = LONG_S + SHORT_S if extra == "another file" else LONG_S
        assert found == Outcome(pytest.approx(expected_s, abs=0.001), 0.0, None)


NO_SOUND = {
    "text": b"Recorded by me at the lake.\r\n" * 5_000,
    "XML": b'<?xml version="1.0"?><x>' + b"<y>1</y>" * 500,
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF" + np.random.default_rng(4).bytes(200_000),
    "PDF": b"%PDF-1.4\n" + np.random.default_rng(4).bytes(3_000),
    "random bytes": np.random.default_rng(4).bytes(5_000),
}


@pytest.mark.parametrize("kind", NO_SOUND)
@pytest.mark.parametrize("name", [name for name in PLAIN if name not in IN_PACKETS])
def test_what_is_no_sound_behind_a_right_header_is_named(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, kind: str
) -> None:
    content = originals[name, LONG_S]
    junk = NO_SOUND[kind]
    found = of_bytes(tmp_path, content + junk)
    words = f"holds {len(junk)} bytes that are not read as sound: "
    assert found == Outcome(pytest.approx(LONG_S, abs=0.001), 0.0, words + "6.0 s could be read")
    both = of_bytes(tmp_path, content + junk + originals[name, SHORT_S])
    assert both == Outcome(
        pytest.approx(LONG_S + SHORT_S, abs=0.001), 0.0, words + "10.0 s could be read"
    )


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in IN_PACKETS])
def test_a_tag_behind_a_right_header_is_no_loss(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    for tag in (ID3[:6] + b"\0\0\x27\0" + bytes(4_992), ID3[:6] + b"\0\x08\0\0" + b"\1" * 131_072):
        assert of_bytes(tmp_path, originals[name, LONG_S] + tag) == Outcome(
            pytest.approx(LONG_S, abs=0.001), 0.0, None
        )


@pytest.mark.parametrize("said_s", [1.0, 4.5])
@pytest.mark.parametrize(
    "name", ["wav", "wav float", "wav 8 bit", "rf64", "w64", "aiff", "caf", "au"]
)
def test_a_header_of_which_both_lengths_are_too_small(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, said_s: float
) -> None:
    """As of a recorder that died after it last wrote them: more than a second behind them is
    sound."""
    content = originals[name, LONG_S]
    missing = 0

    def shorter(size: int) -> int:
        nonlocal missing
        missing = size - int(size * said_s / LONG_S) // 8 * 8
        return size - missing

    changed = bytearray(with_length(name, content, shorter))
    outer = {"wav": (4, "<I"), "rf64": (20, "<Q"), "w64": (16, "<Q"), "aiff": (4, ">I")}.get(
        name.split()[0]
    )
    if outer:
        at, form = outer
        struct.pack_into(form, changed, at, struct.unpack_from(form, content, at)[0] - missing)
    assert of_bytes(tmp_path, bytes(changed)) == Outcome(
        pytest.approx(LONG_S, abs=0.001), 0.0, None
    )


ROOM = bytes(3 << 20)  # what a recorder set aside on its card before the power went


@pytest.mark.parametrize("how", ["right", "too small", "never closed"])
@pytest.mark.parametrize("name", [name for name in PLAIN if name not in IN_PACKETS])
def test_room_that_no_header_declares_is_no_sound(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, how: str
) -> None:
    """Real samples behind a declared end are, silence between them, and so is a little silence at
    the end."""
    sizes: dict[str, Callable[[int], int]] = {
        "too small": lambda size: size // 2 // 8 * 8,
        "never closed": lambda _: 0,
    }
    content = with_length(name, originals[name, LONG_S], sizes.get(how, lambda size: size))
    found = of_bytes(tmp_path, content + ROOM)
    assert (found.decoded_s, found.lost_s) == (pytest.approx(LONG_S, abs=0.001), 0.0)
    assert (found.warning or "").startswith("not closed: " if how == "never closed" else "")
    assert (found.warning is None) is (how != "never closed")
    if how != "right":
        a_second = bytes(len(content) // 6 // 24 * 24)
        silent = of_bytes(tmp_path, content + a_second)
        assert silent.decoded_s == pytest.approx(LONG_S + 1, abs=0.02)
        between = of_bytes(tmp_path, content + ROOM + content[-len(a_second) :])
        assert between.decoded_s > LONG_S + 4, "what is said to be room is silence: more follows it"


@pytest.mark.parametrize("name", ["flac", "vorbis", "opus", "mp3"])
def test_a_stream_that_ends_in_room_is_cut(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    """The power went: what was written is decoded, no silence is made of the rest, and it is
    said."""
    content = originals[name, LONG_S]
    found = of_bytes(tmp_path, content[: len(content) // 2] + ROOM)
    assert LONG_S / 2 - 1.1 < found.decoded_s < LONG_S / 2 + 0.2
    assert found.warning is not None
    if name not in LENGTH_UNKNOWN:
        assert found.total_s == pytest.approx(LONG_S, abs=TOLERANCE_S)


def test_a_dead_microphone_in_a_right_header_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(60 * RATE_HZ, np.int16), RATE_HZ)
    assert outcome(path) == Outcome(60.0, 0.0, None)


def test_room_without_any_sound_is_refused(
    tmp_path: Path, originals: dict[tuple[str, float], bytes]
) -> None:
    content = with_length("wav", originals["wav", LONG_S][:44], lambda _: 0)
    with pytest.raises(RecordingError, match="header only: 0 samples"):
        of_bytes(tmp_path, content + ROOM)


def test_a_second_chunk_of_sound_is_sound(
    tmp_path: Path, originals: dict[tuple[str, float], bytes]
) -> None:
    more = originals["wav", SHORT_S][44:]
    content = (
        originals["wav", LONG_S] + LIST + b"data" + struct.pack("<I", len(more)) + more + GUANO
    )
    assert of_bytes(tmp_path, content) == Outcome(LONG_S + SHORT_S, 0.0, None)


def test_a_missing_padding_byte_is_forgiven(tmp_path: Path) -> None:
    sound = np.zeros(3 * 8_001, np.uint8).tobytes()
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 3, 8_000, 24_000, 3, 8)
    body = b"WAVE" + form + b"data" + struct.pack("<I", len(sound)) + sound
    for padding in (b"", b"\0"):
        content = b"RIFF" + struct.pack("<I", len(body)) + body + padding + LIST
        assert of_bytes(tmp_path, content) == Outcome(pytest.approx(1.0, abs=0.001), 0.0, None)


@pytest.mark.parametrize("name", ["wav", "aiff"])
def test_a_header_without_sound_before_a_recording(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    """A recorder that opened its file twice."""
    content = originals[name, LONG_S]
    empty = with_length(name, content, lambda _: 0 if name == "wav" else 8)[
        : {"wav": 44, "aiff": 54}[name]
    ]
    assert of_bytes(tmp_path, empty + content).decoded_s == pytest.approx(LONG_S, abs=0.01)


def wrapped(path: Path, kind: str, rate_hz: int, minute: bytes) -> float:
    """A sparse file of more than 4 GB, of which the header has the rest of a division; the seconds
    that are in it."""
    size = (2**32 + 50_000_000) // 4 * 4
    if kind == "wav":
        form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 2, rate_hz, 4 * rate_hz, 4, 16)
        head = b"RIFF" + struct.pack("<I", (size + 36) % 2**32) + b"WAVE" + form
        head += b"data" + struct.pack("<I", size % 2**32)
    else:
        head = b".snd" + struct.pack(">5I", 24, size % 2**32, 3, rate_hz, 2)
    with path.open("wb") as file:
        file.write(head + minute)
        file.seek(len(head) + size - len(minute))
        file.write(minute + (LIST if kind == "wav" else b""))
    return size / 4 / rate_hz


@pytest.mark.parametrize("kind", ["wav", "au"])
def test_a_length_counted_in_32_bits(tmp_path: Path, kind: str) -> None:
    seconds = wrapped(tmp_path / "x", kind, 192_000, b"\1\2" * 192_000)
    with Decoder(tmp_path / "x") as decoder:
        assert decoder.expected_s == pytest.approx(seconds)


@pytest.mark.slow
def test_more_than_4_gb_are_read_to_their_end(tmp_path: Path) -> None:
    rate_hz = 384_000
    tone = (1_000 * np.sin(np.arange(4 * rate_hz) / 50)).astype("<i2").tobytes()
    seconds = wrapped(tmp_path / "x.wav", "wav", rate_hz, tone)
    with Decoder(tmp_path / "x.wav", rate_hz=rate_hz) as decoder:
        for piece in decoder:
            assert not isinstance(piece, Gap)
        assert np.abs(piece[-rate_hz:]).max() > 0.02
        assert decoder.decoded_s == pytest.approx(seconds)
        assert decoder.warning is None


# MPEG audio that does not say how long it is


def without_xing(content: bytes) -> bytes:
    """From the second frame on: the first one has the length."""
    return content[content.index(content[:2], content.index(b"Xing")) :]


@pytest.mark.parametrize("between", ["", "ID3v2", "ID3v1", "random bytes"])
@pytest.mark.parametrize("told", [(False, False), (False, True), (True, False), (True, True)])
def test_mp3_joined(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], told: tuple[bool, bool], between: str
) -> None:
    first, second = (
        originals["mp3", duration_s] if has_length else without_xing(originals["mp3", duration_s])
        for duration_s, has_length in zip((LONG_S, SHORT_S), told, strict=True)
    )
    junk = (JUNK_BEFORE | {"ID3v1": JUNK_BEHIND["ID3v1"], "": b""})[between]
    found = of_bytes(tmp_path, first + junk + second)
    frames_s = 4 * 1_152 / RATE_HZ  # what encoder and decoder put before and behind each
    assert found.decoded_s == pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S + frames_s)
    assert found.warning is None or between == "random bytes"  # these may have been sound


def test_mp3_that_was_cut_tells_what_it_can(
    tmp_path: Path, originals: dict[tuple[str, float], bytes]
) -> None:
    content = without_xing(originals["mp3", LONG_S])
    found = of_bytes(tmp_path, content[: len(content) // 2])
    assert found.decoded_s == pytest.approx(LONG_S / 2, abs=0.2)
    assert found.lost_s == 0.0


# A second witness


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    "name", [name for name in CONTAINERS if name not in ("wav adpcm", "alac", "au little", "mp3")]
)
def test_ffmpeg_hears_the_same(
    tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str
) -> None:
    """Of a file that was cut, where its length is right: it stops at declared lengths and conceals
    errors."""
    content = originals[name, LONG_S]
    path = tmp_path / "x.bin"
    path.write_bytes(content[: int(len(content) * 0.6)])
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-f", "f32le", "-ac", "1", "-"]
    heard = np.frombuffer(subprocess.run(command, capture_output=True, check=False).stdout, "<f4")
    rate_hz = CONTAINERS[name].rate_hz
    with Decoder(path, rate_hz=rate_hz) as decoder:
        ours = np.concatenate([piece for piece in decoder if not isinstance(piece, Gap)])
    # the last frame that is whole may be given or not
    assert len(ours) == pytest.approx(len(heard), abs=0.2 * rate_hz)
    if CONTAINERS[name].subtype not in ("VORBIS", "OPUS"):
        both = min(len(ours), len(heard))
        assert np.abs(ours[:both] - heard[:both]).max() < 0.001
