"""Lock that admits one station per state folder. Knows no station."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edge.config import check_state
from edge.contract.errors import ConfigError

log = logging.getLogger(__name__)


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Hold the lock of this state folder. Raises ConfigError if another station holds it; a folder
    that cannot be written to is only logged and does not prevent the start."""
    with ExitStack() as stack:
        try:
            state.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((state / "station.lock").open("w"))
        except OSError as error:
            check_state(state)
            log.warning("%s: %s", state, error.strerror or error)
        else:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"state: {state}: already in use by another station; stop that one or choose "
                    "another folder"
                ) from None
        yield
