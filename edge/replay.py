"""A folder of recordings, once: decode, cut, recognise, detect, commit.

Resumes after a kill; a second run changes nothing. Every recording ends analysed or refused with a reason, and none
stands in the way of the others.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from edge.capture.recording import Decoder, find_recordings
from edge.capture.start_time import start_of
from edge.config import Config
from edge.contract.audio import RATE_HZ, Window, WindowCutter
from edge.contract.blend import Scores
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import ConfigError, RecordingError
from edge.detector import Detector, Rules
from edge.prior import prior_table
from edge.publisher import Publisher, detection_message
from edge.recognizer import Decided, NeighbourSmoother, Recognizer
from edge.store import Store
from edge.types import Effort, Outcome, Place, RecordingRow, stable_id

_HASH_BLOCK = 1 << 20
_DRAIN_S_MAX = 120.0


@dataclass
class Stopwatch:
    """Wall seconds by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def recordings_in(folder: Path) -> tuple[Path, list[Path]]:
    """Root and recordings of a folder, or of one file. Raises ConfigError if there is neither."""
    if not folder.exists():
        raise ConfigError(f"{folder}: no such file or folder")
    return (folder if folder.is_dir() else folder.parent), find_recordings(folder)


def effort_by_hour(start: datetime, seconds: float) -> list[tuple[datetime, float]]:
    """Split a stretch of time into the hours (UTC) it lies in: `[(hour, seconds), …]`."""
    parts = []
    end = start + timedelta(seconds=seconds)
    while start < end:
        hour = start.replace(minute=0, second=0, microsecond=0)
        stop = min(end, hour + timedelta(hours=1))
        parts.append((hour, (stop - start).total_seconds()))
        start = stop
    return parts


class Replay:
    """Analyses recordings into a store under one configuration and bundle.

    with Store(config.database) as store:
        replay = Replay(config, recognizer, store)
        for outcome in replay.run(*recordings_in(folder)): ...
    """

    def __init__(self, config: Config, recognizer: Recognizer, store: Store) -> None:
        self.config, self.recognizer, self.store = config, recognizer, store
        self.bundle: Bundle = recognizer.bundle
        self.stopwatch = Stopwatch()
        thresholds, own = self.bundle.manifest.thresholds, config.detect.thresholds
        default = config.detect.threshold
        blended, acoustic = (thresholds.blended, thresholds.acoustic) if default is None else (default, default)
        tuned = dict(thresholds.species) if default is None else {}
        name = "bundle" if default is None else "station"
        taxonomy = self.bundle.taxonomy
        self._with_prior = self._detector(Rules.of(taxonomy, blended, name, tuned | dict(own)))
        alone = own if self.bundle.manifest.has_prior else tuned | dict(own)  # no prior: tuned by sound alone
        self._sound_only = self._detector(Rules.of(taxonomy, acoustic, f"{name}-acoustic", alone))
        self._priors: dict[Place, Scores | None] = {}
        self.analysis = self._digest()
        store.add_bundle(self.bundle, (self.bundle.folder / "manifest.json").read_text(encoding="utf8"))

    def _detector(self, rules: Rules) -> Detector:
        return Detector(self.config.station.id, self.bundle.id, self.bundle.taxonomy, rules)

    def _digest(self) -> str:
        """What a recording's rows depend on besides the recording."""
        config = self.config
        parts = [self.bundle.id, asdict(config.station), asdict(config.windows), asdict(config.detect)]
        parts.append({site: asdict(place) for site, place in config.sites.items()})
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def run(self, root: Path, paths: list[Path]) -> Iterator[Outcome]:
        """Analyse the recordings in order; yields how each ended."""
        for path in paths:
            name = path.relative_to(root).as_posix()
            try:
                yield self._recording(path, name)
            except OSError as error:  # gone or not permitted: tried again next time
                yield Outcome(name, 0, "refused", f"cannot be read: {error.strerror or error}", 0.0, 0, 0, False)

    def _recording(self, path: Path, name: str) -> Outcome:
        stat, station = path.stat(), self.config.station.id
        done = self.store.finished(station, name, stat.st_size, stat.st_mtime_ns, self.analysis)
        if done:
            return Outcome(name, stat.st_size, done.state, done.reason, done.audio_s, done.windows, 0, True)
        with self.stopwatch("decode"):
            digest = _sha256(path)
        recording_id = stable_id(station, name, digest)
        try:
            with Decoder(path) as decoder:
                row = self._row(recording_id, path, name, digest, decoder.expected_s)
                self.store.begin(row, station, self.bundle.id, self.analysis)
                audio_s, windows, new = self._analyse(row, decoder)
                reason = decoder.warning
        except RecordingError as error:
            self.store.refuse(recording_id, station, name, stat.st_size, stat.st_mtime_ns, self.analysis, error.reason)
            return Outcome(name, stat.st_size, "refused", error.reason, 0.0, 0, 0, False)
        return Outcome(name, stat.st_size, "analysed", reason, audio_s, windows, new, False)

    def _row(self, recording_id: str, path: Path, name: str, digest: str, duration_s: float | None) -> RecordingRow:
        stat = path.stat()
        start = start_of(path, zone=self.config.zone, duration_s=duration_s)
        return RecordingRow(
            id=recording_id,
            path=name,
            bytes=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            sha256=digest,
            start=start.start_utc,
            time_source=start.source,
            zone_source=start.zone_source,
            utc_offset_minutes=start.utc_offset_minutes,
            place=self._place(start.latitude, start.longitude, start.site),
        )

    def _place(self, latitude: float | None, longitude: float | None, site: str | None) -> Place | None:
        """Where a recording was made: what it says itself, its site's place, or the station's."""
        if latitude is not None and longitude is not None:
            return Place(latitude, longitude)
        if site is not None and site in self.config.sites:
            return Place(self.config.sites[site].latitude, self.config.sites[site].longitude)
        station = self.config.station
        if station.latitude is not None and station.longitude is not None:
            return Place(station.latitude, station.longitude)
        return None

    def _prior(self, row: RecordingRow) -> Scores | None:
        """Species probabilities `(species,)` where and when the recording was made. A file's modification time says
        too little of the season to weigh in."""
        if self.config.detect.prior == "off" or row.place is None or row.time_source == "mtime":
            return None
        if row.place not in self._priors:
            self._priors[row.place] = prior_table(self.bundle, row.place, self.config.state / "priors")
        table = self._priors[row.place]
        local = row.start + timedelta(minutes=row.utc_offset_minutes)
        return None if table is None else table[local.timetuple().tm_yday - 1]

    def _analyse(self, row: RecordingRow, decoder: Decoder) -> tuple[float, int, int]:
        """Seconds of sound, windows and new detections of one recording, committed batch by batch. Batches never span
        recordings and blocks have one size, so that a run resumed computes the same numbers."""
        cutter = WindowCutter(self.config.hop_samples, self.bundle.manifest.padding)
        prior, clock = self._prior(row), self.stopwatch
        smoother = NeighbourSmoother(self.bundle.manifest.blend, self.config.hop_samples, prior)
        waiting: list[Window] = []
        size, windows, new = self.config.runtime.batch, 0, 0
        blocks = iter(decoder)
        more = True
        while more:
            with clock("decode"):
                block = next(blocks, None)
            with clock("image"):
                more = block is not None
                waiting += cutter.close() if block is None else cutter.push(block)
            while len(waiting) >= size or (waiting and not more):
                batch, waiting = waiting[:size], waiting[size:]
                windows += len(batch)
                with clock("engine"):
                    scores = self.recognizer.recognise(np.stack([w.image for w in batch]), None)
                    decided = smoother.push(batch, scores)
                new += self._commit(row, decided, prior)
        new += self._commit(row, smoother.close(), prior)
        audio_s = cutter.heard / RATE_HZ
        with clock("store"):
            self.store.add(row.id, self.bundle.id, [], [], _effort(row, audio_s, decoder.lost_s, decoder.warning or ""))
            self.store.finish(row.id, audio_s, windows, decoder.warning)
        return audio_s, windows, new

    def _commit(self, row: RecordingRow, decided: Decided | None, prior: Scores | None) -> int:
        """Store what was decided, with the effort up to there: a window that still waits for its neighbour is not yet
        heard. Returns how many detections are new."""
        if decided is None:
            return 0
        windows, scores = decided
        with self.stopwatch("store"):
            detector = self._sound_only if prior is None else self._with_prior
            detections = detector.detect(row, windows, scores, prior)
            messages = []
            if self.config.mqtt:
                messages = [detection_message(d, row, self.config, self.bundle) for d in detections]
            heard_s = (windows[-1].start + windows[-1].samples) / RATE_HZ
            return self.store.add(row.id, self.bundle.id, detections, messages, _effort(row, heard_s))


def _effort(row: RecordingRow, heard_s: float, lost_s: float = 0.0, reason: str = "") -> list[Effort]:
    """Effort of a recording so far; what was lost follows what was heard."""
    heard = [Effort(hour, seconds, seconds) for hour, seconds in effort_by_hour(row.start, heard_s)]
    lost = effort_by_hour(row.start + timedelta(seconds=heard_s), lost_s)
    return heard + [Effort(hour, 0.0, 0.0, seconds, reason) for hour, seconds in lost]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Replayed:
    """What a replay did."""

    outcomes: list[Outcome]
    bundle_id: str
    seconds: dict[str, float]  # wall seconds by step
    waiting: int | None  # messages without the broker's ack; None if no broker is configured
    broker_error: str


def replay_folder(config: Config, folder: Path, on_outcome: Callable[[Outcome, int], None]) -> Replayed:
    """Replay a folder into the configured database and, if there is one, to the broker.

    `on_outcome` gets each outcome and the number of recordings. Raises ConfigError, BundleError or StoreError.
    """
    root, paths = recordings_in(folder)
    recognizer = Recognizer(read_bundle(config.bundle_folder), config.runtime.threads)
    recognizer.check_probe()
    outcomes, waiting, broker_error = [], None, ""
    with ExitStack() as stack:
        store = stack.enter_context(Store(config.database))
        replay = Replay(config, recognizer, store)
        publisher = None
        if config.mqtt:
            client_id = f"birdstation-{config.station.id}-replay"
            publisher = stack.enter_context(Publisher(lambda: Store(config.database), config.mqtt, client_id))
        for outcome in replay.run(root, paths):
            outcomes.append(outcome)
            on_outcome(outcome, len(paths))
        if publisher:
            with replay.stopwatch("publish"):
                publisher.drain(_DRAIN_S_MAX)
            waiting, broker_error = store.waiting_count(), publisher.last_error
    return Replayed(outcomes, recognizer.bundle.id, replay.stopwatch.seconds, waiting, broker_error)
