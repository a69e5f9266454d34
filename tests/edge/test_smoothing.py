"""Neighbouring windows: the formula, the ends, and that a stream decides what the whole recording
would."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.analysis.recognizer import NeighbourSmoother, WindowDecisions
from edge.contract.audio import IMAGE_SHAPE, RATE_HZ, Window
from edge.contract.blend import Blend, blend_scores, neighbour_step, smooth_neighbours
from edge.contract.bundle import Thresholds, read_bundle
from edge.demo.run import DEMO_FOLDER
from edge.types import DecidedBy, WindowScores
from tests import HANGS_S
from tests.conftest import hiss, make_bundle, note, write_sound

IMAGE = np.zeros(IMAGE_SHAPE, np.uint8)


@pytest.mark.parametrize(
    ("hop_s", "step", "apart_s"),
    [
        (5, 1, 5),
        (2.5, 2, 5),
        (1.25, 4, 5),
        (1, 5, 5),
        (0.025, 200, 5),
        (2, 2, 4),
        (3, 2, 6),
        (4, 1, 4),
        (4.9, 1, 4.9),
    ],
)
def test_the_neighbour_begins_five_seconds_away(hop_s: float, step: int, apart_s: float) -> None:
    assert neighbour_step(round(hop_s * RATE_HZ)) == step
    assert step * hop_s == pytest.approx(apart_s)


def test_the_formula_and_the_ends() -> None:
    scores = np.array([[0.0], [1.0], [0.5], [0.0]], np.float32)
    found = smooth_neighbours(scores, Blend(smoothing=0.2), 1)
    expected = [0.2 / 0.8, 0.6 + 0.2 * 0.5, 0.5 * 0.6 + 0.2, 0.2 * 0.5 / 0.8]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
    two_away = smooth_neighbours(scores, Blend(smoothing=0.2), 2)
    np.testing.assert_allclose(
        two_away[:, 0], [0.1 / 0.8, 0.6 / 0.8, 0.3 / 0.8, 0.2 / 0.8], rtol=1e-6
    )
    np.testing.assert_array_equal(smooth_neighbours(scores, Blend(), 1), scores)
    np.testing.assert_array_equal(
        smooth_neighbours(scores[:1], Blend(smoothing=0.3), 1), scores[:1]
    )
    assert len(smooth_neighbours(scores[:0], Blend(smoothing=0.3), 1)) == 0


def test_other_stretches_are_no_neighbours() -> None:
    scores = np.random.default_rng(0).uniform(0, 1, (9, 4)).astype(np.float32)
    stretch = np.array([0, 0, 0, 1, 2, 2, 2, 2, 2])
    for step in (1, 2, 5):
        found = smooth_neighbours(scores, Blend(smoothing=0.25), step, stretch)
        parts = [
            smooth_neighbours(scores[stretch == s], Blend(smoothing=0.25), step) for s in range(3)
        ]
        np.testing.assert_array_equal(found, np.concatenate(parts))


def decide(
    scores: WindowScores,
    cuts: list[int],
    blend: Blend,
    hop_samples: int,
    prior: NDArray[np.float32] | None,
) -> list[WindowDecisions]:
    """The windows pushed in pieces that end at `cuts`."""
    count = len(scores.acoustic)
    windows = [Window(i * hop_samples, 5 * RATE_HZ, IMAGE, -30.0) for i in range(count)]
    smoother = NeighbourSmoother(blend, hop_samples, prior)
    edges = [0, *sorted(cuts), count]
    found = []
    for low, high in pairwise(edges):
        alone = scores.acoustic[low:high]
        part = WindowScores(scores.members[:, low:high], alone, alone, scores.decided_by[low:high])
        decided = smoother.push(windows[low:high], part)
        step = neighbour_step(hop_samples) if blend.smoothing else 0
        assert sum(len(w) for w, _ in found) + (len(decided[0]) if decided else 0) == max(
            0, high - step
        )
        found += [decided] if decided else []
    last = smoother.close()
    return found + ([last] if last else [])


@given(data=st.data())
def test_however_a_stretch_is_cut_the_decisions_are_the_same(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 30), label="windows")
    cuts = data.draw(st.lists(st.integers(0, count), max_size=12), label="cuts")
    hop_samples = data.draw(st.sampled_from([160_000, 80_000, 32_000, 64_000, 96_000]), label="hop")
    blend = Blend(
        "logit", 0.5, smoothing=data.draw(st.sampled_from([0.0, 0.1, 1 / 3]), label="smoothing")
    )
    random = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    members = random.uniform(0, 1, (2, count, 3)).astype(np.float32)
    prior = (
        random.dirichlet([1, 1, 1]).astype(np.float32)
        if data.draw(st.booleans(), label="prior")
        else None
    )
    closed = random.integers(0, 2, count) == 1
    decided_by: tuple[DecidedBy, ...] = tuple("student" if its else "bag" for its in closed)
    members[0, closed] = np.nan  # was not asked
    mean = np.nanmean(members, axis=0)
    scores = WindowScores(members, mean, mean, decided_by)
    found = decide(scores, cuts, blend, hop_samples, prior)
    assert [w.start for windows, _ in found for w in windows] == [
        i * hop_samples for i in range(count)
    ]
    if count:
        smoothed = smooth_neighbours(scores.acoustic, blend, neighbour_step(hop_samples))
        np.testing.assert_array_equal(np.concatenate([s.acoustic for _, s in found]), smoothed)
        np.testing.assert_array_equal(
            np.concatenate([s.members for _, s in found], axis=1), members
        )
        assert tuple(by for _, s in found for by in s.decided_by) == decided_by
        blended = np.concatenate([s.blended for _, s in found])
        np.testing.assert_array_equal(blended, blend_scores(smoothed, prior, blend))


def replay(folder: Path, config: Path) -> dict[tuple[str, float, str], tuple[float, ...]]:
    """Score, acoustic and members' scores of every window and species, by recording, offset and
    species."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "edge",
        "replay",
        str(folder),
        "--config",
        str(config),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        rows = db.execute(
            "SELECT r.path, d.offset_s, d.species, d.score, d.acoustic, d.member_low, "
            "d.member_high, d.threshold FROM detections d JOIN recordings r ON r.id = d.recording"
        ).fetchall()
        effort = db.execute("SELECT sum(analysed_s) FROM effort").fetchone()[0]
    db.close()
    assert effort == pytest.approx(17 + 4)
    return {row[:3]: row[3:] for row in rows}


@pytest.mark.slow
def test_the_station_smooths_by_its_own_hop(
    tmp_path: Path, station_yaml: Callable[..., Path]
) -> None:
    folder = tmp_path / "in"
    song = np.concatenate([hiss(6), note("lowtoo", 4), hiss(7, seed=1)])
    write_sound(folder / "a_20190601_053000.wav", song)
    # a single window has no neighbour
    write_sound(folder / "b_20190601_053000.wav", note("midtoo", 4))
    smooth = make_bundle(tmp_path / "bundle", Blend("logit", 1.0, smoothing=0.2))
    everything = "detect: {threshold: 0.0}"
    alone = replay(folder, station_yaml(everything, name="alone"))
    found = {
        batch: replay(
            folder,
            station_yaml(
                everything, f"runtime: {{batch: {batch}}}", name=f"{batch}", bundle=smooth
            ),
        )
        for batch in (1, 3, 16)
    }
    assert set(found[1]) == set(found[3]) == set(found[16]) == set(alone)
    starts = [0, 2.5, 5, 7.5, 10, 12]  # the last one ends with the sound
    for (path, offset, species), (_, acoustic, *members) in alone.items():
        mine = [found[batch][path, offset, species] for batch in found]
        assert all(values == pytest.approx(mine[0], abs=1e-6) for values in mine)
        # members' scores are those of the window alone
        assert mine[0][2:] == pytest.approx((*members[:2], 0.0))
        near = []
        at = starts.index(offset)
        if path.startswith("a"):
            near = [
                alone[path, starts[i], species][1] for i in (at - 2, at + 2) if 0 <= i < len(starts)
            ]
        expected = (0.6 * acoustic + 0.2 * sum(near)) / (0.6 + 0.2 * len(near))
        assert mine[0][1] == pytest.approx(expected, abs=1e-6)


def test_older_manifests_have_no_smoothing(tmp_path: Path) -> None:
    manifest = json.loads((DEMO_FOLDER / "bundle" / "manifest.json").read_text(encoding="utf8"))
    assert (
        manifest["blend"].get("smoothing", 0.0)
        == read_bundle(DEMO_FOLDER / "bundle").manifest.blend.smoothing
        == 0
    )
    bundle = read_bundle(make_bundle(tmp_path / "bundle", Blend("mean", 0.1, smoothing=0.15)))
    assert bundle.manifest.blend == Blend("mean", 0.1, smoothing=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("has_prior", [True, False])
def test_species_have_their_own_thresholds(
    tmp_path: Path, station_yaml: Callable[..., Path], has_prior: bool
) -> None:
    """Where the bundle has a prior they go with the blended score; where it has none they go with
    the sound alone."""
    write_sound(
        tmp_path / "in" / "a_20190601_053000.wav",
        np.concatenate([note("lowtoo", 10), note("higtoo", 7)]),
    )
    write_sound(tmp_path / "in" / "b_20190601_053000.wav", hiss(4))
    bundle = make_bundle(
        tmp_path / "bundle", thresholds=Thresholds(0.5, 0.5, {"lowtoo": 1.0}), has_prior=has_prior
    )
    config = station_yaml(
        name="own", bundle=bundle, station="id: porch, latitude: 20, longitude: 10"
    )
    found = {
        species: values[-1] for (_, _, species), values in replay(tmp_path / "in", config).items()
    }
    assert found == {"higtoo": 0.5}
