"""The mixer: what is held out is nowhere in training, rows are labelled by what sounds in them, a
seed is a corpus."""

import csv
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import CorpusError, UsageError
from tests.conftest import hiss, note, write_sound
from tests.helpers.trainer_corpus import row, write_table
from tests.trainer.test_folds import recording
from trainer.corpus.mix import MixOptions, hold_out, mix_soundscapes
from trainer.corpus.mixture import (
    FRAME,
    Call,
    cut_call,
    events_of,
    lay_background,
    mean_square,
    place_call,
    rows_of,
)
from trainer.corpus.recordings import METADATA, Corpus

OPTIONS = MixOptions(hold_out=0.4, soundscapes=2, minutes=1, snr_db=(-5.0, 15.0), seed=1)
COUNTS = {"lowtoo": 2, "midtoo": 6, "higtoo": 9}


def bursts(code: str, seconds: float, seed: int) -> np.ndarray:
    """Half-second notes, two seconds apart, over hiss."""
    sound = hiss(seconds, 0.001, seed)
    tone = note(code, seconds, 0.2)
    sounding = (np.arange(len(sound)) + seed * 4000) % (2 * RATE_HZ) < RATE_HZ // 2
    return (sound + tone * sounding).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("mix") / "data"
    rows = []
    for code, count in COUNTS.items():
        for number in range(count):
            name = f"XC{number}.ogg"
            rows.append(row(code, name))
            write_sound(data / "train_short_audio" / code / name, bursts(code, 12, number))
    rows.append(row("higtoo", "gone.ogg"))
    write_table(data / METADATA, rows)
    (data / "train_short_audio" / "higtoo" / "XC0.ogg").write_bytes(b"OggS and no more")
    for number in range(5):
        write_sound(
            data.parent / "noise" / "wind" / f"{number}.wav", hiss(6, 0.01 * (number + 1), number)
        )
    write_sound(data.parent / "noise" / "silence.wav", np.zeros(5 * RATE_HZ, np.float32))
    return data


@pytest.fixture(scope="module")
def mixed(corpus: Path) -> Path:
    out = corpus.parent / "mixed"
    mix_soundscapes(corpus, corpus.parent / "noise", out, OPTIONS, lambda *_: None)
    return out


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_the_new_corpus_is_one_and_what_was_mixed_is_not_in_it(corpus: Path, mixed: Path) -> None:
    made = Corpus.read(mixed)
    before = Corpus.read(corpus)
    judged = Corpus.read(mixed / "test_recordings")
    assert made.taxonomy.digest == before.taxonomy.digest
    assert len(made.soundscapes) == 2
    assert all(len(soundscape.labels) == 12 for soundscape in made.soundscapes)
    events = _table(mixed / "events.csv")
    sources = defaultdict(set)
    for event in events:
        sources[event["soundscape"].split("_")[0]].add(event["recording"])
    kept = {r.recording for r in made.recordings}
    assert not sources["train"] & sources["test"]
    assert not (sources["train"] | sources["test"]) & kept
    assert sources["test"] <= {r.recording for r in judged.recordings}
    assert not kept & {r.recording for r in judged.recordings}
    assert {r.recording for r in before.recordings if r.primary_label == "lowtoo"} <= kept, (
        "two are too few to share"
    )
    assert "higtoo/gone.ogg" in kept, "a row without sound can teach the metadata model"
    assert all(r.path.is_file() for r in made.recordings if r.recording != "higtoo/gone.ogg")
    assert (mixed / "test_soundscape_labels.csv").is_file()


def test_backgrounds_to_train_against_are_not_those_of_the_test(mixed: Path) -> None:
    assert 2 <= len(list((mixed / "nocall").rglob("*.wav"))) <= 4


def test_rows_are_labelled_where_a_call_sounds(mixed: Path) -> None:
    for part in ("train", "test"):
        labels = {r["row_id"]: r["birds"] for r in _table(mixed / f"{part}_soundscape_labels.csv")}
        possible = defaultdict(set)
        for event in _table(mixed / "events.csv"):
            if event["soundscape"].startswith(part):
                audio_id = event["soundscape"].split("/")[1].split("_")[0]
                for row_number in range(
                    int(float(event["start_s"])) // 5, int(float(event["end_s"])) // 5 + 1
                ):
                    possible[f"{audio_id}_MIX_{5 * row_number + 5}"].add(event["species"])
        for row_id, birds in labels.items():
            assert set(birds.split()) - {"nocall"} <= possible[row_id]
        nocall = sum(birds == "nocall" for birds in labels.values()) / len(labels)
        assert 0.4 <= nocall < 0.9


def test_a_call_is_heard_in_the_sound_of_its_row(mixed: Path) -> None:
    """The note of a loud event stands out of its band just there."""
    event = max(_table(mixed / "events.csv"), key=lambda e: float(e["snr_db"]))
    sound, rate = soundfile.read(mixed / event["soundscape"], dtype="float32")
    assert (rate, len(sound)) == (RATE_HZ, 12 * WINDOW_SAMPLES)
    frames = events_of(sound)
    first, last = (int(float(event[key]) * RATE_HZ / FRAME) for key in ("start_s", "end_s"))
    assert frames[first : last + 1].max() > 10 * np.median(frames + 1e-12)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_other_birds(
    corpus: Path, mixed: Path
) -> None:
    before = _files(mixed)
    mix_soundscapes(corpus, corpus.parent / "noise", mixed, OPTIONS, lambda *_: None)
    assert _files(mixed) == before, "done already"
    again = corpus.parent / "again"
    mix_soundscapes(corpus, corpus.parent / "noise", again, OPTIONS, lambda *_: None)
    assert _files(again) == before
    other = corpus.parent / "other"
    mix_soundscapes(
        corpus, corpus.parent / "noise", other, replace(OPTIONS, seed=2), lambda *_: None
    )
    assert (other / "events.csv").read_bytes() != (again / "events.csv").read_bytes()


def test_a_folder_of_other_things_is_left_alone(corpus: Path, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other options; choose another --out"):
        mix_soundscapes(
            corpus, corpus.parent / "noise", mixed, replace(OPTIONS, minutes=2), lambda *_: None
        )
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="contains other files"):
        mix_soundscapes(corpus, corpus.parent / "noise", tmp_path, OPTIONS, lambda *_: None)
    with pytest.raises(CorpusError, match="expected sound files without birds"):
        mix_soundscapes(corpus, tmp_path, tmp_path / "out", OPTIONS, lambda *_: None)


def test_one_sound_under_several_names_is_on_one_side(tmp_path: Path) -> None:
    """Twins of what is held out are not trained on; a sound of two species is mixed for neither; a
    background that is a recording, or another background, is none."""
    data = tmp_path / "data"
    noise = tmp_path / "noise"
    rows = []
    audio = data / "train_short_audio"
    for code in ("lowtoo", "midtoo"):
        for number in range(4):
            rows.append(row(code, f"XC{number}.ogg"))
            write_sound(audio / code / f"XC{number}.ogg", bursts(code, 6, number))
            rows.append(row(code, f"again{number}.ogg"))
            (audio / code / f"again{number}.ogg").write_bytes(
                (audio / code / f"XC{number}.ogg").read_bytes()
            )
    rows += [row("lowtoo", "both.ogg"), row("midtoo", "both.ogg")]
    write_sound(audio / "lowtoo" / "both.ogg", bursts("higtoo", 6, 9))
    (audio / "midtoo" / "both.ogg").write_bytes((audio / "lowtoo" / "both.ogg").read_bytes())
    write_table(data / METADATA, rows)
    for number in range(4):
        write_sound(noise / f"{number}.wav", hiss(6, 0.01 * (number + 1), number))
    (noise / "twice.wav").write_bytes((noise / "0.wav").read_bytes())
    (noise / "bird.ogg").write_bytes((audio / "lowtoo" / "XC0.ogg").read_bytes())
    made = mix_soundscapes(data, noise, tmp_path / "out", OPTIONS, lambda *_: None)
    assert made.problems == {
        "same sound as two species": 1,
        "background that is a recording": 1,
        "same sound as another background": 1,
    }
    assert made.backgrounds == 4
    bytes_of = {
        name: (audio / name).read_bytes()
        for name in (f"{r['primary_label']}/{r['filename']}" for r in rows)
    }
    sources: dict[str, set[bytes]] = defaultdict(set)
    for event in _table(tmp_path / "out" / "events.csv"):
        assert "both" not in event["recording"]
        sources[event["soundscape"].split("_")[0]].add(bytes_of[event["recording"]])
    kept = {r.path.read_bytes() for r in Corpus.read(tmp_path / "out").recordings}
    judged = {
        r.path.read_bytes() for r in Corpus.read(tmp_path / "out" / "test_recordings").recordings
    }
    assert sources["train"]
    assert sources["test"] <= judged
    assert not sources["train"] & sources["test"]
    assert not (sources["train"] | sources["test"] | judged) & kept
    assert len(kept) == 5, "two of four sounds of each species, and the one of both"
    trained = {path.read_bytes() for path in (tmp_path / "out" / "nocall").rglob("*.wav")}
    assert len(trained) == 2
    assert not trained & kept


def test_backgrounds_that_are_all_recordings_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match="expected sound files without birds, found recordings of"
    ):
        mix_soundscapes(
            corpus, corpus / "train_short_audio", tmp_path / "out", OPTIONS, lambda *_: None
        )


@pytest.mark.slow
def test_the_command_counts_what_was_odd(corpus: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "trainer",
        "mix-soundscapes",
        "--data",
        corpus,
        "--out",
        tmp_path / "out",
    ]
    command += [
        "--backgrounds",
        corpus.parent / "noise",
        "--soundscapes",
        "2",
        "--minutes",
        "1",
        "--snr",
        "0",
        "10",
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "species with too few" in done.stdout
    assert "lowtoo" in done.stdout
    assert all(
        0 <= float(event["snr_db"]) <= 10 for event in _table(tmp_path / "out" / "events.csv")
    )
    done = subprocess.run([*map(str, command), "--hold-out", "1.5"], capture_output=True, text=True)
    assert done.returncode == 78
    assert done.stderr.startswith("error: --hold-out: expected a share between 0 and 1, found 1.5")


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
)
def test_every_species_keeps_some_to_learn_from_and_gives_to_both_parts(
    counts: list[int], share: float, seed: int
) -> None:
    found = [recording(i, f"sp{s}") for s, count in enumerate(counts) for i in range(count)]
    held = hold_out(found, share, seed)
    for s, count in enumerate(counts):
        mine = {part: [r.recording for r in held[part].get(f"sp{s}", [])] for part in held}
        assert not set(mine["train"]) & set(mine["test"])
        total = len(mine["train"]) + len(mine["test"])
        assert count - total >= min(count, 2)
        assert bool(mine["test"]) == (count >= 3)
        assert bool(mine["train"]) == (count >= 4)
        assert total <= max(2, round(share * count))


def test_silence_between_two_calls_is_no_call() -> None:
    sounding = np.zeros(16 * RATE_HZ // FRAME, bool)
    sounding[:25] = sounding[-25:] = True  # half a second at either end of 16 s
    assert rows_of(sounding, 0) == (0, 3)
    assert rows_of(sounding, 2 * RATE_HZ) == (0, 3)
    assert rows_of(sounding, 4 * RATE_HZ + RATE_HZ // 2) == (0, 4)
    assert rows_of(sounding, 5 * RATE_HZ - FRAME) == (1, 4), "a sliver of 20 ms is no call"


def test_the_cut_begins_and_ends_with_the_call() -> None:
    sound = hiss(20, 0.001, 3)
    sound[10 * RATE_HZ : 11 * RATE_HZ] += note("midtoo", 1, 0.3)
    call = cut_call(sound, np.random.default_rng(0))
    assert call is not None
    assert 9.9 < call.start_s < call.start_s + len(call.samples) / RATE_HZ < 11.1
    assert call.sounding.mean() > 0.85
    assert cut_call(hiss(20, 0.01, 4), np.random.default_rng(0)) is None, "hiss is no call"


@settings(max_examples=20, deadline=None)
@given(
    snr_db=st.floats(-10, 30),
    level=st.floats(0.001, 0.3),
    start=st.integers(0, 5 * RATE_HZ),
    seed=st.integers(0, 9),
)
def test_the_snr_is_that_of_the_sounding_part(
    snr_db: float, level: float, start: int, seed: int
) -> None:
    background = hiss(10, 0.01, seed)
    tone = note("midtoo", 2, level)
    tone[RATE_HZ : RATE_HZ + RATE_HZ // 2] = 0
    sounding = mean_square(tone) > 0
    scene = background.copy()
    placed = place_call(scene, background, Call(tone, sounding, 0.0), start, snr_db)
    added = scene - background
    here = slice(start, start + len(tone))
    mine = mean_square(added[here])[sounding].mean()
    theirs = mean_square(background[here])[sounding].mean()
    assert 10 * np.log10(mine / theirs) == pytest.approx(snr_db, abs=0.2)
    assert placed.start_s == start / RATE_HZ
    np.testing.assert_array_equal(scene[:start], background[:start])


def test_a_background_is_as_long_as_asked_and_never_silent() -> None:
    pieces = [
        hiss(3, 0.2, 1),
        np.concatenate([hiss(1, 0.01, 2), np.zeros(4 * RATE_HZ, np.float32)]),
    ]
    made = lay_background(pieces, 30 * RATE_HZ, 0.01, np.random.default_rng(0))
    assert made.shape == (30 * RATE_HZ,)
    assert made.dtype == np.float32
    assert mean_square(made).min() > 1e-7
    assert np.sqrt(mean_square(made).mean()) == pytest.approx(0.01, rel=1.0)
