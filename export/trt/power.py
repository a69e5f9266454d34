"""Power consumption of a board, from the INA3221 sensor of Jetsons; other boards have none."""

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Input rails of Orin Nano, NX and their carrier boards; without them, all rails are added.
_RAILS = ("VDD_IN", "SYS5V")
_EVERY_S = 0.1


def board_watts(root: Path = Path("/")) -> float | None:
    """Present power in W: of the rail that feeds the board if there is one, else of all rails
    together; None without a sensor. `root` is the file system."""
    rails: dict[str, float] = {}
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        with suppress(OSError, ValueError):
            if (monitor / "name").read_text().strip() == "ina3221":
                rails |= _rails(monitor)
    for name in _RAILS:
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


def _rails(monitor: Path) -> dict[str, float]:
    """Power in W by label of each rail, from millivolts and milliamperes."""
    found = {}
    for label in sorted(monitor.glob("in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        with suppress(OSError, ValueError):  # a channel that is not connected
            millivolts = int((monitor / f"in{number}_input").read_text())
            found[label.read_text().strip()] = (
                millivolts * int((monitor / f"curr{number}_input").read_text()) / 1e6
            )
    return found


class PowerMeter:
    """Median power while a block runs.

    meter = PowerMeter()
    with meter.reading():
        work()
    meter.watts
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self.watts: float | None = None  # of the last block; None without a sensor

    @contextmanager
    def reading(self) -> Iterator[None]:
        seen: list[float] = []
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                watts = board_watts(self._root)
                if watts is None:
                    return
                seen.append(watts)
                over.wait(_EVERY_S)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.watts = statistics.median(seen) if seen else None
