"""Which clips may go: the answers of ranking every detection, without reading every detection."""

import random
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest

from edge.config import Config
from edge.contract.audio import RATE_HZ
from edge.store.clips import ClipTable
from edge.types import ClipRow, utc_text
from tests.helpers.clip_station import START, commit, detection, stretch

SPECIES = ("lowtoo", "midtoo", "higtoo")
CLIPS = 60


@pytest.fixture
def table(tmp_path: Path, bundle_folder: Path) -> ClipTable:
    """Clips of one to four detections, some kept, some reviewed, some of the same age."""
    dice = random.Random(7)
    config = Config(state=tmp_path)
    row = stretch()
    found = [
        detection(row, n * RATE_HZ, dice.choice(SPECIES), dice.randrange(50, 99) / 100)
        for n in range(4 * CLIPS)
    ]
    commit(config, bundle_folder, row, found)
    table = ClipTable(config.database)
    for n in range(CLIPS):
        clip = ClipRow(f"c{n:02d}", f"2019-05-22/{n}.flac", row.id, START, 11.0, 10 + n)
        table.add(clip, [d.id for d in found[4 * n : 4 * n + dice.randrange(1, 5)]], lambda: None)
        age = utc_text(START + timedelta(days=dice.randrange(20)))
        with table._transaction():
            table._db.execute(
                "UPDATE clips SET start_utc = ?, created_utc = ? WHERE id = ?", (age, age, clip.id)
            )
            table._db.execute("UPDATE clips SET kept = 1 WHERE id = ? AND ?", (clip.id, n % 9 == 0))
            if n % 7 == 0:
                table._db.execute(
                    "INSERT INTO reviews (detection, reviewer, verdict, note, reviewed_utc) VALUES "
                    "(?, 'me', 'wrong', '', '2026-01-01')",
                    (found[4 * n].id,),
                )
    return table


def ranks(table: ClipTable) -> dict[str, int]:
    """Of each clip the best place that it has among those of a species."""
    best: dict[str, dict[str, float]] = defaultdict(dict)
    for species, clip, score in table.rows(
        "SELECT species, clip, max(score) FROM detections GROUP BY species, clip"
    ):
        if clip is not None:
            best[species][clip] = score
    found: dict[str, int] = {}
    for scores in best.values():
        for rank, clip in enumerate(sorted(scores, key=lambda c: (-scores[c], c)), 1):
            found[clip] = min(rank, found.get(clip, rank))
    return found


@pytest.mark.parametrize("per_species", [0, 1, 3, 20, 99])
def test_the_answers_are_those_of_ranking_everything(
    table: ClipTable, per_species: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.store.clips._PIECE", 7)
    rank = ranks(table)
    since = dict(table.rows("SELECT id, created_utc FROM clips"))
    reviewed = {
        clip
        for (clip,) in table.rows(
            "SELECT clip FROM detections WHERE id IN (SELECT detection FROM reviews)"
        )
    }
    kept = {clip for (clip,) in table.rows("SELECT id FROM clips WHERE kept = 1")}
    best = {clip for clip in rank if rank[clip] <= per_species}
    going = sorted(since.keys() - best - kept - reviewed, key=lambda clip: (since[clip], clip))
    limit = utc_text(START + timedelta(days=9))
    assert [clip.id for clip in table.removable(per_species, 999)] == going
    assert [clip.id for clip in table.removable(per_species, 5)] == going[:5]
    assert [c.id for c in table.removable(per_species, 999, limit)] == [
        c for c in going if since[c] < limit
    ]
    last = sorted(best - kept - reviewed, key=lambda clip: (-rank[clip], since[clip], clip))
    assert [clip.id for clip in table.best(per_species, 9)] == last[:9]
    staying = best | kept | reviewed
    assert table.protected(per_species) == (
        len(staying),
        sum(10 + int(clip[1:]) for clip in staying),
    )
    table.close()


def test_no_question_of_a_clean_up_reads_every_detection(table: ClipTable) -> None:
    """Of a record of years it would take seconds, every few minutes."""
    asked: list[str] = []
    table.raw.set_trace_callback(asked.append)
    table.removable(3, 10, utc_text(START))
    table.removable(3, 10)
    table.best(3, 10)
    table.protected(3)
    table.unused(10)
    table.count(utc_text(START))
    table.newest(10)
    table.raw.set_trace_callback(None)
    assert len(asked) > 10
    for sql in asked:
        plan = " ".join(str(row[3]) for row in table.rows(f"EXPLAIN QUERY PLAN {sql}"))
        assert "SCAN detections" not in plan, (sql, plan)
        assert "SCAN d" not in plan.replace("SCAN d USING", ""), (sql, plan)
    table.close()
