"""The builder torch-tensorrt: a bundle's networks in torch again, compiled by the real one (for
RTX, which builds on a CPU), its dry run, and the whole command against doubles.

What this cannot show is an engine made by torch-tensorrt at work: that wants a GPU.
"""

import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from edge.analysis.recognizer import best_recognizer
from edge.config import RuntimeSettings
from edge.contract.audio import IMAGE_SHAPE
from edge.contract.bundle import read_bundle
from edge.contract.errors import BundleError, EngineError, needs_extra
from edge.engines.engine_record import read_record
from edge.engines.onnx import OnnxEngine
from export.half import to_half
from export.parity import parity
from export.to_onnx import to_onnx
from export.trt.onnx_torch import OnnxNetwork
from export.trt.torch_trt import Coverage, NetworkInputs, coverage, read_report
from tests import HANGS_S
from tests.conftest import PUBLISHED
from tests.helpers.trt_networks import (
    PROJECT,
    built,
    export_trt,
    probe_images,
    save_network,
    small_network,
    spread_network,
)

_TORCH = ("--builder", "torch-tensorrt")
real = pytest.mark.skipif(
    importlib.util.find_spec("torch_tensorrt") is None,
    reason="torch-tensorrt-rtx is on PyPI for x86-64 alone",
)


# --- a network in torch again
# --------------------------------------------------------------------------------------


def scores_of(path: Path, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found = OnnxNetwork(path.read_bytes())(torch.from_numpy(images[:, None].astype(np.float32)))
    assert found.dtype == torch.float32
    return found.numpy()[None]


def assert_same_in_torch(full: Path, half: Path) -> None:
    """Each against itself: whether half is good enough export judges. Of half, which torch is slow
    at on a CPU, the two images that differ most."""
    images = probe_images()
    for path, most in ((full, 1e-4), (half, 0.02)):
        expected = OnnxEngine([path], 1).scores(images)
        assert expected.std(axis=1).mean() > 0.01, "scores that differ between images"
        apart = np.abs(expected[0, :, None] - expected[0, None]).mean(axis=2)
        some = list(
            range(len(images)) if path == full else np.unravel_index(apart.argmax(), apart.shape)
        )
        assert parity(scores_of(path, images[some]), expected[:, some]).largest < most


@pytest.mark.slow
def test_published_members_are_the_same_in_torch(published: Path) -> None:
    assert_same_in_torch(published / "fp32.onnx", published / "fp16.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["test_resnet", "mobilenetv4_conv_small", "lcnet_050", "tf_efficientnet_lite0", "mixnet_s"],
)
def test_other_architectures_are_the_same_in_torch(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    half = tmp_path / "b.onnx"
    to_onnx(spread_network(architecture, 5), path)
    assert to_half(path, half)
    assert_same_in_torch(path, half)


def _pool(path: Path, operator: str, **attributes: Any) -> Path:
    """One pooling, then the mean of each row of what it gives."""
    nodes = [helper.make_node(operator, ["grey"], ["pooled"], **attributes)]
    nodes.append(helper.make_node("ReduceMean", ["pooled", "inside"], ["scores"], keepdims=0))
    save_network(path, nodes, {"inside": np.array([1, 3])})
    return path


@pytest.mark.parametrize("operator", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize(("size", "stride", "border"), [(2, 2, 0), (3, 2, 0), (3, 2, 1)])
def test_pools_end_where_they_end_in_onnx(
    operator: str, ceil_mode: int, size: int, stride: int, border: int, tmp_path: Path
) -> None:
    shape = {
        "kernel_shape": [size] * 2,
        "strides": [stride] * 2,
        "pads": [border] * 4,
        "ceil_mode": ceil_mode,
    }
    path = _pool(tmp_path / "a.onnx", operator, **shape)
    images = np.random.default_rng(1).integers(0, 256, (2, *IMAGE_SHAPE), np.uint8)
    np.testing.assert_allclose(
        scores_of(path, images), OnnxEngine([path], 1).scores(images), rtol=1e-5
    )


def test_what_torch_cannot_be_given_is_refused(tmp_path: Path) -> None:
    model = onnx.load(small_network(tmp_path / "a.onnx"))
    model.graph.node[1].op_type = "Birdsong"
    with pytest.raises(BundleError, match="Birdsong is not supported here"):
        OnnxNetwork(model.SerializeToString())
    model = onnx.load(small_network(tmp_path / "a.onnx"))
    (flat,) = (weight for weight in model.graph.initializer if weight.name == "flat")
    flat.CopyFrom(numpy_helper.from_array(np.array([2, 3]), "flat"))
    with pytest.raises(BundleError, match=r"^torch.export does not support the network: [^\n]+$"):
        # its batch is fixed
        coverage(model.SerializeToString(), NetworkInputs((1, *IMAGE_SHAPE)), 4)


# --- the real torch-tensorrt
# ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plans:
    """What torch-tensorrt's function takes, and what it makes of networks: name -> what was
    seen."""

    takes: set[str]
    of: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def plans(
    published_members: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Plans:
    """Of all networks at once: the library takes longer to begin than to plan a small one."""
    folder = tmp_path_factory.mktemp("plans")
    files = {
        f"{name} {p}": published_members(name) / f"{p}.onnx"
        for name in PUBLISHED
        for p in ("fp32", "fp16")
    }
    shape = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    files |= {
        "pool": _pool(folder / "a.onnx", "AveragePool", **shape),
        "small": small_network(folder / "b.onnx"),
    }
    command = [sys.executable, "-m", "tests.helpers.torch_trt_plans", *map(str, files.values())]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr
    takes, *found = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))
    ]
    return Plans(set(takes), dict(zip(files, found, strict=True)))


@pytest.mark.slow
@real
@pytest.mark.parametrize("architecture", PUBLISHED)
def test_published_members_are_compiled(
    architecture: str, plans: Plans, published_members: Callable[[str], Path]
) -> None:
    full, half = (plans.of[f"{architecture} {precision}"] for precision in ("fp32", "fp16"))
    one = [1, 1, *IMAGE_SHAPE]
    for found in (full, half):
        assert "error" not in found
        assert found["tensors"] == [
            ["grey", [-1, *one[1:]], "FLOAT"],
            ["scores", [-1, 397], "FLOAT"],
        ]
        assert found["profile"] == [one, one, [4, *one[1:]]]
        assert (found["strongly_typed"], found["tf32"], found["workspace_mib"]) == (
            True,
            False,
            256,
        )
        dry = found["coverage"]
        assert (dry["missing"], dry["engines"]) == ({}, 1)
        assert dry["converted"] == dry["operators"] > 300
    assert full["CONVOLUTION"] == full["REDUCE"] == half["REDUCE"] == ["FLOAT"]
    assert half["CONVOLUTION"] == ["HALF"]
    assert full["bytes"] > 0.9 * (published_members(architecture) / "fp32.onnx").stat().st_size, (
        "the weights are inside"
    )
    assert half["bytes"] < 0.7 * full["bytes"]


@pytest.mark.slow
@real
def test_what_torch_tensorrt_does_not_take_is_refused(plans: Plans) -> None:
    pool = plans.of["pool"]
    assert pool["coverage"]["missing"] == {"torch.ops.aten.avg_pool2d.default": 1}
    assert re.fullmatch(
        r"BundleError: torch-tensorrt 2\.\S+ does not support the network: [^\n]+", pool["error"]
    )
    assert plans.of["small"]["bytes"] > 0
    assert set(inspect.signature(_double_of_convert()).parameters) <= plans.takes, (
        "the double takes what the real one does"
    )


def _double_of_convert() -> Any:
    """The double's function, out of a file that cannot be imported beside the real tensorrt."""
    path = PROJECT / "tests" / "trt_double" / "torch_tensorrt" / "dynamo" / "__init__.py"
    source = path.read_text().partition("def convert_")
    space: dict[str, Any] = {"Any": Any}
    exec("def convert_" + source[2], space)
    return space["convert_exported_program_to_serialized_trt_engine"]


@pytest.mark.slow
@real
def test_the_dry_run(student_bundle: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export",
        "trt",
        "--bundle",
        student_bundle,
        "--out",
        tmp_path / "e",
    ]
    done = subprocess.run(
        [*command, *_TORCH, "--dry-run"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"│ (\w+) +│ fp32 +│ (\d+) +│ (\d+) +│ (\d+) +│ nothing +│", done.stderr)
    assert [row[0] for row in rows] == ["stripes", "mixup", "student"]
    assert all(
        operators == converted != "0" and engines == "1"
        for _, operators, converted, engines in rows
    )
    assert "nothing was compiled" in done.stdout
    assert "min will be 2" not in done.stderr, (
        "which is not so: test_published_members_are_compiled"
    )
    assert not (tmp_path / "e").exists()


_REPORT = """
The graph consists of 508 Total Operators, of which 505 operators are supported, 99.41% coverage

The following ops are currently unsupported or excluded from conversion:
 torch.ops.aten.avg_pool2d.default: 3

    TRT Engine #1 - Submodule name: _run_on_acc_0
    TRT Engine #2 - Submodule name: _run_on_acc_2
  ------------------------- Aggregate Stats -------------------------
   - For minimal graph segmentation, select min_block_size=178 which would generate 1 TRT engine(s)
"""


def test_the_report_of_a_dry_run_is_read() -> None:
    assert read_report(_REPORT) == Coverage(508, 505, 2, {"torch.ops.aten.avg_pool2d.default": 3})
    with pytest.raises(EngineError, match="report of torch-tensorrt is not understood"):
        read_report("")


def test_a_torch_tensorrt_that_is_missing_or_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = small_network(tmp_path / "a.onnx").read_bytes()
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(EngineError, match="torch-tensorrt is missing"):
        coverage(content, NetworkInputs((1, *IMAGE_SHAPE)), 4)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", SimpleNamespace(__version__="2.8.0"))
    with pytest.raises(
        EngineError, match=r"torch-tensorrt is too old: expected 2\.14 or newer, found 2\.8\.0"
    ):
        coverage(content, NetworkInputs((1, *IMAGE_SHAPE)), 4)


@pytest.mark.slow
def test_a_program_whose_libraries_are_missing_says_so_in_a_line(
    bundle_folder: Path, tmp_path: Path
) -> None:
    program = "import sys; sys.modules['torch'] = None; from {0}.__main__ import main; main()"
    trt = ["trt", "--bundle", bundle_folder, "--out", tmp_path / "e", *_TORCH]
    onnx_of_run = ["onnx", "--run", tmp_path, "--out", tmp_path / "o"]
    folds = ["fit-all", "--data", tmp_path]
    for name, arguments in (
        ("export", trt),
        ("export", onnx_of_run),
        ("trainer", [*folds, "--out", tmp_path / "r"]),
    ):
        command = [sys.executable, "-c", program.format(name), *map(str, arguments)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)
        extra = {"export": "export", "trainer": "train"}[name]
        assert done.returncode == 78, done.stderr
        last = (
            f"error: torch is not installed; install it with pip install '.[{extra}]' in the "
            "checkout (6.8 GB"
        )
        assert done.stderr.splitlines()[-1].startswith(last)
        assert "Traceback" not in done.stderr
    with pytest.raises(ModuleNotFoundError), needs_extra("export"):
        importlib.import_module("export.nothing")


# --- the command, against the doubles
# ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_engines_of_torch_tensorrt_are_built_checked_and_used(halved: Path, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    done = export_trt("trt", "--bundle", halved, "--out", out, *_TORCH)
    assert done.returncode == 0, done.stderr
    record = read_record(out)
    assert record
    assert [(m.precision, m.builder, m.note) for m in record.members] == [
        ("fp16", "torch-tensorrt", None)
    ] * 2
    assert all(0 < m.parity_max < 0.02 for m in record.members)
    recognizer = best_recognizer(read_bundle(halved), RuntimeSettings(threads=1), out)
    assert (recognizer.engine.name, recognizer.degraded) == ("tensorrt-10.3.0.30", None)
    recognizer.engine.close()
    again = export_trt("trt", "--bundle", halved, "--out", out, *_TORCH)
    assert "compiling" not in again.stderr
    assert [m.builder for m in built(halved, out).members] == ["tensorrt", "tensorrt"], (
        "asked of the other: made anew"
    )


@pytest.mark.slow
def test_torch_tensorrt_gets_less_and_less_workspace(halved: Path, tmp_path: Path) -> None:
    done = export_trt(
        "trt", "--bundle", halved, "--out", tmp_path / "e", *_TORCH, workspace_works_mib=10
    )
    assert done.returncode == 1
    assert "with 1024 MiB of workspace" in done.stderr
    assert (
        "torch-tensorrt 2.14.0 built no engine with 256 MiB of workspace"
        in done.stderr.splitlines()[-1]
    )
    done = export_trt(
        "trt", "--bundle", halved, "--out", tmp_path / "e", *_TORCH, unsupported="Sigmoid"
    )
    assert done.returncode == 78
    last = done.stderr.splitlines()[-1]
    assert (
        "member stripes in fp16: torch-tensorrt 2.14.0 does not support the network: Conversion of "
        "module" in last
    )
    assert "Traceback" not in done.stderr


def test_operators_of_networks_that_take_the_sound(tmp_path: Path) -> None:
    """Every one that an adopted BirdNET has, on odd sides, in torch as in ONNX Runtime."""
    constants: dict[str, np.ndarray] = {
        "border": np.array([0, 0, 0, 0, 0, 1, 2, 3]),
        "from": np.array([1, 0]),
        "to": np.array([9_000, 5]),
        "axes": np.array([2, 1]),
        "steps": np.array([2, 1]),
        "which": np.array([[4, 0], [2, 2]]),
        "keep": np.array([0, -1, 4, 3]),
    }
    nodes = [
        helper.make_node("Pad", ["grey", "border"], ["padded"]),
        helper.make_node("Slice", ["padded", "from", "to", "axes", "steps"], ["sliced"]),
        helper.make_node("Gather", ["sliced", "which"], ["gathered"], axis=2),
        helper.make_node("Abs", ["gathered"], ["positive"]),
        helper.make_node("ReduceMax", ["positive"], ["high"], axes=[2], keepdims=0),
        helper.make_node("ReduceMin", ["positive"], ["low"], axes=[2], keepdims=0),
        helper.make_node("Sub", ["high", "low"], ["range"]),
        helper.make_node("Transpose", ["range"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("Flatten", ["turned"], ["flat"]),
        helper.make_node("Reshape", ["flat", "keep"], ["parts"]),
        helper.make_node("GlobalAveragePool", ["parts"], ["means"]),
        helper.make_node("Flatten", ["means"], ["scores"]),
    ]
    path = tmp_path / "sound.onnx"
    graph = helper.make_graph(
        nodes,
        "sound",
        [helper.make_tensor_value_info("grey", onnx.TensorProto.FLOAT, ["n", 1, 11, 144])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", "k"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    sound = np.random.default_rng(5).standard_normal((3, 1, 11, 144)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(str(path)).run(None, {"grey": sound})
    with torch.no_grad():
        found = OnnxNetwork(path.read_bytes(), "scores")(torch.from_numpy(sound)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
