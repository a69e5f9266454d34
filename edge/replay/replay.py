"""Replay of recordings: each is analysed once, and its results are stored.

Resumes after a kill; a second run changes nothing. Every recording ends analysed or refused with a
reason, and none blocks the others. One thread writes, however many read.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from edge.analysis.stretch import Analyst, BatchResult
from edge.capture.pulsed_file import Pulse, no_pulse
from edge.capture.recording import record_name
from edge.clips.maker import ClipMaker
from edge.replay.attempt_log import AttemptLog, in_order
from edge.replay.identity import Identity, being_read, identify
from edge.replay.reader import (
    Event,
    Events,
    ReadFailure,
    Reading,
    RecordingEnd,
    RecordingRefusal,
    RecordingStart,
    RecordingTask,
    SameRecording,
    SoundBlock,
    SoundGap,
    read_recordings,
)
from edge.replay.same_recording import alike, grown_out_of
from edge.store.files import EarlierAnalysis, KnownRecording, known_by_content
from edge.store.record import Store
from edge.types import GapRow, Outcome


@dataclass
class Progress:
    """Progress of a replay."""

    recordings: int = 0  # in total
    bytes_total: int = 0
    bytes_done: float = 0.0
    audio_s: float = 0.0  # analysed in this run


class Replay:
    """Analyses recordings into a store under one configuration and bundle.

    with Store(config.database) as store:
        replay = Replay(Analyst(config, recognizer), store)
        for outcome in replay.run(*recordings_in(folder)): ...

    `open_clips` makes a clip maker for one recording; `source` is written into the rows: replay, or
    folder for a watched folder. `alive` is called after every batch, so that a watchdog sees that
    this process works; `on_gap` with each gap of a damaged recording and its seconds; `pulse`
    before each piece of a file that is read. `alive` and `pulse` may raise to leave a long
    recording: what was committed stays.
    """

    def __init__(
        self,
        analyst: Analyst,
        store: Store,
        open_clips: Callable[[], ClipMaker] | None = None,
        source: str = "replay",
        alive: Callable[[BatchResult], None] = lambda _: None,
        on_gap: Callable[[GapRow, float], None] = lambda *_: None,
        pulse: Pulse = no_pulse,
    ) -> None:
        self.analyst = analyst
        self.store = store
        self._open_clips = open_clips
        self._source = source
        self._alive = alive
        self._on_gap = on_gap
        self._pulse = pulse
        self._station = analyst.config.station.id
        self.analysis = analyst.digest()
        self.progress = Progress()
        # all by the ids of the recordings that are being read, unless said otherwise
        self._clips: dict[str, ClipMaker] = {}
        self._new: dict[str, int] = {}  # number of new detections
        # name of the file that is being read
        self._readers: dict[str, str] = {}
        # the entry that the record will have, and its SHA-256
        self._claimed: dict[str, tuple[KnownRecording, str]] = {}
        self._lock = threading.Lock()  # for _readers and _claimed, which other threads use too
        # other files of the same recording, which wait for its end
        self._twins: dict[str, list[SameRecording]] = {}
        # by the name of a file that is read in vain: the recording that is used instead
        self._passed_over: dict[str, RecordingStart] = {}
        # seconds analysed, and bytes per second
        self._read: dict[str, tuple[float, float]] = {}
        bundle = analyst.bundle
        self._attempting = AttemptLog(store, self._station)
        store.add_bundle(bundle, (bundle.folder / "manifest.json").read_text(encoding="utf8"))

    def run(
        self, root: Path, paths: list[Path], reading: Reading | None = None
    ) -> Iterator[Outcome]:
        """Analyse the recordings; yield the outcome of each. `reading` reads them, in this thread
        by default; the rows do not depend on it."""
        ended: deque[Outcome] = deque()
        self.progress = Progress(len(paths), sum(map(_size, paths)))
        alone: list[RecordingTask] = []
        ordered = in_order(self.store, self._station, root, paths, resumes=True)
        tasks = self._tasks(root, ordered, ended, alone)
        with ExitStack() as stack:
            stack.callback(self._let_go)
            stack.enter_context(self._attempting.until_left())
            for event in stack.enter_context(closing((reading or self.reading)(tasks))):
                ended.extend(self._take(event))
                while ended:
                    yield ended.popleft()
            yield from ended
            for task in alone:  # if the program dies again, the culprit is known
                self._attempting.begin(task)
                for event in self.reading([task]):
                    yield from self._take(event)

    def recording(self, path: Path, name: str) -> Outcome:
        """Analyse one recording, `name` in the record, unless that was done before. Raises OSError
        if it cannot be read."""
        task = RecordingTask.of(path, name, self._source)
        outcome = self._finished(task)
        if outcome is not None:
            return outcome
        error: OSError | None = None
        with ExitStack() as stack:
            stack.callback(self._let_go)
            stack.enter_context(self._attempting.until_left())
            self._attempting.begin(task)
            for event in self.reading([task]):
                error = event.error if isinstance(event, ReadFailure) else error
                outcome = next(iter(self._take(event)), outcome)
        if error is not None:
            raise error
        assert outcome is not None  # every task ends with a last event
        return outcome

    def in_the_end(self, outcome: Outcome) -> Outcome:
        """Final outcome of a file after all have ended: its recording may be contained in another
        one that was read later."""
        whole = (
            self.store.counted_in(outcome.recording)
            if outcome.state == "analysed" and outcome.recording
            else None
        )
        if whole is None:
            return outcome
        return replace(
            outcome,
            audio_s=whole.audio_s,
            windows=whole.windows,
            new_detections=0,
            recording=whole.recording_id,
        )

    def reading(self, tasks: Iterable[RecordingTask], pulse: Pulse | None = None) -> Events:
        """Read recordings in this thread. `pulse` replaces the one given to `Replay`."""
        keep_sound = self._open_clips is not None
        return read_recordings(
            self.analyst, tasks, keep_sound, self._identify, pulse or self._pulse
        )

    def _identify(self, name: str, sha256: str, told: str) -> Identity:
        """Find the recording that a file is; called in the thread that reads it."""
        with self._lock:  # no recording may end between the two questions: record and readers
            known = known_by_content(self.store.path, self._station, sha256)
            known += [
                claimed for claimed, its_sha256 in self._claimed.values() if its_sha256 == sha256
            ]
            zone = self.analyst.config.zone
            identity = identify(known, self._station, self.analysis, name, sha256, told, zone)
            if identity.whole in self._readers:
                return Identity(str(identity.whole), done=True, part=identity.part)
            mine = identity.done or self._readers.setdefault(identity.id, name) == name
            if mine and not identity.done:
                self._claimed[identity.id] = (
                    being_read(identity.id, name, told, self.analysis),
                    sha256,
                )
        return identity if mine else replace(identity, done=True)

    def _tasks(
        self, root: Path, paths: list[Path], ended: deque[Outcome], alone: list[RecordingTask]
    ) -> Iterator[RecordingTask]:
        """Yield what is still to be done. Outcomes of finished files go to `ended`; files suspected
        of a crash go to `alone`."""
        for path in paths:
            name = record_name(path, root)
            try:
                task = RecordingTask.of(path, name, self._source)
            except OSError as error:
                ended.append(_failed_file(name, 0, error))
                continue
            earlier = self._finished(task)
            if earlier:
                self.progress.bytes_done += task.bytes
                ended.append(earlier)
            elif self._attempting.is_suspect(task):
                alone.append(task)
            else:
                self._attempting.begin(task)
                yield task

    def _finished(self, task: RecordingTask) -> Outcome | None:
        """Outcome of a file that was finished before, or that is refused without being read; None
        if it must be read."""
        done = self.store.finished(self._station, task.name, task.file, self.analysis)
        if done:
            return _earlier(task, done)
        refused = self._attempting.refusal(task)
        return self._refuse(refused) if refused else None

    def _take(self, event: Event) -> list[Outcome]:
        """Store an event. Returns the outcome of a recording that ended, and of files that waited
        for it."""
        with self.analyst.stopwatch("store"):
            if isinstance(event, SoundBlock | SoundGap | BatchResult):
                if event.row.path not in self._passed_over:
                    self._store_part(event)
            elif isinstance(event, RecordingStart):
                self._begin(event)
            elif isinstance(event, SameRecording):
                return self._same_recording(event)
            else:
                return self._last(event)
        return []

    def _store_part(self, event: SoundBlock | SoundGap | BatchResult) -> None:
        """Store part of a recording."""
        if isinstance(event, BatchResult):
            self._store_results(event)
        elif isinstance(event, SoundGap):
            self._miss(event)
        else:
            self._clips[event.row.id].hear(event.samples)

    def _last(self, event: RecordingEnd | RecordingRefusal | ReadFailure) -> list[Outcome]:
        """Outcomes after the last event of a file that was read."""
        self._attempting.end(event.task.name)
        recording = event.row.id if isinstance(event, RecordingEnd) else event.id
        instead = self._passed_over.pop(event.task.name, None)
        if instead is not None:
            part = event.task.bytes < instead.task.bytes
            return self._same_recording(
                SameRecording(event.task.in_part() if part else event.task, instead.row.id)
            )
        outcome = self._store_last(event)
        with self._lock:  # from now on the record itself has its outcome
            for mine in [mine for mine, name in self._readers.items() if name == event.task.name]:
                del self._readers[mine]
                self._claimed.pop(mine, None)
        twins = self._twins.pop(recording or "", [])
        if isinstance(event, ReadFailure):  # to be tried again next time
            return [
                outcome,
                *(_failed_outcome(ReadFailure(twin.task, event.error, None)) for twin in twins),
            ]
        counts = outcome.recording or ""
        return [
            outcome,
            *(same for twin in twins for same in self._same_recording(replace(twin, id=counts))),
        ]

    def _store_last(self, event: RecordingEnd | RecordingRefusal | ReadFailure) -> Outcome:
        if isinstance(event, RecordingEnd):
            return self._end(event)
        if isinstance(event, RecordingRefusal):
            return self._refuse(event)
        self._forget(event.id)
        if event.changed and event.id:
            self.store.withdraw(event.id)
        return _failed_outcome(event)

    def _same_recording(self, event: SameRecording) -> list[Outcome]:
        """Outcome of a file whose recording is analysed already; none yet if another file of it is
        being read."""
        task = event.task
        self._attempting.end(task.name)
        with self._lock:
            if event.id in self._readers:
                self._twins.setdefault(event.id, []).append(event)
                return []
        self.progress.bytes_done += task.bytes
        done = self.store.finished_recording(event.id)
        if done is None:  # the other file could not be read
            return [
                _failed_outcome(ReadFailure(task, OSError(0, "its copy could not be read"), None))
            ]
        if event.better:
            return [_earlier(task, done)]
        grown = grown_out_of(self.store, self._station, task, event.id, self._pulse)
        sound = self.store.sound_of(event.id)
        within, whole = alike(self.store, self._station, task, event.id, sound, done.audio_s)
        return [
            self._note_same(
                task,
                whole or event.id,
                grown | dict.fromkeys([event.id] if whole else within, True),
            )
        ]

    def _note_same(self, task: RecordingTask, recording: str, grown: dict[str, bool]) -> Outcome:
        """Note that a file is, or is contained in, this finished recording."""
        self.store.same_again(recording, self._station, task.name, task.file, grown)
        done = self.store.finished_recording(recording)
        assert done is not None  # callers have checked this
        return _earlier(task, done)

    def _begin(self, event: RecordingStart) -> None:
        row = event.row
        task = event.task
        if task.name in self._passed_over:
            return
        with self._lock:
            reader = self._readers.setdefault(row.id, task.name)
        if reader != task.name:  # on a cluster recordings are not claimed before they are read
            self._passed_over[task.name] = event
            return
        grown = grown_out_of(self.store, self._station, task, row.id, self._pulse)
        for other in (other for other, has_grown in grown.items() if has_grown):
            self._pass_over(other, event)
        known_s = event.known_s
        bytes_each_s = row.bytes / (event.expected_s or float("inf"))
        of_bundle = self.analyst.bundle.id, self.analysis
        self.store.begin(row, self._station, *of_bundle, task.file, grown, goes_on=known_s > 0)
        self._new[row.id] = 0
        self._read[row.id] = (known_s, bytes_each_s)
        self.progress.bytes_done += known_s * bytes_each_s
        if self._open_clips:
            self._clips[row.id] = maker = self._open_clips()
            maker.begin(row)

    def _pass_over(self, recording: str, whole: RecordingStart) -> None:
        """Ignore the file being read for this recording: `whole`, which contains it, is read too
        and counts instead."""
        with self._lock:
            name = self._readers.pop(recording, None)
            self._claimed.pop(recording, None)
        if name is not None:
            self._passed_over[name] = whole
            self._twins.setdefault(whole.row.id, []).extend(self._twins.pop(recording, []))
            # no entry: it was claimed, but has not begun
            seconds, bytes_each_s = self._read.get(recording, (0.0, 0.0))
            self.progress.audio_s -= seconds
            self.progress.bytes_done -= seconds * bytes_each_s
            self._forget(recording)

    def _store_results(self, found: BatchResult) -> None:
        recording = found.row.id
        self._new[recording] += self.store.add(
            recording, self.analyst.bundle.id, found.detections, found.messages, found.effort
        )
        if self._open_clips:
            self._clips[recording].decided(found.until_s, found.detections, found.private)
        before_s, bytes_each_s = self._read[recording]
        analysed_s = sum(effort.analysed_s for effort in found.effort)
        self.progress.audio_s += analysed_s - before_s
        self.progress.bytes_done += (analysed_s - before_s) * bytes_each_s
        self._read[recording] = analysed_s, bytes_each_s
        self._alive(found)

    def _miss(self, event: SoundGap) -> None:
        self._add_gap(event.gap)
        if self._open_clips:
            self._clips[event.row.id].miss(event.gap.seconds)

    def _end(self, event: RecordingEnd) -> Outcome:
        task = event.task
        recording = event.row.id
        self._add_gap(event.gap)
        if self._open_clips:
            # first, because a finished recording is never looked at again
            self._clips[recording].end()
        within, whole = alike(
            self.store, self._station, task, recording, event.sound, event.audio_s
        )
        stands = self._note_same(task.in_part(), whole, {recording: True}) if whole else None
        if stands is None:
            self.store.finish(
                recording,
                event.audio_s,
                event.windows,
                event.warning,
                event.note,
                event.sound,
                within,
            )
        done_s, bytes_each_s = self._read[recording]
        self.progress.bytes_done += task.bytes - done_s * bytes_each_s
        new = self._new[recording]
        self._forget(recording)
        if stands:
            return replace(stands, earlier=False)
        return Outcome(
            task.name,
            task.bytes,
            "analysed",
            event.warning,
            event.audio_s,
            event.windows,
            new,
            False,
            recording,
        )

    def _refuse(self, event: RecordingRefusal) -> Outcome:
        task = event.task
        self._add_gap(event.gap)
        self.store.refuse(
            event.id, self._station, task.name, task.file, self.analysis, event.reason, task.source
        )
        self._attempting.end(task.name)
        self.progress.bytes_done += task.bytes
        self._forget(event.id)
        return Outcome(task.name, task.bytes, "refused", event.reason, 0.0, 0, 0, False, event.id)

    def _forget(self, recording: str | None) -> None:
        """Discard the state of a recording that has ended."""
        if recording in self._new:
            del self._new[recording], self._read[recording]
            if self._open_clips:
                self._clips.pop(recording).close()

    def _add_gap(self, gap: GapRow | None) -> None:
        if gap:
            self.store.add_gaps(self._station, [gap])
            self._on_gap(gap, gap.seconds)

    def _let_go(self) -> None:
        """Discard the state of all recordings when the replay ends."""
        for maker in self._clips.values():
            maker.close()
        for of_recordings in (
            self._clips,
            self._readers,
            self._claimed,
            self._twins,
            self._passed_over,
        ):
            of_recordings.clear()


def _earlier(task: RecordingTask, done: EarlierAnalysis) -> Outcome:
    return Outcome(
        task.name,
        task.bytes,
        done.state,
        done.reason,
        done.audio_s,
        done.windows,
        0,
        True,
        done.recording_id,
    )


def _failed_outcome(event: ReadFailure) -> Outcome:
    return _failed_file(event.task.name, event.task.bytes, event.error)


def _failed_file(name: str, size: int, error: OSError) -> Outcome:
    return Outcome(
        name, size, "refused", f"cannot be read: {error.strerror or error}", 0.0, 0, 0, False, None
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
