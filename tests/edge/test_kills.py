"""Killed at any moment, the record, the clips and the messages are those of a run that nobody
touched.

A few rounds of what `python -m tests.trials.kills --rounds 100` does; and that it would tell.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.records import differences, dump
from tests.trials.kills import What, clips_whole, same_after_kills
from tests.trials.kills_in_migration import same_after_killed_migrations

pytestmark = pytest.mark.slow

DAMAGES = (  # of any row: which numbers there are depends on the moments of the kills
    "DELETE FROM effort WHERE rowid = (SELECT max(rowid) FROM effort)",
    "UPDATE detections SET score = score + 0.001 WHERE rowid = (SELECT max(rowid) FROM detections)",
    "INSERT INTO outbox (id, topic, payload, created_utc) VALUES ('x', 't', '', '')",
)


@pytest.mark.parametrize("what", ["replay", "folder"])
def test_killed_again_and_again_nothing_is_lost_or_twice(tmp_path: Path, what: What) -> None:
    # five kills may all come early or late: on another machine other seeds hit
    for seed in range(3, 9):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        figures, wrong = same_after_kills(folder, what, rounds=5, seed=seed)
        assert wrong == []
        if figures.kills["in the middle"] and figures.in_recording:
            break
    assert figures.kills["in the middle"], str(figures)
    assert figures.in_recording, str(figures)
    killed = folder / "killed"
    calm = folder / "calm"
    for number, damage in enumerate(DAMAGES):
        copy = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(killed / "station.db")) as db:
            db.execute("VACUUM INTO ?", (str(copy),))
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute(damage).rowcount == 1, damage
            db.commit()
        assert len(differences(dump(copy), dump(calm / "station.db"))) == 1, damage
    next(killed.glob("clips/*/*")).unlink()
    assert len(clips_whole(killed)) == 1


def test_killed_while_the_database_is_brought_up_to_date(tmp_path: Path) -> None:
    figures, wrong = same_after_killed_migrations(tmp_path, rounds=2, seed=1)
    assert wrong == [], figures
