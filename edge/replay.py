"""A folder of recordings, once: decode, cut, recognise, detect, commit.

Resumes after a kill; a second run changes nothing. Every recording ends analysed or refused with a reason, and none
stands in the way of the others.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from edge.analysis import Analyst, Found, Stretch
from edge.capture.recording import Decoder, find_recordings, record_name
from edge.capture.start_time import start_of
from edge.clips.maker import ClipMaker
from edge.config import Config
from edge.contract.bundle import file_sha256, read_bundle
from edge.contract.errors import ConfigError, RecordingError
from edge.publisher import Publisher
from edge.recognizer import best_recognizer
from edge.store.clips import ClipTable
from edge.store.outbox import OutboxTable
from edge.store.record import Store
from edge.types import GapRow, Outcome, Place, RecordingRow, stable_id

_MTIME_NS_MAX = 2**63 - 1
_DRAIN_S_MAX = 120.0


def recordings_in(folder: Path) -> tuple[Path, list[Path]]:
    """Root and recordings of a folder, or of one file. Raises ConfigError if there is neither."""
    try:
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from error
    if not is_folder and not is_file:  # a pipe would block, a device never end
        raise ConfigError(f"{folder}: no such file or folder")
    return (folder if is_folder else folder.parent), find_recordings(folder)


class Replay:
    """Analyses recordings into a store under one configuration and bundle.

    with Store(config.database) as store:
        replay = Replay(Analyst(config, recognizer), store)
        for outcome in replay.run(*recordings_in(folder)): ...

    `source` names the rows: replay, or folder for one that is watched. `alive` is called after every batch, so that
    whoever watches this process knows that it works, `on_gap` with what of a damaged one is missing, and its seconds.
    """

    def __init__(
        self,
        analyst: Analyst,
        store: Store,
        clips: ClipMaker | None = None,
        source: str = "replay",
        alive: Callable[[Found], None] = lambda _: None,
        on_gap: Callable[[GapRow, float], None] = lambda *_: None,
    ) -> None:
        self.analyst, self.store, self._clips = analyst, store, clips
        self._source, self._alive, self._on_gap = source, alive, on_gap
        self.analysis = analyst.digest()
        bundle = analyst.bundle
        store.add_bundle(bundle, (bundle.folder / "manifest.json").read_text(encoding="utf8"))

    def run(self, root: Path, paths: list[Path]) -> Iterator[Outcome]:
        """Analyse the recordings in order; yields how each ended."""
        for path in paths:
            name = record_name(path, root)
            try:
                yield self.recording(path, name)
            except OSError as error:  # gone or not permitted: tried again next time
                yield Outcome(name, 0, "refused", f"cannot be read: {error.strerror or error}", 0.0, 0, 0, False)

    def recording(self, path: Path, name: str) -> Outcome:
        """Analyse one recording, known by `name`, unless that was done before. Raises OSError if it is not there."""
        stat, station = path.stat(), self.analyst.config.station.id
        done = self.store.finished(station, name, stat.st_size, _mtime_ns(stat), self.analysis)
        if done:
            return Outcome(name, stat.st_size, done.state, done.reason, done.audio_s, done.windows, 0, True)
        with self.analyst.stopwatch("decode"):
            digest = file_sha256(path)
        recording_id, row = stable_id(station, name, digest), None
        try:
            with Decoder(path) as decoder:
                row = self._row(recording_id, path, name, digest, decoder.expected_s)
                self.store.begin(row, station, self.analyst.bundle.id, self.analysis)
                audio_s, windows, new = self._analyse(row, decoder)
                reason = decoder.warning
        except RecordingError as error:
            if row is not None:
                self._note_lost(row, 0.0, decoder)
            self.store.refuse(recording_id, station, name, stat.st_size, _mtime_ns(stat), self.analysis, error.reason)
            return Outcome(name, stat.st_size, "refused", error.reason, 0.0, 0, 0, False)
        return Outcome(name, stat.st_size, "analysed", reason, audio_s, windows, new, False)

    def _row(self, recording_id: str, path: Path, name: str, digest: str, duration_s: float | None) -> RecordingRow:
        stat = path.stat()
        start = start_of(path, zone=self.analyst.config.zone, duration_s=duration_s)
        return RecordingRow(
            id=recording_id,
            path=name,
            bytes=stat.st_size,
            mtime_ns=_mtime_ns(stat),
            sha256=digest,
            start=start.start_utc,
            time_source=start.source,
            zone_source=start.zone_source,
            utc_offset_minutes=start.utc_offset_minutes,
            place=self._place(start.latitude, start.longitude, start.site),
            source=self._source,
        )

    def _place(self, latitude: float | None, longitude: float | None, site: str | None) -> Place | None:
        """Where a recording was made: what it says itself, its site's place, or the station's."""
        if latitude is not None and longitude is not None:
            return Place(latitude, longitude)
        config = self.analyst.config
        if site is not None and site in config.sites:
            return Place(config.sites[site].latitude, config.sites[site].longitude)
        station = config.station
        if station.latitude is not None and station.longitude is not None:
            return Place(station.latitude, station.longitude)
        return None

    def _analyse(self, row: RecordingRow, decoder: Decoder) -> tuple[float, int, int]:
        """Seconds of sound, windows and new detections of one recording, committed batch by batch. Blocks have one
        size, so that a run resumed computes the same numbers."""
        stretch, clock = Stretch(self.analyst, row), self.analyst.stopwatch
        blocks, new, more = iter(decoder), 0, True
        if self._clips:
            self._clips.begin(row)
        while more:
            with clock("decode"):
                block = next(blocks, None)
            if block is None:
                more = False
                stretch.close()
            else:
                stretch.push(block)
                if self._clips:
                    self._clips.hear(block)
            for found in stretch.found():
                new += self._commit(found)
        if self._clips:
            self._clips.end()
        with clock("store"):
            self._note_lost(row, stretch.heard_s, decoder)
            self.store.finish(row.id, stretch.heard_s, stretch.windows, decoder.warning)
        return stretch.heard_s, stretch.windows, new

    def _commit(self, found: Found) -> int:
        with self.analyst.stopwatch("store"):
            new = self.store.add(found.row.id, self.analyst.bundle.id, found.detections, found.messages, found.effort)
        if self._clips:
            self._clips.decided(found.until_s, found.detections, found.private)
        self._alive(found)
        return new

    def _note_lost(self, row: RecordingRow, heard_s: float, decoder: Decoder) -> None:
        """What was announced and could not be decoded follows what was heard."""
        if not decoder.lost_s:
            return
        gap = GapRow(
            id=stable_id(row.id, "damaged"),
            source=row.source,
            start=row.start + timedelta(seconds=heard_s),
            seconds=decoder.lost_s,
            reason="damaged",
            detail=decoder.warning or "",
            recording_id=row.id,
            utc_offset_minutes=row.utc_offset_minutes,
            clock_state=row.clock_state,
        )
        self.store.add_gaps(self.analyst.config.station.id, [gap])
        self._on_gap(gap, gap.seconds)


def _mtime_ns(stat: os.stat_result) -> int:
    """As a row can hold it: a broken clock may have written the year 2400."""
    return max(-_MTIME_NS_MAX, min(stat.st_mtime_ns, _MTIME_NS_MAX))


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
    recognizer = best_recognizer(read_bundle(config.bundle_folder), config.runtime, config.engines_folder)
    recognizer.check_probe()
    analyst = Analyst(config, recognizer)
    outcomes, waiting, broker_error = [], None, ""
    with ExitStack() as stack:
        store = stack.enter_context(Store(config.database))
        clips = None
        if config.clips.of_recordings:
            maker = ClipMaker(lambda: ClipTable(config.database), config, recognizer.bundle.id)
            clips = stack.enter_context(maker)
        replay = Replay(analyst, store, clips)
        publisher = None
        if config.mqtt:
            client_id = f"birdstation-{config.station.id}-replay"
            publisher = stack.enter_context(Publisher(lambda: OutboxTable(config.database), config.mqtt, client_id))
        for outcome in replay.run(root, paths):
            outcomes.append(outcome)
            on_outcome(outcome, len(paths))
        if publisher:
            with analyst.stopwatch("publish"):
                publisher.drain(_DRAIN_S_MAX)
            waiting, broker_error = store.waiting_count(), publisher.last_error
    return Replayed(outcomes, recognizer.bundle.id, analyst.stopwatch.seconds, waiting, broker_error)
