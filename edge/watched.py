"""A folder into which something else writes recordings: each is analysed once, when it is closed, oldest first.

Knows no health and no service; which files are ready is edge/capture/folder.py's to say.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from edge.analysis import Analyst, Found
from edge.capture.folder import FolderWatch
from edge.capture.recording import record_name
from edge.clips.maker import ClipMaker
from edge.config import Config
from edge.contract.errors import ConfigError, StoreError
from edge.ledger import Ledger
from edge.replay import Replay
from edge.types import GapRow, Outcome

SOURCE = "folder"
_WAIT_S = 0.5
_LOOK_S = 2.0  # between two looks at a folder in which nothing was ready
_LOOK_SHARE = 20  # and so many times as long as a look took: a folder of 100,000 files costs seconds
_LOOK_AGAIN_S = 30.0  # and at one in which much is: an older recording may have come
_LATER_S, _LATER_S_MAX = 4.0, 3600.0  # before a file that cannot be read is tried again, twice as long each time

log = logging.getLogger(__name__)


class Watched:
    """Watches step by step, so that one loop can look after everything.

    `on_found` is called after every batch and may raise to leave a long recording: what was committed stays, the rest
    is analysed next time.
    """

    def __init__(
        self,
        config: Config,
        analyst: Analyst,
        ledger: Ledger,
        clips: ClipMaker | None,
        on_found: Callable[[Found], None],
        on_gap: Callable[[GapRow, float], None],
    ) -> None:
        if config.folder.path is None:
            raise ConfigError("folder.path: missing; source is folder, so say which")
        self._root = config.folder.path
        self._analyst, self._ledger, self._clips = analyst, ledger, clips
        self._on_found, self._on_gap = on_found, on_gap
        self.last_sound: datetime | None = None  # the end of what was analysed last
        self._watch = FolderWatch(self._root, config.folder.settle_s, config.zone)
        self._ready: list[Path] = []
        self._later: dict[Path, tuple[float, float]] = {}  # cannot be read: when to try again, and the delay
        self._looked_at = float("-inf")
        self._there_at, self._away, self._look_s = time.monotonic(), False, _LOOK_S

    @property
    def problem(self) -> str | None:
        """What is wrong with the folder, in one line."""
        return self._watch.problem

    @property
    def away_s(self) -> float:
        """For how long the folder itself cannot be read; 0 while it can, whatever is wrong with parts of it."""
        return time.monotonic() - self._there_at if self._away else 0.0

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that wait, as far as headers tell."""
        return self._watch.waiting().seconds

    def take(self, config: Config) -> None:
        """Other settings, for the analyst alone. Raises ConfigError or BundleError; then nothing is taken."""
        self._analyst.take(config)

    def step(self) -> Outcome | None:
        """Analyse the next recording, if one is ready and the database can be had; otherwise wait half a second."""
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
            store, clips = self._ledger.store(), self._clips
            replay = Replay(self._analyst, store, (lambda: clips) if clips else None, SOURCE, self._found, self._on_gap)
            outcome = replay.recording(path, record_name(path, self._root))
        except StoreError as error:
            self._ledger.failed(error)
            return None
        except OSError as error:  # a bad sector, or gone with its disk: asked less and less often, never forgotten
            delay_s = min(_LATER_S_MAX, 2 * self._later.get(path, (0.0, _LATER_S / 2))[1])
            self._later[path] = (time.monotonic() + delay_s, delay_s)
            name = record_name(path, self._root)
            log.warning("%s: %s; tried again in %.0f s", name, error.strerror or error, delay_s)
            return None
        self._later.pop(path, None)
        self._watch.done(path)
        if outcome.state == "refused" and not outcome.earlier:
            log.warning("%s: refused: %s", outcome.path, outcome.reason)
        return outcome

    def _found(self, found: Found) -> None:
        self.last_sound = found.end
        self._on_found(found)

    def _look(self) -> None:
        begun = time.monotonic()
        ready = self._watch.ready()
        self._looked_at = time.monotonic()
        there = set(ready)
        self._later = {path: when for path, when in self._later.items() if path in there}
        self._ready = [p for p in reversed(ready) if self._later.get(p, (0.0, 0.0))[0] <= self._looked_at]
        self._look_s = max(_LOOK_S, _LOOK_SHARE * (self._looked_at - begun))
        self._away = not self._watch.readable
        if not self._away:
            self._there_at = self._looked_at
