"""A sound card without hardware or sound server, at the pace of time: PortAudio's interface as the
microphone uses it.

It plays a sound for ever into the station's own Microphone and Ring. Knows no station but how one
is given this card.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

import edge.daemon.station
from edge.capture.microphone import Microphone
from edge.capture.portaudio import InputDevice
from edge.contract.audio import RATE_HZ
from edge.daemon.live_microphone import Live

_SOUNDSCAPES = Path(__file__).parents[2] / "edge/demo/soundscapes"
_BLOCK_S = 0.1


class Card:
    """Plays `samples`, of RATE_HZ, for ever; `given_s` counts what it has given."""

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self.given_s = 0.0
        self._samples = samples
        self._device = InputDevice(
            index=0, host_api="none", name="a stand-in", channels=1, rate_hz=RATE_HZ
        )

    def rescan(self) -> None:
        """There is always one card."""

    def inputs(self) -> list[InputDevice]:
        return [self._device]

    def find(self, _name: str | None) -> InputDevice:
        return self._device

    def open(
        self,
        _device: InputDevice,
        rate_hz: int,
        _channel: int,
        write: Callable[..., None],
        end: Callable[[], None],
    ) -> threading.Event:
        """Returns what ends it."""
        stop = threading.Event()

        def play() -> None:
            at = 0
            due_s = time.monotonic()
            block = round(_BLOCK_S * rate_hz)
            while not stop.is_set():
                due_s += _BLOCK_S
                time.sleep(max(0.0, due_s - time.monotonic()))
                write(
                    np.take(self._samples, range(at, at + block), mode="wrap").astype(np.float32),
                    False,
                )
                self.given_s += _BLOCK_S
                at = (at + block) % len(self._samples)
            end()

        threading.Thread(target=play, daemon=True).start()
        return stop

    def close(self, stream: threading.Event) -> None:
        stream.set()


def song() -> NDArray[np.float32]:
    """The first soundscape of the demonstration."""
    samples, rate_hz = soundfile.read(sorted(_SOUNDSCAPES.glob("*.ogg"))[0], dtype="float32")
    assert rate_hz == RATE_HZ
    return np.asarray(samples, np.float32)


@contextmanager
def hearing(open_microphone: Callable[[Any], Any]) -> Iterator[None]:
    """Stations that begin meanwhile hear what this opens."""
    real = edge.daemon.station.Live

    class StandInLive(Live):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, open_microphone=open_microphone)

    edge.daemon.station.Live = StandInLive  # type: ignore[misc]
    try:
        yield
    finally:
        edge.daemon.station.Live = real  # type: ignore[misc]


def main() -> None:
    """`python -m tests.helpers.stand_in_card CONFIG`: the daemon, hearing the demonstration's
    soundscape. The environment may name a program that makes priors in Python's place,
    PRIOR_PYTHON."""
    import logging

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    sys.executable = os.environ.get("PRIOR_PYTHON", sys.executable)
    card = Card(song())
    with hearing(lambda settings: Microphone(settings, portaudio=card)):  # type: ignore[arg-type]
        edge.daemon.station.run_station(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
