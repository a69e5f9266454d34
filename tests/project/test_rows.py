"""The last started row of a recording exists, and station and trainer take the same window for
it."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, WindowCutter
from edge.contract.rows import REMAINDER_SAMPLES, rows_of, window_of_row
from tests.conftest import hiss, note, write_sound
from tests.helpers.trainer_run import make_corpus, make_run
from trainer.corpus.recordings import Corpus
from trainer.tuning.bag import choose_bag
from trainer.tuning.soundscape_scores import score_soundscapes

StationYaml = Callable[..., Path]


@pytest.mark.parametrize(
    ("seconds", "rows", "last"),
    [
        (49.98, 10, 44.98),  # recorders stop a buffer early
        (50.0, 10, 45.0),
        (50.02, 10, 45.0),  # an encoder's padding begins no row
        (47.5, 10, 42.5),  # half of the last window: the row has no other
        (47.0, 10, None),  # most of the last window is of the row before, which has its own
        (45.2, 10, None),
        (599.98, 120, 594.98),
        (3.0, 1, 0.0),  # shorter than a row, all of it in the row
        (0.05, 1, 0.0),
        (0.0, 0, None),
    ],
)
def test_a_recordings_last_row(seconds: float, rows: int, last: float | None) -> None:
    samples = round(seconds * RATE_HZ)
    found = rows_of(samples)
    assert found == [5 * (row + 1) for row in range(rows)]
    if found:
        window = window_of_row(found[-1], samples)
        assert window == (None if last is None else round(last * RATE_HZ))
    assert window_of_row(5 * rows + 5, samples) is None


@given(
    samples=st.integers(1, 12 * RATE_HZ),
    hop=st.sampled_from([WINDOW_SAMPLES, WINDOW_SAMPLES // 2, 25_600]),
)
def test_every_row_is_answered_by_a_window_that_the_station_cuts(samples: int, hop: int) -> None:
    starts = {window.start for window in _windows(samples, hop)}
    rows = rows_of(samples)
    assert abs(rows[-1] * RATE_HZ - samples) < WINDOW_SAMPLES
    for end_s in rows:
        first = window_of_row(end_s, samples)
        if first is None:  # only the last, of less than half a window
            assert end_s == rows[-1]
            assert REMAINDER_SAMPLES < samples % WINDOW_SAMPLES < WINDOW_SAMPLES / 2
        elif WINDOW_SAMPLES % hop == 0 or first == max(0, samples - WINDOW_SAMPLES):
            assert first in starts


def _windows(samples: int, hop: int) -> list:
    cutter = WindowCutter(hop)
    return cutter.push(np.zeros(samples, np.float32)) + cutter.close()


def _with_a_bird_at_the_end(seconds: float) -> np.ndarray:
    sound = hiss(seconds)
    begin = (rows_of(len(sound))[-1] - 5) * RATE_HZ
    sound[begin:] += note("midtoo", seconds)[begin:]
    return sound


@pytest.mark.slow
@pytest.mark.parametrize("hop_s", [5.0, 2.5])
def test_replay_scores_the_short_last_row(
    tmp_path: Path, station_yaml: StationYaml, hop_s: float
) -> None:
    lines = ["row_id,birds"]
    for name, seconds in (("a", 14.98), ("b", 13.0), ("c", 15.02), ("d", 3.5), ("e", 20.0)):
        sound = _with_a_bird_at_the_end(seconds)
        write_sound(tmp_path / "in" / f"{name}.wav", sound)
        write_sound(
            tmp_path / "in" / f"{name}.22k.wav", soxr.resample(sound, 32_000, 22_050)[:-1], 22_050
        )
        ends = rows_of(len(sound))
        for stem in (name, f"{name}.22k"):
            lines += [f"{stem}_{end},{'midtoo' if end == ends[-1] else 'nocall'}" for end in ends]
    write_sound(tmp_path / "in" / "f.wav", np.concatenate([hiss(10), note("midtoo", 5), hiss(1)]))
    # the last window holds 4 s of the row before
    lines += ["f_5,nocall", "f_10,nocall", "f_15,midtoo", "f_20,nocall"]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "edge", "replay", str(tmp_path / "in"), "--json"]
    command += [
        "--config",
        str(station_yaml(f"windows: {{hop_s: {hop_s}}}")),
        "--labels",
        str(tmp_path / "labels.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["f1"] == 1.0
    assert found["f1_all_nocall"] < 1.0


def test_tuning_learns_from_the_short_last_row(tmp_path: Path) -> None:
    """Of the window that ends with the sound, not of silence."""
    corpus = make_corpus(tmp_path / "data", soundscapes=1)
    rows = (
        (tmp_path / "data" / "train_soundscape_labels.csv").read_text(encoding="utf8").splitlines()
    )
    table = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    for number, seconds in ((1, 14.98), (2, 13.0), (3, 12.0)):
        sound = (
            np.random.default_rng(number)
            .normal(0, 0.05, round(seconds * RATE_HZ))
            .astype(np.float32)
        )
        soundfile.write(
            tmp_path / "data" / "train_soundscapes" / f"{number}_SSW_20190610.ogg", sound, RATE_HZ
        )
        table += [
            row | {"row_id": f"{number}_SSW_{row['seconds']}", "audio_id": str(number)}
            for row in table[:3]
        ]
    with (tmp_path / "data" / "train_soundscape_labels.csv").open(
        "w", newline="", encoding="utf8"
    ) as file:
        writer = csv.DictWriter(file, rows[0].split(","))
        writer.writeheader()
        writer.writerows(table)
    run = make_run(tmp_path / "run", corpus)
    choose_bag(run)
    scored = score_soundscapes(run, Corpus.read(tmp_path / "data"), run.bag())
    at = dict(zip(scored.rows.ids, scored.at.tolist(), strict=True))
    windows = scored.stretch.tolist()  # the soundscape that each window is of
    for number, begins in ((1, [0, 1, 2]), (2, [0, 1, 2]), (3, [0, 1])):
        mine = [i for i, soundscape in enumerate(windows) if soundscape == number]
        assert [at[f"{number}_SSW_{end}"] for end in (5, 10, 15)][: len(begins)] == [
            mine[i] for i in begins
        ]
    assert at["3_SSW_15"] == -1  # two seconds: the last window is of the row before
