"""CPU runtimes: the same scores whoever asks and how many at once, what was tuned and when it
counts, 8 bits."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.analysis.recognizer import best_recognizer
from edge.config import DEMO_FOLDER, RuntimeSettings
from edge.contract.audio import Image
from edge.contract.blend import Blend
from edge.contract.bundle import (
    Bundle,
    BundleMember,
    Manifest,
    Thresholds,
    read_bundle,
    seal_bundle,
)
from edge.contract.errors import EngineError
from edge.contract.taxonomy import Species, Taxonomy
from edge.engines.onnx import OnnxEngine, cores
from edge.engines.openvino import CpuPrecision, OpenvinoEngine, has_bfloat16, import_openvino
from edge.engines.tuning_record import (
    FILE,
    Runtime,
    RuntimeChoice,
    TunedSet,
    TuningRecord,
    cpu_model,
    open_cpu_engine,
    read_tuned,
    runtime_versions,
)
from export.agreement import AGREEMENT_MIN, sound_inputs
from export.int8 import quantise_members, to_int8, with_int8
from export.verify import verify
from tests import HANGS_S

if "openvino" not in runtime_versions():
    pytest.skip(
        "OpenVINO is not installed (pip install 'birdstation[openvino]')", allow_module_level=True
    )

PROJECT = Path(__file__).parents[2]
DEMO = DEMO_FOLDER / "bundle"
AUTO = RuntimeSettings(engine="auto")


@pytest.fixture(scope="module")
def images() -> Image:
    """Twenty windows of the soundscapes that ship."""
    return sound_inputs(DEMO_FOLDER / "soundscapes", read_bundle(DEMO).manifest, 20)


def demo_files() -> list[Path]:
    return [DEMO / member.file for member in read_bundle(DEMO).manifest.members]


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory, images: Image) -> Path:
    """The demo bundle with 8-bit members."""
    folder = tmp_path_factory.mktemp("eight") / "bundle"
    shutil.copytree(DEMO, folder)
    manifest = read_bundle(folder).manifest
    members = []
    for member in manifest.members:
        file = f"members/{member.name}.int8.onnx"
        assert to_int8(folder / member.file, folder / file, images)
        members.append(dataclasses.replace(member, int8=file))
    seal_bundle(folder, dataclasses.replace(manifest, members=tuple(members)))
    return folder


# the runtimes


def test_openvino_gives_the_scores_of_onnx_runtime(images: Image) -> None:
    wanted = OnnxEngine(demo_files(), 1).scores(images)
    found = OpenvinoEngine(demo_files(), 1).scores(images)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-4
    np.testing.assert_array_equal(OpenvinoEngine(demo_files(), 1).scores(images, [1])[0], found[1])


def bfloat16() -> None:
    if not has_bfloat16():
        pytest.skip("this processor does not calculate in bfloat16")


def test_bfloat16_is_bfloat16_and_near(images: Image) -> None:
    bfloat16()
    wanted = OpenvinoEngine(demo_files(), 1).scores(images)
    apart = np.abs(OpenvinoEngine(demo_files(), 1, "bf16").scores(images) - wanted)
    assert 1e-5 < apart.max() <= 0.02  # 0.05 with the normalisation in bfloat16 too
    assert apart.mean() <= 0.002


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
)
def test_scores_do_not_depend_on_the_batch_nor_on_who_asks(
    runtime: Runtime, precision: CpuPrecision, images: Image
) -> None:
    if precision == "bf16":
        bfloat16()
    engine = open_cpu_engine(
        read_bundle(DEMO), read_bundle(DEMO).manifest.members, runtime, precision, 1, "replay"
    )
    wanted = engine.scores(images)
    parts = np.split(images, [1, 2, 4, 9])
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(
            lambda _: np.concatenate([engine.scores(part) for part in parts], axis=1), range(8)
        ):
            np.testing.assert_array_equal(found, wanted)


def test_openvino_says_what_it_cannot_do(
    images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OpenvinoEngine(demo_files(), 1)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.scores(images)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(EngineError, match="OpenVINO cannot load it") as caught:
        OpenvinoEngine([broken])
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"pip install '\.\[openvino\]'"):
        import_openvino()


_QUIET = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(watch)
from edge.engines.openvino import import_openvino
import_openvino().Core()
assert sys.modules["openvino_telemetry"] is None
"""


def test_openvino_calls_nobody(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", _QUIET],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())  # its reports begin with an id in the home folder


def test_a_station_does_not_import_openvino_untuned() -> None:
    code = (
        "import sys, edge.daemon.station, edge.replay.replay; sys.exit('openvino' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=HANGS_S).returncode == 0
    )


# tuned.json


def tuned_for(bundle: Bundle, live: RuntimeChoice, replay: RuntimeChoice) -> TuningRecord:
    return TuningRecord(
        bundle.id, cpu_model(), cores(), runtime_versions(), (TunedSet("bag", live, replay),)
    )


OPENVINO = RuntimeChoice("openvino", "fp32", 1, 1.0, 1e-5, 1.0)
ONNX = RuntimeChoice("onnxruntime", "fp32", 1, 1.0, 1e-5, 1.0)


def test_what_was_tuned_is_used(tmp_path: Path) -> None:
    bundle = read_bundle(DEMO)
    tuned = tuned_for(bundle, OPENVINO, ONNX)
    assert read_tuned(tuned.write(tmp_path)) == tuned
    engines = tmp_path / "engines"
    assert best_recognizer(bundle, AUTO, engines).engine.name == "openvino-cpu fp32"
    assert best_recognizer(bundle, AUTO, engines, use="replay").engine.name == "onnxruntime-cpu"
    always = RuntimeSettings(engine="onnx")
    assert best_recognizer(bundle, always, engines).engine.name == "onnxruntime-cpu"
    assert (
        best_recognizer(bundle, AUTO, tmp_path / "elsewhere" / "engines").engine.name
        == "onnxruntime-cpu"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bundle": "0" * 64}, "tuned with bundle 0000"),
        ({"cpu": "x86_64 another"}, "tuned with cpu x86_64 another"),
        ({"cores": 4096}, "tuned with cores 4096"),
        ({"versions": {"onnxruntime": "1.0"}}, "tuned with versions"),
        ({"schema": 2}, "schema 2"),
        ({"sets": 3}, "sets: expected a list, found 3"),
    ],
)
def test_what_was_tuned_elsewhere_is_left_alone(
    change: dict[str, object], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = read_bundle(DEMO)
    path = tuned_for(bundle, OPENVINO, OPENVINO).write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    _is_left_alone(bundle, tmp_path, reason, caplog)


def test_a_damaged_record_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = read_bundle(DEMO)
    path = tuned_for(bundle, OPENVINO, OPENVINO).write(tmp_path)
    for damaged in (b"", path.read_bytes()[:99], b"\xff\xfe\x00", b"[]"):
        path.write_bytes(damaged)
        caplog.clear()
        _is_left_alone(bundle, tmp_path, FILE, caplog)


def _is_left_alone(
    bundle: Bundle, state: Path, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        recognizer = best_recognizer(bundle, AUTO, state / "engines")
    assert recognizer.engine.name == "onnxruntime-cpu"
    assert recognizer.degraded is None  # nothing is worse than it would be without the file
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert reason in line
    assert "\n" not in line


def test_what_was_tuned_must_pass_the_probe(eight: Path, tmp_path: Path) -> None:
    bundle = read_bundle(eight)
    honest = RuntimeChoice("onnxruntime", "int8", 1, 1.0, 0.5, 1.0)
    tuned_for(bundle, honest, dataclasses.replace(honest, probe_max=1e-4)).write(tmp_path)
    assert best_recognizer(bundle, AUTO, tmp_path / "engines").engine.name == "onnxruntime-cpu int8"
    fallen = best_recognizer(bundle, AUTO, tmp_path / "engines", use="replay")
    assert fallen.engine.name == "onnxruntime-cpu"
    assert "probe failed on onnxruntime-cpu int8" in str(fallen.degraded)


_BASE = """
import sys
for name in ("torch", "onnx", "timm", "pandas", "librosa"):
    sys.modules[name] = None  # not in the base install
from export.__main__ import main
main()
"""


@pytest.mark.slow
def test_tune_measures_and_the_station_takes_it(eight: Path, tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    sound.mkdir()
    shutil.copy(min((DEMO_FOLDER / "soundscapes").iterdir()), sound)
    command = [sys.executable, "-c", _BASE, "tune", str(eight), "--state", str(tmp_path / "state")]
    command += ["--seconds", "2", "--sound", str(sound)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr
    for name in ("onnxruntime fp32", "onnxruntime int8", "openvino fp32", "openvino int8"):
        assert name in done.stderr
    bundle = read_bundle(eight)
    tuned = read_tuned(tmp_path / "state" / FILE)
    assert tuned
    assert (tuned.bundle, tuned.cpu, tuned.cores) == (bundle.id, cpu_model(), cores())
    assert [found.members for found in tuned.sets] == ["bag", "student", "cascade"]
    for found in tuned.sets:
        for use, choice in (("live", found.live), ("replay", found.replay)):
            assert choice.agreement >= AGREEMENT_MIN
            recognizer = best_recognizer(
                bundle, AUTO, tmp_path / "state" / "engines", found.members, use
            )
            assert recognizer.degraded is None
            assert recognizer.engine.name.startswith(f"{choice.runtime}-cpu")
            apart = recognizer.check_probe()
            assert apart == pytest.approx(choice.probe_max, abs=1e-5) or choice.precision == "fp32"


def test_verify_shows_8_bits(eight: Path) -> None:
    found = verify(eight).int8
    assert len(found) == 2
    assert all(0 < apart.largest < 0.5 for apart in found.values())


# 8 bits


def _convolutions(path: Path, loud: float) -> None:
    """Two convolutions, a mean and a linear layer: bright images score high, dark ones low. Between
    the convolutions lies a channel that counts for nothing and is `loud` times as strong as those
    that count."""
    random = np.random.default_rng(1)
    first = np.abs(random.normal(size=(4, 1, 3, 3))).astype(np.float32) / 9
    first[3] *= loud
    second = np.abs(random.normal(size=(4, 4, 3, 3))).astype(np.float32) / 36
    second[:, 3] = 0
    weights = {
        "scale": np.array(1 / 255, np.float32),
        "first": first,
        "second": second,
        "axes": np.array([2, 3], np.int64),
        "linear": np.full((4, 3), 12.0, np.float32),
        "bias": np.full(3, -7.0, np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["grey", "scale"], ["image"]),
        helper.make_node("Conv", ["image", "first"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="second"),
        helper.make_node("ReduceMean", ["c", "axes"], ["d"], keepdims=0),
        helper.make_node("Gemm", ["d", "linear", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("grey", TensorProto.FLOAT, ["rows", 1, 128, 281])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )


def test_8_bits_are_kept_where_the_bag_decides_alike(tmp_path: Path) -> None:
    (tmp_path / "members").mkdir()
    members = []
    for name, loud in (("calm", 1.0), ("loud", 1e6)):
        _convolutions(tmp_path / f"members/{name}.onnx", loud)
        members.append(BundleMember(name, f"members/{name}.onnx", name, "two", 0, 1))
    manifest = Manifest(tuple(members), Blend(), Thresholds(0.5, 0.5), "context", "", None, {})
    random = np.random.default_rng(2)
    levels = np.where(np.arange(40) % 2, 200, 40)[:, None, None]
    scene = np.clip(levels + random.integers(-20, 20, (40, 128, 281)), 0, 255).astype(np.uint8)
    scores = OnnxEngine([tmp_path / m.file for m in members]).scores(scene)
    assert (scores[:, 1::2] > 0.7).all()  # what is to be decided is clear
    assert (scores[:, ::2] < 0.3).all()
    found = quantise_members(
        tmp_path, manifest, Taxonomy([Species(c * 2, c, c) for c in "abc"]), scene[:8], scene[8:]
    )
    assert list(found.files) == ["calm"]
    assert found.agreement == 1.0
    assert found.windows == 32
    assert found.apart["calm"].largest < 0.05 < found.apart["loud"].largest
    assert [member.int8 for member in with_int8(members, found)] == ["members/calm.int8.onnx", None]
    assert sorted(path.name for path in tmp_path.glob("members/*.int8.onnx")) == ["calm.int8.onnx"]
    kinds = {node.op_type for node in onnx.load(tmp_path / "members/calm.int8.onnx").graph.node}
    assert {
        "QuantizeLinear",
        "DequantizeLinear",
        "Conv",
    } <= kinds  # explicit, not fused into one runtime's operators


def test_8_bits_have_no_offset(images: Image, tmp_path: Path) -> None:
    """One that is never negative has its zero at the lower end; what convolutions give out keeps
    its digits."""
    random = np.random.default_rng(3)
    weights = {
        f"w{i}": random.normal(size=(4, 1 if i == 0 else 4, 3, 3)).astype(np.float32)
        for i in range(4)
    }
    nodes = [
        helper.make_node("Conv", ["grey", "w0"], ["a"], name="c0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Mul", ["c", "d"], ["e"]),  # swish
        helper.make_node("Conv", ["e", "w2"], ["f"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("Add", ["b", "g"], ["h"]),
        helper.make_node("Conv", ["h", "w3"], ["i"], name="c3", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["i", "axes"], ["scores"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "signs",
        [helper.make_tensor_value_info("grey", TensorProto.FLOAT, ["rows", 1, 128, 281])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 4])],
        [
            numpy_helper.from_array(v, name)
            for name, v in {**weights, "axes": np.array([2, 3], np.int64)}.items()
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "a.onnx",
    )
    assert to_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", images)
    model = onnx.load(tmp_path / "b.onnx")
    values = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    zeros = {
        node.input[0]: values[node.input[2]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    assert {name: zero.dtype.name for name, zero in zeros.items()} == {
        "b": "uint8",
        "e": "int8",
        "h": "uint8",
    }
    assert not any(zero.any() for zero in zeros.values())


def test_beside_8_bits_members_without_run_in_bfloat16(eight: Path, images: Image) -> None:
    """What a network in 8 bits itself has in float32 stays so."""
    member = read_bundle(eight).manifest.members[0]
    assert member.int8
    files = [eight / member.int8, eight / member.file]
    found = OpenvinoEngine(files, 1, "int8").scores(images)
    half: CpuPrecision = "bf16" if has_bfloat16() else "fp32"
    np.testing.assert_array_equal(found[0], OpenvinoEngine(files[:1], 1, "fp32").scores(images)[0])
    np.testing.assert_array_equal(found[1], OpenvinoEngine(files[1:], 1, half).scores(images)[0])


def test_nothing_to_quantise(bundle_folder: Path, images: Image, tmp_path: Path) -> None:
    member = read_bundle(bundle_folder).manifest.members[0]
    assert not to_int8(bundle_folder / member.file, tmp_path / "int8.onnx", images)
    assert not (tmp_path / "int8.onnx").exists()
