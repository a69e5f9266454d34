"""Neighbours, thresholds by rule and the optimiser: each finds what was put there, and says what it
is worth."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from edge.analysis.recognizer import NeighbourSmoother
from edge.contract.blend import Blend
from edge.contract.metrics import NOCALL_ROW, labels_of, score_rows
from edge.contract.taxonomy import Species, Taxonomy
from edge.types import WindowScores
from tests.helpers.trainer_run import CODES, make_corpus, make_rasters, make_run
from trainer.corpus.soundscape_windows import windows_of
from trainer.networks.model import load_network
from trainer.place.metadata import fit_metadata
from trainer.recipe import BlendSearch, Sweep, TuneRecipe
from trainer.report.report import write_report
from trainer.run import Run
from trainer.tuning import sweep
from trainer.tuning.bag import choose_bag, score_images
from trainer.tuning.blend_search import optimise
from trainer.tuning.soundscape_scores import ScoredRows, score_soundscapes
from trainer.tuning.sweep import LabelledRows
from trainer.tuning.thresholds import PULL, by_quantile, by_species, cut_by, f1_at
from trainer.tuning.tune import Search, held_out, tune

SPECIES = Taxonomy(Species(f"bird{i}", "", "") for i in range(6))
THRESHOLDS = sweep.thresholds_of(0.05, 0.95, 0.01)
RECIPE = TuneRecipe(("context",), 5, (BlendSearch("mean", (0.0,)),), Sweep(0.05, 0.95, 0.01))


def songs(
    seed: int, recordings: int = 12, windows: int = 20
) -> tuple[LabelledRows, NDArray[np.bool_]]:
    """Recordings in which one bird or two sing for some windows in a row."""
    random = np.random.default_rng(seed)
    truth = np.zeros((recordings, windows, len(SPECIES)), bool)
    for recording in truth:
        for bird in random.choice(len(SPECIES), 2, replace=False):
            start = random.integers(0, windows - 5)
            recording[start : start + 5, bird] = True
    flat = truth.reshape(-1, len(SPECIES))
    labels = [
        frozenset(SPECIES.codes[i] for i in np.flatnonzero(row)) or NOCALL_ROW for row in flat
    ]
    return LabelledRows.of(
        [(f"r{i}", f"rec{i // windows}", found) for i, found in enumerate(labels)], SPECIES
    ), flat


def logistic(odds: NDArray[np.float64]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def scored_of(
    rows: LabelledRows, kinds: NDArray[np.float32], prior: NDArray[np.float32] | None = None
) -> ScoredRows:
    """Rows that are the windows of their recordings, as two kinds of member score them."""
    silent = np.zeros((len(kinds), 1, kinds.shape[2]), np.float32)
    names, stretch = np.unique(np.asarray(rows.recordings), return_inverse=True)
    return ScoredRows(
        rows=rows,
        kinds=("good", "poor")[: len(kinds)],
        windows={"context": np.concatenate([kinds, silent], axis=1)},
        stretch=np.append(stretch, len(names)),
        at=np.arange(len(rows)),
        step=1,
        prior=np.full(kinds.shape[1:], np.nan, np.float32) if prior is None else prior,
        unreadable=(),
    )


def noisy(seed: int, spread: tuple[float, ...]) -> ScoredRows:
    rows, truth = songs(seed)
    random = np.random.default_rng(seed + 1)
    return scored_of(
        rows,
        np.stack([logistic(5.0 * truth - 3 + random.normal(0, s, truth.shape)) for s in spread]),
    )


def test_neighbours_are_heard_where_they_help() -> None:
    search = Search.of(noisy(0, (1.6,)), replace(RECIPE, smoothing=(0.0, 0.1, 0.2)), 1)
    assert [c.blend.smoothing for c in search.listed] == [0.0, 0.1, 0.2]
    assert search.choose()[0].blend.smoothing > 0
    random = np.random.default_rng(3)  # calls of a single window: neighbours tell nothing
    labels = [labels_of(str(code)) for code in random.choice([*SPECIES.codes, "nocall"], 240)]
    rows = LabelledRows.of(
        [(f"r{i}", f"rec{i // 20}", found) for i, found in enumerate(labels)], SPECIES
    )
    scores = logistic(5.0 * rows.truth - 3 + random.normal(0, 1.0, rows.truth.shape))
    search = Search.of(scored_of(rows, scores[None]), replace(RECIPE, smoothing=(0.3, 0.0)), 1)
    assert search.choose()[0].blend.smoothing == 0.0


def test_the_optimiser_finds_kinds_neighbours_and_prior() -> None:
    scored = noisy(4, (1.4, 4.0))
    random = np.random.default_rng(5)
    nonsense = np.eye(len(SPECIES), dtype=np.float32)[
        random.integers(0, len(SPECIES), len(scored.rows))
    ]
    scored = replace(scored, prior=nonsense)
    recipe = replace(RECIPE, blend=(BlendSearch("mean", (0.14,)),), optimise=200)
    search = Search.of(scored, recipe, 1)
    chosen, found = search.choose()
    assert found is not None
    assert chosen is found.candidate  # clearly better than the published blend
    assert chosen.blend.kind_weights["poor"] < 0.7
    assert chosen.blend.smoothing > 0.05
    assert chosen.blend.prior_weight < 0.14
    assert found.peaks[0] == search.listed[0].peak  # it begins with the listed blend
    assert list(found.peaks) == sorted(found.peaks)
    assert found.peaks[-1] == pytest.approx(chosen.peak)
    assert 150 <= len(found.peaks) <= 200
    again = optimise(scored, search.listed[0], THRESHOLDS, 200, 1)
    assert again.candidate.blend == chosen.blend


def test_an_optimum_that_is_hardly_better_is_not_taken() -> None:
    chosen, found = Search.of(noisy(6, (0.2,)), replace(RECIPE, optimise=20), 1).choose()
    assert found is not None
    # a single kind, and no prior: only neighbours are sought
    assert found.candidate.blend.kind_weights == {}
    assert chosen.blend == Blend(prior_weight=0.0)


def biased(seed: int) -> tuple[LabelledRows, NDArray[np.float32]]:
    """Every species is scored well, but each about a level of its own."""
    rows, truth = songs(seed, recordings=16)
    level = np.linspace(-3.5, 0.5, len(SPECIES))
    return rows, logistic(
        4.0 * truth - 2 + level + np.random.default_rng(seed).normal(0, 0.5, truth.shape)
    )


def test_species_thresholds_follow_their_levels() -> None:
    rows, scores = biased(0)
    cut = cut_by("species", rows, scores, THRESHOLDS)
    values = [cut.species[i] for i in range(len(SPECIES))]
    assert values == sorted(values)
    assert (
        f1_at(rows, scores, cut).mean()
        > f1_at(rows, scores, cut_by("global", rows, scores, THRESHOLDS)).mean() + 0.05
    )
    elsewhere, unseen = biased(1)
    values = [
        f1_at(elsewhere, unseen, cut_by(rule, rows, scores, THRESHOLDS)).mean()
        for rule in ("species", "global")
    ]
    assert values[0] > values[1] + 0.05


def test_few_rows_hardly_move_a_threshold() -> None:
    """Its own best threshold is about 0.65, the global one 0.2; five rows weigh a third against
    that."""
    truth = np.zeros((60, 6), bool)
    truth[:5, 0] = True
    truth[10:14, 1] = True
    truth[20:26, 2] = True
    scores = np.where(truth, 0.9, 0.0).astype(np.float32)
    scores[30:40, 0] = 0.4  # the first species is often heard where it is not
    rows = LabelledRows.of(
        [
            (
                f"r{i}",
                "first" if 20 <= i < 30 else f"rec{i % 4}",
                frozenset(np.array(SPECIES.codes)[t]) or NOCALL_ROW,
            )
            for i, t in enumerate(truth)
        ],
        SPECIES,
    )
    at = int(np.argmin(np.abs(THRESHOLDS - 0.2)))
    own = by_species(rows, scores, THRESHOLDS, at)
    assert set(own) == {0}  # four rows are too few, and so is one recording
    # the plateau is 0.41 to 0.9
    assert own[0] == pytest.approx((5 * 0.65 + PULL * 0.2) / (5 + PULL), abs=0.01)


@pytest.mark.parametrize("silent", [0, 3, 10])
def test_quantile_calls_as_many_rows_nocall_as_the_labels(silent: int) -> None:
    random = np.random.default_rng(silent)
    labels = ["nocall"] * silent + ["bird1"] * (10 - silent)
    rows = LabelledRows.of(
        [(f"r{i}", "rec", labels_of(text)) for i, text in enumerate(labels)], SPECIES
    )
    scores = random.permutation(random.uniform(0.1, 0.9, (10, 6))).astype(np.float32)
    threshold = by_quantile(rows, scores)
    assert 0 < threshold < 1
    assert int((scores.max(axis=1) < threshold).sum()) == silent


def test_held_out_is_not_flattered() -> None:
    """Scores without meaning: what is chosen on the rows themselves looks better than it is
    elsewhere."""
    chosen = []
    elsewhere = []
    recipe = replace(RECIPE, smoothing=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3), optimise=12)
    for seed in range(4):
        rows, truth = songs(seed, recordings=6, windows=8)
        nonsense = np.random.default_rng(seed).uniform(0, 1, truth.shape).astype(np.float32)
        search = Search.of(scored_of(rows, nonsense[None]), recipe, 1)
        best, _ = search.choose()
        scores = search.scored.blended(best.padding, best.blend)
        found = held_out(search)
        for rule in ("global", "species", "quantile"):
            chosen.append(f1_at(rows, scores, cut_by(rule, rows, scores, THRESHOLDS)).mean())
            assert found[rule]["f1_low"] <= found[rule]["f1"] <= found[rule]["f1_high"]
            elsewhere.append(found[rule]["f1"])
    assert np.mean(elsewhere) < np.mean(chosen)
    one = search.take(np.asarray(search.scored.rows.recordings) == "rec0")
    assert held_out(one) == {}


def with_tune(run: Run, **changes: object) -> Run:
    """The same run under a recipe that tunes otherwise."""
    path = run.folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf8"))
    recipe["tune"] |= changes
    path.write_text(yaml.safe_dump(recipe), encoding="utf8")
    return Run(run.folder)


@pytest.mark.parametrize("hop_s", [5, 2.5])
def test_rows_score_as_on_the_station(tmp_path: Path, hop_s: float) -> None:
    """The same images pushed window by window through the station's smoother give what tuning
    compares."""
    corpus = make_corpus(tmp_path / "data")
    run = with_tune(make_run(tmp_path / "run", corpus), hop_s=hop_s)
    choose_bag(run)
    scored = score_soundscapes(run, corpus, run.bag())
    blend = Blend(prior_weight=0.0, smoothing=0.2)
    networks = [load_network(run, member.name) for member in run.bag()]
    expected = []
    for soundscape in corpus.soundscapes:
        windows = list(windows_of(soundscape.path, "zeros", hop_s))
        members = score_images(networks, np.stack([w.input for w in windows]))
        smoother = NeighbourSmoother(blend, round(hop_s * 32_000), None)
        scores = WindowScores(members, members.mean(axis=0), members[0], ("bag",) * len(windows))
        parts = [smoother.push(windows, scores), smoother.close()]
        heard = {
            w.start: s
            for part in parts
            if part
            for w, s in zip(part[0], part[1].acoustic, strict=True)
        }
        expected += [heard[start * 32_000] for start in (0, 5, 10)]
    np.testing.assert_allclose(scored.acoustic("zeros", blend), expected, atol=1e-5)


@pytest.mark.slow
def test_tune_with_everything_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "data", soundscapes=3)
    run = with_tune(
        make_run(tmp_path / "run", corpus),
        smoothing=[0.0, 0.2],
        threshold_by="species",
        optimise=24,
    )
    fit_metadata(run, corpus, make_rasters(tmp_path / "rasters"))
    choose_bag(run)
    tune(run, corpus)
    assert "the blend of 2021" in capsys.readouterr().out
    tuning = run.tuning()
    curves = json.loads((run.folder / "sweep.json").read_text(encoding="utf8"))
    assert len(curves["search"]) == 2 * 3 * 2
    assert sum(row["taken"] for row in [*curves["search"], curves["optimum"]]) == 1
    assert 5 <= len(curves["optimiser"]) <= 24
    assert set(tuning.scores["rules"]) == {"global", "species", "quantile"}
    assert tuning.scores["held_out"] == tuning.scores["rules"]["species"]["held_out"]
    published = tuning.scores["published"]
    scored = score_soundscapes(run, corpus, run.bag())
    assert (published["padding"], published["rule"], published["prior_weight"]) == (
        "zeros",
        "mean",
        0.14,
    )
    found = scored.rows.found(scored.blended("zeros", Blend()), published["threshold"], CODES)
    truth = dict(zip(scored.rows.ids, scored.rows.labels, strict=True))
    again = score_rows(truth, found, sweep.recording_of(scored.rows))
    assert (again.f1, again.f1_low) == pytest.approx(
        (published["f1"], published["f1_low"]), abs=1e-4
    )
    text = write_report(run, corpus).read_text(encoding="utf8")
    for words in ("as published (mean 0.14, zeros)", "one per species", "optimiser"):
        assert words in text


def test_switches_without_effect_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "data", soundscapes=0)
    run = with_tune(make_run(tmp_path / "run", corpus), smoothing=[0.1], optimise=10)
    choose_bag(run)
    tune(run, corpus)
    assert "smoothing, optimise: without effect" in capsys.readouterr().out
    assert run.tuning().blend.smoothing == 0.0


@pytest.mark.parametrize("hop_s", [2.0, 5 / 3, 0.0, 6.0, 0.0125])
def test_a_hop_that_misses_rows_is_refused(hop_s: float) -> None:
    with pytest.raises(
        ValueError, match=r"hop_s: expected .* every labelled row must be a window, found"
    ):
        replace(RECIPE, hop_s=hop_s)
