"""The watched folder as a source: something else writes recordings into it, and each is analysed
once it is complete, oldest first.

Knows no health and no service; edge/capture/folder.py finds the files that are ready.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edge.analysis.stretch import AnalysisSetup, Analyst, BatchResult
from edge.capture.folder import Content, FolderWatch
from edge.capture.own_files import OwnFiles
from edge.capture.recording import record_name
from edge.clips.maker import ClipMaker
from edge.config import Config
from edge.contract.errors import ConfigError, EngineError, RowError, StoreError
from edge.daemon.ledger import Ledger
from edge.daemon.source import OUTAGE_S_MAX, Hearing
from edge.daemon.timeline import Timeline
from edge.host.clock import KNOWN, Clock, boot_id
from edge.replay.attempt_log import AttemptLog, forget_gone, in_order
from edge.replay.replay import Replay
from edge.store.connection import is_lock
from edge.store.record import Store
from edge.types import Gap, GapRow, LoadLevel, Outcome

SOURCE = "folder"
_WAIT_S = 0.5
_LOOK_S = 2.0  # shortest time between two scans of a folder in which nothing was ready
# and at least so many times the duration of a scan: with 100,000 files one takes seconds
_LOOK_SHARE = 20
_LOOK_AGAIN_S = 30.0  # between two scans while files are ready, as older ones may have arrived
_CLEAN_S = 60.0  # between two clean-ups of unfinished recordings whose files are gone
_COUNT_S = 5.0  # between two counts of the present day
_HELD_S = 5.0  # with another writer's lock, before it is a problem
_REFUSED_MAX = 1000  # files whose refusals are remembered, so that each is logged once
# before a file that cannot be read is tried again; doubled each time, up to the maximum
_LATER_S = 4.0
_LATER_S_MAX = 3600.0

log = logging.getLogger(__name__)


class _Later(NamedTuple):
    """Next attempt at a file that could not be read."""

    at_s: float  # on the monotonic clock
    delay_s: float
    why: str


class _ClipHold(NamedTuple):
    """Time during which another writer of the database has blocked clips."""

    since_s: float  # on the monotonic clock
    last_s: float  # last seen


class WatchedFolder:
    """Watches step by step, in one thread, with a ledger that only this thread uses;
    edge.daemon.source.Source.

    `alive` is called between pieces of work, also before each piece of a file that is read, and may
    raise to leave a long recording: what was committed stays, the rest is analysed next time.
    `recount` is called with the store every few seconds, and after each recording.
    """

    def __init__(
        self,
        config: Config,
        analyst: Analyst,
        ledger: Ledger,
        clips: ClipMaker | None,
        on_found: Callable[[BatchResult], None],
        on_gap: Callable[[GapRow, float], None],
        clock: Clock | None = None,
        alive: Callable[[], object] = lambda: None,
        recount: Callable[[Store], object] = lambda _: None,
    ) -> None:
        if config.folder.path is None:
            raise ConfigError("folder.path: missing; set it, since source is folder")
        self._root = config.folder.path
        self._station = config.station.id
        self._analyst = analyst
        self._ledger = ledger
        self._clips = clips
        self._on_found = on_found
        self._on_gap = on_gap
        self._clock = clock or Clock()
        self._on_alive = alive
        self._recount = recount
        self._counted_at = float("-inf")
        # settings to be used from the next recording on
        self._coming: AnalysisSetup | None = None
        self._new_timeline = partial(
            Timeline, config, SOURCE, boot_id() or "unknown", self._clock, ledger
        )
        # made in the thread that steps, since it uses the ledger
        self._timeline: Timeline | None = None
        self._beat_at = self._clock.at_s()  # last sign of progress
        self._last_sound: datetime | None = None  # end of the sound analysed last
        own = OwnFiles(config.state)
        self._watch = FolderWatch(
            self._root, config.folder.settle_s, config.zone, own=own, looking=self._looking
        )
        self._ready: list[Path] = []
        self._later: dict[Path, _Later] = {}  # files that cannot be read now
        self._refused: dict[str, str] = {}  # by name, the reason that was logged last
        self._held: _ClipHold | None = None
        self._looked_at = self._cleaned_at = float("-inf")
        self._there_at = time.monotonic()
        self._away = False
        self._look_s = _LOOK_S

    # Called from other threads

    @property
    def card(self) -> str | None:
        """None: a folder has no sound card."""
        return None

    @property
    def silence(self) -> Gap | None:
        """None: a folder has no ongoing gap."""
        return None

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that wait to be analysed, by the headers of the files."""
        return self._watch.waiting().seconds

    @property
    def problem(self) -> str | None:
        """The trouble with the folder, or with files in it that could not be read, in one line."""
        waits = None
        later = list(self._later.items())
        if later:
            path, first = later[0]
            count = f"{len(later)} file{'s wait' if len(later) > 1 else ' waits'}"
            waits = f"{count}, for example {record_name(path, self._root)}: {first.why}"
        return "; ".join(filter(None, (self._watch.problem, waits))) or None

    @property
    def files_wait(self) -> int:
        """Number of files that could not be read at the last attempt; they are tried again."""
        return len(self._later)

    def hearing(self) -> Hearing:
        """Present state. `silent_s` is the time for which the folder itself cannot be read; trouble
        with parts of it is only in `problem`."""
        away_s = time.monotonic() - self._there_at if self._away else 0.0
        return Hearing(
            hearing=not away_s,
            silent_s=away_s,
            problem=self.problem,
            waiting_s=self.waiting_s,
            shed=LoadLevel.NOTHING,
            last_sound=self._last_sound,
            clock_state=self._clock.state,
            now=self._clock.now(),
            time_known=self._clock.line.known in KNOWN,
        )

    def gets_on(self, decided_at: float) -> bool:  # noqa: ARG002 - a folder may be empty
        """True if there was a sign of progress lately. A long wait for a disk or a database is
        allowed, since nothing is lost: the sound is in the files."""
        return self._clock.at_s() - self._beat_at < OUTAGE_S_MAX

    def take(self, config: Config) -> None:
        """Use these settings from the next recording on. Raises ConfigError or BundleError; then
        nothing changes."""
        self._coming = self._analyst.prepared(config)

    # Work

    def end(self, patience_s: float = 0.0) -> None:  # noqa: ARG002 - files can wait
        """Close the clips and the database."""
        if self._clips:
            self._clips.close()
        self._ledger.close()

    def alive(self) -> None:
        """Note a sign of progress. May raise to leave the present recording."""
        self._beat_at = self._clock.at_s()
        self._timeline = self._timeline or self._new_timeline()
        self._timeline.moved()  # rows carry their recorders' times
        self._on_alive()
        if self._beat_at - self._counted_at > _COUNT_S:
            self._count()

    def wait_for(self, error: StoreError) -> bool:
        """Decide after an error with the table of clips: True to try again, if another writer holds
        the lock. Waiting loses nothing, since the sound is in its file. May raise to leave the
        recording."""
        if not is_lock(error):
            return False
        now = time.monotonic()
        since = (
            now if self._held is None or now - self._held.last_s > _HELD_S else self._held.since_s
        )
        self._held = _ClipHold(since, now)
        if now - since > _HELD_S:
            self._ledger.failed(error)
        self.alive()
        return True

    def _count(self) -> None:
        self._counted_at = self._beat_at
        if self._ledger.error is None:
            with suppress(StoreError):
                self._recount(self._ledger.store())

    def _take_over(self) -> None:
        coming = self._coming
        self._coming = None
        if coming is not None:
            self._analyst.use(coming)
            if self._clips:
                self._clips.config = coming.config

    def step(self) -> Outcome | None:
        """Analyse the next recording if one is ready and the database can be used; otherwise wait
        half a second."""
        self.alive()
        self._take_over()
        self._ledger.flush()
        since_s = time.monotonic() - self._looked_at
        if self._ledger.error is not None or (not self._ready and since_s < self._look_s):
            time.sleep(_WAIT_S)
            return None
        if not self._ready or since_s > max(_LOOK_AGAIN_S, self._look_s):
            self._look()
        if not self._ready:
            return None
        path = self._ready.pop()
        try:
            store = self._ledger.store()
            clips = self._clips
            keep = (lambda: clips) if clips else None
            replay = Replay(
                self._analyst, store, keep, SOURCE, self._found, self._on_gap, self.alive
            )
            outcome = replay.recording(path, record_name(path, self._root))
        except RowError as error:  # other recordings can still be stored
            self._try_later(path, str(error))
            return None
        except StoreError as error:
            self._ledger.failed(error)
            return None
        except EngineError as error:  # its prior cannot be made now
            self._try_later(path, str(error))
            return None
        except OSError as error:
            # a bad sector, or a disk that is gone: tried less and less often, but never given up
            self._try_later(path, str(error.strerror or error))
            return None
        self._later.pop(path, None)
        self._count()
        self._watch.done(path)
        if outcome.state == "refused" and not outcome.earlier:
            self._tell_refused(outcome)
        return outcome

    def _tell_refused(self, outcome: Outcome) -> None:
        """Log a refusal once per file and reason: the file may be this station's own log, which
        grows by each line."""
        if self._refused.get(outcome.path) == outcome.reason:
            return
        if len(self._refused) >= _REFUSED_MAX:
            self._refused.clear()
        self._refused[outcome.path] = outcome.reason or ""
        log.warning("%s: refused: %s", outcome.path, outcome.reason)

    def _try_later(self, path: Path, why: str) -> None:
        before = self._later.get(path)
        delay_s = min(_LATER_S_MAX, 2 * before.delay_s) if before else _LATER_S
        self._later[path] = _Later(time.monotonic() + delay_s, delay_s, why)
        log.warning("%s: %s; next attempt in %.0f s", record_name(path, self._root), why, delay_s)

    def _found(self, found: BatchResult) -> None:
        self._last_sound = found.end
        if self._held is not None:  # the database could be written again
            self._held = None
            self._ledger.flush(now=True)
        self._on_found(found)
        self.alive()

    def _look(self) -> None:
        begun = time.monotonic()
        ready = self._watch.ready()
        self._looked_at = time.monotonic()
        paths = set(ready)
        self._later = {path: when for path, when in self._later.items() if path in paths}
        now = [p for p in ready if p not in self._later or self._later[p].at_s <= self._looked_at]
        self._ready = self._in_order(now)[::-1]
        self._look_s = max(_LOOK_S, _LOOK_SHARE * (self._looked_at - begun))
        self._away = not self._watch.readable
        if not self._away:
            self._there_at = self._looked_at
        if not (ready or self._watch.problem) and self._looked_at - self._cleaned_at > _CLEAN_S:
            self._clean()

    def _clean(self) -> None:
        """Clean up unfinished recordings whose files are gone. Called when nothing is left to read,
        since such a file may have a new name under which it continues."""
        self._cleaned_at = self._looked_at
        try:
            forget_gone(self._ledger.store(), self._station, self._root, self._watch.there)
        except StoreError as error:
            self._ledger.failed(error)

    @contextmanager
    def _looking(self, files: Sequence[tuple[Path, Content]]) -> Iterator[Collection[Path]]:
        """Note in the record that headers of these files are being read; yields the files that may
        be read."""
        names = {path: record_name(path, self._root) for path, _ in files}
        with ExitStack() as stack:
            try:
                attempting = AttemptLog(self._ledger.store(), self._station)
                states = [(names[path], content.bytes, content.mtime_ns) for path, content in files]
                allowed = stack.enter_context(attempting.looking(states))
            except StoreError as error:
                self._ledger.failed(error)
                allowed = set(names.values())
            yield {path for path, name in names.items() if name in allowed}

    def _in_order(self, paths: list[Path]) -> list[Path]:
        """Sort oldest first, but put files that may block others last."""
        if not paths:
            return paths
        try:
            store = self._ledger.store()
            return in_order(store, self._station, self._root, paths, resumes=self._clips is None)
        except StoreError as error:
            self._ledger.failed(error)
            return paths
