"""TensorRT without a GPU: half precision in the graph, calls that every version has, real
compilation by TensorRT for RTX (which builds on a CPU), and the whole way from bundle to daemon
against doubles in host memory.

What this cannot show is a kernel at work: docs/jetson.md has the one command for that.
"""

import ast
import dataclasses
import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.analysis.recognizer import best_recognizer
from edge.check.run import run_checks
from edge.config import RuntimeSettings
from edge.contract.audio import IMAGE_SHAPE
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import BundleError, EngineError
from edge.engines.cuda import Cuda
from edge.engines.device import Device, board_of, l4t_of
from edge.engines.engine_record import read_record
from edge.engines.onnx import OnnxEngine
from edge.engines.tensorrt import open_tensorrt
from export.half import to_half
from export.parity import Parity, parity
from export.trt.native import build_engine, window_profile
from export.trt.power import board_watts
from export.verify import verify
from tests import HANGS_S
from tests.helpers.trt_networks import built, export_trt, probe_images, small_network, with_doubles
from tests.trt_api.record import names_of

PROJECT = Path(__file__).parents[2]
DOUBLE = PROJECT / "tests" / "trt_double"
AUTO = RuntimeSettings(threads=1)
ORIN = Device("10.3.0.30", "8.7", "Orin", None, "12.6", "12.6", None, None)


# --- half precision in the graph
# ---------------------------------------------------------------------------------


def types_of(path: Path) -> dict[str, set[int]]:
    """Operator -> types of what its nodes give."""
    graph = onnx.load(path).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    found: dict[str, set[int]] = {}
    for node in graph.node:
        found.setdefault(node.op_type, set()).update(kinds[name] for name in node.output)
    return found


def test_half_is_between_the_convolutions_and_not_in_sums(tmp_path: Path) -> None:
    source = small_network(tmp_path / "a.onnx")
    assert to_half(source, tmp_path / "b.onnx")
    found = types_of(tmp_path / "b.onnx")
    half = TensorProto.FLOAT16
    full = TensorProto.FLOAT
    assert found["Conv"] == found["Relu"] == found["Mul"] == {half}
    assert found["ReduceMean"] == found["Sigmoid"] == found["Reshape"] == {full}
    graph = onnx.load(tmp_path / "b.onnx").graph
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [full, full]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    casts = [node.input[0] for node in graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts)), "a tensor is cast once"
    images = np.random.default_rng(1).integers(0, 256, (3, *IMAGE_SHAPE), np.uint8)
    apart = parity(
        OnnxEngine([tmp_path / "b.onnx"], 1).scores(images), OnnxEngine([source], 1).scores(images)
    )
    assert 0 < apart.largest < 2e-3


def test_a_weight_that_both_types_use_is_there_in_both(tmp_path: Path) -> None:
    """timm's networks share constants, say the limits of ReLU6, between what is halved and what is
    not."""
    model = onnx.load(small_network(tmp_path / "a.onnx"))
    for after in ("Relu", "Reshape"):
        index = next(i for i, node in enumerate(model.graph.node) if node.op_type == after)
        name = model.graph.node[index].output[0]
        model.graph.node[index].output[0] = f"{name}_raw"
        model.graph.node.insert(
            index + 1, helper.make_node("Min", [f"{name}_raw", "limit"], [name])
        )
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.75, np.float32), "limit"))
    onnx.save(model, tmp_path / "a.onnx")
    assert to_half(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert types_of(tmp_path / "b.onnx")["Min"] == {TensorProto.FLOAT, TensorProto.FLOAT16}
    images = np.random.default_rng(1).integers(0, 256, (3, *IMAGE_SHAPE), np.uint8)
    halves, full = (
        OnnxEngine([tmp_path / name], 1).scores(images) for name in ("b.onnx", "a.onnx")
    )
    assert parity(halves, full).largest < 2e-3


def test_weights_that_half_does_not_hold_are_refused(tmp_path: Path) -> None:
    source = small_network(tmp_path / "a.onnx", weight=1e6)
    with pytest.raises(BundleError, match=r"weight scale reaches 1e\+06; float16 ends at 65504"):
        to_half(source, tmp_path / "b.onnx")


def test_a_network_without_convolutions_stays_as_it_is(bundle_folder: Path, tmp_path: Path) -> None:
    assert not to_half(bundle_folder / "members" / "mixup.onnx", tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_parity_refuses_what_is_no_number() -> None:
    assert Parity(0.019, 0.0019).holds("fp16")
    assert not Parity(0.021, 0.0).holds("fp16")
    assert not Parity(0.0, 0.0021).holds("fp16")
    assert not Parity(0.002, 0.0).holds("fp32")
    assert not parity(np.array([np.nan, 0.5]), np.array([0.5, 0.5])).holds("fp16")


# --- the published members, compiled by TensorRT for RTX
# ---------------------------------------------------------


@pytest.mark.slow
# its timing cache does nothing
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_published_members_compile_and_keep_parity(published: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="on PyPI for x86-64 Linux and Windows alone")
    plans = {}
    for precision in ("fp32", "fp16"):
        content = (published / f"{precision}.onnx").read_bytes()
        plans[precision] = build_engine(
            trt, content, window_profile("grey", (1, *IMAGE_SHAPE), 4), workspace_mib=256
        ).plan
        assert len(plans[precision]) > 0.9 * len(content), "the weights are inside"
    assert len(plans["fp16"]) < 0.7 * len(plans["fp32"])
    full, half = (
        OnnxEngine([published / f"{p}.onnx"]).scores(probe_images()) for p in ("fp32", "fp16")
    )
    assert full.std(axis=1).mean() > 0.01, "scores that differ between images"
    apart = parity(half, full)
    assert apart.largest > 0
    assert apart.holds("fp16"), apart


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_what_cannot_be_compiled_is_refused(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="on PyPI for x86-64 Linux and Windows alone")
    content = small_network(tmp_path / "a.onnx").read_bytes()
    assert build_engine(
        trt, content, window_profile("grey", (1, *IMAGE_SHAPE), 4), workspace_mib=64
    ).plan
    with pytest.raises(EngineError, match="built no engine with 64 MiB"):
        build_engine(trt, content, {}, workspace_mib=64)  # an open batch without a profile
    with pytest.raises(BundleError, match=r"takes \['image'\], found \['grey'\]"):
        build_engine(trt, content, window_profile("image", (1, *IMAGE_SHAPE), 4), workspace_mib=64)
    model = onnx.load_from_string(content)
    model.graph.node[1].op_type = "Birdsong"
    model.graph.node[1].domain = "nowhere"
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    with pytest.raises(BundleError, match="Birdsong") as caught:
        build_engine(
            trt,
            model.SerializeToString(),
            window_profile("grey", (1, *IMAGE_SHAPE), 4),
            workspace_mib=64,
        )
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="does not support the network"):
        build_engine(
            trt, b"no network", window_profile("grey", (1, *IMAGE_SHAPE), 4), workspace_mib=64
        )


# --- every call exists in every version
# --------------------------------------------------------------------------

_TABLES = {
    path.stem: set(path.read_text().split())
    for path in (PROJECT / "tests" / "trt_api").glob("*.txt")
}
# names that our code gives to TensorRT's objects; what is missing here the double sees, which has
# no more
_OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "_runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}


def trt_names(source: str) -> set[str]:
    """What a piece of our code takes of TensorRT: `Builder.create_network`, `BuilderFlag.TF32`,
    `Logger` …"""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        base = node.value
        words = ast.unparse(node).split(".")
        if words[0] == "self":
            words = words[1:]
        if words[0] in ("trt", "_trt"):
            found.add(".".join(words[1:]))
        elif isinstance(base, ast.Call) and ast.unparse(base.func) == "network.get_input":
            found.add(f"ITensor.{node.attr}")
        elif len(words) > 1 and words[-2] in _OBJECTS:
            found.add(f"{_OBJECTS[words[-2]]}.{words[-1]}")
    return {name for name in found if name and not name.startswith("__")}


def our_trt_names() -> set[str]:
    files = ("export/trt/native.py", "edge/engines/tensorrt.py", "edge/engines/device.py")
    return set().union(*(trt_names((PROJECT / name).read_text()) for name in files))


def test_every_call_exists_in_every_tensorrt() -> None:
    assert set(_TABLES) == {"10.3.0", "10.16.1.11", "11.4.0.106", "rtx-1.6.1"}
    used = our_trt_names()
    assert {
        "Builder.build_serialized_network",
        "IExecutionContext.execute_async_v3",
        "ITensor.dtype",
    } <= used
    assert len(used) > 35
    for version, table in _TABLES.items():
        assert used <= table, f"{version} lacks {sorted(used - table)}"


def test_calls_of_one_version_alone_would_be_seen() -> None:
    gone = "config.set_flag(trt.BuilderFlag.FP16)\nengine.device_memory_size\nself._trt.nptype(x)"
    assert {"BuilderFlag.FP16", "ICudaEngine.device_memory_size"} <= trt_names(gone) - _TABLES[
        "11.4.0.106"
    ]
    new = "builder.build_serialized_network_to_stream(network, config, writer)"
    assert trt_names(new) - _TABLES["10.3.0"] == {"Builder.build_serialized_network_to_stream"}


def test_the_table_is_what_is_installed() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="on PyPI for x86-64 Linux and Windows alone")
    if trt.__version__.startswith("1.6.1."):
        assert set(names_of(trt)) == _TABLES["rtx-1.6.1"]


def test_the_double_has_nothing_that_tensorrt_lacks_and_all_that_we_call(double: Any) -> None:
    found = set()
    for name, kind in vars(double).items():
        if isinstance(kind, type) and kind.__module__ == double.__name__:
            found |= {name} | {
                f"{name}.{member}" for member in vars(kind) if not member.startswith("_")
            }
    for version, table in _TABLES.items():
        assert found <= table, f"{version} lacks {sorted(found - table)}"
    instance = {"ITensor.name", "ITensor.dtype", "OnnxParser.num_errors"}  # set in __init__
    assert our_trt_names() - {"float32"} <= found | instance


def test_the_cuda_bindings_take_our_calls() -> None:
    """Without a driver each call comes back with a status, which is one line; a wrong argument
    would be a TypeError."""
    pytest.importorskip("cuda.bindings.runtime", reason="comes with torch for CUDA alone")
    cuda = object.__new__(Cuda)
    cuda._runtime = importlib.import_module("cuda.bindings.runtime")
    if int(cuda._runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU: the other way round is tested")
    values = np.zeros((2, 3), np.float32)
    stream = cuda._runtime.cudaStream_t(0)
    assert int(stream) == 0
    calls: list[Callable[[], object]] = [
        cuda.gpu,
        cuda.memory,
        cuda.stream,
        lambda: cuda.end_stream(stream),
        lambda: cuda.wait(stream),
        lambda: cuda.allocate(64),
        lambda: cuda.free(64),
        lambda: cuda.upload(64, values, stream),
        lambda: cuda.download(values, 64, stream),
    ]
    for call in calls:
        with pytest.raises(EngineError, match=r"^CUDA: cuda\w+: [^\n]*driver[^\n]*$"):
            call()
    with pytest.raises(EngineError, match="CUDA: cudaGetDeviceCount"):
        Cuda()


# --- from the bundle to the daemon, against the doubles
# ----------------------------------------------------------


@pytest.fixture(scope="module")
def engines(halved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `export trt` made of it; copy it before you damage it."""
    folder = tmp_path_factory.mktemp("engines") / "engines"
    built(halved, folder)
    return folder


@pytest.fixture
def own_engines(engines: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(engines, tmp_path / "own"))


def test_half_travels_in_the_bundle(halved: Path) -> None:
    found = verify(halved)
    assert set(found.half) == {"stripes", "mixup"}
    assert all(0 < apart.largest < 0.02 for apart in found.half.values())


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_engines_are_built_checked_and_used(halved: Path, engines: Path) -> None:
    record = read_record(engines)
    out = engines
    assert record
    assert record.device == ORIN
    assert [m.precision for m in record.members] == ["fp16", "fp16"]
    assert all(
        m.workspace_mib == 1024 and m.note is None and 0 < m.parity_max < 0.02
        for m in record.members
    )
    assert sorted(p.name for p in out.glob("*.engine")) == sorted(m.file for m in record.members)
    recognizer = best_recognizer(read_bundle(halved), AUTO, out)
    assert (recognizer.engine.name, recognizer.degraded) == ("tensorrt-10.3.0.30", None)
    images = np.random.default_rng(2).integers(0, 256, (7, *IMAGE_SHAPE), np.uint8)  # 4 and 3
    found = recognizer.engine.scores(images)
    there = best_recognizer(read_bundle(halved), dataclasses.replace(AUTO, engine="onnx"), out)
    assert there.engine.name == "onnxruntime-cpu"
    apart = parity(found, there.engine.scores(images))
    assert 0 < apart.largest < 0.02
    np.testing.assert_array_equal(recognizer.engine.scores(images, [1])[0], found[1])
    assert recognizer.engine.scores(images[:0]).shape == (2, 0, 3)
    cuda = sys.modules["cuda.bindings.runtime"]
    assert len(cuda.allocated) == 3, "scratch, images and scores are shared by the members"
    recognizer.engine.close()
    assert not cuda.allocated
    assert not cuda.streams


@pytest.fixture(scope="module")
def student_engines(student_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `export trt` made of a bundle with a student."""
    folder = tmp_path_factory.mktemp("student_engines") / "engines"
    assert [m.name for m in built(student_bundle, folder).members] == [
        "stripes",
        "mixup",
        "student",
    ]
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("members", "count"), [("bag", 2), ("student", 1), ("cascade", 3)])
def test_only_the_engines_that_are_asked_are_loaded(
    student_bundle: Path, student_engines: Path, members: Any, count: int
) -> None:
    bundle = read_bundle(student_bundle)
    recognizer = best_recognizer(bundle, AUTO, student_engines, members)
    assert (recognizer.engine.name, recognizer.degraded) == ("tensorrt-10.3.0.30", None)
    images = bundle.probe().images
    found = recognizer.engine.scores(images)
    assert len(found) == count
    there = best_recognizer(
        bundle, dataclasses.replace(AUTO, engine="onnx"), student_engines, members
    )
    np.testing.assert_allclose(found, there.engine.scores(images), atol=1e-5)
    recognizer.engine.close()
    with pytest.raises(EngineError, match="closed"):
        recognizer.engine.scores(images)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_threads_are_served_one_after_the_other(
    student_bundle: Path, student_engines: Path
) -> None:
    """They would write into each other's images, since one buffer serves all."""
    recognizer = best_recognizer(read_bundle(student_bundle), AUTO, student_engines, "cascade")
    random = np.random.default_rng(3)
    batches = [
        random.integers(0, 256, (5, *IMAGE_SHAPE), np.uint8) // np.uint8(n + 1) for n in range(4)
    ]
    expected = [recognizer.engine.scores(images) for images in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for found, wanted in zip(
                pool.map(recognizer.engine.scores, batches), expected, strict=True
            ):
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_of_several_threads_one_goes_over_to_onnx_runtime(
    student_bundle: Path, student_engines: Path
) -> None:
    recognizer = best_recognizer(read_bundle(student_bundle), AUTO, student_engines, "cascade")
    probe = recognizer.bundle.probe()
    sys.modules["cuda.bindings.runtime"].FACTS["fails"] = "cudaStreamSynchronize"  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: recognizer.recognise(probe.images, None), range(8)))
    assert recognizer.degraded == "CUDA: cudaStreamSynchronize: cudaErrorLaunchFailure"
    for found in answers:
        np.testing.assert_allclose(found.members[:2], probe.member_scores, atol=1e-5)


@pytest.mark.slow
def test_what_is_done_is_kept(halved: Path, own_engines: Path) -> None:
    out = own_engines
    first = read_record(out)
    assert first
    (out / first.members[1].file).write_bytes(b"damaged")
    (out / "old.fp16.0123456789ab.engine").write_bytes(b"of an older bundle")
    (out / "yolo.engine").write_bytes(b"of somebody else")
    second = built(halved, out, workspace_works_mib=300)
    assert [m.workspace_mib for m in second.members] == [1024, 256], (
        "the first was not compiled again"
    )
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [m.file for m in second.members]
        + ["engine.json", "build.log", "timing.cache", "yolo.engine"]
    )
    third = built(halved, out, version="10.16.1.11")
    assert third.device.tensorrt == "10.16.1.11"
    assert [m.workspace_mib for m in third.members] == [1024, 1024], "of another TensorRT: all anew"


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["workspace_works_mib", "killed_above_mib"])
def test_less_and_less_workspace(halved: Path, tmp_path: Path, trouble: str) -> None:
    assert {
        m.workspace_mib for m in built(halved, tmp_path / "engines", **{trouble: 600}).members
    } == {512}


@pytest.mark.slow
def test_no_workspace_will_do(halved: Path, tmp_path: Path) -> None:
    done = export_trt("trt", "--bundle", halved, "--out", tmp_path / "e", workspace_works_mib=10)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "error: member stripes in fp16: TensorRT 10.3.0.30 built no engine with 256 MiB"
    )
    assert "OutOfMemory" in last
    assert read_record(tmp_path / "e") is None


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_half_that_fails_parity_becomes_float32(halved: Path, tmp_path: Path) -> None:
    for error in (0.05, float("nan")):
        record = built(halved, tmp_path / str(error), half_error=error)
        assert [m.precision for m in record.members] == ["fp32", "fp32"]
        assert all(m.note and m.note.startswith("fp16: max |Δp| ") for m in record.members)
    again = export_trt("trt", "--bundle", halved, "--out", tmp_path / "0.05", half_error=0.05)
    assert "exists (fp32)" in again.stderr
    assert "compiling" not in again.stderr
    recognizer = best_recognizer(read_bundle(halved), AUTO, tmp_path / "0.05")
    assert recognizer.engine.name == "tensorrt-10.3.0.30"
    assert recognizer.check_probe() < 1e-5


@pytest.mark.slow
def test_a_network_that_tensorrt_does_not_take(halved: Path, tmp_path: Path) -> None:
    done = export_trt("trt", "--bundle", halved, "--out", tmp_path / "e", unsupported="Sigmoid")
    assert done.returncode == 78
    assert done.stderr.splitlines()[-1].startswith(
        "error: member stripes in fp16: TensorRT 10.3.0.30 does not support"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_plan_needs_no_tensorrt(bundle_folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export",
        "trt",
        "--bundle",
        bundle_folder,
        "--out",
        tmp_path / "e",
    ]
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("there is a TensorRT here")
    done = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TensorRT is missing" in done.stdout
    assert "stripes" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nothing can be compiled here: TensorRT is missing" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "e").exists()


def test_a_board_needs_neither_torch_nor_onnx() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'timm', 'pandas', "
        "'tensorrt')))\nimport export.__main__, export.trt.bench, export.trt.build, "
        "export.trt.member, export.trt.plan"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True, timeout=HANGS_S)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {"version": "10.3.0.31"},
            "compiled for TensorRT 10.3.0.30, but this machine has 10.3.0.31",
        ),
        ({"capability": [9, 0]}, "compiled for compute capability 8.7, but this machine has 9.0"),
        ({"gpu": "Thor"}, "compiled for GPU Orin, but this machine has Thor"),
        ({"fails": "cudaGetDeviceCount"}, "CUDA: cudaGetDeviceCount: cudaErrorLaunchFailure"),
        ({"gpus": 0}, "no GPU here"),
        ({"fails": "cudaMalloc"}, "CUDA: cudaMalloc"),
        ({"fails": "cudaStreamSynchronize"}, "CUDA: cudaStreamSynchronize"),
    ],
)
def test_another_machine_goes_on_with_onnx_runtime(
    halved: Path, engines: Path, double: Any, facts: dict[str, Any], reason: str
) -> None:
    sys.modules["cuda.bindings.runtime"].FACTS.update(facts)  # type: ignore[attr-defined]
    double.__version__ = facts.get("version", double.__version__)
    recognizer = best_recognizer(read_bundle(halved), AUTO, engines)
    assert recognizer.engine.name == "onnxruntime-cpu"
    assert recognizer.degraded
    assert reason in recognizer.degraded
    assert "\n" not in recognizer.degraded
    assert recognizer.check_probe() < 1e-5
    assert not sys.modules["cuda.bindings.runtime"].allocated  # type: ignore[attr-defined]


def _changed(folder: Path, **changes: object) -> None:
    path = folder / "engine.json"
    raw = json.loads(path.read_text())
    raw["members"][0] |= changes
    path.write_text(json.dumps(raw))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda out: next(out.glob("stripes*.engine")).write_bytes(b"else"),
            "not the recorded engine",
        ),
        (
            lambda out: next(out.glob("stripes*.engine")).unlink(),
            "missing, or not the recorded engine",
        ),
        (
            lambda out: _changed(out, onnx_sha256="0"),
            "member stripes was compiled from another network",
        ),
        (lambda out: _changed(out, name="other"), "no engine of member stripes"),
        (lambda out: _changed(out, file="../x.engine"), "not the recorded engine"),
        (lambda out: _changed(out, colour="red"), "members[0].colour: unknown key"),
        (lambda out: (out / "engine.json").write_text("{"), "not readable"),
        (
            lambda out: (out / "engine.json").write_text('{"schema": 2}'),
            "schema 2; this version reads 1",
        ),
    ],
)
@pytest.mark.usefixtures("double")
def test_engines_that_are_not_the_recorded_ones_are_refused(
    halved: Path, own_engines: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(own_engines)
    bundle = read_bundle(halved)
    with pytest.raises(EngineError, match="engine") as caught:
        open_tensorrt(bundle, own_engines, bundle.manifest.networks)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_engines_that_fail_the_probe_are_not_used(halved: Path, engines: Path, double: Any) -> None:
    double.FACTS["half_error"] = 0.1
    recognizer = best_recognizer(read_bundle(halved), AUTO, engines)
    assert recognizer.engine.name == "onnxruntime-cpu"
    assert recognizer.degraded
    assert "probe failed on tensorrt-10.3.0.30" in recognizer.degraded


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_a_gpu_that_falls_out_costs_no_sound(halved: Path, engines: Path) -> None:
    recognizer = best_recognizer(read_bundle(halved), AUTO, engines)
    probe = recognizer.bundle.probe()
    before = recognizer.recognise(probe.images, None).members
    sys.modules["cuda.bindings.runtime"].FACTS["fails"] = "cudaStreamSynchronize"  # type: ignore[attr-defined]
    after = recognizer.recognise(probe.images, None).members
    assert parity(after, before).holds("fp16")
    assert recognizer.engine.name == "onnxruntime-cpu"
    assert recognizer.degraded == "CUDA: cudaStreamSynchronize: cudaErrorLaunchFailure"


def test_without_engines_auto_is_content_and_tensorrt_is_not(
    bundle_folder: Path, tmp_path: Path
) -> None:
    bundle: Bundle = read_bundle(bundle_folder)
    assert best_recognizer(bundle, AUTO, tmp_path).degraded is None
    wanted = best_recognizer(bundle, dataclasses.replace(AUTO, engine="tensorrt"), tmp_path)
    assert wanted.engine.name == "onnxruntime-cpu"
    assert (
        wanted.degraded
        == f"runtime.engine is tensorrt, but {tmp_path} has no engines; run python -m export trt"
    )


def health_of_a_station(folder: Path, bundle: Path, **facts: object) -> dict[str, Any]:
    """What the daemon says of itself once it listens, on a machine whose TensorRT and CUDA are the
    doubles."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "health.json").unlink(missing_ok=True)
    lines = ["station: {id: porch}", "source: folder", "folder: {path: in}"]
    lines += ["health: {interval_s: 1}", f"bundle: {bundle}"]
    (folder / "station.yaml").write_text("\n".join(lines))
    command = [sys.executable, "-m", "edge", "run", "--config", str(folder / "station.yaml")]
    with subprocess.Popen(command, env=with_doubles(**facts), stderr=subprocess.DEVNULL) as station:
        try:
            end = time.monotonic() + 120
            while not (folder / "health.json").exists():
                assert station.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
            return dict(json.loads((folder / "health.json").read_text()))
        finally:
            station.terminate()


@pytest.mark.slow
def test_the_station_says_what_it_runs_on(halved: Path, engines: Path, tmp_path: Path) -> None:
    shutil.copytree(engines, tmp_path / "engines")
    health = health_of_a_station(tmp_path, halved)
    assert health["runtime"] == "tensorrt-10.3.0.30"
    assert not any("The networks run on" in problem for problem in health["problems"])
    health = health_of_a_station(tmp_path, halved, version="10.3.0.31")
    assert (health["runtime"], health["state"]) == ("onnxruntime-cpu", "degraded")
    assert any(
        "compiled for TensorRT 10.3.0.30, but this machine has 10.3.0.31" in problem
        for problem in health["problems"]
    )


@pytest.mark.slow
def test_check_says_what_is_missing(bundle_folder: Path, tmp_path: Path) -> None:
    settings = f"station: {{id: porch}}\nbundle: {bundle_folder}\nruntime: {{engine: tensorrt}}\n"
    (tmp_path / "station.yaml").write_text(settings)
    found = {
        check.name: check for check in run_checks(tmp_path / "station.yaml", 0, lambda _: None)
    }
    assert found["engines"].verdict == "warning"
    assert "has no engines" in found["engines"].found
    assert "onnxruntime-cpu" in found["runtime"].found


@pytest.mark.slow
def test_the_table_of_a_board(halved: Path, engines: Path, tmp_path: Path) -> None:
    done = export_trt("trt-bench", "--bundle", halved, "--engines", engines, "--seconds", "0.2")
    assert done.returncode == 0, done.stderr
    for words in (
        "tensorrt-10.3.0.30",
        "onnxruntime-cpu",
        "windows/s",
        "unknown",
        "max |Δp|",
        "fp16",
    ):
        assert words in done.stdout
    assert "student" not in done.stdout
    done = export_trt("trt-bench", "--bundle", halved, "--engines", tmp_path)
    assert done.returncode == 1
    assert "no engines here; python -m export trt builds them" in done.stderr


@pytest.mark.slow
def test_the_table_has_the_student_on_its_own(student_bundle: Path, student_engines: Path) -> None:
    done = export_trt(
        "trt-bench", "--bundle", student_bundle, "--engines", student_engines, "--seconds", "0.2"
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\bstudent\b", done.stdout)) == 3, "two columns, and its engine"


def test_what_a_jetson_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tmp_path / "etc").mkdir()
    line = (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed "
        "Jan  8 2025\n"
    )
    (tmp_path / "etc/nv_tegra_release").write_text(line)
    assert board_of(tmp_path) == "NVIDIA Jetson Orin Nano Developer Kit"
    assert l4t_of(tmp_path) == "R36 (release), REVISION: 4.3"
    assert board_watts(tmp_path) is None
    monitor = tmp_path / "sys/class/hwmon/hwmon1"
    monitor.mkdir(parents=True)
    values = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1480"}
    values |= {
        "in2_label": "VDD_CPU_GPU_CV",
        "in2_input": "5000",
        "curr2_input": "500",
        "in3_label": "none",
    }
    for name, value in values.items():
        (monitor / name).write_text(value + "\n")
    assert board_watts(tmp_path) == pytest.approx(7.4)
    (monitor / "in1_label").write_text("VDD_GPU\n")
    assert board_watts(tmp_path) == pytest.approx(9.9)
