"""The daemon at a virtual sound card, in real time: seconds of what tests/trials/virtual_card.py
does for longer."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soxr

from tests.conftest import hiss, note, write_sound
from tests.helpers.sound_card import CARD_HZ, missing_programs
from tests.trials.virtual_card import same, unplugged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or bool(missing_programs()),
        reason=missing_programs() or "PulseAudio is Linux's",
    ),
]


@pytest.fixture
def tooters(tmp_path: Path) -> Path:
    """Three minutes of notes so long that one window is all note wherever it lies, with pauses,
    over a hiss."""
    song = np.concatenate(
        [part for code in ("lowtoo", "midtoo", "higtoo") for part in (note(code, 8), hiss(2))]
    )
    sound = np.tile(song, 6) + hiss(180, seed=1)
    return write_sound(tmp_path / "tooters.wav", soxr.resample(sound, 32_000, CARD_HZ), CARD_HZ)


def test_live_hears_what_a_replay_of_the_recording_hears(
    tmp_path: Path, bundle_folder: Path, tooters: Path
) -> None:
    lines, wrong = same(tmp_path, 8, bundle_folder, tooters)
    assert not wrong, "\n".join(lines + wrong)


def test_an_unplugged_card_is_one_gap_and_is_heard_again(
    tmp_path: Path, bundle_folder: Path, tooters: Path
) -> None:
    lines, wrong = unplugged(tmp_path, 1.5, bundle_folder, tooters)
    assert not wrong, "\n".join(lines + wrong)
