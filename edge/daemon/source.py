"""Protocol of a source of sound, and the state that a source reports."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from edge.config import Config
from edge.types import ClockState, Gap, LoadLevel, Outcome

STUCK_S_MAX = 60.0  # sound arrives, but no window is decided
# a card that is away for longer may work again in a new process, so the watchdog may act
OUTAGE_S_MAX = 900.0


@dataclass(frozen=True)
class Hearing:
    """State of a source at one moment."""

    hearing: bool
    silent_s: float  # time without sound while it should hear
    problem: str | None
    waiting_s: float  # sound that waits to be analysed
    shed: LoadLevel
    last_sound: datetime | None
    clock_state: ClockState
    now: datetime
    card_problem: str | None = None  # of a card that delivers sound
    time_known: bool = False  # from a network or a person


class Source(Protocol):
    """A microphone or a folder. One thread calls `step` and `end`; all other methods may be called
    from any thread and never wait."""

    @property
    def card(self) -> str | None:
        """Name of the open sound card, if any."""

    @property
    def silence(self) -> Gap | None:
        """The ongoing gap, if any."""

    def hearing(self) -> Hearing:
        """Present state of the source."""

    def gets_on(self, decided_at: float) -> bool:
        """True if sound arrives, or has not been missing for too long, and arriving sound is
        analysed. `decided_at`: when the last window was decided, on the monotonic clock."""

    def take(self, config: Config) -> None:
        """Use these settings from the next step on. Everything that can fail is done here, in the
        caller's thread. Raises ConfigError or BundleError; then nothing changes."""

    def step(self) -> Outcome | None:
        """Read and analyse the next sound; waits half a second at most if there is none. Returns
        the outcome of a recording that ended, if any."""

    def end(self, patience_s: float) -> None:
        """Stop: analyse waiting sound for `patience_s` at most, and close everything."""
