"""Decoding: every sound in a file comes out once, at the right length and level, or one line says
why not."""

import os
import struct
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.capture.container import CHANNELS_MAX
from edge.capture.container_layout import chunks
from edge.capture.recording import (
    DURATION_S_MAX,
    SIDECAR_SUFFIXES,
    Decoder,
    find_recordings,
    open_recording,
    stream,
)
from edge.contract.errors import RecordingError

Sound = npt.NDArray[np.float32]
CODECS = {  # suffix: format, subtype, tolerance of a sine's level
    "wav": ("WAV", "PCM_16", 0.002),
    "24.wav": ("WAVEX", "PCM_24", 0.002),
    "float.wav": ("WAV", "FLOAT", 0.002),
    "rf64": ("RF64", "PCM_16", 0.002),
    "aiff": ("AIFF", "PCM_16", 0.002),
    "w64": ("W64", "PCM_16", 0.002),
    "caf": ("CAF", "PCM_16", 0.002),
    "au": ("AU", "PCM_16", 0.002),
    "flac": ("FLAC", "PCM_16", 0.002),
    "ogg": ("OGG", "VORBIS", 0.05),
    "mp3": ("MP3", "MPEG_LAYER_III", 0.12),  # the encoder takes 10 % off a sine at 32 kHz
}


def sine(duration_s: float, rate_hz: int, channels: int = 1, hz: float = 1_000.0) -> Sound:
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate_hz)) / rate_hz)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def noise(duration_s: float, rate_hz: int, seed: int = 0) -> Sound:
    return (
        np.random.default_rng(seed)
        .uniform(-0.5, 0.5, (round(duration_s * rate_hz), 1))
        .astype(np.float32)
    )


def write(path: Path, sound: Sound, rate_hz: int, codec: str = "wav", **options: object) -> Path:
    kind, subtype, _ = CODECS[codec]
    with soundfile.SoundFile(
        path, "w", rate_hz, sound.shape[1], subtype=subtype, format=kind, **options
    ) as file:
        # libsndfile's Vorbis writer dies of one large write
        for at in range(0, len(sound), rate_hz):
            file.write(sound[at : at + rate_hz])
    return path


def read(path: Path, **options: float) -> Sound:
    return np.concatenate(list(stream(path, **options)))  # type: ignore[arg-type]


def outcome(path: Path) -> tuple[float, float, str | None]:
    """Seconds decoded, seconds lost, and the warning."""
    with Decoder(path) as decoder:
        frames = sum(len(block) for block in decoder)
        assert abs(frames - decoder.decoded_s * decoder.rate_hz) <= 1
        return decoder.decoded_s, decoder.lost_s, decoder.warning


def refusal(path: Path) -> str:
    with pytest.raises(RecordingError) as error:
        for _ in stream(path):
            pass
    assert error.value.path == path
    assert "\n" not in error.value.reason
    return error.value.reason


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("rate_hz", "channels"), [(32_000, 1), (48_000, 2), (22_050, 1), (8_000, 2)]
)
def test_length_and_level_survive_codec_rate_and_channels(
    tmp_path: Path, codec: str, rate_hz: int, channels: int
) -> None:
    path = write(tmp_path / f"x.{codec}", sine(2.3, rate_hz, channels), rate_hz, codec)
    recording = open_recording(path)
    assert (recording.rate_hz, recording.channels) == (rate_hz, channels)
    assert recording.duration_s == pytest.approx(2.3, abs=0.001)
    sound = read(path)
    assert sound.dtype == np.float32
    assert abs(len(sound) - 2.3 * 32_000) <= 2
    inside = sound[8_000:-8_000].astype(np.float64)
    assert np.sqrt(2 * np.mean(inside**2)) == pytest.approx(0.5, rel=CODECS[codec][2])
    assert outcome(path)[1:] == (0.0, None)


@pytest.mark.parametrize(
    "rate_hz", [1_000, 11_025, 44_100, 96_000, 250_000, 384_000, 500_000, 1_000_000]
)
def test_resampling_keeps_length_level_and_place(tmp_path: Path, rate_hz: int) -> None:
    path = write(tmp_path / "x.wav", sine(1.0, rate_hz, hz=200), rate_hz)
    sound = read(path)
    assert abs(len(sound) - 32_000) <= 1
    expected = sine(1.0, 32_000, hz=200)[:, 0]
    assert np.abs(sound[1_000:31_000] - expected[1_000:31_000]).max() < 0.001  # level and no delay


def test_what_the_lower_rate_cannot_hold_is_removed_not_folded(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", sine(1.0, 48_000, hz=20_000), 48_000)
    assert np.abs(read(path)[2_000:-2_000]).max() < 1e-4
    path = write(tmp_path / "y.wav", sine(1.0, 48_000, hz=14_000), 48_000)
    assert np.abs(read(path)[2_000:-2_000]).max() == pytest.approx(0.5, rel=0.01)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left = noise(1.0, 32_000)
    path = write(tmp_path / "x.wav", np.hstack([left, np.zeros_like(left)]), 32_000, "float.wav")
    assert np.allclose(read(path), left[:, 0] / 2, atol=1e-7)


def test_samples_at_the_native_rate_are_untouched_even_beyond_full_scale(tmp_path: Path) -> None:
    sound = 10 * noise(3.0, 32_000)
    path = write(tmp_path / "x.wav", sound, 32_000, "float.wav")
    assert np.array_equal(read(path), sound[:, 0])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rate_hz=st.sampled_from([8_000, 16_000, 22_050, 32_000, 44_100, 47_999, 48_000, 96_000]),
    channels=st.integers(1, 4),
    frames=st.integers(9_600, 60_000),
    block_s=st.floats(0.1, 3.0),
)
def test_block_sizes_change_nothing_but_the_cut(
    tmp_path: Path, rate_hz: int, channels: int, frames: int, block_s: float
) -> None:
    path = write(
        tmp_path / "x.flac",
        noise(frames / rate_hz, rate_hz).repeat(channels, axis=1),
        rate_hz,
        "flac",
    )
    blocks = list(stream(path, block_s=block_s))
    assert {len(block) for block in blocks[:-1]} <= {round(block_s * 32_000)}
    assert 0 < len(blocks[-1]) <= round(block_s * 32_000)
    sound = np.concatenate(blocks)
    assert abs(len(sound) - frames * 32_000 / rate_hz) <= 1
    assert np.array_equal(sound, read(path, block_s=60.0))


def test_blocks_are_the_callers_to_keep(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", noise(1.0, 32_000), 32_000)
    blocks = list(stream(path, block_s=0.25))
    kept = [block.copy() for block in blocks]
    for block in blocks:
        block[:] = 0
    assert np.array_equal(np.concatenate(kept), read(path))


def test_an_early_end_and_a_second_reader_close_their_files(tmp_path: Path) -> None:
    path = write(tmp_path / "x.flac", noise(1.0, 32_000), 32_000, "flac")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        next(iter(stream(path, block_s=0.1)))
        with Decoder(path) as decoder:
            next(iter(decoder))
    (tmp_path / "bad.wav").write_bytes(b"RIFFnonsense")
    for _ in range(20):
        refusal(tmp_path / "bad.wav")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


# What is lost


@pytest.mark.parametrize("codec", ["wav", "24.wav", "rf64", "aiff", "flac", "mp3"])
def test_a_truncated_file_gives_its_beginning_and_the_loss(tmp_path: Path, codec: str) -> None:
    path = write(tmp_path / f"x.{codec}", noise(10.0, 32_000), 32_000, codec)
    whole = read(path)
    os.truncate(path, path.stat().st_size * 6 // 10)
    assert np.array_equal(read(path)[:160_000], whole[:160_000])
    decoded_s, lost_s, warning = outcome(path)
    assert decoded_s == pytest.approx(6.0, abs=0.3)
    assert decoded_s + lost_s == pytest.approx(10.0, abs=0.01)
    assert warning is not None
    assert "header says 10.0 s" in warning


def test_a_truncated_ogg_lacks_its_end_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ogg", noise(10.0, 32_000), 32_000, "ogg")
    os.truncate(path, path.stat().st_size * 6 // 10)
    decoded_s, lost_s, warning = outcome(path)
    assert 5.0 < decoded_s < 7.0
    assert lost_s == 0.0
    assert warning is not None
    assert "no end mark" in warning


def test_damage_inside_ends_what_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.flac", noise(10.0, 32_000), 32_000, "flac")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4_096] = bytes(4_096)
    path.write_bytes(content)
    decoded_s, lost_s, warning = outcome(path)
    assert 4.0 < decoded_s < 6.0
    assert decoded_s + lost_s == pytest.approx(10.0)
    assert warning is not None
    assert warning.startswith("damaged (")


NO_NUMBER = "samples that are not numbers"
NO_SOUND = "far beyond full scale"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        *((np.nan, NO_NUMBER), (np.inf, NO_NUMBER), (-np.inf, NO_NUMBER)),
        *((1e30, NO_SOUND), (-3.4e38, NO_SOUND), (2.0**33, NO_SOUND)),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_numbers_end_what_can_be_read(
    tmp_path: Path, bad: float, said: str, channels: int
) -> None:
    sound = noise(5.0, 32_000).repeat(channels, axis=1)
    sound[64_000, 0] = bad
    path = write(tmp_path / "x.wav", sound, 32_000, "float.wav")
    decoded_s, lost_s, warning = outcome(path)
    assert (decoded_s, lost_s) == (2.0, 3.0)
    assert warning is not None
    assert said in warning
    assert np.isfinite(read(path)).all()
    sound[0] = bad
    assert (said if channels == 1 else "damaged (samples") in refusal(
        write(path, sound, 32_000, "float.wav")
    )


@pytest.mark.parametrize("size", [0, 2**31, 2**32 - 1])
def test_a_wav_that_was_never_closed_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "x.wav", noise(3.0, 32_000), 32_000)
    content = bytearray(path.read_bytes())
    whole = read(path)
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert np.array_equal(read(path), whole)
    said = "not closed: its header gives no length; 3.0 s could be read, more may be missing"
    assert outcome(path) == (3.0, 0.0, said)


def test_a_flac_that_does_not_say_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "x.flac", noise(3.0, 32_000), 32_000, "flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert open_recording(path).frames is None
    assert outcome(path) == (3.0, 0.0, None)


@pytest.mark.parametrize("tags", [b"", b"ID3\x04\x00\x00\x00\x00\x07\x68" + bytes(1_000)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_mp3_without_a_length_is_read_to_its_end(
    tmp_path: Path, tags: bytes, wrapped: bool
) -> None:
    """libsndfile alone extrapolates the first frame's bit rate and stops after a sixth of this
    one."""
    sound = np.concatenate([noise(5.0, 32_000), 0.001 * sine(15.0, 32_000)])
    path = write(
        tmp_path / "x.mp3", sound, 32_000, "mp3", bitrate_mode="VARIABLE", compression_level=0.5
    )
    content = path.read_bytes()
    second_frame = content.index(content[:2], content.index(b"Xing"))
    box = b"\0\0\0\x14ftypqt  \0\0\0\0qt  \0\0\0\0mdat" if wrapped else b""
    path.write_bytes(tags + box + content[second_frame:])
    recording = open_recording(path)
    assert recording.frames is None
    assert recording.format == "MP3"
    decoded_s, lost_s, warning = outcome(path)
    assert decoded_s == pytest.approx(20.0, abs=0.2)
    assert (lost_s, warning) == (0.0, None)


# What is refused


def test_refusals_name_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"")
    assert refusal(path) == "empty file"
    assert refusal(write(path, sine(0, 32_000), 32_000)) == "header only: 0 samples"
    assert (
        refusal(write(path, sine(0.05, 32_000), 32_000))
        == "too short: 50 ms; at least 100 ms are needed"
    )
    assert (
        refusal(write(path, sine(1, 500), 500))
        == "sample rate of 500 Hz; 1000 to 1000000 can be read"
    )
    too_many = sine(0.2, 8_000, CHANNELS_MAX + 1)
    assert refusal(write(path, too_many, 8_000)) == f"33 channels; 1 to {CHANNELS_MAX} can be read"
    path.write_bytes(bytes(100_000))
    assert refusal(path) == "not audio: only zero bytes (lost in a power cut?)"
    path.write_bytes(b"Dear diary, today I heard a nightingale. " * 100)
    assert refusal(path) == "not audio, or damaged: Format not recognised"
    path.write_bytes(b"RIFF\xff\xff\xff\xffWAVEfmt ")
    assert refusal(path).startswith("damaged or of an unknown codec: ")
    assert refusal(tmp_path) == "a folder, not a recording"
    assert refusal(tmp_path / "none.wav") == "cannot be opened: No such file or directory"
    assert "\0" not in refusal(Path("a\0b.wav"))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypM4A ", "MPEG-4/AAC"),
        (b"ID3\x04\0\0\0\0\0\x02xx\xff\xf1\x50\x80", "AAC"),
        (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "Windows Media"),
        (b"wvpk", "WavPack"),
        (b"DSD ", "DSD"),
        (b"MAC ", "Monkey's Audio"),
        (b"MATLAB 5.0 MAT-file", None),
    ],
)
def test_formats_that_people_have_are_refused_by_name(
    tmp_path: Path, head: bytes, name: str | None
) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(head + bytes(range(256)) * 20)
    if name is None:
        refusal(path)
    else:
        assert refusal(path) == f"format not supported: {name}; convert to FLAC or WAV"


def test_a_foreign_format_that_libsndfile_knows_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, sine(1, 8_000), 8_000, format="MAT5", subtype="PCM_16")
    assert refusal(path) == "format not supported: MAT5; convert to FLAC or WAV"


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "really_an.wav", noise(1.0, 32_000), 32_000, "mp3")
    assert open_recording(path).format == "MP3"
    assert outcome(path)[0] == pytest.approx(1.0, abs=0.1)


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    assert outcome(write(tmp_path / "x.wav", noise(1.0, 32_000), 32_000).rename(path))[0] == 1.0


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.wav")
    assert refusal(tmp_path / "x.wav") == "not a regular file"
    assert find_recordings(tmp_path) == []


def test_absurd_lengths_cost_nothing(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "x.flac", noise(1.0, 32_000), 32_000, "flac").read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4  # 2**36 - 1 samples
    (tmp_path / "x.flac").write_bytes(content)
    decoded_s, lost_s, warning = outcome(tmp_path / "x.flac")
    assert decoded_s == 1.0
    assert lost_s == DURATION_S_MAX - 1.0  # what would have been read of it
    assert warning is not None
    rf64 = bytearray(write(tmp_path / "x.rf64", noise(1.0, 32_000), 32_000, "rf64").read_bytes())
    at = rf64.index(b"ds64") + 16
    rf64[at : at + 8] = struct.pack("<Q", 2**62)
    (tmp_path / "x.rf64").write_bytes(rf64)
    started = time.process_time()
    assert outcome(tmp_path / "x.rf64")[0] == pytest.approx(1.0)
    assert time.process_time() - started < 2.0, "seconds of work, however busy the machine"


# Finding them


def test_find_recordings(tmp_path: Path) -> None:
    wanted = [
        "B.WAV",
        "a/20240512_034500.wav",
        "a/b/x.flac",
        "a/b/y.m4a",
        "a.mp3",
        "odd.xyz",
        "no_suffix",
    ]
    for name in [*wanted, "._B.WAV", ".Trash/x.wav", "notes.txt", "a/b/settings.wav/x.json"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "B.WAV")
    found = find_recordings(tmp_path)
    assert found == sorted(tmp_path / name for name in [*wanted, "link.wav"])
    assert find_recordings(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(RecordingError, match="no such file or folder"):
        find_recordings(tmp_path / "none")
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SIDECAR_SUFFIXES)


def test_a_folder_that_may_not_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, whom no permission stops: the system's answer is stood in for."""
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refused(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert find_recordings(tmp_path) == [tmp_path / "locked"]


# Garbage


def survives(path: Path) -> None:
    started = time.process_time()
    with suppress(RecordingError):
        for block in stream(path):
            assert np.isfinite(block).all()
    assert time.process_time() - started < 5.0
    with path.open("rb") as file:
        if (kind := file.read(4)) in (b"RIFF", b"RF64", b"BW64", b"FORM"):
            assert len(list(chunks(file, kind, 0, path.stat().st_size))) <= 1_000


MAGICS = [
    b"RIFF\0\0\0\0WAVEfmt ",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"FORM\0\0\0\0AIFFCOMM",
    b"fLaC\0\0\0\x22",
]
MAGICS += [
    b"OggS\0\x02",
    b"ID3\x04\0\0\0\0\0\0\xff\xfb\x90\x44",
    b"\xff\xfb\x90\x44",
    b"caff\0\x01\0\0desc",
    b"",
]
MAGICS += [b".snd", b"\0\0\0\x14ftypqt  mdat\xff\xfb\x90\x44", b"riff\x2e\x91\xcf\x11"]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(head=st.sampled_from(MAGICS), body=st.binary(max_size=3_000), copies=st.integers(1, 4))
def test_random_bytes_never_raise_anything_else(
    tmp_path: Path, head: bytes, body: bytes, copies: int
) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(head + body * copies)
    survives(path)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    sound = noise(0.5, 16_000).repeat(2, axis=1)
    return {
        codec: write(folder / f"x.{codec}", sound, 16_000, codec).read_bytes() for codec in CODECS
    }


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    codec=st.sampled_from(sorted(CODECS)),
    changes=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
)
def test_damaged_headers_never_raise_anything_else(
    tmp_path: Path,
    originals: dict[str, bytes],
    codec: str,
    changes: list[tuple[int, int]],
    cut: float,
) -> None:
    content = bytearray(originals[codec])
    for place, byte in changes:
        content[place] = byte
    path = tmp_path / "x.wav"
    path.write_bytes(content[: len(content) - int(cut**4 * len(content))])
    survives(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    codec=st.sampled_from(sorted(CODECS)),
    at=st.floats(0, 1, exclude_max=True),
    patch=st.binary(min_size=1, max_size=200),
)
def test_damaged_bodies_never_raise_anything_else(
    tmp_path: Path, originals: dict[str, bytes], codec: str, at: float, patch: bytes
) -> None:
    content = bytearray(originals[codec])
    start = int(at * len(content))
    content[start : start + len(patch)] = patch
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    survives(path)


@pytest.mark.parametrize("codec", ["wav", "flac", "aiff", "rf64", "mp3"])
@pytest.mark.parametrize("has_footer", [True, False])
def test_a_tag_in_front_may_promise_a_footer(tmp_path: Path, codec: str, has_footer: bool) -> None:
    path = write(tmp_path / f"x.{codec}", noise(2.0, 32_000), 32_000, codec)
    rest = b"\x04\x00\x10\x00\x00\x00\x20"
    tag = b"ID3" + rest + bytes(32) + (b"3DI" + rest if has_footer else b"")
    path.write_bytes(tag + path.read_bytes())
    assert outcome(path) == (pytest.approx(2.0, abs=0.1), 0.0, None)


def test_nothing_but_losses_is_no_recording(tmp_path: Path) -> None:
    """Two headers of whose sound nothing is there, joined: refused, as one of them is."""
    path = write(tmp_path / "x.wav", noise(1.0, 32_000), 32_000)
    path.write_bytes(2 * path.read_bytes()[:44])
    assert "0 ms could be read" in refusal(path) or "header only" in refusal(path)
