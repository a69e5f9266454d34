"""The table of place and season: kept where it can be, not trusted when damaged. Its figures:
test_export.py."""

import io
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.config import load_config
from edge.contract.bundle import Bundle, read_bundle, seal_bundle
from edge.contract.coordinates import check_coordinates
from edge.contract.errors import BundleError, EngineError
from edge.prior import place_table as prior
from edge.prior.place import GRID_STEP_DEG
from edge.prior.place_table import (
    CELL_DEG,
    NEARBY_CELL_DEG,
    cell_of,
    compute_prior_table,
    prior_table,
)
from edge.types import Place
from tests.helpers.clip_station import stretch

PLACE = Place(20.0, 10.0)


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    found = read_bundle(bundle_folder)
    assert found.manifest.has_prior
    return found


@pytest.fixture(scope="module")
def recognizer(bundle: Bundle) -> Recognizer:
    return Recognizer(bundle)


def test_a_kept_table_with_other_figures_is_made_anew(bundle: Bundle, tmp_path: Path) -> None:
    """As a worn card gives it back: still a table, of the right shape."""
    table = prior_table(bundle, PLACE, tmp_path)
    assert table is not None
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    for damaged in (
        whole[:2000] + b"\xff" * 40 + whole[2040:],
        whole[:-32],
        whole[: len(whole) // 2],
        b"",
    ):
        kept.write_bytes(damaged)
        again = prior_table(bundle, PLACE, tmp_path)
        assert again is not None
        np.testing.assert_array_equal(again, table)
        assert kept.read_bytes() == whole


def test_where_it_cannot_be_kept_it_is_used_all_the_same(bundle: Bundle, tmp_path: Path) -> None:
    """A full disk must not end the station; nor may what was begun there fill it."""
    (tmp_path / "file").touch()
    there = prior_table(bundle, PLACE, tmp_path / "there")
    assert there is not None
    (kept,) = (tmp_path / "there").iterdir()
    kept.unlink()
    kept.mkdir()  # os.replace fails as it would without space, root or not
    left = kept.with_name(f".{kept.name}.4711")
    left.touch()
    for folder in (tmp_path / "file", tmp_path / "there"):
        table = prior_table(bundle, PLACE, folder)
        assert table is not None
        np.testing.assert_array_equal(table, there)
    assert list((tmp_path / "there").iterdir()) == [kept]


def test_what_ends_the_child_is_told_from_a_bad_bundle(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a bad bundle is a person's affair; the service is started again after anything else."""
    monkeypatch.setattr(prior, "_CHILD_TIMEOUT_S", 0.01)
    with pytest.raises(EngineError, match="too busy"):
        prior_table(bundle, PLACE, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(prior.sys, "executable", str(_program(tmp_path / "killed", "kill -9 $$")))
    with pytest.raises(EngineError, match="ended by signal 9"):
        prior_table(bundle, PLACE, tmp_path)
    monkeypatch.setattr(prior.sys, "executable", str(_program(tmp_path / "mute", "exit 0")))
    with pytest.raises(EngineError, match="no table"):
        prior_table(bundle, PLACE, tmp_path)
    monkeypatch.setattr(
        prior.sys, "executable", str(_program(tmp_path / "full", "echo no space >&2; exit 1"))
    )
    with pytest.raises(EngineError, match="no space"):
        prior_table(bundle, PLACE, tmp_path)
    monkeypatch.setattr(prior.sys, "executable", str(tmp_path / "no program"))
    with pytest.raises(EngineError, match="No such file"):
        prior_table(bundle, PLACE, tmp_path)
    monkeypatch.undo()
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "wrong"))
    (folder / "prior" / "model.onnx").write_bytes(b"no network")
    seal_bundle(folder, bundle.manifest)
    with pytest.raises(BundleError, match="not a metadata model"):
        prior_table(read_bundle(folder), PLACE, tmp_path)


def test_a_bundle_that_was_replaced_since_gives_no_table(bundle: Bundle, tmp_path: Path) -> None:
    """Its species might be as many in another order."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    loaded = read_bundle(folder)
    manifest = loaded.manifest
    seal_bundle(folder, replace(manifest, thresholds=replace(manifest.thresholds, acoustic=0.77)))
    with pytest.raises(EngineError, match="no longer the bundle that was loaded"):
        prior_table(loaded, PLACE, tmp_path / "priors")
    assert prior_table(read_bundle(folder), PLACE, tmp_path / "priors") is not None
    shutil.rmtree(folder)
    with pytest.raises(EngineError, match="no longer"):
        prior_table(loaded, PLACE, tmp_path / "priors")


@pytest.mark.parametrize("step", [CELL_DEG, NEARBY_CELL_DEG])
def test_a_cell_is_the_same_for_all_places_in_it(
    bundle: Bundle, tmp_path: Path, step: float
) -> None:
    """Whichever came first; and it lies within one cell of the prior's grid."""
    if step == NEARBY_CELL_DEG:
        (tmp_path / "prior").mkdir()
        (tmp_path / "prior" / "nearby.npz").touch()
        bundle = replace(bundle, folder=tmp_path)
    random = np.random.default_rng(3)
    for latitude, longitude in random.uniform((-90, -180), (90, 180), (300, 2)):
        middle = cell_of(bundle, Place(latitude, longitude))
        assert abs(middle.latitude - latitude) <= step / 2 + 1e-6
        assert abs(middle.longitude - longitude) <= step / 2 + 1e-6
        assert cell_of(bundle, middle) == middle
        for there, here in ((middle.latitude, latitude), (middle.longitude, longitude)):
            assert math.floor(there / GRID_STEP_DEG) == math.floor(here / GRID_STEP_DEG)
    assert (
        len({cell_of(bundle, Place(49.0 + n * 1e-4 * step / CELL_DEG, 8.0)) for n in range(499)})
        == 1
    )
    for corner in (Place(90.0, 180.0), Place(-90.0, -180.0), Place(90.0, -180.0)):
        middle = cell_of(bundle, corner)
        check_coordinates(middle.latitude, middle.longitude)


def test_recordings_of_a_walk_share_a_table_and_its_rows(
    station_yaml: Callable[..., Path], recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 recordings 11 m apart, forwards and backwards; places of the settings have their own."""
    monkeypatch.setattr(prior, "_computed", _here)
    site = "sites: {A: {latitude: 49.001, longitude: 8.0}}"
    walk = [Place(49.0 + n * 1e-4, 8.0) for n in range(100)]
    found = []
    for name, places in (("there", walk), ("back", walk[::-1])):
        config = load_config(
            station_yaml(site, name=name, station="id: a, latitude: 49.003, longitude: 8.0")
        )
        analyst = Analyst(config, recognizer)
        rows = [replace(stretch("walk"), place=place) for place in places]
        found.append({row.place: analyst.prior(row) for row in rows})
        assert len(list((config.state / "priors").iterdir())) == 3
    for place in walk:
        np.testing.assert_array_equal(found[0][place], found[1][place])


def test_of_many_tables_those_used_last_stay(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior, "_computed", _here)
    places = [Place(10.0 + n, 0.0) for n in range(6)]

    def kept() -> set[float]:
        return {float(path.name.split("_")[2]) for path in tmp_path.iterdir()}

    for age, place in enumerate(places[:5]):
        prior_table(bundle, place, tmp_path)
        for path in tmp_path.glob(f"*_{place.latitude:+.6f}_*"):
            os.utime(path, (1000 + age, 1000 + age))
    assert kept() == {10.0, 11.0, 12.0, 13.0, 14.0}
    prior_table(bundle, places[0], tmp_path)  # used again
    monkeypatch.setattr(prior, "_KEPT_MAX", 3)
    prior_table(bundle, places[5], tmp_path)
    assert kept() == {10.0, 14.0, 15.0}
    monkeypatch.setattr(prior, "_KEPT_BYTES_MAX", 1)
    prior_table(bundle, places[1], tmp_path)
    assert kept() == {11.0}, "what is in use stays, however large"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("echo 'model.onnx: not a metadata model' >&2; exit 4", BundleError),
        ("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1", EngineError),
        ("echo MemoryError >&2; exit 1", EngineError),
        ("printf 'odd\\033[2J\\n' >&2; exit 1", EngineError),
    ],
)
def test_only_a_wrong_bundle_is_one(
    line: str,
    kind: type[Exception],
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prior.sys, "executable", str(_program(tmp_path / "child", line)))
    with pytest.raises(kind, match=r"the prior could not be computed: [^\n\x1b]+$"):
        prior_table(bundle, PLACE, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_model_that_gives_no_number_is_wrong(value: float, tmp_path: Path) -> None:
    """It would say that a species does not live there."""
    path = tmp_path / "model.onnx"
    found = np.full((2, 3), 0.1, np.float32)
    prior._check_numbers(path, found)
    found[1, 1] = value
    with pytest.raises(
        BundleError,
        match=r"model\.onnx: expected probabilities of 0 or more, found (nan|inf|-1) at this",
    ):
        prior._check_numbers(path, found)


def test_the_child_tells_a_wrong_model_from_a_machine_in_need(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.folder, folder)
    (folder / "prior" / "model.onnx").write_bytes(b"no network")
    wrong = seal_bundle(folder, bundle.manifest)
    with pytest.raises(BundleError, match=r"model\.onnx: not a metadata model"):
        prior_table(wrong, PLACE, tmp_path)
    full = BundleError("not a grid")
    full.__cause__ = OSError(28, "No space left on device")
    gone = BundleError("not a grid")
    gone.__cause__ = FileNotFoundError(2, "No such file")
    assert [prior._is_of_the_machine(error) for error in (full, gone, BundleError("other"))] == [
        True,
        False,
        False,
    ]


def _here(bundle: Bundle, place: Place) -> bytes:
    """What the child says, without one: a process for each costs more than all else."""
    table = io.BytesIO()
    folder = bundle.folder / "prior"
    np.save(table, compute_prior_table(folder, bundle.taxonomy, place.latitude, place.longitude))
    return table.getvalue()


def _program(path: Path, line: str) -> Path:
    path.write_text(f"#!/bin/sh\ncat > /dev/null\n{line}\n")
    path.chmod(0o755)
    return path
