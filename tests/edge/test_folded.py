"""AudioMoth's T.WAV: what the trigger left out is a gap, no sample is lost, and nobody else's
recording is unfolded."""

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge.capture.native_sound import DURATION_S_MAX
from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ
from edge.types import Gap

Pcm = npt.NDArray[np.int16]
BLOCK = 256  # samples
NOTE = (
    "Recorded at 04:00:00 12/05/2024 (UTC) by AudioMoth 24F31901603710E5 at medium gain while "
    "battery was 4.1V"
)
HEAD = 488  # bytes before the sound, as AudioMoth writes them


def noise(samples: int, seed: int = 0) -> Pcm:
    return np.random.default_rng(seed).integers(-9_000, 9_000, samples, dtype=np.int16)


def fold(blocks: int) -> Pcm:
    block = np.zeros(BLOCK, np.int16)
    block[:32] = [1 if blocks >> bit & 1 else -1 for bit in range(32)]
    return block


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return (
        name
        + struct.pack("<I", len(content) if size is None else size)
        + content
        + b"\0" * (len(content) % 2)
    )


def wav(path: Path, sound: Pcm, note: str = NOTE, head: int = HEAD, rate_hz: int = RATE_HZ) -> Path:
    """With so many bytes before the sound; the note is filled up, or there is none."""
    form = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate_hz, 2 * rate_hz, 2, 16))
    room = head - 12 - len(form) - 8
    info = (
        chunk(b"LIST", b"INFO" + chunk(b"ICMT", note.encode().ljust(room - 20, b"\0")))
        if room
        else b""
    )
    body = b"WAVE" + form + info + chunk(b"data", sound.astype("<i2").tobytes())
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert path.read_bytes().index(b"data") + 8 == head
    return path


def read(path: Path, **options: float) -> tuple[list[npt.NDArray[np.float32]], list[Gap], Decoder]:
    """The sound between gaps, the gaps, the decoder when it is done."""
    runs: list[list[npt.NDArray[np.float32]]] = [[]]
    gaps = []
    with Decoder(path, **options) as decoder:  # type: ignore[arg-type]
        for piece in decoder:
            if isinstance(piece, Gap):
                gaps.append(piece)
                runs.append([])
            else:
                runs[-1].append(piece)
    return [np.concatenate(run) for run in runs if run], gaps, decoder


def as_float(sound: Pcm) -> npt.NDArray[np.float32]:
    return sound.astype(np.float32) / np.float32(32_768)


FIRST = 12 + 125 * BLOCK  # samples up to a block boundary of AudioMoth's file, a second


def test_folded_silence_is_a_gap(tmp_path: Path) -> None:
    before = noise(FIRST)
    behind = noise(50_000, 1)
    path = wav(tmp_path / "20240512_040000T.WAV", np.concatenate([before, fold(75_000), behind]))
    runs, gaps, decoder = read(path, block_s=0.5)
    assert [gap.reason for gap in gaps] == ["triggered"]
    assert gaps[0].at_s == len(before) / RATE_HZ
    assert gaps[0].seconds == 600.0
    assert np.array_equal(runs[0], as_float(before))
    assert np.array_equal(runs[1], as_float(behind))
    assert decoder.decoded_s == (len(before) + len(behind)) / RATE_HZ
    assert decoder.position_s == decoder.expected_s == decoder.decoded_s + 600.0
    assert (decoder.lost_s, decoder.warning) == (0.0, None)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    parts=st.lists(
        st.tuples(st.integers(0, 3), st.integers(13, 400), st.integers(1, 2**20)),
        min_size=1,
        max_size=6,
    ),
    block_s=st.sampled_from([0.1, 1.0, 10.0]),
    tail=st.integers(0, 20_000),
)
def test_any_number_of_folds(
    tmp_path: Path, parts: Sequence[tuple[int, int, int]], block_s: float, tail: int
) -> None:
    """Also at the start, at the end, and side by side: those are one gap."""
    sound = [noise(12)]
    expected = 12
    for kind, blocks, folded in parts:
        if kind:
            sound.append(noise(blocks * BLOCK, blocks))
            expected += blocks * BLOCK
        else:
            sound.append(fold(folded))
            expected += folded * BLOCK
    sound.append(noise(tail, 5))
    assume(expected + tail >= 0.1 * RATE_HZ)
    runs, gaps, decoder = read(
        wav(tmp_path / "20240512_040000T.WAV", np.concatenate(sound)), block_s=block_s
    )
    assert decoder.position_s == pytest.approx((expected + tail) / RATE_HZ)
    assert decoder.position_s == pytest.approx(
        sum(map(len, runs)) / RATE_HZ + sum(gap.seconds for gap in gaps)
    )
    assert all(
        first.at_s + first.seconds < second.at_s for first, second in itertools.pairwise(gaps)
    )
    assert all(len(run) >= 0.1 * RATE_HZ for run in runs)
    kept = np.concatenate(sound)
    assert not gaps or len(runs) <= len(gaps) + 1
    assert gaps or np.array_equal(np.concatenate(runs), as_float(kept))


def test_blank_buffers_beside_a_fold_are_left_out_too(tmp_path: Path) -> None:
    """The first and the last buffer are written as zeros where nothing triggered."""
    blank = np.zeros(12 + 60 * BLOCK, np.int16)
    bird = noise(64 * BLOCK)
    sound = [blank, fold(640), bird, fold(64), np.zeros(1_000, np.int16)]
    runs, gaps, decoder = read(wav(tmp_path / "x.WAV", np.concatenate(sound)))
    assert [len(run) for run in runs] == [len(bird)]
    assert [round(gap.seconds * RATE_HZ) for gap in gaps] == [
        len(blank) + 640 * BLOCK,
        64 * BLOCK + 1_000,
    ]
    assert decoder.decoded_s == len(bird) / RATE_HZ


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 90_000)), min_size=1, max_size=6),
    st.sampled_from([0.1, 7.0]),
)
def test_zeros_without_a_fold_are_sound(
    tmp_path: Path, parts: list[tuple[bool, int]], block_s: float
) -> None:
    sound = [
        noise(4_000),
        *(noise(length) if loud else np.zeros(length, np.int16) for loud, length in parts),
    ]
    runs, gaps, _ = read(wav(tmp_path / "x.WAV", np.concatenate(sound)), block_s=block_s)
    assert gaps == []
    assert np.array_equal(runs[0], as_float(np.concatenate(sound)))


def test_what_is_too_short_for_a_window_belongs_to_the_gap(tmp_path: Path) -> None:
    sound = [noise(12), fold(1_000), noise(4 * BLOCK), fold(1_000), noise(32_000)]
    runs, gaps, decoder = read(wav(tmp_path / "x.WAV", np.concatenate(sound)))
    assert [(gap.at_s, gap.seconds) for gap in gaps] == [(0.0, (12 + 2_004 * BLOCK) / RATE_HZ)]
    assert [len(run) for run in runs] == [32_000]
    assert decoder.decoded_s == 1.0


def test_a_night_in_which_nothing_triggered_is_one_gap(tmp_path: Path) -> None:
    runs, gaps, decoder = read(wav(tmp_path / "x.WAV", np.concatenate([noise(12), fold(500_000)])))
    assert runs == []
    assert [gap.seconds for gap in gaps] == [pytest.approx(4_000.0, abs=0.001)]
    assert decoder.warning is None


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("20240512_040000T.WAV", ""),
        ("24F31901603710E5_20240512_040000T.wav", ""),
        ("040000T.WAV", ""),
        ("SITE_20240512_040000T_converted.wav", ""),
        ("20240512_040000T (1).WAV", ""),
        ("renamed.wav", NOTE),
        (
            "20240512_040000.WAV",
            NOTE + " Frequency trigger (8.0kHz and window length of 16 samples) threshold was 20%",
        ),
    ],
)
def test_audiomoth_is_known_by_its_note_or_the_name(tmp_path: Path, name: str, note: str) -> None:
    sound = np.concatenate([noise(FIRST), fold(8_000), noise(9_000, 1)])
    assert [gap.seconds for gap in read(wav(tmp_path / name, sound, note))[1]] == [64.0]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("20240512_040000.WAV", "by another recorder"),
        ("T.WAV", ""),
        ("20240512T040000.WAV", ""),
        ("1_040000Ta.WAV", ""),
    ],
)
def test_nobody_elses_recording_is_unfolded(tmp_path: Path, name: str, note: str) -> None:
    sound = np.concatenate([noise(FIRST), fold(8_000), noise(9_000, 1)])
    runs, gaps, _ = read(wav(tmp_path / name, sound, note))
    assert gaps == []
    assert np.array_equal(runs[0], as_float(sound))


@pytest.mark.parametrize("shift", [1, 100, 255])
def test_the_same_samples_elsewhere_are_sound(tmp_path: Path, shift: int) -> None:
    sound = np.concatenate([noise(FIRST + shift), fold(8_000), noise(9_000, 1)])
    runs, gaps, _ = read(wav(tmp_path / "20240512_040000T.WAV", sound))
    assert gaps == []
    assert np.array_equal(runs[0], as_float(sound))


@pytest.mark.parametrize("change", ["a bit of 2", "not all zeros", "count 0"])
def test_what_is_nearly_a_fold_is_sound(tmp_path: Path, change: str) -> None:
    block = fold(0 if change == "count 0" else 8_000)
    if change == "a bit of 2":
        block[7] = 2
    if change == "not all zeros":
        block[200] = 1
    sound = np.concatenate([noise(FIRST), block, noise(9_000, 1)])
    assert read(wav(tmp_path / "20240512_040000T.WAV", sound))[1] == []


@pytest.mark.parametrize("head", [44, 380, 1_000])
def test_another_header_before_the_same_sound(tmp_path: Path, head: int) -> None:
    """Copied by a program that kept the sound: the blocks stand where they stood behind AudioMoth's
    own header."""
    sound = np.concatenate([noise(FIRST), fold(8_000), noise(9_000, 1)])
    assert [
        gap.seconds for gap in read(wav(tmp_path / "20240512_040000T.WAV", sound, head=head))[1]
    ] == [64.0]


@pytest.mark.parametrize("head", [380, 1_000])
def test_on_boundaries_of_this_file(tmp_path: Path, head: int) -> None:
    first = (-head // 2) % BLOCK + 50 * BLOCK
    sound = np.concatenate(
        [
            noise(first),
            fold(8_000),
            noise(9_000, 1),
        ]
    )
    assert [
        gap.seconds for gap in read(wav(tmp_path / "20240512_040000T.WAV", sound, head=head))[1]
    ] == [64.0]


def test_as_flac(tmp_path: Path) -> None:
    sound = np.concatenate([noise(FIRST), fold(8_000), noise(9_000, 1)])
    soundfile.write(tmp_path / "20240512_040000T.flac", sound, RATE_HZ)
    runs, gaps, _ = read(tmp_path / "20240512_040000T.flac")
    assert [gap.seconds for gap in gaps] == [64.0]
    assert list(map(len, runs)) == [FIRST, 9_000]


def flac_block(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + len(content).to_bytes(3, "big") + content


@pytest.mark.parametrize(
    "before", [b"", flac_block(1, bytes(65_536)), flac_block(1, bytes(200_000))]
)
def test_as_flac_that_keeps_the_chunks_of_the_wav_file(tmp_path: Path, before: bytes) -> None:
    """As `flac --keep-foreign-metadata` does, behind any padding, under any name."""
    sound = np.concatenate([noise(FIRST), fold(8_000), noise(9_000, 1)])
    info = b"INFO" + chunk(b"ICMT", NOTE.encode() + b"\0\0")
    path = tmp_path / "converted.flac"
    soundfile.write(path, sound, RATE_HZ)
    content = path.read_bytes()
    kept = flac_block(2, b"riff" + chunk(b"LIST", info))
    path.write_bytes(content[:42] + before + kept + content[42:])
    runs, gaps, _ = read(path)
    assert [gap.seconds for gap in gaps] == [64.0]
    assert list(map(len, runs)) == [FIRST, 9_000]


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("flac", "PCM_24"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("aiff", "PCM_16")],
)
def test_in_another_form_that_keeps_the_numbers(tmp_path: Path, suffix: str, subtype: str) -> None:
    sound = np.concatenate([noise(FIRST), fold(8_000), noise(9_000, 1)])
    path = tmp_path / f"20240512_040000T.{suffix}"
    soundfile.write(path, as_float(sound), RATE_HZ, subtype)
    runs, gaps, decoder = read(path)
    assert [gap.seconds for gap in gaps] == [64.0]
    assert list(map(len, runs)) == [FIRST, 9_000]
    assert decoder.note is None


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_a_lossy_form_is_said_to_hide_folds(tmp_path: Path, format: str, subtype: str) -> None:
    sound = as_float(np.concatenate([noise(FIRST), fold(8_000), noise(9_000, 1)]))
    trigger = NOTE + " Amplitude threshold was 512 with 10s minimum trigger duration."
    for name, comment, told in (
        ("20240512_040000T", "", True),
        ("SITE_040000T_low", "", True),
        ("renamed", trigger, True),
        ("renamed", NOTE, False),
        ("20240512_040000", "", False),
    ):
        path = tmp_path / f"{name}.{format.lower()}"
        with soundfile.SoundFile(path, "w", RATE_HZ, 1, subtype, format=format) as file:
            if comment:
                file.comment = comment
            file.write(sound)
        note = read(path)[2].note
        assert (note is not None and "AudioMoth's trigger" in note) == told


@pytest.mark.parametrize("rate_hz", [8_000, 48_000, 192_000])
def test_at_other_rates(tmp_path: Path, rate_hz: int) -> None:
    """The resampler begins anew behind the gap: each side sounds as if it stood alone."""
    before = noise(12 + 2_000 * BLOCK)
    behind = noise(100_000, 1)
    sound = np.concatenate([before, fold(1_500), behind])
    runs, gaps, decoder = read(wav(tmp_path / "20240512_040000T.WAV", sound, rate_hz=rate_hz))
    assert [gap.seconds for gap in gaps] == [1_500 * BLOCK / rate_hz]
    alone = read(wav(tmp_path / "alone.WAV", behind, rate_hz=rate_hz))[0][0]
    assert np.array_equal(runs[1], alone)
    assert decoder.position_s == pytest.approx(
        (len(before) + len(behind) + 1_500 * BLOCK) / rate_hz
    )


@pytest.mark.parametrize("kept", [40, 200, 512])
def test_cut_inside_a_block(tmp_path: Path, kept: int) -> None:
    """With its number whole, the block counts; else a millisecond of sound is left of it. What was
    behind is lost."""
    sound = np.concatenate([noise(FIRST), fold(8_000), noise(32_000, 1)])
    path = wav(tmp_path / "20240512_040000T.WAV", sound)
    content = path.read_bytes()
    path.write_bytes(content[: HEAD + 2 * FIRST + kept])
    _, gaps, decoder = read(path)
    assert [gap.seconds for gap in gaps] == ([64.0] if kept > 64 else [])
    assert decoder.lost_s == pytest.approx(1.0, abs=0.01)
    assert decoder.warning is not None


def test_folds_beyond_all_measure_end_the_reading(tmp_path: Path) -> None:
    sound = np.concatenate([noise(FIRST), fold(2**32 - 1), noise(32_000, 1)])
    _, gaps, decoder = read(wav(tmp_path / "20240512_040000T.WAV", sound))
    assert sum(gap.seconds for gap in gaps) == pytest.approx(DURATION_S_MAX, abs=5.0)
    assert decoder.position_s <= DURATION_S_MAX + 3.0
    assert decoder.warning is not None
    assert decoder.warning.startswith("too long")
