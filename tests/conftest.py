"""Tiny real things for the tests: a bundle with real ONNX members, sound with known notes, a
mosquitto."""

import fcntl
import importlib
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Workers share few cores, so threads that wait for work are not to spin: no result changes by it,
# and training takes half the time. It holds for the programs that tests start, too; the libraries
# read it as they are first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.contract.audio import MEL_BANDS, RATE_HZ, mel_image
from edge.contract.blend import Blend, acoustic_scores, blend_scores
from edge.contract.bundle import BundleMember, Manifest, Probe, Student, Thresholds, seal_bundle
from edge.contract.taxonomy import Species, Taxonomy
from edge.prior.place import GRID_STEP_DEG, NUMERIC, RASTERS, FeatureSpec, Grid
from edge.prior.place_table import compute_prior_table
from tests.helpers.brokers import Broker, free_port

SPECIES = (
    Species("lowtoo", "Tonus profundus", "Low Tooter"),
    Species("midtoo", "Tonus medius", "Middle Tooter"),
    Species("higtoo", "Tonus altus", "High Tooter"),
)
NOTE_HZ = {"lowtoo": 600.0, "midtoo": 2400.0, "higtoo": 8000.0}
_BAND = {"lowtoo": 20, "midtoo": 64, "higtoo": 104}  # mel band of each note


def note(code: str, seconds: float, level: float = 0.3) -> NDArray[np.float32]:
    """A steady note of one of the three species."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * NOTE_HZ[code] * time_s)).astype(np.float32)


def hiss(seconds: float, level: float = 0.001, seed: int = 0) -> NDArray[np.float32]:
    """Faint white noise."""
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(
        np.float32
    )


def write_sound(path: Path, samples: NDArray[np.float32], rate_hz: int = RATE_HZ) -> Path:
    """Write a sound file; a second at a time, since libsndfile's Vorbis writer crashes on one large
    write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(
        path, "w", rate_hz, 1 if samples.ndim == 1 else samples.shape[1]
    ) as file:
        for start in range(0, len(samples), rate_hz):
            file.write(samples[start : start + rate_hz])
    return path


def _member_onnx(path: Path, gain: float, enough: float = 0.25) -> None:
    """A real network: mean grey level per mel band, a linear layer that compares a species' band
    with the rest; so much brighter it scores 0.5."""
    weights = np.full((MEL_BANDS, len(SPECIES)), -gain / MEL_BANDS, np.float32)
    for index, species in enumerate(SPECIES):
        weights[_BAND[species.code] - 1 : _BAND[species.code] + 2, index] += gain / 3
    constants = {
        "scale": np.array(1 / 255, np.float32),
        "axes": np.array([1, 3], np.int64),
        "weights": weights,
        "bias": np.full(len(SPECIES), -enough * gain, np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["grey", "scale"], ["image"]),
        helper.make_node("ReduceMean", ["image", "axes"], ["bands"], keepdims=0),
        helper.make_node("Gemm", ["bands", "weights", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "member",
        [helper.make_tensor_value_info("grey", TensorProto.FLOAT, ["batch", 1, MEL_BANDS, 281])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(SPECIES)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )


def _prior(folder: Path) -> None:
    """A metadata model that only looks at the latitude: low notes live in the north, high ones in
    the south."""
    folder.mkdir()
    spec = FeatureSpec(
        (0.0,) * len(NUMERIC), (1.0,) * len(NUMERIC), (1, 2), tuple(s.code for s in SPECIES)
    )
    spec.write(folder / "features.json")
    shape = (int(180 / GRID_STEP_DEG), int(360 / GRID_STEP_DEG))
    Grid({name: np.zeros(shape, np.float16) for name in RASTERS}).write(folder / "grid.npz")
    weights = np.zeros((len(spec.names), len(SPECIES)), np.float32)
    weights[NUMERIC.index("latitude")] = (0.1, 0.0, -0.1)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"]),
        ],
        "prior",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(spec.names)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(SPECIES)])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        folder / "model.onnx",
    )


_BLEND = Blend("logit", 1.0)
_THRESHOLDS = Thresholds(0.5, 0.5)


def make_bundle(
    folder: Path,
    blend: Blend = _BLEND,
    thresholds: Thresholds = _THRESHOLDS,
    has_prior: bool = True,
    margin: float | None = None,
) -> Path:
    """A bundle of two kinds of member that really hear notes of 600, 2400 and 8000 Hz; with a
    `margin` also a student that is harder of hearing than they are."""
    (folder / "members").mkdir(parents=True)
    taxonomy = Taxonomy(SPECIES)
    taxonomy.write_csv(folder / "taxonomy.csv")
    members = []
    for kind, gain in (("stripes", 24.0), ("mixup", 18.0)):
        _member_onnx(folder / "members" / f"{kind}.onnx", gain)
        members.append(BundleMember(kind, f"members/{kind}.onnx", kind, "bands", 0, 1))
    student = None
    if margin is not None:
        _member_onnx(folder / "members" / "student.onnx", 12.0, 0.4)
        network = BundleMember("student", "members/student.onnx", "student", "bands", 0, 1)
        student = Student(network, below=margin, above=margin, agreement=1.0, opened=0.1)
    if has_prior:
        _prior(folder / "prior")
    clips = np.stack(
        [np.round(note(s.code, 7) * 32767).astype(np.int16) for s in SPECIES]
        + [np.zeros(224_000, np.int16)]
    )
    images = mel_image(clips.astype(np.float32) / 32768.0)
    grey = {"grey": images[:, None].astype(np.float32)}
    networks = [*members, student.member] if student else members
    answers = np.stack(
        [ort.InferenceSession(str(folder / m.file)).run(None, grey)[0] for m in networks]
    )
    scores = answers[: len(members)]
    prior = compute_prior_table(folder / "prior", taxonomy, 20.0, 10.0)[99] if has_prior else None
    acoustic = acoustic_scores(scores, [m.kind for m in members], blend)
    blended = blend_scores(acoustic, prior, blend)
    known = np.empty(0, np.float32) if prior is None else prior
    probe = Probe(clips, images, scores, 20.0, 10.0, 100, known, blended)
    (replace(probe, student_scores=answers[-1]) if student else probe).write(folder / "probe.npz")
    manifest = Manifest(
        tuple(members),
        blend,
        thresholds,
        "context",
        taxonomy.digest,
        "place" if has_prior else None,
        {"recipe": "test"},
        student,
    )
    seal_bundle(folder, manifest)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests go to workers first, so that none is left with one at the
    end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


class Once:
    """Folders that are made once for all workers of a run, by the first that asks for them."""

    def __init__(self, base: Path, is_worker: bool) -> None:
        self._folder = (
            base.parent if is_worker else base
        ) / "once"  # a worker's folder lies in the run's
        self._folder.mkdir(exist_ok=True)

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name. `make` fills it; the others wait, and nobody changes what is in
        it."""
        folder = self._folder / name
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self._folder / f"{name}.done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed half-way
                make(folder)
                (self._folder / f"{name}.done").touch()
        return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Once:
    """Makes what is slow to make and only read."""
    return Once(tmp_path_factory.getbasetemp(), hasattr(pytestconfig, "workerinput"))


@pytest.fixture(scope="session")
def bundle_folder(once: Once) -> Path:
    """One bundle for all tests; copy it before you damage it."""
    return once("bundle", make_bundle)


@pytest.fixture(scope="session")
def student_bundle(once: Once) -> Path:
    """The same with a student, which leaves scores of 0.27 to 0.73 open; copy it before you damage
    it."""
    return once("student_bundle", partial(make_bundle, margin=1.0))


PUBLISHED = ("resnest50d", "tf_efficientnet_b3")


@pytest.fixture(scope="session")
def published_members(once: Once) -> Callable[[str], Path]:
    """Architecture -> a folder with a published member of it, fp32.onnx and fp16.onnx."""
    # torch, which the station's own tests do without
    from tests.helpers.trt_networks import write_published

    return lambda architecture: once(architecture, partial(write_published, architecture))


@pytest.fixture(scope="session", params=PUBLISHED)
def published(request: pytest.FixtureRequest, published_members: Callable[[str], Path]) -> Path:
    """Each of them in turn."""
    return published_members(request.param)


@pytest.fixture(scope="session")
def halved(bundle_folder: Path, once: Once) -> Path:
    """A bundle whose members are there in half precision too."""
    from tests.helpers.trt_networks import write_halved

    return once("halved", partial(write_halved, bundle_folder))


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The doubles in the place of tensorrt and of cuda-python, in this process."""
    for name in ("tensorrt", "cuda.bindings.runtime"):
        module = importlib.reload(importlib.import_module(f"tests.trt_double.{name}"))
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["tensorrt"]


@pytest.fixture
def own_bundle(bundle_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(bundle_folder, tmp_path / "own_bundle"))


def noon_zone() -> str:
    """A time zone in which it is between twelve and one: what counts by day meets no midnight while
    a test runs."""
    return f"Etc/GMT{time.gmtime().tm_hour - 12:+d}"


@pytest.fixture
def station_yaml(bundle_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a station.yaml with the test bundle or another one: further YAML lines, and what
    stands in `station`."""

    def write(
        *lines: str, name: str = "station", bundle: Path = bundle_folder, station: str = "id: porch"
    ) -> Path:
        path = tmp_path / name / "station.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([f"station: {{{station}}}", f"bundle: {bundle}", *lines]) + "\n")
        return path

    return write


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[int]:
    """A real broker on a free local port."""
    with Broker(tmp_path, free_port()) as broker:
        yield broker.port
