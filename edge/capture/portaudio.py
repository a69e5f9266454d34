"""Sound cards as PortAudio (sounddevice) has them: which there are, which is meant, opening one.

Does not know what becomes of the samples, or when to try again.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.contract.audio import Samples
from edge.contract.errors import CaptureError

LATENCY_S = 0.5  # the card's own buffer: a busy interpreter may be late by so much before samples are lost
CHANNELS_MIN = 2  # sound servers mix a stereo microphone down for whom asks for one channel; the setting names one


@dataclass(frozen=True)
class InputDevice:
    """A sound card that can record."""

    index: int  # changes with what is plugged in; good until the next `rescan`
    name: str
    host_api: str
    channels: int
    rate_hz: int  # its default


class PortAudio:
    """PortAudio, which lists the cards once when it is initialised: a card plugged in later wants `rescan`.

    Every method raises CaptureError with one line, the system's own words in it. `sounddevice` is the library's
    module; tests give another with the same names.
    """

    def __init__(self, sounddevice: Any = None) -> None:
        self._api = sounddevice

    def rescan(self) -> None:
        """Look for cards anew. Ends every stream that is open."""
        if self._api is None:
            self._api = _sounddevice()
        try:
            while self._api._initialized:
                self._api._terminate()
            self._api._initialize()
        except self._api.PortAudioError as error:
            raise CaptureError(f"PortAudio does not start: {_line(error)}") from error

    def inputs(self) -> list[InputDevice]:
        """Every card that can record, as of the last `rescan`."""
        try:
            apis = [api["name"] for api in self._api.query_hostapis()]
            return [
                InputDevice(
                    device["index"],
                    device["name"],
                    apis[device["hostapi"]],
                    device["max_input_channels"],
                    round(device["default_samplerate"]),
                )
                for device in self._api.query_devices()
                if device["max_input_channels"] > 0
            ]
        except self._api.PortAudioError as error:
            raise CaptureError(f"the sound cards cannot be listed: {_line(error)}") from error

    def find(self, name: str | None) -> InputDevice:
        """The one card with `name` in its name, whatever the case, or with just that name; None: the default."""
        devices = self.inputs()
        there = ", ".join(repr(device.name) for device in devices) or "none"
        if name is None:
            default = self._default_index()
            found = [device for device in devices if device.index == default]
            if not found:
                raise CaptureError(f"no default sound card that records; there is: {there}")
            return found[0]
        wanted = name.casefold()
        exact = [device for device in devices if device.name.casefold() == wanted]
        found = exact or [device for device in devices if wanted in device.name.casefold()]
        if len(found) != 1:
            count = "no sound card" if not found else f"{len(found)} sound cards"
            raise CaptureError(f"microphone.device: {count} with {name!r} in the name; there is: {there}")
        return found[0]

    def _default_index(self) -> int:
        try:
            return int(self._api.query_devices(None, "input")["index"])
        except (self._api.PortAudioError, ValueError):
            return -1

    def open(
        self,
        device: InputDevice,
        rate_hz: int,
        channel: int,
        write: Callable[[Samples, bool], None],
        end: Callable[[], None],
    ) -> Any:
        """A running stream, which PortAudio's own thread feeds to `write(samples, lost before them)` until it calls
        `end()`, for whatever reason. `channel` counts from 1. End it with `close`.
        """
        if channel > device.channels:
            raise CaptureError(
                f"microphone.channel: expected 1 to {device.channels} of {device.name!r}, found {channel}"
            )

        channels = min(device.channels, max(channel, CHANNELS_MIN))

        def recorded(raw: Any, _frames: int, _time: Any, status: Any) -> None:
            samples = np.frombuffer(raw, np.float32).reshape(-1, channels)
            write(samples[:, channel - 1], bool(status.input_overflow))

        stream = None
        try:
            # Not InputStream: its arrays are shaped in a way that NumPy 2.5 deprecates (sounddevice 0.5).
            stream = self._api.RawInputStream(
                device=device.index,
                samplerate=rate_hz,
                channels=channels,
                dtype="float32",
                latency=LATENCY_S,
                callback=recorded,
                finished_callback=end,
            )
            stream.start()
        except (self._api.PortAudioError, ValueError) as error:
            if stream is not None:
                stream.close()
            raise CaptureError(f"{device.name!r} cannot be opened at {rate_hz} Hz: {_line(error)}") from error
        return stream

    def close(self, stream: Any) -> None:
        """Errors do not matter: the card may be gone."""
        stream.abort(ignore_errors=True)
        stream.close(ignore_errors=True)


def devices() -> list[InputDevice]:
    """Every card that can record now, for a person to choose from. Raises CaptureError."""
    portaudio = PortAudio()
    portaudio.rescan()
    return portaudio.inputs()


def _sounddevice() -> Any:
    """The module. Not imported at the top of the file: that initialises PortAudio, which fails without the system's
    library or where ALSA is misconfigured. Of that a station with recordings only need not know.
    """
    try:
        return importlib.import_module("sounddevice")
    except OSError as error:
        raise CaptureError(f"PortAudio is missing (apt-get install libportaudio2): {_line(error)}") from error
    except Exception as error:
        if type(error).__name__ != "PortAudioError":  # the class itself is not to be had: the import failed
            raise
        raise CaptureError(f"PortAudio does not start: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
