"""One unbroken stretch of sound: cut, recognised, smoothed, detected. The same for microphone,
folder and replay.

Says what was found, batch by batch; whoever drives it stores that. Several threads may analyse at
once, each its own stretches. Knows no source, no database and no broker.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edge.analysis.detector import Detector, Rules, check_names, rules_of
from edge.analysis.privacy import Privacy
from edge.analysis.recognizer import NeighbourSmoother, Recognizer, WindowDecisions
from edge.analysis.resumption import Resumption
from edge.config import Config, DetectSettings
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Input, Samples, Window, WindowCutter
from edge.contract.blend import Scores, open_windows
from edge.contract.bundle import Bundle
from edge.host.clock import is_nonsense
from edge.host.stopwatch import Stopwatch
from edge.messages import detection_message
from edge.prior.table import table_place
from edge.prior.tables import Priors, PriorTables
from edge.types import Detection, Effort, LoadLevel, Message, RecordingRow, WindowScores


@dataclass(frozen=True)
class BatchResult:
    """What a batch of windows came to. Commits in one piece; effort and windows are those of the
    recording so far."""

    row: RecordingRow
    detections: list[Detection]
    messages: list[Message]
    effort: list[Effort]
    until_s: float  # all windows that end up to here, from the recording's start, are decided
    windows: int
    private: list[
        tuple[float, float]
    ]  # where people speak: from, to, from the recording's start; the voice of a
    # window may have begun before it, in sound of which was said before that nobody speaks
    suppressed: int  # detections that privacy forbids
    level_dbfs: float  # of the last window
    begins_s: float = 0.0  # where its stretch begins, from the recording's start

    @property
    def end(self) -> datetime:
        """When the last window ended, aware UTC."""
        return self.row.start + timedelta(seconds=self.until_s)


@dataclass(frozen=True)
class AnalysisSetup:
    """Settings with all that follows from them, ready for use."""

    config: Config
    privacy: Privacy
    with_prior: Detector
    sound_only: Detector


class Analyst:
    """What all stretches share: the bundle at work, thresholds, priors, privacy.

    analyst = Analyst(config, Recognizer(read_bundle(config.bundle_folder)))
    stretch = Stretch(analyst, row)
    stretch.push(samples)
    for found in stretch.found(): ...
    """

    def __init__(
        self, config: Config, recognizer: Recognizer, priors: PriorTables | None = None
    ) -> None:
        self.recognizer = recognizer
        self.bundle: Bundle = recognizer.bundle
        self.stopwatch = Stopwatch()
        self.priors = priors or Priors(self.bundle, config.state / "priors")
        self.use(self.prepared(config))

    def prepared(self, config: Config) -> AnalysisSetup:
        """These settings, tried; the bundle stays. In any thread. Raises ConfigError, or
        BundleError for privacy.detector."""
        rules, rules_alone = rules_of(self.bundle, config.detect)
        check_names(self.bundle, config)
        privacy = Privacy(config.privacy, self.bundle.taxonomy, self.bundle.input_shape)
        return AnalysisSetup(
            config, privacy, self._detector(config, rules), self._detector(config, rules_alone)
        )

    def use(self, prepared: AnalysisSetup) -> None:
        """Use these settings from the next stretch on."""
        self.config = prepared.config
        self.privacy = prepared.privacy
        self._with_prior = prepared.with_prior
        self._sound_only = prepared.sound_only

    def _detector(self, config: Config, rules: Rules) -> Detector:
        return Detector(config.station.id, self.bundle.id, self.bundle.taxonomy, rules)

    def detector(self, prior: Scores | None) -> Detector:
        """Thresholds differ with and without a prior."""
        return self._sound_only if prior is None else self._with_prior

    def digest(self) -> str:
        """What a recording's rows depend on besides the recording."""
        config = self.config
        station = asdict(config.station)
        detect = asdict(config.detect)
        del station["language"]  # names, no rows
        if (
            config.detect.kinds == DetectSettings().kinds
        ):  # an archive of before there were kinds is not analysed anew
            del detect["kinds"]
        parts = [self.bundle.id, station, asdict(config.windows), detect, config.members]
        parts += [self.privacy.rules] if self.privacy.drops_detections else []
        parts.append({site: asdict(place) for site, place in config.sites.items()})
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[
            :32
        ]

    def prior(self, row: RecordingRow) -> Scores | None:
        """Species probabilities `(species,)` where and when the stretch was recorded. A file's
        modification time says too little of the season to weigh in, a clock that is certainly wrong
        nothing."""
        if self.config.detect.prior == "off" or row.place is None or row.time_source == "mtime":
            return None
        if is_nonsense(row.clock_state, row.start):
            return None
        table = self.priors.table(table_place(self.bundle, self.config, row.place))
        return None if table is None else table[row.local.day(row.start).timetuple().tm_yday - 1]


WindowsAsked = Sequence[tuple["Stretch", Window]]  # windows of one stretch side by side


def _answers(analyst: Analyst, asked: WindowsAsked, few: bool) -> Iterator[BatchResult]:
    """Show windows to the networks together and give each stretch its answer."""
    inputs = np.stack([window.input for _, window in asked])
    parts: list[tuple[Stretch, slice]] = []
    for stretch, group in groupby(stretch for stretch, _ in asked):
        begin = parts[-1][1].stop if parts else 0
        parts.append((stretch, slice(begin, begin + len(list(group)))))

    def undecided(acoustic: Scores) -> NDArray[np.bool_]:
        return np.concatenate([stretch.undecided(acoustic[part]) for stretch, part in parts])

    with analyst.stopwatch("engine"):
        scores = analyst.recognizer.recognise(inputs, None, few=few, undecided=undecided)
    for stretch, part in parts:
        mine = WindowScores(
            scores.members[:, part],
            scores.acoustic[part],
            scores.blended[part],
            scores.decided_by[part],
        )
        yield from stretch.answer([window for _, window in asked[part]], inputs[part], mine)


class WindowBatch:
    """Windows of one stretch after the other, shown to the networks so many at a time: a recording
    of ten seconds does not cost a whole call. What a window's neighbours in a batch are changes
    nothing, down to the last bit.

        batch.add(stretch)
        for found in batch.found(): ...
        batch.found(rest=True)   # when nothing more comes
    """

    def __init__(self, analyst: Analyst) -> None:
        self._analyst = analyst
        self._size = analyst.config.runtime.batch
        self._waiting: deque[tuple[Stretch, Window]] = deque()

    def add(self, stretch: "Stretch") -> None:
        """Take the windows of a stretch that wait."""
        self._waiting.extend((stretch, window) for window in stretch.take())

    def drop(self, recording: str) -> None:
        """Nothing more comes of this recording, and what waits of it is not asked."""
        self._waiting = deque(one for one in self._waiting if one[0].row.id != recording)

    def found(self, rest: bool = False) -> Iterator[BatchResult]:
        """Analyse whole batches, at the end also what is left."""
        while len(self._waiting) >= self._size or (rest and self._waiting):
            asked = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            yield from _answers(self._analyst, asked, few=False)


@dataclass
class _RecordingTotals:
    """What is decided of a recording, over all its stretches."""

    windows: int = 0
    effort: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # from sample, to sample, step of the ladder


class Stretch:
    """One stretch of sound. The microphone asks it itself, and does not wait for a batch to fill:

        stretch.push(samples)
        for found in stretch.found(): ...

    Recordings share a `WindowBatch`. Where sound is missing in the middle of one, its stretch ends,
    and `after` is the next.

    Of the first `known` samples all windows were decided before, and what was found is stored.

    `shed` is the load level that a live source has reached; a replay leaves nothing out.
    """

    def __init__(
        self,
        analyst: Analyst,
        row: RecordingRow,
        begins: int = 0,
        decided: _RecordingTotals | None = None,
        known: int = 0,
    ) -> None:
        self.row = row
        self.shed = LoadLevel.NOTHING
        self._begins = (
            begins  # sample of the recording; all positions are counted from the recording's start
        )
        self._analyst = analyst
        self._config = analyst.config
        self._hop = self._config.hop_samples
        manifest = analyst.bundle.manifest
        self._listener = analyst.privacy.listener(self._config.clips.wanted(row.source))
        self._resumed = Resumption(known, self._hop, self._listener)
        self._cutter = WindowCutter(
            self._hop, manifest.padding, self._resumed.skips, manifest.front
        )
        self._prior = analyst.prior(row)
        self._smoother = self._new_smoother()
        self._shed_now = LoadLevel.NOTHING
        self._waiting: list[Window] = []
        self._closed = False
        self._asked = 0  # windows that were taken and have no answer yet
        self._taken_until = begins  # sample up to which windows went to the networks
        self._speech: dict[
            int, int
        ] = {}  # by the start of a window in which people speak: where that began
        self._until = begins  # sample up to which windows are decided
        self._decided = decided or _RecordingTotals()

    def after(self, gap_s: float) -> "Stretch":
        """The stretch of the same recording that begins so long after this one, which is closed,
        has ended."""
        heard = self._resumed.heard
        known = self._resumed.known
        begins = self._begins + heard + round(gap_s * RATE_HZ)
        return Stretch(self._analyst, self.row, begins, self._decided, max(0, known - heard))

    @property
    def begins_s(self) -> float:
        """Where it begins, from the recording's start."""
        return self._begins / RATE_HZ

    @property
    def ends_s(self) -> float:
        """Where the sound that was pushed so far ends, from the recording's start."""
        return self.begins_s + self.heard_s

    @property
    def heard_s(self) -> float:
        """Seconds of sound pushed so far."""
        return self._resumed.heard / RATE_HZ

    @property
    def decided_s(self) -> float:
        """Up to here, from the recording's start, every window is decided."""
        return self._until / RATE_HZ

    @property
    def windows(self) -> int:
        """Decided so far, of the whole recording."""
        return self._decided.windows

    @property
    def done(self) -> bool:
        """Closed, and every window that was taken has its answer; `last` then gives what waited for
        a neighbour."""
        return self._closed and not self._waiting and not self._asked

    def push(self, samples: Samples) -> None:
        """The next samples, mono, RATE_HZ."""
        samples = self._resumed.push(samples)
        with self._analyst.stopwatch("image"):
            windows = self._cutter.push(samples)
        self._complete(windows)

    def close(self) -> None:
        """The stretch ends here; `found` then gives the rest."""
        with self._analyst.stopwatch("image"):
            windows = self._cutter.close()
        self._decided.windows += self._resumed.windows
        if self._resumed.is_all:
            self._waiting = []
            self._account(self._begins + self._resumed.heard)
        else:
            self._complete(windows)
        self._closed = True

    def _complete(self, windows: list[Window]) -> None:
        """All their sound is here: whether people speak in them is heard now, they themselves wait
        for the networks."""
        begins = self._begins
        if self._listener and windows:
            with self._analyst.stopwatch("speech"):
                for w in windows:
                    if (began := self._listener.spoken(w.start, w.start + w.samples)) is not None:
                        self._speech[begins + w.start] = begins + began
        self._waiting += (
            [replace(w, start=w.start + begins) for w in windows] if begins else windows
        )

    def give_up(self) -> None:
        """The stretch ends here, and what no network has seen yet is left out; `found` then gives
        the rest."""
        self._waiting = []
        self._closed = True

    def take(self) -> list[Window]:
        """The windows that wait, for a batch; each gets an answer."""
        windows = self._waiting
        self._waiting = []
        self._asked += len(windows)
        return windows

    def found(self) -> Iterator[BatchResult]:
        """Analyse what waits and yield what is decided, batch by batch; at the end of the stretch
        all of it."""
        if self.shed != self._shed_now:
            yield from self._say(self._smoother.close())
            self._shed_now = self.shed
            self._smoother = self._new_smoother()
        size = self._config.runtime.batch
        while self._waiting:
            batch = self._waiting[:size]
            self._waiting = self._waiting[size:]
            asked = [(self, window) for window in batch if self._wanted(window)]
            if asked:
                self._asked += len(asked)
                yield from _answers(self._analyst, asked, few=self._shed_now >= LoadLevel.NETWORKS)
        if self._closed:
            yield from self.last()

    def last(self) -> Iterator[BatchResult]:
        """When all is answered: decide on what waits for a neighbour that does not come."""
        yield from self._say(self._smoother.close())

    def undecided(self, acoustic: Scores) -> NDArray[np.bool_]:
        """Which windows the student's scores `(windows, species)` leave open, `(windows,)`."""
        manifest = self._analyst.bundle.manifest
        thresholds = self._analyst.detector(self._prior).thresholds
        assert manifest.student is not None  # only a cascade asks
        margins = manifest.student.below, manifest.student.above
        open_ = open_windows(acoustic, self._prior, manifest.blend, thresholds, *margins)
        voices = self._analyst.privacy.voices
        threshold = self._analyst.privacy.threshold
        if voices:  # whether people speak is a decision too
            limits = np.full(len(voices), threshold, np.float32)
            open_ |= open_windows(acoustic[:, voices], None, manifest.blend, limits, *margins)
        return open_

    def answer(
        self, windows: list[Window], inputs: Input, scores: WindowScores
    ) -> Iterator[BatchResult]:
        """What the networks say of windows that were taken, in their order."""
        self._asked -= len(windows)
        for window, speech in zip(
            windows, self._analyst.privacy.speech(inputs, scores), strict=True
        ):
            if speech:
                self._speech.setdefault(window.start, window.start)
        yield from self._say(self._smoother.push(windows, scores))

    def _wanted(self, window: Window) -> bool:
        """Without overlap a window is left out if the next one still begins in sound that was
        taken. The last one of a stretch is never left out."""
        last = self._closed and window.start + window.samples == self._begins + self._resumed.heard
        if (
            self._shed_now < LoadLevel.OVERLAP
            or last
            or window.start + self._hop > self._taken_until
        ):
            self._taken_until = window.start + window.samples
            return True
        return False

    def _new_smoother(self) -> NeighbourSmoother:
        hop = (
            self._hop if self.shed < LoadLevel.OVERLAP else WINDOW_SAMPLES // self._hop * self._hop
        )
        return NeighbourSmoother(self._analyst.bundle.manifest.blend, hop, self._prior)

    def _say(self, decided: WindowDecisions | None) -> Iterator[BatchResult]:
        """A window that still waits for its neighbour is not yet heard."""
        if decided is None:
            return
        windows, scores = decided
        analyst = self._analyst
        row = self.row
        detections = analyst.detector(self._prior).detect(
            row, windows, scores, self._prior, self._shed_now
        )
        spoken = [w for w in windows if w.start in self._speech]
        private = [
            (min(self._speech[w.start], w.start) / RATE_HZ, (w.start + w.samples) / RATE_HZ)
            for w in spoken
        ]
        self._speech = {
            start: began for start, began in self._speech.items() if start > windows[-1].start
        }
        forbidden = (
            {w.start / RATE_HZ for w in spoken} if analyst.privacy.drops_detections else set()
        )
        stored = self._begins + self._resumed.known  # up to here
        forbidden |= {w.start / RATE_HZ for w in windows if w.start + w.samples <= stored}
        allowed = [d for d in detections if d.offset_s not in forbidden]
        messages = (
            [detection_message(d, row, self._config, analyst.bundle) for d in allowed]
            if self._config.mqtt
            else []
        )
        self._decided.windows += sum(w.start + w.samples > stored for w in windows)
        if windows[-1].start + windows[-1].samples <= stored:
            return
        self._account(windows[-1].start + windows[-1].samples)
        yield BatchResult(
            row=row,
            detections=allowed,
            messages=messages,
            effort=self._efforts(),
            until_s=self.decided_s,
            windows=self._decided.windows,
            private=private,
            suppressed=len(detections) - len(allowed),
            level_dbfs=windows[-1].level_dbfs,
            begins_s=self.begins_s,
        )

    def _account(self, until: int) -> None:
        effort = self._decided.effort
        if effort and effort[-1][1:] == (self._until, self._shed_now):
            effort[-1] = (effort[-1][0], until, self._shed_now)
        else:
            effort.append((self._until, until, self._shed_now))
        self._until = until

    def _efforts(self) -> list[Effort]:
        seconds: dict[tuple[datetime, int, int], float] = {}
        for begin, end, shed in self._decided.effort:
            start = self.row.start + timedelta(seconds=begin / RATE_HZ)
            for part in self.row.local.hours(start, (end - begin) / RATE_HZ):
                key = part.since, shed, part.utc_offset_minutes
                seconds[key] = seconds.get(key, 0.0) + part.seconds
        return [
            Effort(hour, spent, shed, minutes) for (hour, shed, minutes), spent in seconds.items()
        ]
