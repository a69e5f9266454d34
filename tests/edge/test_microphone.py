"""The microphone: every sample in its place, and every bad day a Gap with its reason.

Against the real PortAudio over ALSA's file plugin, which needs no hardware, gives a file's samples
as fast as they are taken, and so overloads the ring. What no virtual card does on demand
(unplugging, stalling, losing samples, at known times) is done by a hand-written module with
sounddevice's names: what matters of it is when the callback is called.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.capture.microphone import Microphone, listen
from edge.capture.portaudio import PortAudio, devices
from edge.capture.ring import BLOCK_S, Ring
from edge.config import MicrophoneSettings
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, WindowCutter
from edge.contract.errors import CaptureError
from edge.types import Chunk, Gap

Samples = NDArray[np.float32]
Piece = Chunk | Gap


def sound(seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> Samples:
    return (
        np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate_hz)).astype(np.float32)
    )


def check_books(pieces: list[Piece], begun_s: float) -> float:
    """Each piece begins where the one before ended; returns where the last ends."""
    at_s = begun_s
    for piece in pieces:
        assert piece.at_s == pytest.approx(at_s, abs=1e-4)
        at_s = piece.at_s + (
            piece.seconds if isinstance(piece, Gap) else len(piece.samples) / RATE_HZ
        )
    return at_s


# The real PortAudio, without a sound card


@pytest.fixture
def alsa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the configuration that ALSA has for this test alone."""
    own = tmp_path / "asoundrc"
    own.write_text("")
    monkeypatch.setenv("ALSA_CONFIG_PATH", f"/usr/share/alsa/alsa.conf:{own}")

    def write(text: str) -> None:
        other = tmp_path / "other"
        other.write_text(text)
        # ALSA sees that it is another file; a change within the same second it does not
        other.rename(own)

    yield write
    monkeypatch.undo()
    PortAudio().rescan()


def card(name: str, frames: Samples, folder: Path) -> str:
    """An ALSA device that plays (samples, 2) to whoever records from it as float32, which is what
    the file holds."""
    frames.astype("<f4").tofile(folder / f"{name}.raw")
    options = (
        "type file",
        "slave.pcm null",
        "file /dev/null",
        f'infile "{folder}/{name}.raw"',
        "format raw",
    )
    return f"pcm.{name} {{\n" + "\n".join(options) + "\n}\n"


def random_frames(seconds: int) -> Samples:
    """Samples that tell their place."""
    return sound(2 * seconds).reshape(-1, 2)


class GatedPortAudio(PortAudio):
    """The real one, whose thread waits where it has delivered as much as a test allows; time is
    what it delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = self.delivered = 0
        self.over = threading.Event()

    def now_s(self) -> float:
        return 1000.0 + self.delivered / RATE_HZ

    def open(self, device: Any, rate_hz: int, channel: int, write: Any, end: Any) -> Any:
        def gated(samples: Samples, overflowed: bool) -> None:
            while self.delivered >= self.allowed and not self.over.is_set():
                self.over.wait(0.001)
            self.delivered += len(samples)
            write(samples, overflowed)

        return super().open(device, rate_hz, channel, gated, end)

    def close(self, stream: Any) -> None:
        self.over.set()
        super().close(stream)

    def allow(self, seconds: float) -> None:
        """Let so much more through, and wait until it is."""
        self.allowed += round(seconds * RATE_HZ)
        deadline = time.monotonic() + 60
        while self.delivered < self.allowed and time.monotonic() < deadline:
            time.sleep(0.001)


def test_every_sample_comes_in_its_place_or_is_counted(
    alsa: Callable[[str], None], tmp_path: Path
) -> None:
    frames = random_frames(60)
    alsa(card("forest", frames, tmp_path))
    expected = frames[:, 1]
    portaudio = GatedPortAudio()
    settings = MicrophoneSettings(device="FOREST", rate_hz=RATE_HZ, channel=2, buffer_s=10)
    pieces: list[Piece] = []
    with Microphone(settings, portaudio=portaudio, clock=portaudio.now_s) as microphone:
        pieces += read_all(microphone)
        for seconds in (4, 4, 25, 4, 4, 4):  # 25 is more than the ring holds
            portaudio.allow(seconds)
            assert microphone.waiting_s <= settings.buffer_s + 2 * BLOCK_S
            pieces += read_all(microphone)
    place = 0
    for piece in pieces:
        if isinstance(piece, Gap):
            assert piece.reason == "overload"
            place += round(piece.seconds * RATE_HZ)
        else:
            np.testing.assert_array_equal(
                piece.samples, expected[place : place + len(piece.samples)]
            )
            place += len(piece.samples)
    assert sum(isinstance(piece, Gap) for piece in pieces) == 1
    assert place > 44 * RATE_HZ
    check_books(pieces, pieces[0].at_s)


def test_a_card_that_turns_up_late_is_found(alsa: Callable[[str], None], tmp_path: Path) -> None:
    """PortAudio lists the cards once, when it is initialised: without initialising it anew this
    would fail."""
    portaudio = GatedPortAudio()
    waited_s = [0.0]
    settings = MicrophoneSettings(device="forest", rate_hz=RATE_HZ)
    with Microphone(
        settings,
        portaudio=portaudio,
        clock=lambda: portaudio.now_s() + waited_s[0],
        chance=lambda: 0.0,
    ) as microphone:
        assert microphone.read(0) is None
        silent = microphone.silent
        assert silent is not None
        assert silent.reason == "no device"
        assert "no sound card with 'forest' in the name; available:" in silent.detail
        alsa(card("forest", random_frames(10), tmp_path))
        assert "forest" in [device.name for device in devices()]
        waited_s[0] += 1.0
        assert read_all(microphone) == []
        portaudio.allow(5)
        gap, *chunks = read_all(microphone)
    assert gap == Gap(1000.0, pytest.approx(1.0), "no device", silent.detail)
    assert len(chunks) > 5


def test_a_broken_sound_system_is_one_line(alsa: Callable[[str], None]) -> None:
    alsa("pcm.broken {")
    with pytest.raises(CaptureError, match=r"^PortAudio does not start: [^\n]+$"):
        devices()


# A sound card that does on demand what cards do on bad days


class FakeStream:
    def __init__(self, module: "FakeSoundDevice", options: dict[str, Any]) -> None:
        self.module = module
        self.options = options
        self.running = False

    def start(self) -> None:
        if self.module.refusal:
            raise FakeSoundDevice.PortAudioError(self.module.refusal)
        self.running = True

    def abort(self, ignore_errors: bool) -> None:
        assert ignore_errors
        self.end()

    def close(self, ignore_errors: bool = True) -> None:
        assert ignore_errors
        self.module.streams.remove(self)

    def end(self) -> None:
        if self.running:
            self.running = False
            self.options["finished_callback"]()

    def record(self, samples: Samples, overflowed: bool) -> None:
        """`samples` in the last channel, its negative in the others."""
        block = np.repeat(-samples[:, None], self.options["channels"], axis=1)
        block[:, -1] = samples
        self.options["callback"](
            block.astype(np.float32).tobytes(),
            len(block),
            None,
            SimpleNamespace(input_overflow=overflowed),
        )


class FakeSoundDevice:
    """What PortAudio uses of the module `sounddevice`, with a clock."""

    class PortAudioError(Exception):
        pass

    def __init__(self, *names: str, rate_hz: int = 48_000) -> None:
        self.now_s = 5000.0
        self.rate_hz = rate_hz
        self.plugged = list(names)
        self.refusal = ""
        self.streams: list[FakeStream] = []
        self.opened_s: list[float] = []  # when somebody looked for cards
        self._listed: list[str] = []
        self._initialized = 0

    def _initialize(self) -> None:
        self._initialized += 1
        self._listed = list(self.plugged)
        self.opened_s.append(self.now_s)

    def _terminate(self) -> None:
        self._initialized -= 1
        assert not self.streams, "PortAudio was shut down under a stream"

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA"}]

    def query_devices(self, device: None = None, kind: str | None = None) -> Any:
        assert device is None
        if kind == "input":
            if not self._listed:
                raise self.PortAudioError("Error querying device -1")
            return self._device(0)
        return [self._device(index) for index in range(len(self._listed))]

    def _device(self, index: int) -> dict[str, Any]:
        name = self._listed[index]
        channels = 0 if "speaker" in name else 2
        return {
            "index": index,
            "name": name,
            "hostapi": 0,
            "max_input_channels": channels,
            "default_samplerate": float(self.rate_hz),
        }

    def RawInputStream(self, **options: Any) -> FakeStream:
        assert self._listed[options["device"]] in self.plugged, "a card that is gone"
        self.streams.append(FakeStream(self, options))
        return self.streams[-1]

    def record(self, samples: Samples, overflowed: bool = False, block: int = 4_800) -> None:
        """The card hears this, in real time."""
        for start in range(0, len(samples), block):
            part = samples[start : start + block]
            self.now_s += len(part) / self.rate_hz
            self.streams[-1].record(part, overflowed and start == 0)

    def unplug(self) -> None:
        name = self.plugged.pop(0)
        assert name
        self.streams[-1].end()


def microphone_of(
    module: FakeSoundDevice, chance: Callable[[], float] = lambda: 0.0, **settings: Any
) -> Microphone:
    options: dict[str, Any] = {"channel": 2, "buffer_s": 60.0, "stall_s": 10.0, **settings}
    return Microphone(
        MicrophoneSettings(**options),
        portaudio=PortAudio(module),
        clock=lambda: module.now_s,
        chance=chance,
    )


def read_all(microphone: Microphone) -> list[Piece]:
    """What there is to read now."""
    pieces = []
    while (piece := microphone.read(0)) is not None:
        pieces.append(piece)
    return pieces


def pass_time(module: FakeSoundDevice, microphone: Microphone, seconds: float) -> list[Piece]:
    """So long without sound."""
    pieces: list[Piece] = []
    end_s = module.now_s + seconds
    while module.now_s < end_s:
        pieces += read_all(microphone)
        module.now_s += min(0.1, max(end_s - module.now_s, 1e-6))
    return pieces + read_all(microphone)


def until_opened(module: FakeSoundDevice, microphone: Microphone) -> list[Piece]:
    pieces = read_all(microphone)
    while not module.streams:
        module.now_s += 0.1
        pieces += read_all(microphone)
    return pieces


def gaps_of(pieces: list[Piece]) -> list[Gap]:
    return [piece for piece in pieces if isinstance(piece, Gap)]


def heard(pieces: list[Piece]) -> Samples:
    return np.concatenate([piece.samples for piece in pieces if isinstance(piece, Chunk)])


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 48_000, 44_100, 16_000, 384_000])
def test_sound_comes_at_the_stations_rate_and_in_its_time(rate_hz: int) -> None:
    """A click stays where it was, however long the resampler holds it back."""
    module = FakeSoundDevice("card", rate_hz=rate_hz)
    microphone = microphone_of(module)
    samples = sound(8, rate_hz) * 0.001
    samples[5 * rate_hz] = 1.0
    assert read_all(microphone) == []
    module.now_s += 0.25  # until the card begins
    began_s = module.now_s
    module.record(samples, block=rate_hz // 8)
    pieces = read_all(microphone)
    assert gaps_of(pieces) == [Gap(5000.0, pytest.approx(0.25), "off")]
    module.unplug()
    pieces += read_all(microphone)
    end_s = check_books(pieces, 5000.0)
    assert end_s == pytest.approx(began_s + 8, abs=1e-4)
    expected = soxr.resample(samples, rate_hz, RATE_HZ, "HQ")
    np.testing.assert_allclose(heard(pieces), expected[: len(heard(pieces))], atol=1e-4)
    loud = max(
        (piece for piece in pieces if isinstance(piece, Chunk)),
        key=lambda piece: piece.samples.max(),
    )
    assert loud.at_s + int(np.argmax(loud.samples)) / RATE_HZ == pytest.approx(
        began_s + 5, abs=1 / RATE_HZ
    )
    chunks = [piece for piece in pieces if isinstance(piece, Chunk)]
    for before, after in pairwise(chunks):
        assert before.at_s + len(before.samples) / RATE_HZ == pytest.approx(after.at_s, abs=1e-9)


def test_lost_samples_are_a_gap_where_they_were_lost() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    first = sound(7, 48_000)
    second = sound(6, 48_000, seed=1)
    module.record(first)
    module.now_s += 3.0
    module.record(second, overflowed=True)
    pieces = read_all(microphone)
    assert gaps_of(pieces) == [
        Gap(pytest.approx(5007.0, abs=1e-4), pytest.approx(3.0, abs=1e-3), "overflow", ANY)
    ]
    assert sum(len(p.samples) for p in pieces[: pieces.index(gaps_of(pieces)[0])]) == 7 * RATE_HZ
    check_books(pieces, 5000.0)


def test_what_the_crystal_drifted_is_not_lost_sound() -> None:
    module = FakeSoundDevice("card", rate_hz=RATE_HZ)
    microphone = microphone_of(module)
    read_all(microphone)
    for _ in range(600):
        module.record(sound(1, RATE_HZ), block=8_000)
        module.now_s += 1e-4
        read_all(microphone)
    module.now_s += 1.0
    module.record(sound(5, RATE_HZ), overflowed=True)
    (gap,) = gaps_of(read_all(microphone))
    assert gap.seconds == pytest.approx(1.0, abs=0.01)


def test_a_pause_that_the_card_says_nothing_of_is_a_gap_only_if_sound_is_missing() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    module.record(sound(5, 48_000))
    module.now_s += 4.0
    module.record(sound(5, 48_000))
    module.now_s += 4.0  # this program was held up: all of it was kept, and comes at once
    pieces = read_all(microphone)
    for _ in range(40):
        module.streams[-1].record(sound(0.1, 48_000), False)
        pieces += read_all(microphone)
    module.record(sound(5, 48_000))
    pieces += read_all(microphone)
    assert [(gap.reason, round(gap.seconds, 3)) for gap in gaps_of(pieces)] == [("overflow", 4.0)]
    assert check_books(pieces, 5000.0) == pytest.approx(module.now_s, abs=0.6)


def test_when_nobody_reads_the_oldest_sound_goes_and_is_counted() -> None:
    module = FakeSoundDevice("card", rate_hz=RATE_HZ)
    microphone = microphone_of(module, buffer_s=10.0)
    read_all(microphone)
    samples = sound(47, RATE_HZ)
    module.record(samples, block=1_000)
    assert 10 <= microphone.waiting_s <= 11
    pieces = read_all(microphone)
    assert isinstance(pieces[0], Gap)
    assert pieces[0].reason == "overload"
    assert 36 <= pieces[0].seconds <= 37
    lost = round(pieces[0].seconds * RATE_HZ)
    np.testing.assert_array_equal(heard(pieces), samples[lost : lost + len(heard(pieces))])
    assert check_books(pieces, 5000.0) == pytest.approx(module.now_s, abs=0.6)


def test_unplugging_is_one_gap_and_a_recovery() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    module.record(sound(12.3, 48_000))
    module.unplug()
    pieces = pass_time(module, microphone, 30.0)
    assert gaps_of(pieces) == []
    silent = microphone.silent
    assert silent is not None
    assert (silent.reason, round(silent.seconds, 3)) == ("unplugged", 30.0)
    assert "'card' ended its stream; later: " in silent.detail
    module.plugged.append("card")
    pieces += until_opened(module, microphone)
    recorded_s = module.now_s
    module.record(sound(5, 48_000))
    pieces += read_all(microphone)
    assert microphone.silent is None
    (gap,) = gaps_of(pieces)
    assert gap.reason == "unplugged"
    assert gap.at_s == pytest.approx(5012.3, abs=1e-4)
    assert gap.at_s + gap.seconds == pytest.approx(recorded_s, abs=1e-3)
    assert check_books(pieces, 5000.0) == pytest.approx(module.now_s, abs=0.6)


def test_a_card_without_samples_is_opened_anew() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    module.record(sound(5.2, 48_000))
    first = module.streams[-1]
    pieces = pass_time(module, microphone, 12.0)
    assert microphone.silent is not None
    assert microphone.silent.reason == "stalled"
    assert module.streams[-1] is not first
    module.record(sound(3, 48_000))
    pieces += read_all(microphone)
    assert gaps_of(pieces) == [
        Gap(pytest.approx(5005.2, abs=1e-4), pytest.approx(12.0, abs=1e-3), "stalled", ANY)
    ]
    check_books(pieces, 5000.0)


@pytest.mark.parametrize(
    ("number", "named"), [(0.0, "the value 0"), (-1.0, "the value -1"), (np.nan, "NaN")]
)
def test_a_dead_microphone_is_heard_until_it_is_known_to_be_dead(number: float, named: str) -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    pieces: list[Piece] = []
    module.record(sound(5, 48_000))
    for _ in range(100):
        if module.streams:
            module.record(np.full(48_000, number, np.float32))
        else:
            module.now_s += 1.0
        pieces += read_all(microphone)
    assert gaps_of(pieces) == []
    assert len(module.opened_s) > 3
    pieces += until_opened(module, microphone)
    back_s = module.now_s
    module.record(sound(5, 48_000))
    pieces += read_all(microphone)
    (gap,) = gaps_of(pieces)
    assert gap.reason == "constant"
    assert gap.detail.startswith(f"'card' delivers only {named}")
    assert gap.at_s == pytest.approx(5015.0, abs=0.6)
    assert gap.at_s + gap.seconds == pytest.approx(back_s, abs=0.6)
    check_books(pieces, 5000.0)


def test_the_card_is_tried_for_ever_ever_more_rarely_and_not_in_step() -> None:
    module = FakeSoundDevice("card", "speaker")
    module.refusal = "Device unavailable [PaErrorCode -9985]"
    microphone = microphone_of(module, chance=random.Random(3).random)
    pass_time(module, microphone, 3600.0)
    waits = np.diff(module.opened_s)
    longest = np.minimum(60.0, 2.0 ** np.arange(len(waits)))
    assert (waits <= longest + 0.2).all()
    assert (waits >= longest / 2).all()
    assert len(waits) > 60
    assert np.std(waits[10:]) > 3
    assert not module.streams
    assert microphone.silent is not None
    assert microphone.silent.detail == "'card' cannot be opened at 48000 Hz: " + module.refusal


def test_a_card_that_comes_and_goes_is_not_tried_without_end() -> None:
    """Sound for less than ten seconds does not count as recovery; for more it does."""
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    opened = []
    for seconds in (1, 1, 1, 1, 15, 1):
        module.record(sound(seconds, 48_000))
        module.streams[-1].end()
        lost_s = module.now_s
        until_opened(module, microphone)
        opened.append(round(module.now_s - lost_s))
    assert opened == [1, 2, 4, 8, 1, 2]


def test_a_slow_crystal_is_put_right_when_asked() -> None:
    module = FakeSoundDevice("card", rate_hz=RATE_HZ)
    microphone = microphone_of(module)
    read_all(microphone)
    pieces: list[Piece] = []
    for _ in range(600):  # a second of this card lasts 100 ppm too long
        module.record(sound(1, RATE_HZ), block=8_000)
        module.now_s += 1e-4
        pieces += read_all(microphone)
    assert microphone.drift_s == pytest.approx(0.06, abs=0.002)
    end_s = check_books(pieces, 5000.0)
    assert microphone.reanchor() == pytest.approx(0.06, abs=0.002)
    module.record(sound(1, RATE_HZ))
    after = read_all(microphone)
    assert gaps_of(after) == []
    assert after[0].at_s - end_s == pytest.approx(0.06, abs=0.002)
    assert abs(microphone.drift_s) < 0.002


def test_sound_that_a_card_loses_in_secret_is_a_gap_when_the_clock_is_put_right() -> None:
    module = FakeSoundDevice("card", rate_hz=RATE_HZ)
    microphone = microphone_of(module)
    read_all(microphone)
    pieces: list[Piece] = []
    for _ in range(60):
        module.record(sound(1, RATE_HZ), block=8_000)
        module.now_s += 0.02
    pieces += read_all(microphone)
    assert microphone.reanchor() == pytest.approx(1.0, abs=0.05)
    module.record(sound(5, RATE_HZ))
    pieces += read_all(microphone)
    assert [gap.reason for gap in gaps_of(pieces)] == ["overflow"]
    assert check_books(pieces, 5000.0) == pytest.approx(module.now_s, abs=0.8)


def test_closing_gives_what_the_books_still_want() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    module.record(sound(20.2, 48_000))
    pieces = [piece for _ in range(5) if (piece := microphone.read(0))]
    rest = microphone.close()
    assert rest is not None
    assert rest.reason == "off"
    assert check_books([*pieces, rest], 5000.0) == pytest.approx(module.now_s)
    assert not module.streams
    assert microphone.close() is None

    again = microphone_of(module)
    read_all(again)
    module.record(sound(20.2, 48_000))
    module.unplug()
    pieces = pass_time(module, again, 7.0)
    rest = again.close()
    assert rest == Gap(
        pytest.approx(pieces[0].at_s + 20.2, abs=1e-3),
        pytest.approx(7.0, abs=1e-3),
        "unplugged",
        ANY,
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("audiomoth", "AudioMoth: USB (hw:2,0)"),
        ("HW:1", "USB Mic (hw:1,0)"),
        ("mic", "Mic"),
        (None, "Mic"),
        (
            "USB",
            "microphone.device: 2 sound cards with 'USB' in the name; available: 'Mic', 'USB Mic "
            "(hw:1,0)', 'Au",
        ),
        (
            "speaker",
            "microphone.device: no sound card with 'speaker' in the name; available: 'Mic', ",
        ),
    ],
)
def test_the_card_is_chosen_by_its_name(wanted: str | None, found: str) -> None:
    portaudio = PortAudio(
        FakeSoundDevice("Mic", "USB Mic (hw:1,0)", "AudioMoth: USB (hw:2,0)", "Mic speaker")
    )
    portaudio.rescan()
    try:
        assert portaudio.find(wanted).name == found
    except CaptureError as error:
        assert str(error).startswith(found)  # noqa: PT017 - both ends are told by one table


def test_a_channel_that_the_card_does_not_have() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module, channel=3)
    read_all(microphone)
    assert microphone.silent is not None
    assert microphone.silent.detail == "microphone.channel: expected 1 to 2 of 'card', found 3"


def test_no_card_at_all_is_said() -> None:
    microphone = microphone_of(FakeSoundDevice())
    read_all(microphone)
    assert microphone.silent is not None
    assert microphone.silent.detail == "no default sound card for recording; available: none"


def test_the_level_is_what_was_recorded_since_the_last_question() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    assert microphone.level() is None
    time_s = np.arange(48_000 * 4) / 48_000
    wave = (2.0 * np.sin(2 * np.pi * 1000 * time_s) + 0.1).clip(-1, 1).astype(np.float32)
    module.record(wave)
    read_all(microphone)
    loud = microphone.level()
    assert loud is not None
    assert loud.peak == 1.0
    assert loud.clipped == pytest.approx(2 / 3, abs=0.05)
    module.record((0.1 * np.sin(2 * np.pi * 1000 * time_s) + 0.05).astype(np.float32))
    read_all(microphone)
    quiet = microphone.level()
    assert quiet is not None
    assert quiet.seconds == pytest.approx(4.0)
    assert quiet.level_dbfs == pytest.approx(-23.0, abs=0.1)
    assert quiet.offset == pytest.approx(0.05, abs=1e-3)
    assert quiet.clipped == 0
    assert microphone.last_sample_s == pytest.approx(module.now_s, abs=0.01)


def test_numbers_that_are_none_do_not_get_through() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    samples = sound(5, 48_000)
    samples[100_000:100_003] = (np.nan, np.inf, -np.inf)
    module.record(samples)
    assert np.isfinite(heard(read_all(microphone))).all()


@pytest.mark.parametrize("scale", [1e30, 3e38, 2.0**31, 32_768.0])
def test_a_card_in_units_of_its_own_has_a_level(scale: float) -> None:
    """As a finite number, whatever it says; what a window measures is one, too."""
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)
    module.record((np.float32(scale) * np.clip(sound(8, 48_000), -1, 1)).astype(np.float32))
    samples = heard(read_all(microphone))
    level = microphone.level()
    assert level is not None
    assert 0 < level.level_dbfs < 200
    window = WindowCutter(WINDOW_SAMPLES, "zeros").push(samples)[0]
    assert 0 < window.level_dbfs < 200


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sound", "silence", "lost", "ended", "read", "refuse"]),
            st.floats(0.01, 40.0),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_books_add_up_whatever_happens(events: list[tuple[str, float]]) -> None:
    module = FakeSoundDevice("card", rate_hz=8_000)
    microphone = microphone_of(module, buffer_s=10.0)
    pieces: list[Piece] = read_all(microphone)
    for event, seconds in events:
        if event == "sound" and module.streams:
            module.record(sound(seconds, 8_000), block=1_000)
        elif event == "lost" and module.streams:
            module.now_s += seconds
            module.record(sound(1, 8_000), overflowed=True, block=1_000)
        elif event == "ended" and module.streams:
            module.streams[-1].end()
        elif event == "refuse":
            module.refusal = "" if module.refusal else "busy"
        elif event == "read":
            pieces += read_all(microphone)
        else:
            pieces += pass_time(module, microphone, seconds)
    pieces += read_all(microphone)
    if (rest := microphone.close()) is not None:
        pieces.append(rest)
    if pieces:
        assert check_books(pieces, 5000.0) == pytest.approx(module.now_s, abs=0.01)


def test_listening_for_a_while_says_how_the_sound_was() -> None:
    module = FakeSoundDevice("card")

    def tick() -> float:
        """A tenth of a second of sound whenever the reader asks for the time."""
        if module.streams and not busy.locked():
            with busy:
                module.record(sound(0.1, 48_000))
        return module.now_s

    busy = threading.Lock()
    trial = listen(MicrophoneSettings(), 10.0, portaudio=PortAudio(module), clock=tick)
    assert trial.level is not None
    assert trial.level.seconds > 5
    assert trial.level.level_dbfs == pytest.approx(-10.8, abs=0.1)


def test_two_threads_share_the_ring() -> None:
    """What one writes the other takes, in order, with what was dropped counted."""
    ring = Ring(8_000, 2.0)
    total = 400_000
    numbers = np.arange(total, dtype=np.float32)

    def write() -> None:
        for start in range(0, total, 777):
            ring.write(numbers[start : start + 777], False)
        ring.end()

    writer = threading.Thread(target=write)
    writer.start()
    place = 0
    while True:
        ended = ring.ended
        block = ring.take(partial=ended)
        if block is not None:
            place += block.dropped
            np.testing.assert_array_equal(
                block.samples, numbers[place : place + len(block.samples)]
            )
            place += len(block.samples)
        elif ended:
            break
        else:
            ring.wait(0.05)
    writer.join()
    assert place == total
    assert ring.waiting_s == 0
