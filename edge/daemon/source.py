"""What the station asks of a source of sound, whichever it is, and what a source says of itself."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from edge.config import Config
from edge.types import ClockState, Gap, LoadLevel, Outcome

STUCK_S_MAX = 60.0  # sound comes, and no window is decided
# a card that is away for longer may come back for a new process: the watchdog gets its turn
OUTAGE_S_MAX = 900.0


@dataclass(frozen=True)
class Hearing:
    """How the source is, at this moment."""

    hearing: bool
    silent_s: float  # for so long nothing was heard that should be
    problem: str | None
    waiting_s: float  # sound that waits for an answer
    shed: LoadLevel
    last_sound: datetime | None
    clock_state: ClockState
    now: datetime
    card_problem: str | None = None  # although it is heard
    time_known: bool = False  # by a network or a person


class Source(Protocol):
    """A microphone or a folder. One thread steps and ends; whatever else is here any thread may
    ask, and none waits."""

    @property
    def card(self) -> str | None:
        """The sound card that is open, if it has one."""

    @property
    def silence(self) -> Gap | None:
        """The gap that goes on just now, if any."""

    def hearing(self) -> Hearing:
        """How it is."""

    def gets_on(self, decided_at: float) -> bool:
        """Whether what is to be heard is heard, or is known to be missing not for too long, and
        what is heard is analysed. `decided_at`: when a window was decided last, on the monotonic
        clock."""

    def take(self, config: Config) -> None:
        """Use these settings from the next piece on. All that can fail is done here, in the thread
        of the caller. Raises ConfigError or BundleError; then nothing is taken."""

    def step(self) -> Outcome | None:
        """Hear and analyse what is there; waits half a second at most if nothing is. How a
        recording ended, if one did."""

    def end(self, patience_s: float) -> None:
        """Stop: analyse what waits as long as there is patience, and close the books."""
