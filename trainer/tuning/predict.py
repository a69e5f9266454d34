"""Predictions of a finished run as a submission of the competition: species in every 5-s row of a
folder of soundscapes.

Cut, scored, smoothed, blended and decided as on a station with a hop of 5 s. Knows no labels.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.blend import (
    Scores,
    acoustic_scores,
    blend_scores,
    neighbour_step,
    smooth_neighbours,
)
from edge.contract.errors import ConfigError, RecordingError
from edge.contract.folders import entries_of
from edge.contract.rows import rows_of, window_of_row
from edge.contract.taxonomy import NOCALL
from trainer.corpus.recordings import AUDIO
from trainer.corpus.soundscape_windows import some_of
from trainer.corpus.soundscapes import read_sites, soundscape_name
from trainer.corpus.tables import Problems
from trainer.files import check_replaceable, write_csv
from trainer.networks.precision import choose_device
from trainer.place.place_prior import place_scores
from trainer.run import Run
from trainer.tuning.ensemble import open_ensemble
from trainer.tuning.soundscape_scores import WindowSpan, hear, known_by_kind, samples_of

COLUMNS = ("row_id", "birds")
OptionalPlace = tuple[float | None, float | None]


@dataclass(frozen=True)
class PredictionSummary:
    """Counts of the rows written, and problems."""

    soundscapes: int
    rows: int
    rows_with_calls: int
    without_prior: (
        int  # soundscapes whose place or day is not known, or all if the run has no metadata model
    )
    unreadable: tuple[str, ...]
    partly_lost: tuple[str, ...]  # with some sound lost

    def tell(self, out: Path, console: Console) -> None:
        """Print the problems, a line each, and the counts."""
        for what, lines in (("not readable", self.unreadable), ("partly lost", self.partly_lost)):
            for line in lines:
                told = f"[yellow]{what}:[/yellow] {escape(line)}"
                console.print(told, highlight=False, soft_wrap=True)
        lost = len(self.unreadable)
        missing = f"; {lost} could not be read and have none" if lost else ""
        console.print(
            f"{out}: {self.rows} rows of {self.soundscapes} soundscapes, {self.rows_with_calls} "
            f"with birds; {self.without_prior} without a known place and season{missing}",
            highlight=False,
            soft_wrap=True,
        )


def thresholds_of(run: Run) -> tuple[Scores, Scores]:
    """Thresholds `(species,)` for scores that are blended with a prior, and for those that are
    not."""
    cut = run.tuning().thresholds
    codes = run.taxonomy.codes
    own = np.array([cut.species.get(code, cut.blended) for code in codes], np.float32)
    alone = np.full(len(codes), cut.acoustic, np.float32)
    # Without a metadata model they were tuned by sound alone.
    for code, value in {} if run.metadata() else cut.species.items():
        alone[codes.index(code)] = value
    return own, alone


class Predictor:
    """The bag of a finished run, with its tuning."""

    def __init__(self, run: Run, device: str = "auto") -> None:
        self._run = run
        bag = run.bag()
        self._tuning = run.tuning()
        self.codes = run.taxonomy.codes
        self._taxonomy = run.taxonomy
        self._metadata = run.metadata()
        self._ensemble = open_ensemble(run, bag, choose_device(device))
        self._thresholds, self._thresholds_alone = thresholds_of(run)
        self.lost: list[str] = []  # a line for each recording so far with some sound lost

    def require_unchanged(self) -> None:
        """Raise CorpusError if a trainer changed the run since it was opened."""
        self._run.require_unchanged()

    def prior(self, place: OptionalPlace, day: date | None) -> Scores | None:
        """Species probabilities `(1, species)` for a place and day; None if one of them is unknown,
        or without a metadata model."""
        latitude, longitude = place
        if self._metadata is None or latitude is None or longitude is None or day is None:
            return None
        asked = (
            np.array([value], np.float32)
            for value in (latitude, longitude, day.timetuple().tm_yday)
        )
        return place_scores(self._metadata, self._taxonomy, *asked)

    def scores(self, path: Path, prior: Scores | None) -> tuple[list[WindowSpan], Scores]:
        """The windows of a recording and their blended scores `(windows, species)`. Raises
        RecordingError if nothing can be decoded."""
        padding = self._tuning.padding
        blend = self._tuning.blend
        heard = hear(
            path,
            self._ensemble,
            len(self.codes),
            [padding],
            WINDOW_SAMPLES / RATE_HZ,
            self.lost,
        )
        kinds = sorted(set(self._ensemble.kinds))
        known = known_by_kind(self._ensemble)
        acoustic = acoustic_scores(heard.scores[padding], kinds, blend, known)
        smoothed = smooth_neighbours(acoustic, blend, neighbour_step(WINDOW_SAMPLES))
        return heard.windows, blend_scores(smoothed, prior, blend)

    def rows(self, path: Path, prior: Scores | None) -> dict[int, tuple[str, ...]]:
        """Species heard in each 5-s row of a recording (`rows_of`), by the second at which the row
        ends. Raises like `scores`."""
        windows, scores = self.scores(path, prior)
        passed = scores >= (self._thresholds_alone if prior is None else self._thresholds)
        heard: dict[int | None, tuple[str, ...]] = {
            window.start: tuple(self.codes[i] for i in np.flatnonzero(found).tolist())
            for window, found in zip(windows, passed, strict=True)
        }
        samples = samples_of(windows)
        return {end_s: heard.get(window_of_row(end_s, samples), ()) for end_s in rows_of(samples)}


def predict(
    predictor: Predictor,
    folder: Path,
    out: Path,
    sites: Path | None,
    progress: Callable[[int, int], None],
) -> PredictionSummary:
    """Write `row_id, birds` for all soundscapes of a folder, in the order of their names.

    A row id is `<audio id>_<site>_<second>` for file names as in the competition, else `<name up to
    its first dot>_<second>`. Raises ConfigError if there is no readable soundscape, or if two would
    have the same row ids; UsageError if `out` exists and is not such a table.
    """
    check_replaceable(out, COLUMNS)
    files = _soundscapes(folder)
    places = _places(sites)
    seen = dict[str, Path]()
    for path in files:  # before hours of work
        other = seen.setdefault(soundscape_name(path)[0], path)
        if other != path:
            raise ConfigError(
                f"{path}: its rows would have the same names as those of {other.name}; keep one of "
                "the two"
            )
    rows: list[tuple[str, str]] = []
    unreadable = []
    without_prior = 0
    for done, path in enumerate(files):
        progress(done, len(files))
        name, site, day = soundscape_name(path)
        name = os.fsencode(name).decode("utf8", "backslashreplace")  # tables contain text only
        prior = predictor.prior(places.get(site, (None, None)), day)
        try:
            found = predictor.rows(path, prior)
        except RecordingError as error:
            unreadable.append(str(error))
            continue
        without_prior += prior is None
        rows += [
            (f"{name}_{second}", " ".join(birds) or NOCALL)
            for second, birds in sorted(found.items())
        ]
    progress(len(files), len(files))
    if len(unreadable) == len(files):
        raise ConfigError(
            f"{folder}: soundscapes: expected one that can be read, found none of {len(files)}: "
            f"{some_of(unreadable)}; put intact files there and run the same command again"
        )
    predictor.require_unchanged()
    write_csv(out, COLUMNS, rows)
    calls = sum(birds != NOCALL for _, birds in rows)
    return PredictionSummary(
        len(files) - len(unreadable),
        len(rows),
        calls,
        without_prior,
        tuple(unreadable),
        tuple(predictor.lost),
    )


def _soundscapes(folder: Path) -> list[Path]:
    """Everything with the suffix of a sound file that is not a folder, sorted, so that unreadable
    files get reported."""
    try:
        listed = entries_of(folder) if folder.is_dir() else []
        files = [path for path in listed if path.suffix.lower() in AUDIO and not path.is_dir()]
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be listed: {error.strerror}"
        ) from error
    if not files:
        raise ConfigError(f"{folder}: expected recordings ({', '.join(AUDIO)}), found none")
    return files


def _places(sites: Path | None) -> Mapping[str, OptionalPlace]:
    """Coordinates by site. Raises ConfigError if a row of the table is invalid: otherwise the prior
    would silently be missing."""
    if sites is None:
        return {}
    problems = Problems()
    places = read_sites(sites, problems)
    for kind, examples in problems.examples.items():
        raise ConfigError(f"{sites}: {kind}: {examples[0]}")
    return places
