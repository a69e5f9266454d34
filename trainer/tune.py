"""Padding, blend and thresholds, chosen on labelled soundscapes by the competition's row-wise F1.

The row is the window: its sound is cut, scored and blended as the station will. Without labelled soundscapes only the
thresholds are chosen, on the out-of-fold scores of the training crops. Knows no training; sweep.py makes the choice.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Image, Padding, Samples, WindowCutter
from edge.contract.blend import Blend, Scores, acoustic_scores, blend_scores
from edge.contract.bundle import Thresholds
from edge.contract.errors import RecordingError
from edge.contract.metrics import interval, score_rows
from edge.contract.place import Values
from trainer import sweep
from trainer.bag import score_images
from trainer.corpus import Corpus, Soundscape
from trainer.files import write_json
from trainer.metadata import place_scores
from trainer.oof import crop_table
from trainer.recipe import TuneRecipe
from trainer.run import MemberInfo, Run, Tuning
from trainer.sweep import Candidate, Rows

_BLOCK_S = 5


@dataclass(frozen=True)
class Scored:
    """All labelled rows with what the bag and the prior say of them."""

    rows: Rows
    members: dict[Padding, Scores]  # (members, rows, species) for each padding
    prior: Scores  # (rows, species); NaN where the place, the date or the model is not known
    unreadable: tuple[str, ...]  # soundscapes that could not be decoded

    @property
    def placed(self) -> NDArray[np.bool_]:
        """Rows that have a prior."""
        return ~np.isnan(self.prior[:, 0])


def tune(run: Run, corpus: Corpus) -> None:
    """Write tune.json (the choice and its scores) and sweep.json (curves and the search, for the report)."""
    bag = run.bag()
    scored = score_soundscapes(run, corpus, bag) if corpus.soundscapes else None
    if scored is None or not len(scored.rows):
        tuning, curves = tune_on_crops(run, corpus, bag)
    else:
        tuning, curves = tune_on_rows(run, scored, [member.kind for member in bag])
    write_json(run.folder / "sweep.json", curves)
    run.write_tuning(tuning)
    print(_line(tuning))


# soundscapes to scores


def score_soundscapes(run: Run, corpus: Corpus, bag: Sequence[MemberInfo]) -> Scored:
    """Every labelled row of every readable soundscape; images are made once per padding, scored once per member."""
    networks = [run.load_network(member.name) for member in bag]
    paddings = run.recipe.tune.padding
    labelled, unreadable = [], []
    scores: dict[Padding, list[Scores]] = {padding: [] for padding in paddings}
    prior: list[Scores] = []
    shown = track(corpus.soundscapes, "soundscapes", transient=True, disable=not sys.stderr.isatty())
    for soundscape in shown:
        try:
            found = _score_rows(soundscape, networks, run.recipe.tune, len(run.taxonomy))
        except RecordingError as error:
            unreadable.append(str(error))
            continue
        labelled += [(row, soundscape.path.stem, labels) for row, labels in soundscape.labels.items()]
        for padding in paddings:
            scores[padding].append(found[padding])
        prior.append(np.repeat(_prior(run, soundscape), len(soundscape.labels), axis=0))
    rows = Rows.of(labelled, run.taxonomy)
    empty = np.zeros((0, len(run.taxonomy)), np.float32)
    members = {p: np.concatenate(parts, axis=1) if parts else empty[None] for p, parts in scores.items()}
    return Scored(rows, members, np.concatenate(prior or [empty]), tuple(unreadable))


def _score_rows(
    soundscape: Soundscape, networks: Sequence[nn.Module], recipe: TuneRecipe, species: int
) -> dict[Padding, Scores]:
    """Scores `(members, rows, species)` of a soundscape's labelled rows; 0 for a row beyond the end of the sound."""
    row_at = {_start_s(row_id): i for i, row_id in enumerate(soundscape.labels)}
    images = row_images(soundscape.path, recipe.padding, recipe.hop_s)
    scores = {padding: np.zeros((len(networks), len(row_at), species), np.float32) for padding in recipe.padding}
    wanted = [(padding, start) for padding in recipe.padding for start in images[padding] if start in row_at]
    if wanted:  # one call for all paddings: few large batches cost less than many small ones
        found = score_images(networks, np.stack([images[padding][start] for padding, start in wanted]))
        for i, (padding, start) in enumerate(wanted):
            scores[padding][:, row_at[start]] = found[:, i]
    return scores


def _start_s(row_id: str) -> int:
    """Where a row begins: `7019_COR_10` is the 5 s that end at 10 s. -1 (no window begins there) for another form."""
    end = row_id.rsplit("_", 1)[-1]
    return int(end) - WINDOW_SAMPLES // RATE_HZ if end.isdigit() else -1


def row_images(path: Path, paddings: Sequence[Padding], hop_s: float) -> dict[Padding, dict[int, Image]]:
    """Images of the windows that start on a whole second, by padding and start in seconds; decodes once.

    Raises RecordingError if the sound cannot be decoded to its end.
    """
    cutters = {padding: WindowCutter(round(hop_s * RATE_HZ), padding) for padding in paddings}
    images: dict[Padding, dict[int, Image]] = {padding: {} for padding in paddings}
    for block in (*_blocks(path), None):
        for padding, cutter in cutters.items():
            for window in cutter.close() if block is None else cutter.push(block):
                if window.start % RATE_HZ == 0 and window.samples == WINDOW_SAMPLES:
                    images[padding][window.start // RATE_HZ] = window.image
    return images


def _blocks(path: Path) -> Iterator[Samples]:
    """The sound as float32 mono at 32 kHz, some seconds at a time."""
    try:
        with soundfile.SoundFile(path) as file:
            resampler = soxr.ResampleStream(file.samplerate, RATE_HZ, 1, dtype="float32", quality="HQ")
            for block in file.blocks(_BLOCK_S * file.samplerate, dtype="float32", always_2d=True):
                mono = np.nan_to_num(block.mean(axis=1), nan=0.0, posinf=1.0, neginf=-1.0)
                yield mono if file.samplerate == RATE_HZ else resampler.resample_chunk(mono)
            if file.samplerate != RATE_HZ:
                yield resampler.resample_chunk(np.empty(0, np.float32), last=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise RecordingError(path, str(error).replace(str(path), path.name)) from error


def _prior(run: Run, soundscape: Soundscape) -> Scores:
    """The prior of a soundscape's place and day, `(1, species)`; NaN if it has none."""
    folder = run.metadata()
    if folder is None or soundscape.latitude is None or soundscape.longitude is None or soundscape.date is None:
        return np.full((1, len(run.taxonomy)), np.nan, np.float32)
    place = (soundscape.latitude, soundscape.longitude, soundscape.date.timetuple().tm_yday)
    return place_scores(folder, run.taxonomy, *(np.array([value], np.float32) for value in place))


# scores to a choice


def tune_on_rows(run: Run, scored: Scored, kinds: Sequence[str]) -> tuple[Tuning, dict[str, Any]]:
    """The best padding, blend and thresholds on labelled rows, and the curves they were chosen from."""
    recipe = run.recipe.tune
    thresholds = sweep.thresholds_of(recipe.threshold.low, recipe.threshold.high, recipe.threshold.step)
    placed = scored.placed
    with_prior = bool(placed.any())
    rows = scored.rows.take(placed) if with_prior else scored.rows
    prior = scored.prior[placed] if with_prior else None
    acoustic = {p: acoustic_scores(scored.members[p], kinds, Blend()) for p in recipe.padding}
    candidates = []
    for padding in recipe.padding:
        heard = acoustic[padding][placed] if with_prior else acoustic[padding]
        for blend in _blends(recipe, with_prior):
            counts = sweep.count(rows, blend_scores(heard, prior, blend), thresholds)
            candidates.append(Candidate(padding, blend, sweep.row_f1s(rows, counts)))
    choice = sweep.choose(candidates, rows.recordings)
    chosen = candidates[choice.candidate]
    padding, blend = chosen.padding, chosen.blend
    f1s = sweep.row_f1s(scored.rows, sweep.count(scored.rows, acoustic[padding], thresholds))
    alone = sweep.steady_threshold_of(f1s, scored.rows.recordings)
    cut = Thresholds(_rounded(thresholds[choice.threshold]), _rounded(thresholds[alone]))
    heard = acoustic[padding][placed] if with_prior else acoustic[padding]
    blended = blend_scores(heard, prior, blend)
    scores = {
        "basis": "soundscapes",
        "rows": len(rows),
        "recordings": len(set(rows.recordings)),
        "rows_without_prior": int((~placed).sum()),
        "unreadable": list(scored.unreadable),
        "blended": _score(run, rows, blended, cut.blended),
        "acoustic": _score(run, scored.rows, acoustic[padding], cut.acoustic),
        "held_out": _held_out(candidates, rows),
    }
    curves = {
        "basis": "soundscapes",
        "blended": _curve(thresholds, chosen.f1s, rows),
        "acoustic": _curve(thresholds, f1s, scored.rows),
        "search": [_search_row(candidate, thresholds) for candidate in candidates],
    }
    return Tuning(padding, blend, cut, scores), curves


def _blends(recipe: TuneRecipe, with_prior: bool) -> list[Blend]:
    """The recipe's blends in its order: the first stands where no other is clearly better. Without a prior they are
    all the same one."""
    if not with_prior:
        return [Blend(prior_weight=0.0)]
    return [Blend(search.rule, weight) for search in recipe.blend for weight in search.prior_weight]


def tune_on_crops(run: Run, corpus: Corpus, bag: Sequence[MemberInfo]) -> tuple[Tuning, dict[str, Any]]:
    """Thresholds of the best micro F1 over the out-of-fold crops, where there is no labelled soundscape.

    Padding is the recipe's first, the blend the published one: crops of clean recordings at the very places that the
    metadata model learnt from can tell nothing about either.
    """
    recipe = run.recipe.tune
    table = crop_table(run, corpus, bag)
    blend = Blend() if run.metadata() else Blend(prior_weight=0.0)
    prior = _prior_of_crops(run, table.latitude, table.longitude, table.day_of_year)
    placed = ~np.isnan(prior[:, 0])
    blended = table.scores.copy()
    blended[placed] = blend_scores(table.scores[placed], prior[placed], blend)
    thresholds = sweep.thresholds_of(recipe.threshold.low, recipe.threshold.high, recipe.threshold.step)
    labelled = [(str(i), r, frozenset({c})) for i, (r, c) in enumerate(zip(table.recordings, table.codes, strict=True))]
    rows = Rows.of(labelled, run.taxonomy)
    found, chosen, parts = {}, {}, {"blended": blended, "acoustic": table.scores}
    for name, scores in parts.items():
        ignored = np.where(table.ignored, np.float32(-1), scores)  # a secondary species may well be in the crop
        found[name] = sweep.micro_f1(rows, sweep.count(rows, ignored, thresholds))
        chosen[name] = sweep.best_threshold(found[name])
    cut = Thresholds(_rounded(thresholds[chosen["blended"]]), _rounded(thresholds[chosen["acoustic"]]))
    figures: dict[str, Any] = {"basis": "out_of_fold_crops", "rows": len(rows), "recordings": len(set(rows.recordings))}
    figures |= {name: {"f1": _rounded(found[name][chosen[name]])} for name in parts}
    curves: dict[str, Any] = {"basis": "out_of_fold_crops", "search": []}
    curves |= {name: {"threshold": _list(thresholds), "f1": _list(found[name])} for name in parts}
    return Tuning(recipe.padding[0], blend, cut, figures), curves


def _prior_of_crops(run: Run, latitude: Values, longitude: Values, day_of_year: Values) -> Scores:
    prior = np.full((len(latitude), len(run.taxonomy)), np.nan, np.float32)
    folder, known = run.metadata(), ~np.isnan(latitude) & ~np.isnan(day_of_year)
    if folder and known.any():
        prior[known] = place_scores(folder, run.taxonomy, latitude[known], longitude[known], day_of_year[known])
    return prior


# what is written of it


def _score(run: Run, rows: Rows, scores: Scores, threshold: float) -> dict[str, float | int | None]:
    found = rows.found(scores, threshold, run.taxonomy.codes)
    truth = dict(zip(rows.ids, rows.labels, strict=True))
    return _plain(asdict(score_rows(truth, found, sweep.recording_of(rows))))


def _held_out(candidates: Sequence[Candidate], rows: Rows) -> dict[str, float | None] | None:
    values = sweep.held_out(candidates, rows.recordings)
    if values is None:
        return None
    low, high = interval(values, rows.recordings)
    return _plain({"f1": float(values.mean()), "f1_low": low, "f1_high": high})


def _curve(thresholds: NDArray[np.float32], f1s: NDArray[np.float64], rows: Rows) -> dict[str, list[float | None]]:
    low, high = sweep.curve_interval(f1s, rows.recordings)
    parts = {"threshold": thresholds, "f1": f1s.mean(axis=0), "low": low, "high": high}
    for name, kept in (("call_rows", rows.calls), ("nocall_rows", ~rows.calls)):
        parts[name] = f1s[kept].mean(axis=0) if kept.any() else np.full(len(thresholds), np.nan)
    return {name: _list(values) for name, values in parts.items()}


def _search_row(candidate: Candidate, thresholds: NDArray[np.float32]) -> dict[str, Any]:
    curve = candidate.f1s.mean(axis=0)
    best = int(np.argmax(sweep.smooth(curve)))
    blend = {"rule": candidate.blend.rule, "prior_weight": candidate.blend.prior_weight}
    found = {"threshold": thresholds[best], "f1": curve[best], "peak": sweep.smooth(curve).max()}
    return {"padding": candidate.padding, **blend} | {name: _rounded(value) for name, value in found.items()}


def _rounded(value: float) -> float:
    return round(float(value), 4)


def _list(values: NDArray[Any]) -> list[float | None]:
    return [_rounded(value) if math.isfinite(value) else None for value in values.tolist()]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Figures as JSON takes them: rounded, and None for what is not defined."""
    return {k: v if isinstance(v, int) else _rounded(v) if math.isfinite(v) else None for k, v in values.items()}


def _line(tuning: Tuning) -> str:
    scores, cut, blend = tuning.scores, tuning.thresholds, tuning.blend
    if scores["basis"] != "soundscapes":
        return (
            f"tune: no labelled soundscapes: thresholds {cut.blended:g} and {cut.acoustic:g} (without a place) taken "
            f"from {scores['rows']} out-of-fold crops (micro F1 {scores['blended']['f1']:.3f}); expect them to be too "
            f"low in the field, where most windows hold no bird"
        )
    f1 = scores["blended"]
    beaten = "" if f1["f1"] > f1["f1_all_nocall"] else "; nothing beats reporting nothing: this model hears no birds"
    return (
        f"tune: padding {tuning.padding}, blend {blend.rule} {blend.prior_weight:g}, threshold {cut.blended:g} "
        f"({cut.acoustic:g} without a place): row F1 {f1['f1']:.3f} [{f1['f1_low']:.3f}, {f1['f1_high']:.3f}] on "
        f"{scores['rows']} rows, all-nocall {f1['f1_all_nocall']:.3f}{beaten}"
    )
