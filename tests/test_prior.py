"""The table of place and season: kept where it can be, not trusted when damaged. Its figures: test_export.py."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge import prior
from edge.contract.bundle import Bundle, read_bundle, seal_bundle
from edge.contract.errors import BundleError, EngineError
from edge.prior import prior_table
from edge.types import Place

PLACE = Place(20.0, 10.0)


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    found = read_bundle(bundle_folder)
    assert found.manifest.has_prior
    return found


def test_a_kept_table_with_other_figures_is_made_anew(bundle: Bundle, tmp_path: Path) -> None:
    """As a worn card gives it back: still a table, of the right shape."""
    table = prior_table(bundle, PLACE, tmp_path)
    assert table is not None
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:2000] + b"\xff" * 40 + whole[2040:], whole[:-32], whole[: len(whole) // 2], b""):
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
    with pytest.raises(BundleError, match="no table"):
        prior_table(bundle, PLACE, tmp_path)


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


def _program(path: Path, line: str) -> Path:
    path.write_text(f"#!/bin/sh\ncat > /dev/null\n{line}\n")
    path.chmod(0o755)
    return path
