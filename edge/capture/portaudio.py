"""Sound cards through PortAudio (sounddevice): listing them, choosing one, opening it.

Does not know what becomes of the samples, or when to try again.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.contract.audio import Samples
from edge.contract.errors import CaptureError
from edge.contract.text import printable

# The card's own buffer: a busy interpreter may be this late before samples are lost.
LATENCY_S = 0.5
# Sound servers mix stereo down if one channel is requested; the setting names a single one instead.
CHANNELS_MIN = 2
_RATES_HZ = (1_000, 10_000_000)  # plausible default rates
_ENTRIES_MAX = 256  # in the list of cards

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputDevice:
    """A sound card that can record."""

    index: int  # valid until the next `rescan`
    name: str  # printable
    host_api: str
    channels: int
    rate_hz: int  # its default; 0: not given

    def rate(self, requested_hz: int | None) -> int:
        """The rate to open it with: the requested one, else its default. Raises CaptureError if
        there is neither."""
        if not (requested_hz or self.rate_hz):
            raise CaptureError(f"{self.name!r} reports no sample rate; set microphone.rate_hz")
        return requested_hz or self.rate_hz


class PortAudio:
    """PortAudio, which lists the cards once when it is initialised: a card plugged in later
    requires `rescan`.

    Every method raises CaptureError with one line that includes the system's message, whatever the
    library raises: it decodes names strictly and looks entries up in each other, so that an unusual
    card can raise almost anything. An entry that cannot be read does not hide the others.
    `sounddevice` is the library's module; tests pass another with the same names.
    """

    def __init__(self, sounddevice: Any = None) -> None:
        self._api = sounddevice
        self.unread: tuple[
            str, ...
        ] = ()  # entries that the last `inputs` could not read, with reasons
        self._reported: tuple[str, ...] = ()

    def rescan(self) -> None:
        """Look for cards again. Ends every open stream."""
        if self._api is None:
            self._api = _sounddevice()
        with _as_capture_error("PortAudio does not start"):
            while self._api._initialized:
                self._api._terminate()
            self._api._initialize()

    def inputs(self) -> list[InputDevice]:
        """Every readable card that can record, as of the last `rescan`; `unread` lists the
        unreadable ones."""
        devices: list[InputDevice] = []
        unread: list[str] = []
        apis: list[str] = []
        with suppress(Exception):  # names of sound systems are only for display
            apis = [str(api["name"]) for api in self._api.query_hostapis()]
        for index, entry in enumerate(self._entries()):
            try:
                if isinstance(entry, Exception):
                    raise entry
                if entry["max_input_channels"] > 0:
                    devices.append(_device(index, entry, apis))
            except Exception as error:
                unread.append(f"sound card {index}: {_line(error)}")
        self.unread = tuple(unread)
        if self.unread != self._reported:
            self._reported = self.unread
            for line in unread:
                log.warning("%s; skipped", line)
        return devices

    def _entries(self) -> list[Any]:
        """The list of cards. If it cannot be read as a whole, entries are read one by one, with an
        error in place of an unreadable one."""
        try:
            return list(self._api.query_devices())
        except self._api.PortAudioError as error:
            raise CaptureError(f"the sound cards cannot be listed: {_line(error)}") from error
        except Exception as error:
            log.debug("the sound cards cannot be listed at once: %s", _line(error))
        entries: list[Any] = []
        while len(entries) < _ENTRIES_MAX:
            try:
                entries.append(self._api.query_devices(len(entries)))
            except self._api.PortAudioError:  # beyond the last
                break
            except Exception as error:
                entries.append(error)
        return entries

    def find(self, name: str | None) -> InputDevice:
        """The one card with `name` in its name, case-insensitive, or with exactly this name; None:
        the default card."""
        devices = self.inputs()
        there = "; ".join(
            [", ".join(repr(device.name) for device in devices) or "none", *self.unread]
        )
        if name is None:
            default = self._default_index()
            found = [device for device in devices if device.index == default]
            if not found:
                advice = "; name one in microphone.device" if devices else ""
                raise CaptureError(
                    f"no default sound card for recording; available: {there}{advice}"
                )
            return found[0]
        folded = name.casefold()
        exact = [device for device in devices if device.name.casefold() == folded]
        found = exact or [device for device in devices if folded in device.name.casefold()]
        if len(found) != 1:
            count = "no sound card" if not found else f"{len(found)} sound cards"
            raise CaptureError(
                f"microphone.device: {count} with {name!r} in the name; available: {there}"
            )
        return found[0]

    def _default_index(self) -> int:
        """Index of the default card; -1 if there is none or it cannot be read."""
        try:
            return int(self._api.query_devices(None, "input")["index"])
        except Exception as error:
            log.debug("no default sound card: %s", _line(error))
            return -1

    def open(
        self,
        device: InputDevice,
        rate_hz: int,
        channel: int,
        write: Callable[[Samples, bool], None],
        end: Callable[[], None],
    ) -> Any:
        """A running stream, from which PortAudio's thread calls `write(samples, sound was lost
        before them)` until it calls `end()`, for whatever reason.

        `channel` counts from 1. End the stream with `close`.
        """
        if channel > device.channels:
            raise CaptureError(
                f"microphone.channel: expected 1 to {device.channels} of {device.name!r}, found "
                f"{channel}"
            )

        channels = min(device.channels, max(channel, CHANNELS_MIN))

        def recorded(raw: Any, _frames: int, _time: Any, status: Any) -> None:
            samples = np.frombuffer(raw, np.float32).reshape(-1, channels)
            write(samples[:, channel - 1], bool(status.input_overflow))

        failed = f"{device.name!r} cannot be opened at {rate_hz} Hz"
        with _as_capture_error(failed):
            # Not InputStream: its arrays are shaped in a way that NumPy 2.5 deprecates (sounddevice
            # 0.5).
            stream = self._api.RawInputStream(
                device=device.index,
                samplerate=rate_hz,
                channels=channels,
                dtype="float32",
                latency=LATENCY_S,
                callback=recorded,
                finished_callback=end,
            )
        try:
            with _as_capture_error(failed):
                stream.start()
        except CaptureError:
            with suppress(Exception):
                stream.close(ignore_errors=True)
            raise
        return stream

    def close(self, stream: Any) -> None:
        """Close a stream. Errors are ignored: the card may be gone."""
        with suppress(Exception):
            stream.abort(ignore_errors=True)
        with suppress(Exception):
            stream.close(ignore_errors=True)


def _device(index: int, entry: Mapping[str, Any], apis: list[str]) -> InputDevice:
    """An entry of the list as InputDevice. Name and channels are required; descriptive fields may
    be odd."""
    api = entry.get("hostapi")
    rate_hz = entry.get("default_samplerate")
    is_api = isinstance(api, int) and 0 <= api < len(apis)
    is_rate = isinstance(rate_hz, int | float) and _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]
    return InputDevice(
        index=int(entry.get("index", index)),
        name=printable(str(entry["name"])),
        host_api=printable(apis[api]) if is_api and isinstance(api, int) else "?",
        channels=int(entry["max_input_channels"]),
        rate_hz=round(rate_hz) if is_rate and isinstance(rate_hz, int | float) else 0,
    )


def devices() -> list[InputDevice]:
    """Every card that can record now, for a person to choose from. Raises CaptureError."""
    portaudio = PortAudio()
    portaudio.rescan()
    return portaudio.inputs()


def _sounddevice() -> Any:
    """The module, imported on first use.

    Importing it initialises PortAudio, which fails without the system's library or where ALSA is
    misconfigured. A station that only analyses recordings must not depend on that.
    """
    try:
        return importlib.import_module("sounddevice")
    except OSError as error:
        raise CaptureError(
            f"PortAudio is missing (apt-get install libportaudio2): {_line(error)}"
        ) from error
    except Exception as error:
        raise CaptureError(f"PortAudio does not start: {_line(error)}") from error


@contextmanager
def _as_capture_error(what: str) -> Iterator[None]:
    """Turn any exception raised within into a CaptureError: `what`, and the system's message."""
    try:
        yield
    except Exception as error:
        raise CaptureError(f"{what}: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The error as one printable line; with its type unless it is an error that the library raises
    on purpose."""
    words = printable(" ".join(str(error).split()))
    meant = type(error).__name__ == "PortAudioError" or isinstance(error, OSError)
    return words if meant and words else f"{type(error).__name__}: {words}"
