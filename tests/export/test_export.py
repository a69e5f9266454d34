"""A run becomes a bundle that a station trusts: real networks, the real exporter, the real
replay."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edge.analysis.recognizer import Recognizer
from edge.contract.bundle import read_bundle
from edge.contract.errors import BundleError, UsageError
from edge.engines.onnx import OnnxEngine
from edge.prior.place_table import prior_table
from edge.types import Place
from export.assemble import _halve_members, assemble
from export.split_attention import plain
from export.to_onnx import to_onnx, torch_scores
from export.verify import PARITY, verify
from tests.conftest import hiss, note, write_sound
from tests.helpers.trainer_run import finish, make_corpus, make_rasters, make_run
from trainer.networks.model import NetworkSpec, build_network
from trainer.place.metadata import fit_metadata
from trainer.place.place_prior import place_scores
from trainer.run import Run
from trainer.tuning.bag import choose_bag
from trainer.tuning.predict import Predictor, predict
from trainer.tuning.tune import tune

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run: untrained members of two kinds, a trained metadata model, a tuned blend."""
    folder = tmp_path_factory.mktemp("export")
    corpus = make_corpus(folder / "data")
    run = make_run(folder / "run", corpus)
    fit_metadata(run, corpus, make_rasters(folder / "rasters"))
    choose_bag(run)
    tune(run, corpus)
    finish(run)
    return Run.open(folder / "run")


@pytest.fixture(scope="module")
def exported(finished: Run) -> Path:
    folder = finished.folder.parent / "bundle"
    assemble(finished, folder, per_kind=1)
    return folder


def test_nothing_is_written_into_the_run(finished: Run, tmp_path: Path) -> None:
    """It may lie where nothing can be written: an archive, another user's folder."""
    changed: list[str] = []
    sys.addaudithook(
        lambda event, arguments: changed.extend(_changes(finished.folder, event, arguments))
    )
    assemble(finished, tmp_path / "bundle", per_kind=1, half=False)
    soundscapes = finished.folder.parent / "data" / "train_soundscapes"
    predict(Predictor(finished, "cpu"), soundscapes, tmp_path / "p.csv", None, lambda *_: None)
    assert changed == []


def _changes(folder: Path, event: str, arguments: tuple[object, ...]) -> list[str]:
    """What an audit event says of files in a folder that are made, changed or taken away."""
    names = [
        str(name)
        for name in arguments
        if isinstance(name, str | bytes | Path) and str(folder) in str(name)
    ]
    reads = event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR)
    changing = event in (
        "open",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.chmod",
        "os.utime",
        "os.link",
    )
    return names if changing and not reads else []


def test_the_bundle_computes_what_torch_does(exported: Path, finished: Run) -> None:
    found = verify(exported)
    assert len(found.members) == 2
    assert max(found.members.values()) <= PARITY
    assert all(apart.largest <= 0.02 and apart.mean <= 0.002 for apart in found.half.values())
    assert len(found.half) == 2
    assert found.prior == 0.0
    assert found.single_against_batch <= 1e-6
    bundle = read_bundle(exported)
    assert bundle.manifest.blend == finished.tuning().blend
    assert bundle.manifest.training["recipe"] == "small"
    assert str(finished.folder.parent) not in (exported / "manifest.json").read_text()


def test_split_attention_becomes_plain_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkSpec("resnest14d", 5)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: none that changes nothing
            module.running_mean, module.running_var = (
                torch.randn_like(module.bias) / 10,
                torch.rand_like(module.bias) + 0.5,
            )
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    grey = torch.randint(0, 256, (3, 128, 281), dtype=torch.uint8)
    to_onnx(network, tmp_path / "resnest.onnx")
    scores = torch_scores(network, grey).numpy()
    assert np.ptp(scores) > 0.01
    np.testing.assert_allclose(
        OnnxEngine([tmp_path / "resnest.onnx"]).scores(grey.numpy())[0], scores, atol=1e-5
    )
    convolutions = [
        node for node in onnx.load(tmp_path / "resnest.onnx").graph.node if node.op_type == "Conv"
    ]
    assert {a.i for node in convolutions for a in node.attribute if a.name == "group"} == {1}
    for name, value in network.state_dict().items():  # the network itself stays timm's
        assert torch.equal(value, weights[name])


def test_split_attention_of_other_shapes_stays() -> None:
    for name in ("resnest50d_4s2x40d", "test_resnet"):
        network = build_network(NetworkSpec(name, 2))
        assert plain(network).state_dict().keys() == network.state_dict().keys()


def test_members_take_any_batch(exported: Path) -> None:
    recognizer = Recognizer(read_bundle(exported))
    images = np.random.default_rng(0).integers(0, 256, (9, 128, 281), np.uint8)
    whole = recognizer.engine.scores(images)
    assert whole.shape == (2, 9, 3)
    np.testing.assert_allclose(recognizer.engine.scores(images[4:5])[:, 0], whole[:, 4], atol=1e-6)


def test_station_and_trainer_ask_the_same_prior(
    exported: Path, finished: Run, tmp_path: Path
) -> None:
    bundle = read_bundle(exported)
    table = prior_table(bundle, Place(10.0, -100.0), tmp_path)
    metadata = finished.metadata()
    assert table is not None
    assert metadata is not None
    days = np.arange(1, 367)
    here = np.ones(366)
    theirs = place_scores(metadata, finished.taxonomy, here * 10.0, here * -100.0, days)
    np.testing.assert_allclose(table, theirs, atol=1e-6)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-5)
    (cached,) = tmp_path.iterdir()
    cached.write_bytes(b"damaged")
    again = prior_table(bundle, Place(10.0, -100.0), tmp_path)
    assert again is not None
    np.testing.assert_array_equal(again, table)


def test_the_same_run_gives_the_same_bundle(exported: Path, finished: Run, tmp_path: Path) -> None:
    again = assemble(finished, tmp_path / "again", per_kind=1)
    for member in again.manifest.members:
        assert member.half
        for file in (member.file, member.half):
            assert (tmp_path / "again" / file).read_bytes() == (exported / file).read_bytes()


def test_a_half_that_computes_something_else_is_left_out(exported: Path, tmp_path: Path) -> None:
    """Judged against what torch makes of the probe; here one of both members has other scores."""
    shutil.copytree(exported, tmp_path / "work")
    names = [member.name for member in read_bundle(exported).manifest.members]
    torchs = read_bundle(exported).probe().member_scores.copy()
    torchs[1] += 0.1
    assert _halve_members(tmp_path / "work", names, torchs) == {
        names[0]: f"members/{names[0]}.fp16.onnx"
    }
    assert (tmp_path / "work" / "members" / f"{names[0]}.fp16.onnx").exists()
    assert not (tmp_path / "work" / "members" / f"{names[1]}.fp16.onnx").exists()


def test_a_folder_of_something_else_is_left_alone(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a bundle"):
        assemble(finished, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_verify_names_what_is_damaged(exported: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(exported, tmp_path / "broken"))
    member = next((broken / "members").iterdir())
    member.write_bytes(member.read_bytes()[:-1])
    with pytest.raises(BundleError, match=member.name):
        verify(broken)
    done = subprocess.run(
        [sys.executable, "-m", "export", "verify", str(broken)], capture_output=True, text=True
    )
    assert done.returncode == 78
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_commands_make_a_bundle_that_replays(finished: Run, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export",
        "onnx",
        "--run",
        str(finished.folder),
        "--out",
        str(tmp_path / "b"),
    ]
    done = subprocess.run([*command, "--per-kind", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 members (2 also in half precision), 3 species" in done.stdout
    write_sound(tmp_path / "in" / "x_20190601_053000.wav", hiss(5) + note("midtoo", 5))
    (tmp_path / "station.yaml").write_text(
        "station: {id: b}\nbundle: b\ndetect: {threshold: 0.0}\n"
    )
    command = [
        sys.executable,
        "-m",
        "edge",
        "replay",
        str(tmp_path / "in"),
        "--config",
        str(tmp_path / "station.yaml"),
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["detections"] == 3


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["onnx"], 2, "Missing option"),
        (["onnx", "--run", "NONE", "--out", "x"], 78, "no run here"),
        (["verify", "NONE"], 78, "no bundle here"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    arguments = [str(tmp_path) if a == "NONE" else a for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "export", *arguments], capture_output=True, text=True
    )
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
