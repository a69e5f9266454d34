"""Scores to detections: the species above their thresholds in each window, and the rules applied.
Knows no sound and no database."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from edge.config import Config, DetectSettings
from edge.contract.audio import RATE_HZ, Window
from edge.contract.blend import Scores
from edge.contract.bundle import Bundle
from edge.contract.errors import ConfigError
from edge.contract.taxonomy import Kind, Taxonomy
from edge.types import Detection, RecordingRow, WindowScores, stable_id, utc_text

RUNNER_UPS = 3  # stored with each detection


@dataclass(frozen=True)
class Rules:
    """Thresholds in force `(species,)` and the name of the rule that set each."""

    thresholds: Scores
    names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        taxonomy: Taxonomy,
        default: float,
        default_name: str,
        own: Mapping[str, float],
        kinds: Iterable[Kind],
    ) -> "Rules":
        """Rules with one default threshold, the station's `own` for single species, and NaN, which
        no score passes, for classes of other kinds. Raises ConfigError on a code that the bundle
        does not know."""
        unknown = sorted(set(own) - set(taxonomy.codes))
        if unknown:
            raise ConfigError(
                "detect.thresholds: expected codes of this bundle (`birdstation species`), found "
                f"{', '.join(unknown)}"
            )
        thresholds = np.full(len(taxonomy), np.nan, np.float32)
        for index in taxonomy.of_kind(kinds):
            thresholds[index] = own.get(taxonomy.codes[index], default)
        return cls(
            thresholds, tuple("species" if code in own else default_name for code in taxonomy.codes)
        )


def rules_of(bundle: Bundle, detect: DetectSettings) -> tuple[Rules, Rules]:
    """The rules for scores blended with the prior, and those for sound alone. Raises ConfigError on
    a code that the bundle does not know."""
    thresholds = bundle.manifest.thresholds
    own = dict(detect.thresholds)
    default = detect.threshold
    blended, acoustic = (
        (thresholds.blended, thresholds.acoustic) if default is None else (default, default)
    )
    tuned = dict(thresholds.species) if default is None else {}
    name = "bundle" if default is None else "station"
    alone = own if bundle.manifest.has_prior else tuned | own  # no prior: tuned by sound alone
    return (
        Rules.of(bundle.taxonomy, blended, name, tuned | own, detect.kinds),
        Rules.of(bundle.taxonomy, acoustic, f"{name}-acoustic", alone, detect.kinds),
    )


def check_names(bundle: Bundle, config: Config) -> None:
    """Check the species and kinds that the settings name. Raises ConfigError for a slip that would
    otherwise go unnoticed: a species left unprotected, or no species to detect."""
    unknown = sorted(set(config.sensitive.species) - set(bundle.taxonomy.codes))
    if unknown:
        raise ConfigError(
            "sensitive.species: expected codes of this bundle (`birdstation species`), found "
            f"{', '.join(unknown)}"
        )
    if not bundle.taxonomy.of_kind(config.detect.kinds):
        kinds = ", ".join(sorted({species.kind for species in bundle.taxonomy}))
        found = ", ".join(config.detect.kinds) or "none"
        raise ConfigError(
            f"detect.kinds: expected a kind that this bundle has ({kinds}), found {found}"
        )


class Detector:
    """Applies the rules. A detection gets the same id whenever the same sound is analysed."""

    def __init__(self, station: str, bundle_id: str, taxonomy: Taxonomy, rules: Rules) -> None:
        self._station = station
        self._bundle_id = bundle_id
        self._taxonomy = taxonomy
        self._rules = rules

    @property
    def thresholds(self) -> Scores:
        """Thresholds in force, `(species,)`; NaN: the species is never reported."""
        return self._rules.thresholds

    def detect(
        self,
        recording: RecordingRow,
        windows: list[Window],
        scores: WindowScores,
        prior: Scores | None,
        shed: int = 0,
    ) -> list[Detection]:
        """Detections in a batch of windows of one recording, sorted by time, then by falling score.
        `prior` is `(species,)`, `shed` the load level at which the windows were scored."""
        detections = []
        # a species beyond its limit passes no threshold, not even 0
        in_range = True if prior is None else ~np.isnan(prior)
        for row, window in enumerate(windows):
            passed = np.flatnonzero((scores.blended[row] >= self._rules.thresholds) & in_range)
            for index in sorted(passed, key=lambda i: -float(scores.blended[row, i])):
                detections.append(
                    self._detection(recording, window, scores, prior, row, int(index), shed)
                )
        return detections

    def _detection(
        self,
        recording: RecordingRow,
        window: Window,
        scores: WindowScores,
        prior: Scores | None,
        row: int,
        index: int,
        shed: int,
    ) -> Detection:
        start = recording.start + timedelta(seconds=window.start / RATE_HZ)
        species = self._taxonomy.codes[index]
        members = [
            None if np.isnan(score) else float(score) for score in scores.members[:, row, index]
        ]
        answers = [score for score in members if score is not None]
        return Detection(
            id=stable_id(self._station, recording.id, utc_text(start), species, self._bundle_id),
            recording_id=recording.id,
            start=start,
            end=start + timedelta(seconds=window.samples / RATE_HZ),
            offset_s=window.start / RATE_HZ,
            species=species,
            score=float(scores.blended[row, index]),
            acoustic=float(scores.acoustic[row, index]),
            prior=None if prior is None else float(prior[index]),
            threshold=float(self._rules.thresholds[index]),
            rule=self._rules.names[index],
            member_low=min(answers, default=float(scores.acoustic[row, index])),
            member_high=max(answers, default=float(scores.acoustic[row, index])),
            level_dbfs=float(window.level_dbfs) if np.isfinite(window.level_dbfs) else None,
            members=tuple(members),
            runner_ups=self._runner_ups(scores.blended[row], index),
            shed=shed,
            decided_by=scores.decided_by[row],
            utc_offset_minutes=recording.local.offset_minutes(start),
        )

    def _runner_ups(self, scores: Scores, index: int) -> tuple[tuple[str, float], ...]:
        """The best-scoring other species of this window: what else it may have been."""
        least = np.partition(scores, -min(RUNNER_UPS + 1, len(scores)))[
            -min(RUNNER_UPS + 1, len(scores))
        ]
        # sorting thousands of classes for each detection would be too slow
        high = np.flatnonzero(scores >= least)
        order = high[np.argsort(-scores[high], kind="stable")][: RUNNER_UPS + 1]
        best = [int(i) for i in order if i != index]
        return tuple((self._taxonomy.codes[i], float(scores[i])) for i in best[:RUNNER_UPS])
