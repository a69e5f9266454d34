"""Folds: blocks whole, quarters at 80/20, every recording once, the same every time."""

from collections import Counter, defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from edge.contract.errors import CorpusError
from tests.helpers.trainer_corpus import make_corpus
from trainer.corpus.check import check_data
from trainer.corpus.duplicates import same_sound
from trainer.corpus.folds import (
    REGIONS,
    absent,
    check_folds,
    fill_folds,
    locate,
    make_folds,
    off_balance,
    read_folds,
    shares,
    torn,
    write_folds,
)
from trainer.corpus.recordings import Corpus, Recording
from trainer.corpus.soundscapes import LABELS
from trainer.recipe import FoldRecipe, find_recipe
from trainer.report.foldmap import assign_folds, draw_folds

FIVE = FoldRecipe(count=5, cell_deg=5.0)


def recording(
    index: int, label: str, place: tuple[float, float] | None = None, day: date | None = None
) -> Recording:
    latitude, longitude = place or (None, None)
    key = f"{label}/{index}.ogg"
    return Recording(key, Path(key), label, (), latitude, longitude, day, 4.0, "", "")


def crowd(count: int, seed: int, species: int = 12, spread: float = 20.0) -> list[Recording]:
    """Recordings around hot spots in all regions and elsewhere, some without place or date."""
    rng = np.random.default_rng(seed)
    spots = np.array([(45, -100), (30, -85), (-10, -60), (4, -75), (50, 10), (-25, 130), (10, 100)])
    found = []
    for i in range(count):
        spot = spots[rng.integers(len(spots))] + rng.normal(0, spread / 3, 2)
        place = (float(np.clip(spot[0], -89, 89)), float(np.clip(spot[1], -179, 179)))
        day = date(2015, int(rng.integers(1, 13)), int(rng.integers(1, 28)))
        found.append(
            recording(
                i,
                f"sp{rng.integers(species):02d}",
                place if rng.random() < 0.95 else None,
                day if rng.random() < 0.95 else None,
            )
        )
    return found


recordings = st.builds(
    crowd,
    st.integers(1, 300),
    st.integers(0, 10_000),
    species=st.integers(2, 30),
    spread=st.floats(0.1, 60.0),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    found=recordings, count=st.integers(2, 7), cell=st.floats(0.5, 30.0), seed=st.integers(0, 99)
)
def test_no_block_is_torn_and_every_recording_has_one_fold(
    found: list[Recording], count: int, cell: float, seed: int
) -> None:
    recipe = FoldRecipe(count, cell)
    placed = make_folds(found, recipe, seed)
    assert [p.recording for p in placed] == [r.recording for r in found]
    assert all(0 <= p.fold < count for p in placed)
    folds_of = defaultdict(set)
    for p in placed:
        if p.block:
            folds_of[p.block].add(p.fold)
    assert all(len(folds) == 1 for folds in folds_of.values())
    assert placed == make_folds(found, recipe, seed)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_corpus_large_enough_keeps_80_to_20_in_every_quarter(seed: int) -> None:
    placed = make_folds(crowd(4000, seed, spread=40.0), FIVE, seed)
    for row in shares(placed, 5).values():
        assert all(0.18 <= share <= 0.22 for share in row)
    assert off_balance(placed, 5) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    found=recordings, count=st.integers(3, 7), cell=st.floats(0.5, 30.0), seed=st.integers(0, 99)
)
def test_a_species_with_five_blocks_is_in_every_training_part(
    found: list[Recording], count: int, cell: float, seed: int
) -> None:
    placed = make_folds(found, FoldRecipe(count, cell), seed)
    unmet = absent(found, placed)
    for label, blocks in unmet.items():
        mine = {
            (p.fold, p.block or p.recording)
            for r, p in zip(found, placed, strict=True)
            if r.primary_label == label
        }
        assert len({fold for fold, _ in mine}) == 1
        assert len(mine) == blocks < 5
    assert torn(placed) == []


def test_a_species_of_large_blocks_is_moved_out_of_the_fold_that_has_it_whole() -> None:
    """Five blocks of a rare species, each among many recordings of a common one that would hide
    where it went."""
    found = []
    for b in range(5):
        day = date(2019, 2, 3)
        place = (40.0 + 0.1 * b, -120.0 + 6 * b)
        found += [recording(100 * b + i, "common", place, day) for i in range(4)]
        found.append(recording(100 * b + 99, "rare", place, day))
    for seed in range(20):
        placed = make_folds(found, FoldRecipe(2, 5.0), seed)
        assert absent(found, placed) == {}
        assert torn(placed) == []


def test_the_check_names_what_is_missing() -> None:
    found = [recording(i, "lonely", (50.0, 10.0), date(2020, 5, 5)) for i in range(3)]
    found += [recording(i, "plenty", (-25.0, 130.0), date(2020, 5, 5)) for i in range(40)]
    _, lines = check_folds(found, make_folds(found, FIVE, 1), FIVE)
    assert "blocks in more than one fold: 0" in lines
    assert "species missing from a training part: 1 of 2: lonely (1)" in lines


def test_recordings_without_place_and_date_are_spread_by_species() -> None:
    found = [
        recording(i, label)
        for label in ("rare", "mid", "many")
        for i in range({"rare": 5, "mid": 20}.get(label, 75))
    ]
    placed = make_folds(found, FIVE, 1)
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for r, p in zip(found, placed, strict=True):
        assert not p.block
        counts[r.primary_label][p.fold] += 1
    assert all(max(c.values()) - min(c[k] for k in range(5)) <= 1 for c in counts.values())


def test_one_huge_block_is_reported_not_torn() -> None:
    found = [recording(i, "one", (50.0, 10.0), date(2020, 5, 5)) for i in range(60)]
    found += [recording(i, "two", (-25.0, 130.0), date(2020, 5, 5)) for i in range(40)]
    placed = make_folds(found, FIVE, 1)
    assert len({p.fold for p in placed if p.block}) == 1
    assert any("April to June" in line and "60.0%" in line for line in off_balance(placed, 5))


def test_recordings_of_one_site_and_season_are_split_by_recording_and_it_is_said() -> None:
    found = [recording(i, f"sp{i % 4}", (48.5, 9.1), date(2020, 5, 5)) for i in range(32)]
    placed = fill_folds(found, FIVE, 1)
    assert [p.recording for p in placed] == [r.recording for r in found]
    assert Counter(p.fold for p in placed).most_common()[-1][1] >= 6
    assert {(p.region, p.quarter, p.block) for p in placed} == {("europe", "2", "")}
    assert absent(found, placed) == {}
    _, lines = check_folds(found, placed, FIVE)
    assert any("too few places and seasons" in line for line in lines)


def test_twins_of_one_site_stay_in_one_fold() -> None:
    found = [recording(i, "a", (48.5, 9.1), date(2020, 5, 5)) for i in range(12)]
    same = [[found[0].recording, found[5].recording, found[11].recording]]
    placed = fill_folds(found, FIVE, 1, same)
    assert len({placed[i].fold for i in (0, 5, 11)}) == 1


def test_folds_that_places_and_seasons_fill_are_left_as_they_are() -> None:
    found = crowd(300, 1)
    assert fill_folds(found, FIVE, 1) == make_folds(found, FIVE, 1)
    _, lines = check_folds(found, make_folds(found, FIVE, 1), FIVE)
    assert not any("too few places" in line for line in lines)


def test_a_fold_is_filled_by_recordings_that_can_be_heard() -> None:
    """Rows without sound, as the metadata model learns from, leave nothing to validate on."""
    here = [recording(i, "a", (48.5, 9.1), date(2020, 5, 5)) for i in range(10)]
    far = [recording(100 + i, "a", (40.0, -120.0 + 6 * i), date(2020, 5, 5)) for i in range(10)]
    heard = {r.recording for r in here}
    placed = fill_folds(here + far, FIVE, 1, heard=heard)
    assert {p.fold for p in placed if p.recording in heard} == set(range(5))


def test_fewer_recordings_than_folds_are_refused_with_what_to_do() -> None:
    found = [recording(i, "a") for i in range(6)]
    same = [[r.recording for r in found[:3]]]
    with pytest.raises(
        CorpusError, match=r"expected at least 5 different recordings with sound.*found 4; add"
    ):
        fill_folds(found, FIVE, 1, same)


@pytest.mark.parametrize(
    ("place", "day", "region", "blocked"),
    [
        ((42.0, -76.0), date(2019, 2, 3), "north_america", True),
        ((-3.0, -60.0), date(2019, 2, 3), "south_america", True),
        ((51.0, 13.0), date(2019, 2, 3), "europe", True),
        ((51.0, 13.0), None, "europe", False),
        ((-33.0, 151.0), date(2019, 2, 3), "elsewhere", False),
        (None, date(2019, 2, 3), "elsewhere", False),
    ],
)
def test_where_a_recording_belongs(
    place: tuple[float, float] | None, day: date | None, region: str, blocked: bool
) -> None:
    found_region, block, quarter = locate(recording(0, "x1", place, day), 5.0)
    assert found_region == region
    assert bool(block) == blocked
    assert quarter == ("1" if day else "none")


def test_a_season_is_a_block_of_its_own() -> None:
    spring, autumn = (
        locate(recording(0, "x1", (51.0, 13.0), date(2019, m, 3)), 5.0)[1] for m in (5, 10)
    )
    assert spring != autumn
    assert spring == locate(recording(0, "x1", (50.1, 13.9), date(2009, 6, 30)), 5.0)[1]


def test_regions_do_not_overlap() -> None:
    for latitude in range(-60, 80, 3):
        for longitude in range(-180, 180, 3):
            inside = [
                name
                for name, (south, north, west, east) in REGIONS.items()
                if south <= latitude < north and west <= longitude < east
            ]
            assert len(inside) <= 1


def test_the_table_reads_back_and_the_map_is_drawn(tmp_path: Path) -> None:
    found = crowd(200, 1)
    placed = make_folds(found, FIVE, 1)
    write_folds(tmp_path / "folds.csv", placed)
    assert read_folds(tmp_path / "folds.csv") == placed
    draw_folds(tmp_path / "folds.png", found, placed, 5, FIVE.cell_deg)
    assert (tmp_path / "folds.png").read_bytes().startswith(b"\x89PNG")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=recordings, count=st.integers(2, 7), data=st.data())
def test_one_sound_under_several_names_is_in_one_fold(
    found: list[Recording], count: int, data: st.DataObject
) -> None:
    """Also across regions, quarters and species, and where one recording's block links two
    sounds."""
    names = st.lists(st.sampled_from([r.recording for r in found]), min_size=2, max_size=4)
    same = data.draw(st.lists(names, max_size=8))
    placed = make_folds(found, FoldRecipe(count, 5.0), 1, same)
    fold = {p.recording: p.fold for p in placed}
    assert all(len({fold[name] for name in group}) == 1 for group in same)
    assert torn(placed) == []
    if not same:
        assert placed == make_folds(found, FoldRecipe(count, 5.0), 1)


def test_files_of_the_same_bytes_are_one_sound(tmp_path: Path) -> None:
    contents = {
        "a/1.ogg": b"x" * 100_000,
        "b/2.ogg": b"x" * 100_000,
        "a/3.ogg": b"x" * 99_999 + b"y",  # of that size and beginning
        "a/4.ogg": b"z" * 100_000,
        "b/5.ogg": b"short",
        "a/6.ogg": b"short",
        "b/7.ogg": b"short",
        "a/8.ogg": b"",
        "b/9.ogg": b"",
        "a/gone.ogg": None,
    }
    found = []
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if content is not None:
            (tmp_path / name).write_bytes(content)
        found.append(replace(recording(0, "a"), recording=name, path=tmp_path / name))
    assert same_sound(found) == [["a/1.ogg", "b/2.ogg"], ["b/5.ogg", "a/6.ogg", "b/7.ogg"]]


def test_check_data_names_soundscapes_that_are_trained_on(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 5, 1.0, soundscape=True)
    soundscape = data / "train_soundscapes" / "7_ABC_20190504.ogg"
    recording = sorted((data / "train_short_audio").rglob("*.ogg"))[0]
    recording.write_bytes(soundscape.read_bytes())
    twin = soundscape.with_name("8_ABC_20190504.ogg")
    twin.write_bytes(soundscape.read_bytes())
    labels = data / LABELS
    rows = labels.read_text().replace("7_ABC", "8_ABC").replace(",7,", ",8,").splitlines()[1:]
    labels.write_text(labels.read_text() + "\n".join(rows) + "\n")
    found = check_data(Corpus.read(data), jobs=1)
    key = f"{recording.parent.name}/{recording.name}"
    assert found.examples["soundscape that is trained on, too"] == [f"{soundscape.name} is {key}"]
    assert found.examples["same sound as another soundscape"] == [
        f"{twin.name} is {soundscape.name}"
    ]


def test_check_data_names_one_sound_under_several_names(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 5, 1.0)
    low, mid = sorted((data / "train_short_audio").iterdir())
    first, second = sorted(low.iterdir())[:2]
    second.write_bytes(first.read_bytes())
    other = sorted(mid.iterdir())[0]
    other.unlink()
    other.symlink_to(first)
    found = check_data(Corpus.read(data), jobs=1)
    keys = [f"{path.parent.name}/{path.name}" for path in (first, second, other)]
    assert found.problems["same sound as another recording"] == 2
    wanted = {f"{keys[1]} is {keys[0]}", f"{keys[2]} is {keys[0]}"}
    assert set(found.examples["same sound as another recording"]) == wanted
    (named,) = found.examples["same sound as two species"]
    assert set(named.split(", ")) == set(keys)
    placed = assign_folds(
        Corpus.read(data), find_recipe("demo"), tmp_path / "folds.png", Console(quiet=True)
    )
    assert len({p.fold for p in placed if p.recording in keys}) == 1
