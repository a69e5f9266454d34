"""Write queue in front of the database: entries wait in memory, in order, while the disk is full,
absent or slow, or the database is locked. Callers never wait.

Knows the store, and the clips that are made after results are stored. Knows no source of sound.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from edge.analysis.stretch import BatchResult
from edge.clips.encode import pcm
from edge.clips.maker import ClipMaker
from edge.config import Config
from edge.contract.audio import RATE_HZ, Samples
from edge.contract.bundle import Bundle
from edge.contract.errors import RowError, StoreError
from edge.daemon.backlog import BacklogEntry, Shortfall, gap_in
from edge.daemon.writer import Writer
from edge.host.clock import Line
from edge.store.record import Store
from edge.store.unstored_time import UnstoredTime
from edge.types import GapRow, RecordingRow, StationRun

WAITING_MAX = 20_000  # entries; a live station makes one every few seconds
SOUND_S_MAX = 600.0  # seconds of sound that wait for their clips; at 64 kB a second 38 MB
_ASK_S = 2.0  # interval at which the record is asked for the clock line

_STRETCH = "SELECT 1 FROM recordings r JOIN deployments d ON d.id = r.deployment WHERE r.id = ?"


def _nothing(_: Store) -> None:
    """Do nothing when the store is opened first."""


class Ledger(Writer):
    """Stores entries in one thread: its own once `start` is called, else the caller's. Only `store`
    raises StoreError.

    ledger = Ledger(config.database, station="porch", bundle=bundle, clips=maker)
    ledger.start()
    ledger.begin(row, analysis)
    ledger.hear(samples)   # for clips
    ledger.found(found)
    ledger.error           # None, or the reason why nothing can be stored now
    ledger.close(patience_s=2)

    A clip is made when its detections are committed, however much later. If more than SOUND_S_MAX
    of sound waits for that, clips are given up, but not detections. `on_open` is called once, when
    the store is open and before anything is stored in it; `on_again` whenever a file is opened
    after that, since its rows may not match the files beside it.
    """

    def __init__(
        self,
        database: Path,
        station: str,
        bundle: Bundle,
        clips: ClipMaker | None = None,
        on_open: Callable[[Store], object] = _nothing,
        on_again: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(database, clips)
        self._station = station
        self._bundle = bundle
        # read now, since the bundle's disk may fail later
        self._manifest = (bundle.folder / "manifest.json").read_text(encoding="utf8")
        self._on_open = on_open
        self._on_again = on_again
        # id of the present stretch, and what stores its row
        self._open: tuple[str, Callable[[Store], object]] | None = None
        self._shortfall = Shortfall()
        self._missing_s = 0.0  # sound given up since the last entry
        self._run_told: StationRun | None = None  # as given by the caller last
        self._station_run: StationRun | None = None  # as in the record
        # the record's clock line, and the number of updates that it includes
        self._line: tuple[int, Line | None] = (0, None)
        # updates of the run: given by the caller, stored by the writer; one thread counts each
        self._told = self._heeded = 0
        self._asked_at = float("-inf")
        self._until = ("", 0.0)  # id of the last stretch, and up to where its results were given
        self.given_up_s = 0.0  # seconds of sound without clips, in total

    @property
    def full(self) -> bool:
        """True if no more entries can wait: the caller must count further sound as lost."""
        return self.waiting >= WAITING_MAX

    @property
    def waiting_sound_s(self) -> float:
        """Seconds of sound that wait for their clips."""
        return self._backlog.sound_s

    # Entries: none of these methods waits

    def begin(self, row: RecordingRow, analysis: str) -> None:
        """Store the beginning of a stretch."""

        def begin(store: Store) -> None:
            store.begin(row, self._station, self._bundle.id, analysis, goes_on=True)

        def entry(store: Store) -> None:
            self._open = (row.id, begin)
            begin(store)

        self._enter(BacklogEntry(entry, lambda clips: clips.begin(row), until_s=row.boot_s))

    def hear(self, samples: Samples) -> None:
        """Keep sound of the stretch for clips."""
        if self._clips is None:
            return
        seconds = len(samples) / RATE_HZ
        if self.waiting_sound_s + seconds > SOUND_S_MAX:
            self._missing_s += seconds
            self.given_up_s += seconds
            return
        sound = pcm(samples)
        self._sound_missed()
        self._backlog.put(BacklogEntry(clips=lambda clips: clips.hear(sound), sound_s=seconds))

    def found(self, found: BatchResult) -> None:
        """Store the results of a batch of windows in one transaction: detections, messages,
        effort."""
        row = found.row
        until_s = found.until_s
        before_s = self._until[1] if self._until[0] == row.id else found.begins_s
        self._until = (row.id, until_s)

        def entry(store: Store) -> None:
            self._enter_stretch(store)
            effort = self._shortfall.off(row.id, found.effort)
            store.add(
                row.id,
                self._bundle.id,
                found.detections,
                found.messages,
                effort,
                suppressed=found.suppressed,
                row=row,
            )
            self._shortfall.stored(row.id, found.effort)

        def refused(store: Store, why: StoreError) -> None:
            store.add_gaps(self._station, [gap_in(row, before_s, until_s, str(why))])
            self._shortfall.refused(row.id, found.effort)

        def clips(maker: ClipMaker) -> None:
            maker.decided(until_s, found.detections, found.private)

        until = None if row.boot_s is None else row.boot_s + until_s
        self._enter(BacklogEntry(entry, clips, until_s - before_s, until_s=until, refused=refused))

    def finish(self, row: RecordingRow, heard_s: float, windows: int) -> None:
        """Store the end of a stretch."""

        def entry(store: Store) -> None:
            self._enter_stretch(store)
            store.finish(row.id, heard_s, windows, None)
            self._open = None

        self._enter(BacklogEntry(entry, lambda clips: clips.end()))

    def gap(self, gap: GapRow) -> None:
        """Store a gap; an ongoing one is given again, longer."""
        until_s = None if gap.boot_s is None else gap.boot_s + gap.seconds
        self._enter(
            BacklogEntry(lambda store: store.add_gaps(self._station, [gap]), until_s=until_s)
        )

    def clock_step(self, boot: str, at: datetime, seconds: float) -> None:
        """Store that the wall clock was set by so many seconds."""
        self._enter(BacklogEntry(lambda store: store.add_clock_step(boot, at, seconds)))

    def then(self, do: Callable[[Store], object]) -> None:
        """Call `do` when all earlier entries are stored."""
        self._enter(BacklogEntry(do))

    def begin_run(self, run: StationRun) -> None:
        """Store the beginning of a run of the station, with its clock."""

        def entry(store: Store) -> None:
            store.begin_run(self._station, run, self.record.lost_rows)

        self._tell(run, entry)

    def follow(self, run: StationRun) -> None:
        """Store a change of the run's clock offset, or of how it is known."""
        self._tell(run, lambda store: store.follow(self._station, run))

    @property
    def line(self) -> Line | None:
        """The line from the boot's clock to UTC in this run, as the record had it some seconds ago;
        None if the last update is not stored yet."""
        number, line = self._line
        return line if number == self._told else None

    def take(self, config: Config) -> None:
        """Use these settings for clips of stretches that begin from now on."""
        self._backlog.put(BacklogEntry(clips=lambda clips: setattr(clips, "config", config)))

    def _tell(self, run: StationRun, entry: Callable[[Store], object]) -> None:
        self._run_told = run
        self._told += 1
        number = self._told

        def tell(store: Store) -> None:
            entry(store)
            self._station_run = run
            self._heeded = number
            self._asked_at = float("-inf")

        self._enter(BacklogEntry(tell))

    def _enter(self, entry: BacklogEntry) -> None:
        self._sound_missed()
        self._backlog.put(entry)
        if self._thread is not None:
            self._work.set()
        elif self.error is None:
            self.flush()

    def _sound_missed(self) -> None:
        """Tell the clip maker of given-up sound, so that no clip spans it."""
        if self._missing_s:
            seconds = self._missing_s
            self._missing_s = 0.0
            self._backlog.put(BacklogEntry(clips=lambda clips: clips.miss(seconds)))

    # In the thread that stores

    def _enter_run(self, store: Store) -> None:
        store.add_bundle(self._bundle, self._manifest)
        if self._station_run is not None:
            store.begin_run(self._station, self._station_run, self.record.lost_rows)
        store.end_cut_off(self._station, but=self._open[0] if self._open else "")
        self._enter_stretch(store)

    def _enter_stretch(self, store: Store) -> None:
        """Store the row of the present stretch if it is missing: somebody may have deleted it, or
        that of its place."""
        recording, begin = self._open or ("", None)
        if begin is not None and not store.rows(_STRETCH, (recording,)):
            begin(store)

    def _book_unstored(self, store: Store) -> None:
        mine = self._run_told.id if self._run_told else None  # this run still stores its entries
        others = [one for one in self._note.read() if one.run.id != mine]
        for one in others:
            with suppress(RowError):  # a note must not block other entries
                store.book_unstored(self._station, one.run, one.until_s, one.why)
        self._note.drop([one.run.id for one in others])
        if self._thread is not None:
            self._note.make_room()

    def _unstored(self, waiting: list[BacklogEntry], why: str) -> UnstoredTime | None:
        ends = [entry.until_s for entry in waiting if entry.until_s is not None]
        return (
            UnstoredTime(self._run_told, max(ends), why)
            if ends and self._run_told is not None
            else None
        )

    def _opened_anew(self, store: Store) -> None:
        self._enter_run(store)
        if not self._opened:
            self._on_open(store)
            self._opened = True
        else:
            self._on_again()

    def _ask(self) -> None:
        """Read the run's clock line from the record now and then: `clock fix` may have corrected
        it, or somebody may have deleted its row."""
        if self._station_run is None or time.monotonic() - self._asked_at < _ASK_S:
            return
        store = self.store()
        run = self._station_run.id
        line = store.line(run)
        if line is None:
            self._enter_run(store)
            line = store.line(run)
        self._asked_at = time.monotonic()
        self._line = (self._heeded, line)
        if line is not None:
            self._station_run = replace(
                self._station_run, offset_ms=line.offset_ms, known=line.known
            )
