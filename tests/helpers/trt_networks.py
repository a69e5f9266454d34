"""Networks and bundles in both precisions, and `export trt` on a machine whose TensorRT and CUDA
are the doubles."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from edge.contract.audio import IMAGE_SHAPE, mel_image
from edge.contract.bundle import read_bundle, seal_bundle
from edge.engines.engine_record import EngineRecord, read_record
from export.half import to_half
from export.probe_clips import probe_clips
from export.to_onnx import to_onnx
from tests import HANGS_S
from trainer.networks.model import NetworkSpec, build_network

PROJECT = Path(__file__).parents[2]
_DOUBLE = PROJECT / "tests" / "trt_double"


def small_network(path: Path, weight: float = 1 / 255) -> Path:
    """grey → Conv → Relu → mean (an island) → Mul → Conv → mean → Sigmoid, with an integer shape on
    the way."""
    weights = np.full((1, 1, 1, 1), weight, np.float32)
    nodes = [
        helper.make_node("Conv", ["grey", "scale"], ["image"]),
        helper.make_node("Relu", ["image"], ["relu"]),
        helper.make_node("ReduceMean", ["relu", "inside"], ["gate"], keepdims=1),
        helper.make_node("Mul", ["relu", "gate"], ["gated"]),
        helper.make_node("Conv", ["gated", "second"], ["map"]),
        helper.make_node("ReduceMean", ["map", "inside"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "flat"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    constants = {"scale": weights, "second": np.full((3, 1, 1, 1), 2.0, np.float32)}
    constants |= {"inside": np.array([2, 3]), "flat": np.array([-1, 3])}
    save_network(path, nodes, constants)
    return path


def save_network(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    """Nodes from `grey` to `scores` as a file, with an open batch."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("grey", TensorProto.FLOAT, ["batch", 1, *IMAGE_SHAPE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "species"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )


def write_published(architecture: str, folder: Path) -> Path:
    """A published member with 397 species, exported in both precisions."""
    folder.mkdir()
    to_onnx(spread_network(architecture, 397), folder / "fp32.onnx")
    assert to_half(folder / "fp32.onnx", folder / "fp16.onnx")
    return folder


def spread_network(architecture: str, species: int) -> torch.nn.Module:
    """Random weights with statistics that fit them, so that the scores differ between images."""
    torch.manual_seed(1)
    network = build_network(NetworkSpec(architecture, species, normalise="bands"))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    grey = torch.from_numpy(probe_images())[:, None].float()
    with torch.no_grad():
        network.train()(
            torch.cat([grey, grey.flip(3), grey.flip(2), (grey + grey.roll(1, 0)).clamp(0, 255)])
        )
    return network


def probe_images() -> np.ndarray:
    return mel_image(probe_clips().astype(np.float32) / 32768.0)


def write_halved(bundle: Path, folder: Path) -> Path:
    """The tests' bundle, its members' first step a convolution, and each in half precision beside
    it."""
    shutil.copytree(bundle, folder)
    manifest = read_bundle(folder).manifest
    members = []
    for member in manifest.members:
        path = folder / member.file
        model = onnx.load(path)
        model.graph.node[0].op_type = "Conv"
        (scale,) = (w for w in model.graph.initializer if w.name == "scale")
        scale.CopyFrom(numpy_helper.from_array(np.full((1, 1, 1, 1), 1 / 255, np.float32), "scale"))
        onnx.save(model, path)
        half = f"members/{member.name}.fp16.onnx"
        assert to_half(path, folder / half)
        members.append(dataclasses.replace(member, half=half))
    seal_bundle(folder, dataclasses.replace(manifest, members=tuple(members)))
    return folder


def export_trt(*arguments: str | Path, **facts: object) -> subprocess.CompletedProcess[str]:
    """The command as a person types it, on a machine whose TensorRT and CUDA are the doubles."""
    command = [sys.executable, "-m", "export", *map(str, arguments)]
    return subprocess.run(
        command, env=with_doubles(**facts), capture_output=True, text=True, timeout=HANGS_S
    )


def with_doubles(**facts: object) -> dict[str, str]:
    """An environment in which programs find the doubles, which take these facts for theirs."""
    path = os.pathsep.join([str(_DOUBLE), str(PROJECT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "TRT_DOUBLE": json.dumps(facts)}


def built(bundle: Path, out: Path, **facts: object) -> EngineRecord:
    done = export_trt("trt", "--bundle", bundle, "--out", out, **facts)
    assert done.returncode == 0, done.stderr
    record = read_record(out)
    assert record
    return record
