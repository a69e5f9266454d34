"""A species that nobody recorded within the limit of a place is never reported there; the rest is
as it was."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.contract.blend import Blend, acoustic_scores, blend_scores
from edge.contract.bundle import Probe, read_bundle, seal_bundle
from edge.contract.taxonomy import Taxonomy
from edge.prior.nearby import FILE, Nearby
from edge.prior.place_table import compute_prior_table
from export.verify import verify
from tests.conftest import SPECIES, note, write_sound
from tests.edge.test_replay import replay
from tests.helpers.trainer_run import CODES, make_corpus, make_rasters
from trainer.place.metadata import fit_metadata
from trainer.place.place_prior import place_scores
from trainer.recipe import find_recipe
from trainer.run import Run


def nearby(*rows: tuple[float, float, int, int], limit_km: float = 500.0) -> Nearby:
    """Recordings `(latitude, longitude, day, species)` without levels: the limit alone."""
    latitude, longitude, day, label = np.array(rows, np.float32).reshape(-1, 4).T
    gates = np.zeros((0, 4), np.float32)
    return Nearby(
        latitude, longitude, day.astype(np.int16), label.astype(np.int16), gates, limit_km
    )


def at(latitude: float, longitude: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.array([value], np.float32) for value in (latitude, longitude, 100.0))  # type: ignore[return-value]


def test_beyond_the_limit_is_nan_and_the_rest_unchanged() -> None:
    base = np.array([[0.5, 0.25, 0.25]], np.float32)
    known = nearby((0, 0, 10, 0), (0, 4, 0, 1), (0, 10, 10, 2))
    found = known.apply(base, *at(0, 0))
    # 4 degrees are 445 km, its missing date no matter
    np.testing.assert_array_equal(found, [[0.5, 0.25, np.nan]])
    found = known.apply(base, *at(0, 8))
    np.testing.assert_array_equal(found, [[np.nan, 0.25, 0.25]])
    # nobody was here: nothing is known
    np.testing.assert_array_equal(known.apply(base, *at(60, 100)), base)
    np.testing.assert_array_equal(
        nearby((0, 0, 10, 0), limit_km=np.inf).apply(base, *at(0, 0)), base
    )


def test_the_limit_reaches_over_the_date_line_and_the_pole() -> None:
    base = np.full((1, 2), 0.5, np.float32)
    known = nearby((0, 179.5, 10, 0), (89, 0, 10, 1))
    assert np.isnan(known.apply(base, *at(0, -179.5))).tolist() == [[False, True]]
    assert np.isnan(known.apply(base, *at(89, 180))).tolist() == [[True, False]]


@pytest.mark.parametrize("blend", [Blend("mean", 0.14), Blend("logit", 1.0), Blend("mean", 0.0)])
def test_the_blend_gives_such_a_species_nothing(blend: Blend) -> None:
    acoustic = np.array([[0.9, 0.9, 0.1], [1.0, 0.5, 0.0]], np.float32)
    prior = np.array([np.nan, 0.3, 0.7], np.float32)
    found = blend_scores(acoustic, prior, blend)
    assert found.dtype == np.float32
    assert (found[:, 0] == 0).all()
    np.testing.assert_array_equal(
        found[:, 1:], blend_scores(acoustic, np.nan_to_num(prior), blend)[:, 1:]
    )


def test_a_run_with_a_limit(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "data", soundscapes=0)
    recipe = find_recipe("demo")
    for km, far in ((500.0, True), (None, False)):
        limited = replace(recipe, metadata=replace(recipe.metadata, limit_km=km))
        run = Run.create(tmp_path / f"run{km}", limited, corpus.name, corpus.taxonomy)
        fit_metadata(run, corpus, make_rasters(tmp_path / f"rasters{km}"))
        folder = run.folder / "metadata"
        assert (folder / FILE).exists() == far
        found = place_scores(folder, run.taxonomy, *at(10, -100))
        # each species has a land of its own, 40 degrees apart
        assert np.isnan(found).tolist() == [[False, far, far]]
        assert not np.isnan(place_scores(folder, run.taxonomy, *at(-80, 100))).any()
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf8"))
        assert metrics["validation"]["top1"] > 0.9
    assert run.taxonomy.codes == CODES


@pytest.fixture
def limited(own_bundle: Path) -> Path:
    """The test bundle, in which the low tooter was recorded in the north alone."""
    folder = own_bundle
    rows = [(60, 5, 10, 0)] + [(latitude, 5, 10, s) for latitude in (60, -60) for s in (1, 2)]
    bundle = read_bundle(folder).manifest
    nearby(*rows, limit_km=1000.0).write(folder / "prior" / FILE)
    probe = Probe.read(folder / "probe.npz")
    taxonomy = Taxonomy(SPECIES)
    prior = compute_prior_table(folder / "prior", taxonomy, -60.0, 5.0)[99]
    acoustic = acoustic_scores(probe.member_scores, [m.kind for m in bundle.members], bundle.blend)
    blended = blend_scores(acoustic, prior, bundle.blend)
    replace(probe, latitude=-60.0, longitude=5.0, prior=prior, blended=blended).write(
        folder / "probe.npz"
    )
    seal_bundle(folder, bundle)
    return folder


@pytest.mark.slow
def test_export_and_station_survive_it(
    limited: Path, tmp_path: Path, station_yaml: Callable[..., Path]
) -> None:
    assert verify(limited).prior == 0.0
    folder = tmp_path / "in"
    for name in ("1_NOR_20190601.wav", "2_SOU_20190601.wav"):
        write_sound(folder / name, note("lowtoo", 10) + note("midtoo", 10))
    sites = "sites: {NOR: {latitude: 60, longitude: 5}, SOU: {latitude: -60, longitude: 5}}"
    config = station_yaml(sites, "detect: {threshold: 0.0}", bundle=limited)
    replay(folder, "--config", config)
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        sql = (
            "SELECT DISTINCT r.path, d.species FROM detections d JOIN recordings r ON r.id = "
            "d.recording"
        )
        found = set(db.execute(sql))
    db.close()
    assert ("1_NOR_20190601.wav", "lowtoo") in found
    assert ("2_SOU_20190601.wav", "lowtoo") not in found
    assert ("2_SOU_20190601.wav", "midtoo") in found
