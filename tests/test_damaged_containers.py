"""Containers x ways to damage them: seconds decoded + seconds in gaps and losses = the seconds that were put in."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ
from edge.types import Gap

Sound = npt.NDArray[np.float32]
LONG_S, SHORT_S = 6.0, 4.0
TOLERANCE_S = 0.1


@dataclass(frozen=True)
class Container:
    """How libsndfile writes one, and where its header says how long it is: (place behind a mark, struct, mark)."""

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
    "rf64": Container("RF64", "PCM_16", (b"ds64", 16, "<Q")),
    "w64": Container("W64", "PCM_16", (b"data\xf3\xac", 16, "<Q")),
    "aiff": Container("AIFF", "PCM_16", (b"SSND", 4, ">I")),
    "aifc": Container("AIFF", "PCM_16", (b"SSND", 4, ">I"), endian="LITTLE"),
    "caf": Container("CAF", "PCM_16", (b"data\0\0", 4, ">q")),
    "au": Container("AU", "PCM_16", (b".snd", 8, ">I")),
    "au float": Container("AU", "FLOAT", (b".snd", 8, ">I")),
    "flac": Container("FLAC", "PCM_16"),
    "vorbis": Container("OGG", "VORBIS"),
    "opus": Container("OGG", "OPUS", rate_hz=48_000),
    "mp3": Container("MP3", "MPEG_LAYER_III"),
}
LENGTH_UNKNOWN = ("vorbis", "opus")  # nothing in the file tells how long it was before it was cut
PLAIN = [name for name, container in CONTAINERS.items() if container.length]
ID3 = b"ID3\x04\0\0\0\0\x07\x68" + bytes(1_000)
APE_SIZE = 40
APE = b"x" * 8 + b"APETAGEX" + struct.pack("<IIII", 2_000, APE_SIZE, 1, 0) + bytes(8)
LYRICS = b"LYRICSBEGININD0000200" + b"000021LYRICS200"
JUNK_BEFORE = {"ID3v2": ID3, "random bytes": np.random.default_rng(9).bytes(2_000), "zeros": bytes(700)}
JUNK_BEHIND = {
    "ID3v1": b"TAG" + bytes(125),
    "APE": APE,
    "Lyrics3 and ID3v1": LYRICS + b"TAG" + bytes(125),
    "zeros": bytes(30_000),
    "random bytes": np.random.default_rng(8).bytes(700),
}


def noise(duration_s: float, rate_hz: int, seed: int) -> Sound:
    return np.random.default_rng(seed).uniform(-0.4, 0.4, round(duration_s * rate_hz)).astype(np.float32)


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
        frames, gaps_s = 0, 0.0
        for piece in decoder:
            if isinstance(piece, Gap):
                assert piece.at_s == pytest.approx(frames / RATE_HZ + gaps_s, abs=0.001)
                gaps_s += piece.seconds
            else:
                frames += len(piece)
        assert decoder.decoded_s == pytest.approx(frames / RATE_HZ, abs=0.001)
        assert decoder.position_s == pytest.approx(decoder.decoded_s + gaps_s)
        assert (gaps_s + decoder.lost_s > 0) <= (decoder.warning is not None), "a loss has its reason"
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
def test_cut(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, share: float) -> None:
    content = originals[name, LONG_S]
    found = of_bytes(tmp_path, content[: int(len(content) * share)])
    assert found.warning is not None
    lossy_page_s = 1.0 if CONTAINERS[name].format == "OGG" else 0.35
    assert found.decoded_s == pytest.approx(LONG_S * share, abs=lossy_page_s)
    if name in LENGTH_UNKNOWN:
        assert "no end mark" in found.warning
        assert "how much is missing is not known" in found.warning
    else:
        assert found.total_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
        assert "header says 6.0 s" in found.warning


@pytest.mark.parametrize("said", ["0", "-1", "2**31 - 1", "2**32 - 1"])
@pytest.mark.parametrize("name", PLAIN)
def test_never_closed(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, said: str) -> None:
    form = CONTAINERS[name].length[2]  # type: ignore[index]
    most = 2 ** (8 * struct.calcsize(form)) - 1
    number = {"0": 0, "-1": -1 if form == ">q" else most}.get(said, eval(said))
    found = of_bytes(tmp_path, with_length(name, originals[name, LONG_S], lambda _: number))
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.warning is None


def test_a_flac_from_a_pipe(tmp_path: Path, originals: dict[tuple[str, float], bytes]) -> None:
    content = with_frames("flac", originals["flac", LONG_S], 0)
    found = of_bytes(tmp_path, content)
    assert (found.decoded_s, found.warning) == (LONG_S, None)
    found = of_bytes(tmp_path, content[: len(content) // 2])
    assert found.decoded_s == pytest.approx(LONG_S / 2, abs=0.2)
    assert found.warning is not None
    assert "how much is missing is not known" in found.warning


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


@pytest.mark.parametrize("name", [*PLAIN, "flac", "mp3"])
def test_counted_too_large(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str) -> None:
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
def test_joined(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, order: tuple[float, ...]) -> None:
    found = of_bytes(tmp_path, b"".join(originals[name, duration_s] for duration_s in order))
    blocks_s = 0.06 * len(order) if name == "wav adpcm" else 0.0  # each last block is filled up
    assert found.decoded_s == pytest.approx(sum(order) + blocks_s, abs=TOLERANCE_S)
    assert found.warning is None


SPLICED = [name for name in PLAIN if name != "wav adpcm"] + ["flac"]  # where a beginning inside can be told


@pytest.mark.parametrize("name", SPLICED)
def test_cut_and_then_joined(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str) -> None:
    """What is missing of the first is a gap, and the second sounds at its time."""
    first = originals[name, LONG_S]
    found = of_bytes(tmp_path, first[: len(first) // 2] + originals[name, SHORT_S])
    assert found.total_s == pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S)
    assert found.lost_s == pytest.approx(LONG_S / 2, abs=0.2)
    assert found.warning is not None
    assert "header says 10.0 s" in found.warning


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "wav adpcm"])
def test_never_closed_and_then_joined(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str) -> None:
    most = 2 ** (8 * struct.calcsize(CONTAINERS[name].length[2]) - 1) - 1  # type: ignore[index]
    first = with_length(name, originals[name, LONG_S], lambda _: most)
    found = of_bytes(tmp_path, first + originals[name, SHORT_S])
    assert found.decoded_s == pytest.approx(LONG_S + SHORT_S, abs=TOLERANCE_S)
    assert found.warning is None


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in ("opus", "wav adpcm")])
def test_joined_with_what_does_not_fit(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str) -> None:
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
    assert found.warning.startswith("joined with sound of 48000 Hz and 2 channels: header says 9.0 s")


@pytest.mark.parametrize("junk", JUNK_BEFORE)
@pytest.mark.parametrize("name", CONTAINERS)
def test_junk_before(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, junk: str) -> None:
    found = of_bytes(tmp_path, JUNK_BEFORE[junk] + originals[name, LONG_S])
    assert found.decoded_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    assert found.warning is None


@pytest.mark.parametrize("junk", JUNK_BEHIND)
@pytest.mark.parametrize("name", CONTAINERS)
def test_junk_behind(tmp_path: Path, originals: dict[tuple[str, float], bytes], name: str, junk: str) -> None:
    found = of_bytes(tmp_path, originals[name, LONG_S] + JUNK_BEHIND[junk])
    assert found.total_s == pytest.approx(LONG_S, abs=TOLERANCE_S)
    if junk == "random bytes" and CONTAINERS[name].subtype == "FLOAT":
        return  # behind the declared end they count as sound, and are no numbers
    assert found.warning is None
