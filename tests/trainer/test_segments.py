"""Segments of long files: read alone, in one pass, kept together in folds, and trained on like any
recording."""

import tracemalloc
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edge.contract.audio import CROP_SAMPLES, RATE_HZ, mel_images, training_crops
from edge.contract.errors import RecordingError
from tests.conftest import hiss, note, write_sound
from tests.helpers.trainer_corpus import CODES, song
from trainer.__main__ import app
from trainer.corpus.duplicates import same_sound
from trainer.corpus.folds import fill_folds
from trainer.corpus.mix import MixOptions, mix_soundscapes
from trainer.corpus.recordings import Corpus
from trainer.corpus.sound import Recording, read_recordings, read_segments, read_sound
from trainer.corpus.spectrograms import Spectrograms, make_spectrograms
from trainer.file_digests import Contents
from trainer.pipeline.stages import Options, run_stages
from trainer.recipe import FoldRecipe

LOW, MID = CODES


def segment(path: Path, code: str, start_s: float, end_s: float | None) -> Recording:
    key = f"{code}/{path.name}@{start_s:g}-{end_s}"
    return Recording(key, path, code, (), None, None, None, 0.0, "", "", start_s, end_s)


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A file of 60 s, and its samples as decoded."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    write_sound(path, hiss(60.0, 0.1, 1))
    return path, read_sound(path, 60 * RATE_HZ)


def test_a_segment_is_its_part_of_the_file(long_file: tuple[Path, np.ndarray]) -> None:
    path, sound = long_file
    for start_s, end_s in ((0.0, 2.0), (4.9, 5.1), (7.25, 31.5), (58.0, None), (58.0, 99.0)):
        found = read_sound(path, 60 * RATE_HZ, start_s, end_s)
        stop = None if end_s is None else round(end_s * RATE_HZ)
        np.testing.assert_array_equal(found, sound[round(start_s * RATE_HZ) : stop])
    assert len(read_sound(path, 1000, 7.25, 31.5)) == 1000
    with pytest.raises(RecordingError, match="no sound from 60 s on"):
        read_sound(path, 1000, 60.0)


def test_segments_are_read_in_one_pass(long_file: tuple[Path, np.ndarray]) -> None:
    """Also where they overlap, are equal, or lie behind the end."""
    path, sound = long_file
    spans = [(1.0, 12.0), (1.0, 2.0), (3.0, 30.0), (29.0, 31.0), (50.0, None), (70.0, 80.0)]
    found = list(read_segments(path, spans, 60 * RATE_HZ))
    for part, (start_s, end_s) in zip(found, spans, strict=True):
        stop = None if end_s is None else round(end_s * RATE_HZ)
        np.testing.assert_array_equal(part, sound[round(start_s * RATE_HZ) : stop])
    assert len(found[-1]) == 0


def test_a_late_segment_takes_no_more_memory_than_it_needs(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "x.wav", np.zeros(600 * RATE_HZ, np.float32))
    read_sound(path, RATE_HZ, 1.0, 2.0)
    tracemalloc.start()
    assert len(read_sound(path, RATE_HZ, 590.0, 591.0)) == RATE_HZ
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * RATE_HZ * 4, "a tenth of the file"


def test_what_cannot_be_read_is_told_of_each_recording(
    long_file: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"no sound at all")
    path, _ = long_file
    asked = [
        *(segment(damaged, LOW, 0.0, 1.0), segment(damaged, LOW, 1.0, 2.0)),
        *(segment(path, LOW, 1.0, 2.0), segment(path, LOW, 60.0, 61.0)),
    ]
    first, second, third, fourth = read_recordings(asked, RATE_HZ)
    assert isinstance(first, str)
    assert first == second
    assert "damaged.wav" in first
    assert len(third) == RATE_HZ
    assert fourth == "long.wav: no sound from 60 s on"


def test_spectrograms_are_those_of_the_segments(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "long.wav", hiss(30.0, 0.1, 2))
    single = write_sound(tmp_path / "single.wav", hiss(3.0, 0.1, 3))
    asked = [
        *(segment(path, LOW, 12.0, 14.5), segment(path, MID, 2.0, 29.0)),
        *(segment(single, LOW, 0.0, None), segment(path, LOW, 40.0, 41.0)),
    ]
    folder = tmp_path / "spectrograms"
    console = Console(file=StringIO())
    made = make_spectrograms(folder, asked, Contents(), 4, 1, console)
    assert (made.recordings, made.skipped) == (3, 1)
    cache = Spectrograms(folder)
    assert [entry.recording for entry in cache.entries] == [r.recording for r in asked[:3]]
    for entry, recording in zip(cache.entries, asked, strict=False):
        sound = read_sound(recording.path, 40 * RATE_HZ, recording.start_s, recording.end_s)
        images, _ = mel_images(training_crops(sound, 4))
        np.testing.assert_array_equal(cache.images[entry.rows], images)
    assert cache.entries[1].count == 4
    again = make_spectrograms(folder, asked, Contents(), 4, 1, console)
    assert again.crops_per_s == 0, "nothing is made twice"


def test_segments_of_one_file_are_never_in_two_folds(tmp_path: Path) -> None:
    """Five files are enough for five folds, however many segments each has."""
    recordings = [
        segment(tmp_path / f"{file}.wav", LOW if i % 2 else MID, float(i), i + 1.0)
        for file in range(5)
        for i in range(4 + 7 * file)
    ]
    placed = fill_folds(recordings, FoldRecipe(5, 5.0), 1)
    fold_of = {(r.source, p.fold) for r, p in zip(recordings, placed, strict=True)}
    assert len(fold_of) == 5
    assert len({fold for _, fold in fold_of}) == 5


def test_copies_of_a_file_of_segments_stay_with_it(tmp_path: Path) -> None:
    first = write_sound(tmp_path / "a.wav", hiss(2.0, 0.1, 4))
    copy = tmp_path / "b.wav"
    copy.write_bytes(first.read_bytes())
    asked = [segment(first, LOW, 0.0, 1.0), segment(first, MID, 1.0, 2.0)]
    assert same_sound(asked) == []
    more = [*asked, segment(copy, LOW, 0.0, None)]
    assert same_sound(more) == [[r.recording for r in more]]


def annotated(data: Path, files: int = 6) -> Path:
    """Files of 12 s in which both species sing in turn, annotated."""
    rows = ["file;start;end;species"]
    for i in range(files):
        parts = [song(LOW, 6.0, i), song(MID, 6.0, i + 100)]
        write_sound(data / "sound" / f"2024051{i}_060000.wav", np.concatenate(parts))
        name = f"D:\\sound\\2024051{i}_060000.wav"
        rows += [f"{name};0,25;5,75;{LOW}", f"{name};6;11,5;{MID}", f"{name};5,8;6;noise"]
    (data / "labels.csv").write_text("\r\n".join(rows), encoding="utf-16")
    return data


def test_the_first_stages_take_annotated_files(tmp_path: Path) -> None:
    data = annotated(tmp_path / "data")
    out = tmp_path / "run"
    names = ("check-data", "folds", "spectrograms")
    options = Options(data, out, "demo", None, None, 1, "cpu", place=(48.5, 9.1))
    console = Console(file=StringIO(), width=200)
    run_stages(options, names, console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "corpus data: annotations in labels.csv" in told
    assert "segments: 12 of 6 files" in told
    # A later command need not name the place again.
    console = Console(file=StringIO(), width=200)
    run_stages(Options(data, out, None, None, None, 1, "cpu"), names, console)
    assert console.file.getvalue().count("done already") == 3  # type: ignore[attr-defined]


def test_the_first_stages_take_a_folder_for_each_species(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for code in CODES:
        for i in range(5):
            write_sound(tmp_path / "data" / code / f"2024051{i}_060000.wav", song(code, 3.0, i))
    asked = ["--data", str(tmp_path / "data"), "--jobs", "1"]
    app(["check-data", *asked, "--place", "48.5,9.1"], standalone_mode=False)
    told = capsys.readouterr().out
    assert "a folder for each species" in told
    assert "no problems" not in told, "fewer than ten recordings"
    assert "place missing" not in told
    run = ["--recipe", "demo", "--out", str(tmp_path / "run")]
    app(["spectrograms", *asked, *run], standalone_mode=False)
    assert "10 crops of 10 recordings" in capsys.readouterr().out


def test_soundscapes_are_mixed_of_segments(tmp_path: Path) -> None:
    data = annotated(tmp_path / "data", 8)
    nothing = tmp_path / "nothing"
    for i in range(2):
        write_sound(nothing / f"{i}.wav", hiss(8.0, 0.001, 50 + i))
    options = MixOptions(0.5, 2, 1, (5.0, 10.0), 1)
    mixed = mix_soundscapes(data, nothing, tmp_path / "mixed", options, lambda *_: None)
    assert mixed.held_out > 0
    corpus = Corpus.read(tmp_path / "mixed")
    assert len(corpus.recordings) == mixed.kept
    assert len(corpus.soundscapes) == 2
    assert set(corpus.problems.counts) <= {"place missing", "soundscape of an unknown site"}
    for recording in corpus.recordings:
        sound = read_sound(recording.path, CROP_SAMPLES)
        assert len(sound) == pytest.approx(5.5 * RATE_HZ, abs=RATE_HZ // 100)
        low, mid = (abs(np.vdot(sound, note(code, 6.0)[: len(sound)])) for code in CODES)
        assert (low > mid) == (recording.primary_label == LOW), "the part that was annotated"
