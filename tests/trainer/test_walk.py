"""A run equals one made from scratch of what lies there now, whatever came over corpus, rasters,
recipe and run."""

from pathlib import Path

import pytest

from tests.helpers.trainer_ground import make_ground
from tests.helpers.trainer_steps import Walk
from tests.helpers.trainer_walk import here

pytestmark = pytest.mark.slow

SEED = 3
STEPS = 6


def test_a_run_is_of_what_lies_there_now(tmp_path: Path) -> None:
    """Six steps of one to three edits; tests/trials/walk.py goes on."""
    with here():
        walk = Walk(make_ground(tmp_path), SEED)
        try:
            for _ in range(STEPS):
                walk.step()
        finally:
            walk.close()
    assert not walk.tally.wrong
    assert walk.tally.edits.total() >= STEPS
    assert walk.tally.kills > 0
