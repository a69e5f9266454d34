"""Analysis of one unbroken stretch of sound: cut, recognise, smooth, detect. It is the same for
microphone, folder and replay.

Yields results batch by batch; the caller stores them. Several threads may analyse at once, each its
own stretches. Knows no source, no database and no broker.
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
from edge.prior.place_table import table_place
from edge.prior.table_cache import Priors, PriorTables
from edge.types import Detection, Effort, LoadLevel, Message, RecordingRow, WindowScores


@dataclass(frozen=True)
class BatchResult:
    """Results of a batch of windows, to be stored in one transaction. `effort` and `windows` are
    totals of the recording so far."""

    row: RecordingRow
    detections: list[Detection]
    messages: list[Message]
    effort: list[Effort]
    until_s: float  # all windows that end before this time of the recording are decided
    windows: int
    # speech, from and to, in seconds of the recording; it may begin before the batch, in sound
    # that an earlier batch gave as free of speech
    private: list[tuple[float, float]]
    suppressed: int  # detections dropped for privacy
    level_dbfs: float  # of the last window
    begins_s: float = 0.0  # start of the stretch, in seconds of the recording

    @property
    def end(self) -> datetime:
        """End of the last window, aware UTC."""
        return self.row.start + timedelta(seconds=self.until_s)


@dataclass(frozen=True)
class AnalysisSetup:
    """Settings with everything derived from them, checked and ready for use."""

    config: Config
    privacy: Privacy
    with_prior: Detector
    sound_only: Detector


class Analyst:
    """Everything that all stretches share: the loaded bundle, thresholds, priors, privacy.

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
        """Check these settings and derive everything from them; the bundle stays the same. May be
        called from any thread. Raises ConfigError, or BundleError if the built-in speech detector
        is damaged."""
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
        """The detector for scores with or without a prior; their thresholds differ."""
        return self._sound_only if prior is None else self._with_prior

    def digest(self) -> str:
        """Digest of everything that a recording's rows depend on besides the recording itself."""
        config = self.config
        station = asdict(config.station)
        detect = asdict(config.detect)
        del station["language"]  # changes names, not rows
        # the default is left out so that archives analysed before `kinds` existed stay valid
        if config.detect.kinds == DetectSettings().kinds:
            del detect["kinds"]
        parts = [self.bundle.id, station, asdict(config.windows), detect, config.members]
        parts += [self.privacy.rules] if self.privacy.drops_detections else []
        parts.append({site: asdict(place) for site, place in config.sites.items()})
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[
            :32
        ]

    def prior(self, row: RecordingRow) -> Scores | None:
        """Species probabilities `(species,)` at the place and day of the recording. None if there
        are none or the date cannot be trusted: a file's modification time, or a clock that is
        certainly wrong."""
        if self.config.detect.prior == "off" or row.place is None or row.time_source == "mtime":
            return None
        if is_nonsense(row.clock_state, row.start):
            return None
        table = self.priors.table(table_place(self.bundle, self.config, row.place))
        return None if table is None else table[row.local.day(row.start).timetuple().tm_yday - 1]


# windows with their stretches; those of one stretch follow each other
WindowsAsked = Sequence[tuple["Stretch", Window]]


def _answers(analyst: Analyst, asked: WindowsAsked, few: bool) -> Iterator[BatchResult]:
    """Run the networks on windows of several stretches together and pass each stretch its
    answers."""
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
    """Windows of several stretches, run through the networks in full batches, so that a short
    recording does not cost a call of its own. The scores of a window do not depend on the others in
    its batch, down to the last bit.

        batch.add(stretch)
        for found in batch.found(): ...
        batch.found(rest=True)   # at the end
    """

    def __init__(self, analyst: Analyst) -> None:
        self._analyst = analyst
        self._size = analyst.config.runtime.batch
        self._waiting: deque[tuple[Stretch, Window]] = deque()

    def add(self, stretch: "Stretch") -> None:
        """Take the waiting windows of a stretch."""
        self._waiting.extend((stretch, window) for window in stretch.take())

    def drop(self, recording: str) -> None:
        """Discard the waiting windows of this recording."""
        self._waiting = deque(one for one in self._waiting if one[0].row.id != recording)

    def found(self, rest: bool = False) -> Iterator[BatchResult]:
        """Analyse full batches and yield their results; with `rest` also what is left."""
        while len(self._waiting) >= self._size or (rest and self._waiting):
            asked = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            yield from _answers(self._analyst, asked, few=False)


@dataclass
class _RecordingTotals:
    """Totals of a recording over all its stretches."""

    windows: int = 0
    # from sample, to sample, load level
    effort: list[tuple[int, int, int]] = field(default_factory=list)


class Stretch:
    """One stretch of sound. For the microphone it is used directly and does not wait for a full
    batch:

        stretch.push(samples)
        for found in stretch.found(): ...

    Recordings share a `WindowBatch`. If sound is missing in the middle of a recording, its stretch
    ends there, and `after` returns the next.

    All windows of the first `known` samples were decided before, and their results are stored.

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
        # first sample; all positions are counted from the recording's start
        self._begins = begins
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
        # from the start of each window with speech to the sample where the speech began
        self._speech: dict[int, int] = {}
        self._until = begins  # sample up to which windows are decided
        self._decided = decided or _RecordingTotals()

    def after(self, gap_s: float) -> "Stretch":
        """The next stretch of the same recording, which begins `gap_s` after the end of this closed
        one."""
        heard = self._resumed.heard
        known = self._resumed.known
        begins = self._begins + heard + round(gap_s * RATE_HZ)
        return Stretch(self._analyst, self.row, begins, self._decided, max(0, known - heard))

    @property
    def begins_s(self) -> float:
        """Start of the stretch, in seconds of the recording."""
        return self._begins / RATE_HZ

    @property
    def ends_s(self) -> float:
        """End of the sound pushed so far, in seconds of the recording."""
        return self.begins_s + self.heard_s

    @property
    def heard_s(self) -> float:
        """Seconds of sound pushed so far."""
        return self._resumed.heard / RATE_HZ

    @property
    def decided_s(self) -> float:
        """Time up to which every window is decided, in seconds of the recording."""
        return self._until / RATE_HZ

    @property
    def windows(self) -> int:
        """Number of windows decided so far, of the whole recording."""
        return self._decided.windows

    @property
    def done(self) -> bool:
        """True if the stretch is closed and every window has its answer; `last` then yields those
        that waited for a neighbour."""
        return self._closed and not self._waiting and not self._asked

    def push(self, samples: Samples) -> None:
        """Take the next samples, mono, RATE_HZ."""
        samples = self._resumed.push(samples)
        with self._analyst.stopwatch("image"):
            windows = self._cutter.push(samples)
        self._complete(windows)

    def close(self) -> None:
        """End the stretch; `found` then yields the rest."""
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
        """Queue complete windows for the networks, after the speech listener has heard them."""
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
        """End the stretch without the windows that no network has seen yet; `found` then yields the
        rest."""
        self._waiting = []
        self._closed = True

    def take(self) -> list[Window]:
        """Hand over the waiting windows; `answer` must follow for each."""
        windows = self._waiting
        self._waiting = []
        self._asked += len(windows)
        return windows

    def found(self) -> Iterator[BatchResult]:
        """Analyse the waiting windows and yield results batch by batch; for a closed stretch
        including the last windows."""
        if self.shed != self._shed_now:
            yield from self._results(self._smoother.close())
            self._shed_now = self.shed
            self._smoother = self._new_smoother()
        size = self._config.runtime.batch
        while self._waiting:
            batch = self._waiting[:size]
            self._waiting = self._waiting[size:]
            asked = [(self, window) for window in batch if self._is_needed(window)]
            if asked:
                self._asked += len(asked)
                yield from _answers(self._analyst, asked, few=self._shed_now >= LoadLevel.NETWORKS)
        if self._closed:
            yield from self.last()

    def last(self) -> Iterator[BatchResult]:
        """Decide on the last windows, whose later neighbours do not exist. Call it when all windows
        have their answers."""
        yield from self._results(self._smoother.close())

    def undecided(self, acoustic: Scores) -> NDArray[np.bool_]:
        """True for the windows that the student's scores `(windows, species)` leave open,
        `(windows,)`."""
        manifest = self._analyst.bundle.manifest
        thresholds = self._analyst.detector(self._prior).thresholds
        assert manifest.student is not None  # only a cascade asks
        margins = manifest.student.below, manifest.student.above
        open_ = open_windows(acoustic, self._prior, manifest.blend, thresholds, *margins)
        voices = self._analyst.privacy.voices
        threshold = self._analyst.privacy.threshold
        if voices:  # speech is decided by a threshold too
            limits = np.full(len(voices), threshold, np.float32)
            open_ |= open_windows(acoustic[:, voices], None, manifest.blend, limits, *margins)
        return open_

    def answer(
        self, windows: list[Window], inputs: Input, scores: WindowScores
    ) -> Iterator[BatchResult]:
        """Take the networks' answers for windows handed over by `take`, in order; yield what is
        decided."""
        self._asked -= len(windows)
        for window, speech in zip(
            windows, self._analyst.privacy.speech(inputs, scores), strict=True
        ):
            if speech:
                self._speech.setdefault(window.start, window.start)
        yield from self._results(self._smoother.push(windows, scores))

    def _is_needed(self, window: Window) -> bool:
        """True if the window must be scored at the present load level. Without overlap a window is
        left out if the next one still begins in covered sound. The last window of a stretch is
        never left out."""
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

    def _results(self, decided: WindowDecisions | None) -> Iterator[BatchResult]:
        """The result of decided windows, without what was stored before. Windows that still wait
        for a neighbour do not count as analysed."""
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
        stored = self._begins + self._resumed.known  # sample up to which results are stored
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
