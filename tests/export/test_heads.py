"""Heads on a published model as a bundle: the same scores as the run's, whatever runs it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from edge.analysis.recognizer import Recognizer, best_recognizer
from edge.config import RuntimeSettings
from edge.contract.bundle import read_bundle
from edge.contract.errors import UsageError
from export.assemble import assemble
from export.own import OwnOptions, run_own
from export.verify import verify
from tests.conftest import hiss, write_sound
from tests.helpers.transfer_run import BIRDS, fit_transfer, song, transfer_corpus
from trainer.run import Run
from trainer.transfer.ensemble import TransferEnsemble


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("heads")
    run = fit_transfer(folder, transfer_corpus(folder / "data"))
    opened = Run.open(run.folder)
    assemble(opened, folder / "bundle")
    return opened, folder / "bundle"


def test_the_same_scores_as_in_training(made: tuple[Run, Path]) -> None:
    run, folder = made
    bundle = read_bundle(folder)
    windows = np.stack([*(song(code, 5, 7) for code in BIRDS), hiss(5, 0.02)])
    found = Recognizer(bundle).recognise(windows, None)
    ensemble = TransferEnsemble(run, [run.member(m.name) for m in bundle.manifest.members[:-1]])
    np.testing.assert_allclose(found.members, ensemble.scores(windows), atol=1e-5)
    assert found.acoustic[:3].argmax(axis=1).tolist() == [0, 1, 2]
    assert found.acoustic[3].max() < bundle.manifest.thresholds.acoustic


def test_one_network_serves_all_members(made: tuple[Run, Path]) -> None:
    run, folder = made
    manifest = read_bundle(folder).manifest
    assert {member.file for member in manifest.members} == {"members/ears.onnx"}
    assert [member.kind for member in manifest.members] == ["head"] * 8 + ["own"]
    assert manifest.members[-1].species == ("lowtoo", "middle")
    assert {member.embedding for member in manifest.members} == {"embedding"}
    network = onnx.load(folder / "members/ears.onnx")
    outputs = [output.name for output in network.graph.output]
    assert len(outputs) == 10
    assert "scores" not in outputs, "nobody asks for the classes that are no species of the corpus"
    assert manifest.training["recipe"] == "transfer"
    assert manifest.training["backbone"]["id"] == read_bundle(run.folder / "backbone").id


def test_it_passes_verify(made: tuple[Run, Path]) -> None:
    _, folder = made
    verify(folder)
    best = best_recognizer(read_bundle(folder), RuntimeSettings(engine="onnx"), folder / "engines")
    assert best.check_probe() < 1e-4


def test_the_licence_and_the_names_go_along(made: tuple[Run, Path]) -> None:
    _, folder = made
    bundle = read_bundle(folder, "de")
    assert bundle.manifest.licence is not None
    assert bundle.manifest.licence.spdx == "CC-BY-NC-SA-4.0"
    assert (folder / "LICENCE.txt").read_text() == "the whole text"
    assert [species.common_name for species in bundle.taxonomy] == ["Tieftuter", "Middle", "Newtoo"]


def test_there_is_no_8_bit_form(made: tuple[Run, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no 8-bit form; leave out --int8"):
        assemble(made[0], tmp_path / "bundle", int8=True)


def test_make_own(tmp_path: Path, made: tuple[Run, Path]) -> None:
    """From a folder to a bundle with the commands that a person types; the second time nothing is
    done again."""
    run, _ = made
    sorted_by_species = tmp_path / "sorted"
    for code in BIRDS:
        for index in range(4):
            write_sound(sorted_by_species / code / f"{index}.ogg", song(code, 6, index))
    options = OwnOptions(
        sorted_by_species, None, None, ("middle", "newtoo"), None, run.folder / "backbone", None
    )
    bundle = run_own(tmp_path / "out", Console(quiet=True), options)
    codes = read_bundle(bundle).taxonomy.codes
    assert "lowtoo" in codes
    assert len(codes) == 3
    ids = json.loads((bundle / "manifest.json").read_text())["id"]
    run_own(tmp_path / "out", Console(quiet=True), options)
    assert json.loads((bundle / "manifest.json").read_text())["id"] == ids


def test_what_make_own_refuses(tmp_path: Path) -> None:
    nothing = OwnOptions(tmp_path / "none", None, None, (), None, None, None)
    with pytest.raises(UsageError, match="no recordings; FOLDER names a folder"):
        run_own(tmp_path / "out", Console(quiet=True), nothing)
    write_sound(tmp_path / "sorted/a/1.ogg", hiss(3))
    inside = OwnOptions(tmp_path / "sorted", None, None, (), None, None, None)
    with pytest.raises(UsageError, match=r"contains .*the folder for results"):
        run_own(tmp_path / "sorted/out", Console(quiet=True), inside)
    odd = OwnOptions(tmp_path / "sorted", None, "north", (), None, None, None)
    with pytest.raises(UsageError, match="PLACE"):
        run_own(tmp_path / "out", Console(quiet=True), odd)
