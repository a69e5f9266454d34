"""What the daemon writes down, in order, through bad days: while the disk is full, away or slow, or
the database is locked, it waits in memory, and nobody else waits.

Knows the store and the clips that follow from what is stored, and no source of sound.
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
from edge.store.unstored import UnstoredTime
from edge.types import GapRow, RecordingRow, StationRun

WAITING_MAX = 20_000  # entries; a live station makes one every few seconds
SOUND_S_MAX = 600.0  # of sound that waits for its clips, 64 kB each: 38 MB
_ASK_S = 2.0  # between two looks at what the record says of the time

_STRETCH = "SELECT 1 FROM recordings r JOIN deployments d ON d.id = r.deployment WHERE r.id = ?"


def _nothing(_: Store) -> None:
    """What is done at the first opening where nothing is to be done."""


class Ledger(Writer):
    """What is told is stored by one thread: its own once `start` is called, else the caller's.
    Nothing here raises StoreError but `store`.

    ledger = Ledger(config.database, station="porch", bundle=bundle, clips=maker)
    ledger.start()
    ledger.begin(row, analysis)
    ledger.hear(samples)   # for clips
    ledger.found(found)
    ledger.error           # None, or why nothing can be stored just now
    ledger.close(patience_s=2)

    A clip is made when its detections are committed, however much later. Beyond SOUND_S_MAX of
    sound that waits for that, clips are given up, not detections. `on_open` is called once, when
    the store is open and before anything is stored in it; `on_again` whenever a file was opened
    after that, as what it holds may not be what lies beside it.
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
        self._manifest = (bundle.folder / "manifest.json").read_text(
            encoding="utf8"
        )  # its disk may go, too
        self._on_open = on_open
        self._on_again = on_again
        self._open: tuple[str, Callable[[Store], object]] | None = (
            None  # the stretch that is heard, and how it begins
        )
        self._shortfall = Shortfall()
        self._missing_s = 0.0  # sound that was given up since the last entry
        self._run_told: StationRun | None = None  # as it was told last
        self._station_run: StationRun | None = None  # whose line the record has
        self._line: tuple[int, Line | None] = (0, None)  # that, and after how many words on it
        self._told = self._heeded = 0  # words on that line, each counted by one thread alone
        self._asked_at = float("-inf")
        self._until = ("", 0.0)  # the stretch that was told last, and up to where
        self.given_up_s = 0.0  # seconds of sound of which no clip can be made any more

    @property
    def full(self) -> bool:
        """No more can wait: whoever hears must say that it is lost."""
        return self.waiting >= WAITING_MAX

    @property
    def waiting_sound_s(self) -> float:
        """Seconds of sound that wait for their clips."""
        return self._backlog.sound_s

    # What is to be written down: never waits

    def begin(self, row: RecordingRow, analysis: str) -> None:
        """A stretch begins."""

        def begin(store: Store) -> None:
            store.begin(row, self._station, self._bundle.id, analysis, goes_on=True)

        def entry(store: Store) -> None:
            self._open = (row.id, begin)
            begin(store)

        self._enter(BacklogEntry(entry, lambda clips: clips.begin(row), until_s=row.boot_s))

    def hear(self, samples: Samples) -> None:
        """Sound of the stretch, of which clips may be made."""
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
        """A batch of windows: detections, messages and effort, in one transaction."""
        row = found.row
        until_s = found.until_s
        before_s = self._until[1] if self._until[0] == row.id else found.begins_s
        self._until = (row.id, until_s)

        def entry(store: Store) -> None:
            self._enter_stretch(store)
            effort = self._shortfall.off(row.id, found.effort)
            told = (found.detections, found.messages, effort)
            store.add(row.id, self._bundle.id, *told, suppressed=found.suppressed, row=row)
            self._shortfall.stored(row.id, found.effort)

        def refused(store: Store, why: StoreError) -> None:
            store.add_gaps(self._station, [gap_in(row, before_s, until_s, str(why))])
            self._shortfall.refused(row.id, found.effort)

        def clips(maker: ClipMaker) -> None:
            maker.decided(until_s, found.detections, found.private)

        until = None if row.boot_s is None else row.boot_s + until_s
        self._enter(BacklogEntry(entry, clips, until_s - before_s, until_s=until, refused=refused))

    def finish(self, row: RecordingRow, heard_s: float, windows: int) -> None:
        """A stretch has ended."""

        def entry(store: Store) -> None:
            self._enter_stretch(store)
            store.finish(row.id, heard_s, windows, None)
            self._open = None

        self._enter(BacklogEntry(entry, lambda clips: clips.end()))

    def gap(self, gap: GapRow) -> None:
        """Sound that is missing; one that goes on is given again, longer."""
        until_s = None if gap.boot_s is None else gap.boot_s + gap.seconds
        self._enter(
            BacklogEntry(lambda store: store.add_gaps(self._station, [gap]), until_s=until_s)
        )

    def clock_step(self, boot: str, at: datetime, seconds: float) -> None:
        """The wall clock was set."""
        self._enter(BacklogEntry(lambda store: store.add_clock_step(boot, at, seconds)))

    def then(self, do: Callable[[Store], object]) -> None:
        """Something that wants all that was entered before to be stored."""
        self._enter(BacklogEntry(do))

    def begin_run(self, run: StationRun) -> None:
        """A run of the station begins, whose clock says this."""

        def entry(store: Store) -> None:
            store.begin_run(self._station, run, self.record.lost_rows)

        self._tell(run, entry)

    def follow(self, run: StationRun) -> None:
        """Its clock says, or is known, otherwise now."""
        self._tell(run, lambda store: store.follow(self._station, run))

    @property
    def line(self) -> Line | None:
        """How UTC follows from the boot's clock in this run, as the record knew it some seconds
        ago; None: what was told of it last has not come there."""
        number, line = self._line
        return line if number == self._told else None

    def take(self, config: Config) -> None:
        """Clips of stretches that begin from now on are made by these settings."""
        self._backlog.put(BacklogEntry(clips=lambda clips: setattr(clips, "config", config)))

    def _tell(self, run: StationRun, entry: Callable[[Store], object]) -> None:
        self._run_told = run
        self._told += 1
        number = self._told

        def tell(store: Store) -> None:
            entry(store)
            self._station_run, self._heeded, self._asked_at = run, number, float("-inf")

        self._enter(BacklogEntry(tell))

    def _enter(self, entry: BacklogEntry) -> None:
        self._sound_missed()
        self._backlog.put(entry)
        if self._thread is not None:
            self._work.set()
        elif self.error is None:
            self.flush()

    def _sound_missed(self) -> None:
        """Over sound that was given up no clip reaches."""
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
        """The one that is heard, where it is not: somebody may have deleted its row, or that of its
        place."""
        heard, begin = self._open or ("", None)
        if begin is not None and not store.rows(_STRETCH, (heard,)):
            begin(store)

    def _book_unstored(self, store: Store) -> None:
        mine = self._run_told.id if self._run_told else None  # what this run holds is stored itself
        others = [one for one in self._note.read() if one.run.id != mine]
        for one in others:
            with suppress(RowError):  # a note holds nothing up
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
        """Somebody else may have put the clock right, or deleted the row that says how it is."""
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
