"""Tables of places held in memory, made either on request or in the background.

Knows no sound and no source; place_table.py defines a table.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge.contract.blend import Scores
from edge.contract.bundle import Bundle
from edge.contract.errors import BundleError, EngineError
from edge.prior.place_table import prior_table
from edge.types import Place

# Tables in memory: one of 6,500 species takes 10 MB, and an archive may have hundreds of sites.
_PLACES_MAX = 8
# Delay before a failed table is tried again, doubled each time.
_AGAIN_S = 30.0
_AGAIN_S_MAX = 3600.0
_POLL_S = 0.25  # between calls of `alive` while waiting for a table
log = logging.getLogger(__name__)


class PriorTables(Protocol):
    """Source of the priors for stretches."""

    made: int  # grows with each table that stretches have had to do without so far
    problem: str | None  # reason why there is none yet

    def table(self, place: Place) -> Scores | None:
        """The table `(366, species)`; None: sound alone decides."""


class _TableCache:
    """The most recently used tables."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Place, Scores | None] = OrderedDict()

    def __contains__(self, place: Place) -> bool:
        return place in self._tables

    def use(self, place: Place) -> Scores | None:
        """A table that is here, marked as most recently used."""
        self._tables.move_to_end(place)
        return self._tables[place]

    def hold(self, place: Place, table: Scores | None) -> None:
        """Add a table; the least recently used one is dropped if there are too many."""
        self._tables[place] = table
        self._tables.move_to_end(place)
        if len(self._tables) > _PLACES_MAX:
            self._tables.popitem(last=False)


class _TableSource:
    """Common parts of all table sources."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.made = 0
        self.problem: str | None = None
        self._bundle = bundle
        self._folder = folder
        self._held = _TableCache()


class Priors(_TableSource):
    """Tables made on request: the caller waits, since a recording's rows depend on them."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        super().__init__(bundle, folder)
        self._lock = threading.Lock()

    def table(self, place: Place) -> Scores | None:
        """The table of a place. Raises BundleError or EngineError if it cannot be made."""
        with self._lock:
            if place not in self._held:
                self._held.hold(place, prior_table(self._bundle, place, self._folder))
            return self._held.use(place)


class BackgroundPriors(_TableSource):
    """Tables made in a background thread, for a microphone: until a table is there, sound alone
    decides.

    If one cannot be made, whatever the reason, listening continues and the station keeps retrying,
    less and less often.

        priors = BackgroundPriors(bundle, config.state / "priors")
        priors.table(place)   # None until it is there
        priors.made           # grows with each table
    """

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        super().__init__(bundle, folder)
        self._lock = threading.Lock()
        self._asked: set[Place] = set()  # places whose tables are being made

    def table(self, place: Place) -> Scores | None:
        """The table of a place if it is there; never waits."""
        if not self._bundle.manifest.has_prior:
            return None
        with self._lock:
            if place in self._held:
                return self._held.use(place)
            is_new = place not in self._asked
            self._asked.add(place)
        if is_new:
            self.problem = "it is being computed"
            threading.Thread(target=self._make, args=(place,), name="prior", daemon=True).start()
        return None

    def wait(self, place: Place, timeout_s: float) -> bool:
        """Wait for a table; True if it is there within the timeout, as a stored one is."""
        deadline = time.monotonic() + timeout_s
        while self._bundle.manifest.has_prior and place not in self._held:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S / 10)
        return True

    def _make(self, place: Place) -> None:
        delay_s = _AGAIN_S
        while True:
            try:
                table = prior_table(self._bundle, place, self._folder)
            except Exception as error:  # of any kind: the thread must go on
                delay_s = _AGAIN_S_MAX if isinstance(error, BundleError) else delay_s
                self._complain(f"{error}; next attempt in {delay_s:.0f} s")
                time.sleep(delay_s)
                delay_s = min(_AGAIN_S_MAX, 2 * delay_s)
            else:
                with self._lock:
                    self._held.hold(place, table)
                    self._asked.discard(place)
                self.made += 1
                self.problem = None
                return

    def _complain(self, problem: str) -> None:
        log.warning("%s; until then sound alone decides", problem)
        self.problem = problem


class AwaitedPriors(_TableSource):
    """Tables made in a background thread and waited for, by a caller that has other duties.

    A recording's rows depend on the table. Meanwhile `alive` is called four times a second, and may
    raise to end the wait.
    """

    def __init__(
        self, bundle: Bundle, folder: Path, alive: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(bundle, folder)
        self.alive = alive  # may be replaced
        # at most one answer for each place
        self._making: dict[Place, list[Scores | Exception | None]] = {}

    def table(self, place: Place) -> Scores | None:
        """The table of a place. Raises BundleError, or EngineError if it cannot be made now."""
        if place not in self._held:
            self._held.hold(place, self._awaited(place))
        return self._held.use(place)

    def _awaited(self, place: Place) -> Scores | None:
        answer = self._making.get(place)
        if answer is None:
            answer = self._making[place] = []
            threading.Thread(
                target=self._make, args=(place, answer), name="prior", daemon=True
            ).start()
        until_s = time.monotonic() + _POLL_S
        while not answer:
            time.sleep(_POLL_S / 25)
            if time.monotonic() > until_s:
                self.problem = "it is being computed"
                self.alive()
                until_s = time.monotonic() + _POLL_S
        del self._making[place]
        (found,) = answer
        if isinstance(found, Exception):
            self.problem = str(found)
            raise found
        self.problem = None
        return found

    def _make(self, place: Place, answer: list[Scores | Exception | None]) -> None:
        try:
            answer.append(prior_table(self._bundle, place, self._folder))
        except BundleError as error:
            answer.append(error)
        except Exception as error:
            answer.append(
                error if isinstance(error, EngineError) else EngineError(f"the prior: {error!r}")
            )
