"""Thresholds, blends and paddings: the sweep finds the best, counts as the contract does, and says
what it is worth."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Padding, WindowCutter
from edge.contract.blend import Blend, blend_scores
from edge.contract.errors import CorpusError, RecordingError
from edge.contract.metrics import NOCALL_ROW, Labels, labels_of, score_rows
from edge.contract.taxonomy import Species, Taxonomy
from tests.helpers.trainer_run import CODES, make_corpus, make_rasters, make_run
from trainer.corpus.recordings import Corpus
from trainer.corpus.soundscape_windows import windows_of
from trainer.place.metadata import fit_metadata
from trainer.tuning import sweep
from trainer.tuning.bag import choose_bag
from trainer.tuning.soundscape_scores import score_soundscapes
from trainer.tuning.sweep import LabelledRows, ThresholdCandidate
from trainer.tuning.tune import tune

PADDINGS: tuple[Padding, ...] = get_args(Padding)
TAXONOMY = Taxonomy(Species(code, "", "") for code in CODES)
THRESHOLDS = sweep.thresholds_of(0.05, 0.95, 0.05)


def rows_of(labels: list[str], per_recording: int = 3) -> LabelledRows:
    labelled = [
        (f"r{i}", f"rec{i // per_recording}", labels_of(text)) for i, text in enumerate(labels)
    ]
    return LabelledRows.of(labelled, TAXONOMY)


def random_rows(seed: int, count: int = 60) -> tuple[LabelledRows, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    choices = ["nocall", "nocall", "amered", "blujay comyel", "zzzbird", "amered zzzbird"]
    rows = rows_of([str(text) for text in random.choice(choices, count)])
    return rows, random.uniform(0, 1, (count, 3)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_all_thresholds_at_once_are_the_contracts_score(seed: int) -> None:
    rows, scores = random_rows(seed)
    scores[:5] = THRESHOLDS[3]  # a score that equals the threshold passes
    f1s = sweep.row_f1s(rows, sweep.count(rows, scores, THRESHOLDS))
    truth: dict[str, Labels] = dict(zip(rows.ids, rows.labels, strict=True))
    for k, threshold in enumerate(THRESHOLDS):
        found = {
            row: frozenset(CODES[i] for i in range(3) if scores[n, i] >= threshold) or NOCALL_ROW
            for n, row in enumerate(rows.ids)
        }
        assert found == rows.found(scores, float(threshold), CODES)
        assert f1s[:, k].mean() == pytest.approx(
            score_rows(truth, found, sweep.recording_of(rows)).f1
        )


def test_micro_f1_by_hand() -> None:
    rows = rows_of(["amered", "blujay zzzbird", "nocall"])
    scores = np.array([[0.9, 0.1, 0.1], [0.1, 0.7, 0.6], [0.3, 0.1, 0.1]], np.float32)
    found = sweep.micro_f1(rows, sweep.count(rows, scores, np.array([0.5, 0.8], np.float32)))
    assert found == pytest.approx([2 * 2 / (3 + 3), 2 * 1 / (3 + 1)])


def test_threshold_is_the_middle_of_the_plateau() -> None:
    rows = rows_of(["amered", "nocall", "blujay", "comyel", "nocall", "amered"])
    scores = np.where(rows.truth, 0.81, 0.29).astype(np.float32)
    curve = sweep.row_f1s(rows, sweep.count(rows, scores, THRESHOLDS)).mean(axis=0)
    best = sweep.best_threshold(curve)
    assert curve[best] == curve.max() == 1.0
    assert 0.5 <= THRESHOLDS[best] <= 0.6


def test_a_lucky_threshold_is_no_peak() -> None:
    curve = np.array([0.3, 0.3, 0.75, 0.3, 0.3, 0.3, 0.6, 0.68, 0.7, 0.68, 0.6, 0.4])
    assert sweep.best_threshold(curve) == 8


def test_curve_at_its_end() -> None:
    assert sweep.best_threshold(np.array([0.9, 0.5, 0.3, 0.2, 0.1])) == 0
    assert sweep.best_threshold(np.array([0.4])) == 0
    assert sweep.smooth(np.full((2, 7), 0.5)) == pytest.approx(np.full((2, 7), 0.5))


def test_the_better_blend_wins_and_ties_go_to_the_first() -> None:
    """The prior knows which of two species that sound alike lives here: a blend that listens to it
    must win."""
    rows = rows_of(["amered", "nocall"] * 10)
    heard = np.where(rows.calls.reshape(-1, 1), [0.7, 0.72, 0.1], 0.1).astype(np.float32)
    prior = np.tile(np.array([0.9, 0.0, 0.1], np.float32), (20, 1))
    blends = [Blend(prior_weight=0.0), Blend(prior_weight=0.5), Blend("logit", 0.5)]
    candidates = [
        ThresholdCandidate(
            "context",
            b,
            sweep.row_f1s(rows, sweep.count(rows, blend_scores(heard, prior, b), THRESHOLDS)),
        )
        for b in blends
    ]
    choice = sweep.choose(candidates, rows.recordings)
    assert choice.candidate > 0
    assert candidates[choice.candidate].f1s.mean(axis=0)[choice.threshold] == 1.0
    assert sweep.choose([candidates[0]] * 3, rows.recordings).candidate == 0


@pytest.mark.parametrize(
    ("better", "chosen"), [([0.3, 0, 0, 0, 0, 0], 0), ([0.1, 0.12, 0.08, 0.1, 0.1, 0.1], 1)]
)
def test_one_lucky_recording_does_not_decide(better: list[float], chosen: int) -> None:
    plain = np.full((18, 19), 0.5)
    other = plain + np.repeat(better, 3)[:, None]
    candidates = [
        ThresholdCandidate("context", Blend(), plain),
        ThresholdCandidate("context", Blend("logit", 0.5), other),
    ]
    recordings = [f"rec{i // 3}" for i in range(18)]
    assert sweep.choose(candidates, recordings).candidate == chosen


def test_interval_holds_the_curve() -> None:
    rows, scores = random_rows(1)
    f1s = sweep.row_f1s(rows, sweep.count(rows, scores, THRESHOLDS))
    low, high = sweep.curve_interval(f1s, rows.recordings)
    assert ((low <= f1s.mean(axis=0)) & (f1s.mean(axis=0) <= high)).all()


def test_windows_are_the_stations(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 12 * RATE_HZ).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, RATE_HZ, subtype="FLOAT")
    for padding in PADDINGS:
        windows = list(windows_of(tmp_path / "a.wav", padding, 5))
        cutter = WindowCutter(WINDOW_SAMPLES, padding)
        expected = cutter.push(sound) + cutter.close()
        # the last one ends with the sound
        assert [w.start // RATE_HZ for w in windows] == [0, 5, 7]
        assert all(
            np.array_equal(mine.input, other.input)
            for mine, other in zip(windows, expected, strict=True)
        )


def test_other_rates_are_resampled_and_channels_averaged(tmp_path: Path) -> None:
    seconds = np.arange(11 * 48_000) / 48_000
    tone = (0.3 * np.sin(2 * np.pi * 1000 * seconds)).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", np.stack([tone, tone], axis=1), 48_000)
    windows = list(windows_of(tmp_path / "a.flac", "context", 5))
    assert [w.start // RATE_HZ for w in windows[:2]] == [0, 5]
    slaney_mel_1khz = 128 * 15 / (15 + 27 * np.log(16) / np.log(6.4))
    assert abs(int(windows[1].input.mean(axis=1).argmax()) - slaney_mel_1khz) <= 2


def test_broken_sound_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.ogg").write_bytes(b"OggS" + bytes(100))
    with pytest.raises(RecordingError, match=r"a\.ogg"):
        next(windows_of(tmp_path / "a.ogg", "context", 5))


def test_tune_on_soundscapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "data")
    run = make_run(tmp_path / "run", corpus)
    fit_metadata(run, corpus, make_rasters(tmp_path / "rasters"))
    choose_bag(run)
    tune(run, corpus)
    tuning = run.tuning()
    search = json.loads((run.folder / "sweep.json").read_text(encoding="utf8"))["search"]
    assert "row F1" in capsys.readouterr().out
    assert tuning.scores["basis"] == "soundscapes"
    assert (
        tuning.scores["rows"],
        tuning.scores["recordings"],
        tuning.scores["rows_without_prior"],
    ) == (6, 2, 0)
    assert len(search) == 2 * 3
    assert tuning.scores["blended"]["f1_all_nocall"] == pytest.approx(1 / 3, abs=1e-4)
    scored = score_soundscapes(run, corpus, run.bag())
    blended = scored.blended(tuning.padding, tuning.blend)
    found = scored.rows.found(blended, tuning.thresholds.blended, run.taxonomy.codes)
    truth = dict(zip(scored.rows.ids, scored.rows.labels, strict=True))
    again = score_rows(truth, found, sweep.recording_of(scored.rows)).f1
    assert again == pytest.approx(tuning.scores["blended"]["f1"], abs=1e-4)


def test_unreadable_soundscapes_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "data")
    (tmp_path / "data" / "train_soundscapes" / "1_SSW_20190610.ogg").write_bytes(
        b"OggS" + bytes(500)
    )
    run = make_run(tmp_path / "run", corpus)
    choose_bag(run)
    tune(run, corpus)
    scores = run.tuning().scores
    assert (scores["rows"], scores["rows_without_prior"], len(scores["unreadable"])) == (3, 3, 1)
    assert scores["held_out"] is None
    assert "tune: not readable: " in capsys.readouterr().out
    assert run.tuning().blend.prior_weight == 0.0  # no metadata model


def test_where_no_soundscape_can_be_read_nothing_is_tuned(tmp_path: Path) -> None:
    """Labels are there: what crops would say instead is not what was asked for."""
    corpus = make_corpus(tmp_path / "data")
    folder = tmp_path / "data" / "train_soundscapes"
    (folder / "0_SSW_20190610.ogg").write_bytes(b"")
    (folder / "1_SSW_20190610.ogg").unlink()  # after the corpus was read
    run = make_run(tmp_path / "run", corpus)
    choose_bag(run)
    with pytest.raises(
        CorpusError, match=r"found none of 2: .*0_SSW.*: empty file; .*1_SSW.*: cannot be"
    ) as told:
        tune(run, corpus)
    assert "\n" not in str(told.value)
    assert not (run.folder / "tune.json").exists()


def test_labelled_soundscapes_that_are_not_there_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_corpus(tmp_path / "data")
    for path in (tmp_path / "data" / "train_soundscapes").iterdir():
        path.unlink()
    corpus = Corpus.read(tmp_path / "data")
    run = make_run(tmp_path / "run", corpus)
    choose_bag(run)
    tune(run, corpus)
    assert "tune: 2 labelled soundscapes are missing, such as 0_SSW" in capsys.readouterr().out
    assert run.tuning().scores["basis"] == "out_of_fold_crops"


@pytest.mark.parametrize("with_prior", [False, True])
def test_without_soundscapes_the_crops_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], with_prior: bool
) -> None:
    corpus = make_corpus(tmp_path / "data", soundscapes=0)
    run = make_run(tmp_path / "run", corpus)
    if with_prior:
        fit_metadata(run, corpus, make_rasters(tmp_path / "rasters"))
    choose_bag(run)
    tune(run, corpus)
    tuning = run.tuning()
    assert "no labelled soundscapes" in capsys.readouterr().out
    assert tuning.scores["basis"] == "out_of_fold_crops"
    assert tuning.blend == Blend(prior_weight=0.14 if with_prior else 0.0)
    # the others stay below 0.4, the right ones above 0.5
    assert 0.4 <= tuning.thresholds.acoustic <= 0.5
    assert tuning.scores["acoustic"]["f1"] == 1.0


def test_a_steady_threshold_keeps_off_the_edge() -> None:
    """Flat from 2 to 8 but for noise of single recordings; the lucky peak lies at 8, beyond it is
    the cliff."""
    curve = np.array([0.3, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.81, 0.5, 0.3])
    noise = np.random.default_rng(0).normal(0, 0.05, (10, len(curve)))
    sums = 12 * (curve + noise - noise.mean(axis=0))
    rows = np.full(10, 12)
    assert 4 <= sweep.steady_threshold(sums, rows) <= 6
    only = sweep.steady_threshold(12 * curve[None, :], np.array([12]))
    assert curve[only] >= 0.8


def test_the_recipes_order_decides_between_equals() -> None:
    f1s = np.tile(np.array([0.2, 0.9, 0.2]), (4, 1))
    listed = [
        ThresholdCandidate("context", blend, f1s)
        for blend in (Blend("logit", 0.5), Blend("mean", 0.14))
    ]
    assert sweep.choose(listed, list("aabb")).candidate == 0
    worse = ThresholdCandidate("context", Blend("mean", 0.28), f1s - 0.1)
    assert sweep.choose([worse, *listed], list("aabb")).candidate == 1


def test_a_declared_length_is_not_believed(tmp_path: Path) -> None:
    """Also not one that has no end: reading ends when no more samples come."""
    sound = np.random.default_rng(0).normal(0, 0.1, 12 * RATE_HZ).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", sound, RATE_HZ)
    expected = [w.start for w in windows_of(tmp_path / "a.flac", "context", 5)]
    content = bytearray((tmp_path / "a.flac").read_bytes())
    for length in (0, 2**32 - 1, RATE_HZ):
        content[21:26] = bytes([content[21] & 0xF0]) + length.to_bytes(4, "big")
        (tmp_path / "a.flac").write_bytes(content)
        windows = list(windows_of(tmp_path / "a.flac", "context", 5))
        assert [w.start for w in windows] == expected == [0, 5 * RATE_HZ, 7 * RATE_HZ]


def test_windows_behind_a_gap_count_it(tmp_path: Path) -> None:
    """Ten minutes that an AudioMoth folded up: no window spans them, and rows have their own
    time."""
    sound = np.random.default_rng(0).integers(-3_000, 3_000, 10 * RATE_HZ + 20, dtype=np.int16)
    block = np.zeros(256, np.int16)
    block[:32] = [1 if 75_000 >> bit & 1 else -1 for bit in range(32)]
    first = 12 + 624 * 256 + 244  # a block's end, counted from AudioMoth's own header
    first -= (first - 12) % 256
    soundfile.write(
        tmp_path / "20240512_040000T.wav",
        np.concatenate([sound[:first], block, sound[first:]]),
        RATE_HZ,
    )
    for padding in PADDINGS:
        found = list(windows_of(tmp_path / "20240512_040000T.wav", padding, 5))
        starts = [w.start for w in found]
        resumes = first + 75_000 * 256
        assert starts == [0, resumes, resumes + len(sound) - first - WINDOW_SAMPLES]
        assert [w.samples for w in found] == [first, WINDOW_SAMPLES, WINDOW_SAMPLES]
