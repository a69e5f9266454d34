"""Sound cards that are not what they say: another rate, entries of the list that cannot be read.

The card is test_microphone.py's stand-in for the module `sounddevice`; here its clock is off, and
its list odd.
"""

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.capture.portaudio import PortAudio
from edge.capture.resampled import DRIFT_MAX, LATE_S
from edge.check.sound import check_microphone
from edge.config import MicrophoneSettings
from edge.contract.audio import RATE_HZ
from edge.contract.errors import CaptureError
from edge.types import Chunk, Gap
from tests.edge.test_microphone import FakeSoundDevice, microphone_of, read_all, sound

HZ = 8_000
SECOND = sound(1, HZ)
CRYSTAL_S = LATE_S + DRIFT_MAX * 3600  # what a count may be off within an hour
Piece = Chunk | Gap


def seconds_of(piece: Piece) -> float:
    return piece.seconds if isinstance(piece, Gap) else len(piece.samples) / RATE_HZ


class OddCard:
    """A card at `share` of the rate that it says, whose sound is read every second, as the station
    does it: the clock is put right at each full hour of what is heard."""

    def __init__(self, rate_hz: int = HZ, **options: float) -> None:
        self.module = FakeSoundDevice("odd card", rate_hz=rate_hz)
        self.microphone = microphone_of(self.module, **options)
        self.begun_s = self.module.now_s
        self.pieces: list[Piece] = read_all(self.microphone)
        self._frames = 0.0
        self._hour = 0

    def play(self, seconds: float, share: float = 1.0, burst_s: float = 0.5) -> None:
        """So long by the clock, in bursts of so long."""
        rate_hz = self.module.rate_hz
        end_s = self.module.now_s + seconds
        while self.module.now_s < end_s - 1e-6:
            step_s = min(burst_s, end_s - self.module.now_s)
            self.module.now_s += step_s
            self._frames += step_s * rate_hz * share
            count = int(self._frames)
            self._frames -= count
            self.module.streams[-1].record(np.resize(SECOND, count), False)
            self.read()

    def heap(self, seconds: float, overflowed: bool = False) -> None:
        """So much sound in no time."""
        for _ in range(round(seconds * 10)):
            self.module.streams[-1].record(SECOND[: self.module.rate_hz // 10], overflowed)

    def read(self) -> None:
        for piece in read_all(self.microphone):
            hour = int((piece.at_s - self.begun_s) // 3600)
            if hour > self._hour:
                self._hour = hour
                self.microphone.reanchor()
            self.pieces.append(piece)
            assert piece.at_s + seconds_of(piece) <= self.module.now_s + CRYSTAL_S, (
                "of what has not been yet"
            )

    def end(self) -> None:
        rest = self.microphone.close()
        self.pieces += [rest] if rest else []

    def check_books(self) -> None:
        """Nothing twice, nothing untold, and it comes to the time that has gone by."""
        for before, after in pairwise(self.pieces):
            apart_s = after.at_s - (before.at_s + seconds_of(before))
            assert -1e-6 <= apart_s <= CRYSTAL_S
        told_s = sum(map(seconds_of, self.pieces))
        elapsed_s = self.module.now_s - self.begun_s
        assert told_s == pytest.approx(elapsed_s, abs=CRYSTAL_S * (2 + self._hour))
        hours: dict[int, float] = {}
        for piece in self.pieces:
            hour = int((piece.at_s - self.begun_s) // 3600)
            hours[hour] = hours.get(hour, 0.0) + (
                seconds_of(piece) if isinstance(piece, Chunk) else 0.0
            )
        assert max(hours.values()) <= 3600.5  # a chunk belongs to the hour in which it begins

    def gaps(self) -> list[Gap]:
        return [p for p in self.pieces if isinstance(p, Gap) and p.seconds > 0.05]


@pytest.mark.parametrize("share", [1.02, 2.0, 0.98])
def test_a_card_at_another_rate_tells_no_time_twice_and_says_so(share: float) -> None:
    card = OddCard()
    card.play(3700, share)
    trouble = card.microphone.trouble or ""
    card.end()
    card.check_books()
    how = f"{abs(share - 1):.1%} {'more' if share > 1 else 'fewer'} samples than at 8000 Hz"
    assert trouble.startswith(
        f"microphone.rate_hz: 'odd card' delivers {how}, about {round(HZ * share, -2):.0f} "
    )
    assert {gap.reason for gap in card.gaps()} == ({"overflow"} if share < 1 else set())


@pytest.mark.parametrize("share", [1 + 5e-5, 1 - 5e-5])
def test_a_crystal_is_no_wrong_rate(share: float) -> None:
    card = OddCard()
    card.play(3700, share)
    assert card.microphone.trouble is None
    assert card.gaps() == []
    card.check_books()


def test_what_is_too_much_is_squeezed_and_the_pitch_is_right() -> None:
    """A tone of 1000 Hz on a card of 48 kHz that says 44.1."""
    card = OddCard(44_100)
    card.module.now_s += 0.1
    tone = np.sin(2 * np.pi * 1000 * np.arange(48_000 * 20) / 48_000).astype(np.float32)
    chunks: list[Chunk] = []
    for block in np.split(tone, 200):
        card.module.now_s += 0.1
        card.module.streams[-1].record(block, False)
        chunks += [p for p in read_all(card.microphone) if isinstance(p, Chunk)]
    heard = np.concatenate([c.samples for c in chunks if c.at_s > card.begun_s + 10])
    power = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert np.argmax(power) / len(heard) * RATE_HZ == pytest.approx(1000, rel=0.01)


def test_a_rate_that_changes_is_told_and_so_is_its_end() -> None:
    card = OddCard()
    card.play(700)
    assert card.microphone.trouble is None
    card.play(700, 1.05)
    assert "5.0% more" in (card.microphone.trouble or "")
    card.play(700)
    assert card.microphone.trouble is None
    card.check_books()


def test_sound_that_was_told_too_late_at_first_is_no_wrong_rate() -> None:
    """The machine was busy for the first seconds, and what had waited came then."""
    card = OddCard()
    card.module.now_s += 1.9
    for _ in range(19):
        card.module.streams[-1].record(SECOND[:800], False)
    card.play(300)
    assert card.microphone.trouble is None
    card.check_books()


@settings(max_examples=6, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(5, 600),
            st.sampled_from([1.0, 0.9, 0.995, 1.0001, 1.005, 1.1, 3.0]),
            st.floats(0.05, 1.5),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_books_add_up_at_any_rate(hours: list[tuple[float, float, float]]) -> None:
    card = OddCard()
    for seconds, share, burst_s in hours:
        card.play(seconds, share, burst_s)
    card.end()
    card.check_books()


def test_a_card_that_gives_minutes_in_a_moment_moves_nothing_into_the_future() -> None:
    """Twelve heaps of half a minute each in 1.2 s, more than may wait; then it is a card as others
    are."""
    card = OddCard(buffer_s=10)
    card.play(20)
    for _ in range(12):
        card.module.now_s += 0.1
        card.heap(30)
        card.read()
    after = len(card.pieces)
    card.play(30)
    card.module.now_s += 5  # of which it gives nothing
    card.play(30)
    card.end()
    card.check_books()
    lost = [gap for gap in card.gaps() if gap.at_s > card.begun_s + 5]
    assert "overload" in {gap.reason for gap in card.pieces[:after] if isinstance(gap, Gap)}
    assert [gap.reason for gap in lost if gap.seconds > 2] == ["overflow"], (
        "what was missed later is told"
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["heap", "heap that overflowed", "flood", "nobody reads", "good", "silent"]
            ),
            st.floats(0.1, 40),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_the_books_tell_of_the_time_that_has_passed_whatever_a_card_gives(
    days: list[tuple[str, float]],
) -> None:
    card = OddCard(buffer_s=10, stall_s=60)
    card.play(3)
    for what, seconds in days:
        if what.startswith("heap"):
            card.heap(seconds, what != "heap")
            card.read()
        elif what == "nobody reads":
            for _ in range(round(seconds * 2)):
                card.module.now_s += 0.5
                card.heap(0.5)
        elif what == "silent":
            card.module.now_s += seconds
        else:
            card.play(seconds, 40.0 if what == "flood" else 1.0, 0.1)
    card.play(12)
    card.end()
    card.check_books()


# The list of cards


class OddList(FakeSoundDevice):
    """A good card, and what a test makes of the list beside it."""

    def __init__(self, spoil: Callable[[dict[str, Any]], object], default: Any = 0) -> None:
        super().__init__("good card", "odd card")
        self.spoil = spoil
        self.default = default

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        if kind == "input":
            return self.default() if callable(self.default) else self._device(self.default)
        if device is not None and device >= len(self._listed):
            raise self.PortAudioError(f"Error querying device {device}")
        entries = [
            self._device(i) for i in (range(len(self._listed)) if device is None else [device])
        ]
        for entry in entries:
            if entry["index"] == 1:
                self.spoil(entry)
        return entries if device is None else entries[0]


def undecodable(entry: dict[str, Any]) -> None:
    entry["name"] = "USB高清麦克风话筒录音器".encode()[:32].decode()


def vanished(_entry: dict[str, Any]) -> None:
    raise KeyError("hostapi")


ODD: list[Callable[[dict[str, Any]], object]] = [
    undecodable,
    vanished,
    lambda entry: entry.pop("max_input_channels"),
    lambda entry: entry.update(max_input_channels="two"),
    lambda entry: entry.update(name=None, max_input_channels=None),
]
DESCRIBED_ODDLY: list[Callable[[dict[str, Any]], object]] = [
    lambda entry: entry.update(default_samplerate=float("nan")),
    lambda entry: entry.update(default_samplerate=0.0),
    lambda entry: entry.update(default_samplerate=-1e300),
    lambda entry: entry.update(default_samplerate=None),
    lambda entry: entry.update(hostapi=7),
    lambda entry: entry.pop("hostapi"),
]


@pytest.mark.parametrize("spoil", ODD)
def test_an_entry_that_cannot_be_read_hides_no_other(
    spoil: Callable[[dict[str, Any]], object], caplog: pytest.LogCaptureFixture
) -> None:
    module = OddList(spoil)
    microphone = microphone_of(module)
    with caplog.at_level(logging.WARNING):
        read_all(microphone)
    assert microphone.card == "good card"
    assert [r.getMessage() for r in caplog.records if "sound card 1: " in r.getMessage()]
    odd = PortAudio(module)
    odd.rescan = lambda: None  # type: ignore[method-assign]  # under an open stream
    with pytest.raises(
        CaptureError, match=r"no sound card with 'odd' .*: 'good card'; sound card 1: [^\n]+$"
    ):
        odd.find("odd")


@pytest.mark.parametrize("spoil", DESCRIBED_ODDLY)
def test_a_card_that_is_described_oddly_can_be_heard(
    spoil: Callable[[dict[str, Any]], object],
) -> None:
    microphone = microphone_of(OddList(spoil), device="odd", rate_hz=16_000)
    read_all(microphone)
    assert microphone.card == "odd card"


def test_a_card_without_a_rate_wants_one() -> None:
    microphone = microphone_of(OddList(DESCRIBED_ODDLY[0]), device="odd")
    read_all(microphone)
    assert microphone.silent is not None
    assert microphone.silent.detail == "'odd card' reports no sample rate; set microphone.rate_hz"


def no_default() -> Any:
    raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "unexpected end of data")


@pytest.mark.parametrize(
    "default", [no_default, dict, lambda: {"index": None}, lambda: None, lambda: {"index": 99}]
)
def test_an_odd_default_card_is_said_and_tried_again(default: Callable[[], Any]) -> None:
    module = OddList(lambda _: None, default)
    microphone = microphone_of(module)
    read_all(microphone)
    assert microphone.silent is not None
    assert microphone.silent.detail.startswith(
        "no default sound card for recording; available: 'good card', 'odd card'"
    )
    assert microphone.silent.detail.endswith("; name one in microphone.device")
    module.default = 0
    module.now_s += 2.0
    read_all(microphone)
    assert microphone.card == "good card"


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "cut"),
        KeyError(3),
        TypeError(),
        OSError(5, "I/O"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize(
    "where", ["_initialize", "RawInputStream", "query_hostapis", "query_devices"]
)
def test_whatever_the_library_raises_is_a_line_and_tried_again(
    where: str, error: Exception
) -> None:
    module = FakeSoundDevice("card")
    right = getattr(module, where)

    def odd(*_: Any, **__: Any) -> Any:
        raise error

    setattr(module, where, odd)
    microphone = microphone_of(module)
    read_all(microphone)
    if where == "query_hostapis":  # names for people
        assert microphone.card == "card"
        return
    assert microphone.silent is not None
    assert microphone.silent.reason == "no device"
    assert "\n" not in microphone.silent.detail
    setattr(module, where, right)
    module.now_s += 2.0
    read_all(microphone)
    assert microphone.card == "card"


def test_a_stream_that_cannot_be_closed_ends_nothing() -> None:
    module = FakeSoundDevice("card")
    microphone = microphone_of(module)
    read_all(microphone)

    def gone(ignore_errors: bool) -> None:
        raise RuntimeError(ignore_errors)

    module.streams[-1].close = module.streams[-1].abort = gone  # type: ignore[method-assign,assignment]
    module.record(sound(2, 48_000))
    module.streams.pop().end()
    read_all(microphone)
    assert microphone.silent is not None
    assert microphone.silent.reason == "unplugged"


def test_names_of_cards_are_printable() -> None:
    module = FakeSoundDevice("card\x1b]0;title\x07\u202e")
    microphone = microphone_of(module)
    read_all(microphone)
    assert microphone.card == r"card\u001b]0;title\u0007\u202e"


def test_the_check_lists_what_can_be_read_and_says_the_rest() -> None:
    module = OddList(undecodable)
    module.refusal = "busy"
    cards, microphone = check_microphone(MicrophoneSettings(), 0.2, module)
    assert cards.verdict == "warning"
    assert "'good card'" in cards.found
    assert "sound card 1: UnicodeDecodeError" in cards.found
    assert "microphone.device" in cards.advice
    assert microphone.verdict == "bad"
