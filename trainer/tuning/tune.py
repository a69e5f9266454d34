"""Padding, blend and thresholds, chosen on labelled soundscapes by the row-wise F1 of the
competition.

A row is a window: its sound is cut, scored and blended as on the station. Without labelled
soundscapes only the thresholds are chosen, by out-of-fold scores of the training crops. Knows no
training; sweep.py makes the choice, thresholds.py sets the thresholds, blend_search.py searches
between the listed blends.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import Padding
from edge.contract.blend import Blend, Scores, blend_scores
from edge.contract.bundle import Thresholds
from edge.contract.metrics import interval, score_rows
from edge.contract.screen import say
from edge.prior.place import Values
from trainer.corpus.recordings import Corpus
from trainer.corpus.soundscapes import NO_SOUND
from trainer.files import write_json
from trainer.place.place_prior import place_scores
from trainer.recipe import ThresholdBy, TuneRecipe
from trainer.run import MemberInfo, Run, Tuning
from trainer.tuning import sweep
from trainer.tuning.blend_search import Optimum, optimise
from trainer.tuning.mixture_scores import score_mixtures
from trainer.tuning.out_of_fold import crop_table
from trainer.tuning.soundscape_scores import ScoredRows, score_soundscapes
from trainer.tuning.sweep import LabelledRows, ThresholdCandidate
from trainer.tuning.thresholds import RULES, ThresholdSet, cut_by, f1_at


def tune(run: Run, corpus: Corpus) -> None:
    """Write tune.json (the choice and its scores) and sweep.json (curves and search, for the
    report)."""
    bag = run.bag()
    scored = score_soundscapes(run, corpus, bag) if corpus.soundscapes else None
    for line in scored.unreadable if scored else ():
        say(f"tune: not readable: {line}")
    for line in scored.partly_lost if scored else ():
        say(f"tune: partly lost: {line}")
    if missing := corpus.problems.counts.get(NO_SOUND):
        example = corpus.problems.examples[NO_SOUND][0]
        say(f"tune: {missing} labelled soundscapes are missing, such as {example}")
    if scored is None and run.recipe.transfer is not None:
        tuning, curves = tune_on_mixtures(run, corpus, bag)
    elif scored is None:
        tuning, curves = tune_on_crops(run, corpus, bag)
    else:
        tuning, curves = tune_on_rows(run, scored)
    write_json(run.folder / "sweep.json", curves)
    run.write_tuning(tuning)
    say(_line(tuning))
    recipe = run.recipe.tune
    asked = {"smoothing": any(recipe.smoothing), "threshold_by": recipe.threshold_by != "global"}
    asked["optimise"] = recipe.optimise > 0
    if curves["basis"] == "out_of_fold_crops" and any(asked.values()):
        say(
            f"tune: {', '.join(key for key in asked if asked[key])}: without effect, since they "
            "need labelled soundscapes"
        )


# Choice by scores of soundscapes


@dataclass(frozen=True)
class Search:
    """The candidates to choose from: paddings and blends for rows that all have a prior, or none,
    and thresholds."""

    scored: ScoredRows
    recipe: TuneRecipe
    seed: int
    thresholds: NDArray[np.float32]
    # Those of the recipe, in its order: the first is kept unless another one is clearly better.
    listed: list[ThresholdCandidate]

    @classmethod
    def of(cls, scored: ScoredRows, recipe: TuneRecipe, seed: int) -> "Search":
        thresholds = sweep.thresholds_of(
            recipe.threshold.low, recipe.threshold.high, recipe.threshold.step
        )
        search = cls(scored, recipe, seed, thresholds, [])
        for padding in recipe.padding:
            search.listed.extend(
                search.candidate(padding, blend)
                for blend in _blends(recipe, bool(scored.placed.any()))
            )
        return search

    def candidate(self, padding: Padding, blend: Blend) -> ThresholdCandidate:
        scores = self.scored.blended(padding, blend)
        return ThresholdCandidate(
            padding,
            blend,
            sweep.row_f1s(self.scored.rows, sweep.count(self.scored.rows, scores, self.thresholds)),
        )

    def take(self, kept: NDArray[np.bool_]) -> "Search":
        """The same for these rows."""
        listed = [candidate.take(kept) for candidate in self.listed]
        return Search(self.scored.take(kept), self.recipe, self.seed, self.thresholds, listed)

    def choose(self) -> tuple[ThresholdCandidate, Optimum | None]:
        """Choose a candidate; also returns the result of the optimiser. That starts from the best
        listed candidate, and is chosen only if it is clearly better than all of them."""
        recordings = self.scored.rows.recordings
        chosen = self.listed[sweep.choose(self.listed, recordings).candidate]
        if not self.recipe.optimise:
            return chosen, None
        found = optimise(self.scored, chosen, self.thresholds, self.recipe.optimise, self.seed)
        candidates = [*self.listed, found.candidate]
        return candidates[sweep.choose(candidates, recordings).candidate], found


def _blends(recipe: TuneRecipe, with_prior: bool) -> list[Blend]:
    """The blends of the recipe in its order, each with every smoothing. Without a prior, its
    weights make no difference."""
    blends = [
        Blend(search.rule, weight) for search in recipe.blend for weight in search.prior_weight
    ]
    plain = blends if with_prior else [Blend(prior_weight=0.0)]
    return [replace(blend, smoothing=weight) for blend in plain for weight in recipe.smoothing]


def tune_on_mixtures(
    run: Run, corpus: Corpus, bag: Sequence[MemberInfo]
) -> tuple[Tuning, dict[str, Any]]:
    """Choose thresholds for heads on a published model without labelled soundscapes: on recordings
    mixed over backgrounds, scored by heads that have not heard the recording.

    The blend is the first of the recipe without neighbours: rows that stand alone, at the places
    that the metadata model was trained on, cannot decide these.
    """
    recipe = run.recipe.tune
    first = replace(recipe.blend[0], prior_weight=recipe.blend[0].prior_weight[:1])
    alone = replace(recipe, blend=(first,), smoothing=(0.0,), padding=recipe.padding[:1])
    return tune_on_rows(run, score_mixtures(run, corpus, bag), alone, "mixtures")


def tune_on_rows(
    run: Run,
    scored: ScoredRows,
    recipe: TuneRecipe | None = None,
    basis: Literal["soundscapes", "mixtures"] = "soundscapes",
) -> tuple[Tuning, dict[str, Any]]:
    """Choose padding, blend and thresholds on labelled rows. Also returns the curves for the
    report."""
    recipe = recipe or run.recipe.tune
    placed = scored.placed
    search = Search.of(scored.take(placed) if placed.any() else scored, recipe, run.recipe.seed)
    chosen, optimum = search.choose()
    rows = search.scored.rows
    thresholds = search.thresholds
    blended = search.scored.blended(chosen.padding, chosen.blend)
    alone = scored.acoustic(chosen.padding, chosen.blend)
    by_rule = {rule: cut_by(rule, rows, blended, thresholds) for rule in RULES}
    cut = by_rule[recipe.threshold_by]
    # Species have thresholds of their own only with a prior; without it, one for all decides.
    acoustic = cut_by(
        "quantile" if recipe.threshold_by == "quantile" else "global",
        scored.rows,
        alone,
        thresholds,
    )
    species = {run.taxonomy.codes[index]: value for index, value in sorted(cut.species.items())}
    elsewhere = held_out(search)
    scores = {
        "basis": basis,
        "rows": len(rows),
        "recordings": len(set(rows.recordings)),
        "rows_without_prior": int((~placed).sum()),
        "unreadable": list(scored.unreadable),
        "blended": _score(run, rows, blended, cut.of_all(len(run.taxonomy))),
        "acoustic": _score(run, scored.rows, alone, acoustic.threshold),
        "held_out": elsewhere.get(recipe.threshold_by),
        "threshold_by": recipe.threshold_by,
        "rules": {
            rule: _rule(by_rule[rule], f1_at(rows, blended, by_rule[rule]), elsewhere.get(rule))
            for rule in RULES
        },
        "published": _published(run, search),
    }
    f1s = sweep.row_f1s(scored.rows, sweep.count(scored.rows, alone, thresholds))
    curves = {
        "basis": basis,
        "blended": _curve(thresholds, chosen.f1s, rows),
        "acoustic": _curve(thresholds, f1s, scored.rows),
        "search": [
            _search_row(candidate, thresholds, candidate is chosen) for candidate in search.listed
        ],
        "optimum": _search_row(optimum.candidate, thresholds, optimum.candidate is chosen)
        if optimum
        else None,
        "optimiser": _list(np.array(optimum.peaks)) if optimum else [],
    }
    return Tuning(
        chosen.padding, chosen.blend, Thresholds(cut.threshold, acoustic.threshold, species), scores
    ), curves


def _rule(
    cut: ThresholdSet, f1s: sweep.Floats, held_out: dict[str, float | None] | None
) -> dict[str, Any]:
    """The thresholds of one rule in brief, and its F1."""
    return {
        "threshold": cut.threshold,
        "own": len(cut.species),
        "f1": _rounded(f1s.mean()),
        "held_out": held_out,
    }


def held_out(search: Search) -> dict[ThresholdBy, dict[str, float | None]]:
    """F1 to expect of each rule on a new soundscape: that of each soundscape with blend and
    thresholds chosen on the others (also by the optimiser). Empty with a single soundscape."""
    rows = search.scored.rows
    found = {rule: np.empty(len(search.scored.rows)) for rule in RULES}
    folds = sweep.without_each(rows.recordings)
    for others in folds:
        part = search.take(others)
        mine = search.scored.take(~others)
        chosen, _ = part.choose()
        seen = part.scored.blended(chosen.padding, chosen.blend)
        unseen = mine.blended(chosen.padding, chosen.blend)
        for rule in RULES:
            found[rule][~others] = f1_at(
                mine.rows, unseen, cut_by(rule, part.scored.rows, seen, search.thresholds)
            )
    spans = {rule: interval(values, rows.recordings) for rule, values in found.items() if folds}
    return {
        rule: _plain({"f1": float(found[rule].mean()), "f1_low": low, "f1_high": high})
        for rule, (low, high) in spans.items()
    }


def _published(run: Run, search: Search) -> dict[str, Any]:
    """The blend exactly as published, for comparison: plain mean, weights 1 and 0.14, no
    neighbours, one threshold at the peak of its sweep; padded with zeros if the recipe lists that,
    else with its first padding."""
    padding: Padding = "zeros" if "zeros" in search.recipe.padding else search.recipe.padding[0]
    blend = Blend() if search.scored.placed.any() else Blend(prior_weight=0.0)
    candidate = search.candidate(padding, blend)
    threshold = _rounded(search.thresholds[int(candidate.f1s.mean(axis=0).argmax())])
    figures = _score(run, search.scored.rows, search.scored.blended(padding, blend), threshold)
    return {
        "padding": padding,
        "rule": blend.rule,
        "prior_weight": blend.prior_weight,
        "threshold": threshold,
    } | figures


def tune_on_crops(
    run: Run, corpus: Corpus, bag: Sequence[MemberInfo]
) -> tuple[Tuning, dict[str, Any]]:
    """Choose thresholds by the best micro F1 over the out-of-fold crops, for a corpus without
    labelled soundscapes.

    The padding is the first of the recipe, the blend the published one without smoothing, with one
    threshold for all species: crops of clean recordings, at the places that the metadata model was
    trained on, cannot decide these.
    """
    recipe = run.recipe.tune
    table = crop_table(run, corpus, bag)
    blend = Blend() if run.metadata() else Blend(prior_weight=0.0)
    prior = _prior_of_crops(run, table.latitude, table.longitude, table.day_of_year)
    placed = ~np.isnan(prior).all(axis=1)
    blended = table.scores.copy()
    blended[placed] = blend_scores(table.scores[placed], prior[placed], blend)
    thresholds = sweep.thresholds_of(
        recipe.threshold.low, recipe.threshold.high, recipe.threshold.step
    )
    labelled = [
        (str(i), r, frozenset({c}))
        for i, (r, c) in enumerate(zip(table.recordings, table.codes, strict=True))
    ]
    rows = LabelledRows.of(labelled, run.taxonomy)
    found = {}
    chosen = {}
    parts = {"blended": blended, "acoustic": table.scores}
    for name, scores in parts.items():
        # A secondary species may be in the crop.
        ignored = np.where(table.ignored, np.float32(-1), scores)
        found[name] = sweep.micro_f1(rows, sweep.count(rows, ignored, thresholds))
        chosen[name] = sweep.best_threshold(found[name])
    cut = Thresholds(
        _rounded(thresholds[chosen["blended"]]), _rounded(thresholds[chosen["acoustic"]])
    )
    figures: dict[str, Any] = {
        "basis": "out_of_fold_crops",
        "rows": len(rows),
        "recordings": len(set(rows.recordings)),
    }
    figures |= {name: {"f1": _rounded(found[name][chosen[name]])} for name in parts}
    curves: dict[str, Any] = {"basis": "out_of_fold_crops", "search": []}
    curves |= {name: {"threshold": _list(thresholds), "f1": _list(found[name])} for name in parts}
    return Tuning(recipe.padding[0], blend, cut, figures), curves


def _prior_of_crops(run: Run, latitude: Values, longitude: Values, day_of_year: Values) -> Scores:
    prior = np.full((len(latitude), len(run.taxonomy)), np.nan, np.float32)
    folder = run.metadata()
    known = ~np.isnan(latitude) & ~np.isnan(day_of_year)
    if folder and known.any():
        prior[known] = place_scores(
            folder, run.taxonomy, latitude[known], longitude[known], day_of_year[known]
        )
    return prior


# Contents of tune.json and sweep.json


def _score(
    run: Run, rows: LabelledRows, scores: Scores, threshold: float | Scores
) -> dict[str, float | int | None]:
    found = rows.found(scores, threshold, run.taxonomy.codes)
    truth = dict(zip(rows.ids, rows.labels, strict=True))
    return _plain(asdict(score_rows(truth, found, sweep.recording_of(rows))))


def _curve(
    thresholds: NDArray[np.float32], f1s: NDArray[np.float64], rows: LabelledRows
) -> dict[str, list[float | None]]:
    low, high = sweep.curve_interval(f1s, rows.recordings)
    parts = {"threshold": thresholds, "f1": f1s.mean(axis=0), "low": low, "high": high}
    for name, kept in (("call_rows", rows.calls), ("nocall_rows", ~rows.calls)):
        parts[name] = f1s[kept].mean(axis=0) if kept.any() else np.full(len(thresholds), np.nan)
    return {name: _list(values) for name, values in parts.items()}


def _search_row(
    candidate: ThresholdCandidate, thresholds: NDArray[np.float32], taken: bool
) -> dict[str, Any]:
    curve = candidate.f1s.mean(axis=0)
    best = int(np.argmax(sweep.smooth(curve)))
    found = {"threshold": thresholds[best], "f1": curve[best], "peak": candidate.peak}
    figures = {name: _rounded(value) for name, value in found.items()}
    return {"padding": candidate.padding} | asdict(candidate.blend) | figures | {"taken": taken}


def _rounded(value: float) -> float:
    return round(float(value), 4)


def _list(values: NDArray[Any]) -> list[float | None]:
    return [_rounded(value) if math.isfinite(value) else None for value in values.tolist()]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Figures for JSON: rounded, and None if undefined."""
    return {
        k: v if isinstance(v, int) else _rounded(v) if math.isfinite(v) else None
        for k, v in values.items()
    }


def _line(tuning: Tuning) -> str:
    scores = tuning.scores
    cut = tuning.thresholds
    blend = tuning.blend
    if scores["basis"] == "out_of_fold_crops":
        return (
            f"tune: no labelled soundscapes: thresholds {cut.blended:g} and {cut.acoustic:g} "
            f"(without a place) taken from {scores['rows']} out-of-fold crops (micro F1 "
            f"{scores['blended']['f1']:.3f}); expect them to be too low in the field, where most "
            "windows contain no bird"
        )
    f1 = scores["blended"]
    published = scores["published"]
    smoothed = f", neighbours {blend.smoothing:g}" if blend.smoothing else ""
    own = f", {len(cut.species)} species with their own" if cut.species else ""
    return (
        f"tune: padding {tuning.padding}, blend {blend.rule} {blend.prior_weight:g}{smoothed}, "
        f"threshold {cut.blended:g} ({cut.acoustic:g} without a place{own}): row F1 {_span(f1)} on "
        f"{scores['rows']} rows; saying 'no bird' throughout would score "
        f"{f1['f1_all_nocall']:.3f}, the blend of 2021 {_span(published)}"
    )


def _span(score: Mapping[str, Any]) -> str:
    f1, low, high = (score[key] for key in ("f1", "f1_low", "f1_high"))
    # One soundscape gives no interval.
    return f"{f1:.3f}" if low == high else f"{f1:.3f} [{low:.3f}, {high:.3f}]"
