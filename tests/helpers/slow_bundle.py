"""The shipped bundle, slower: for a station that cannot keep up."""

import shutil
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from edge.contract.audio import MEL_BANDS
from edge.contract.bundle import read_bundle, seal_bundle

BUNDLE = Path(__file__).parents[2] / "edge/demo/bundle"
_CHAIN = 100  # matrix products by which the speed of this machine is taken


def slow_bundle(folder: Path, window_s: float) -> Path:
    """The shipped bundle with each member twice, and so much work that no score depends on in each
    network that a window takes all four about `window_s` on one core as busy as it is now."""
    shutil.copytree(BUNDLE, folder)
    bundle = read_bundle(folder)
    products = max(1, round(_CHAIN * window_s / 4 / _chain_s(folder)))
    members = []
    for member in bundle.manifest.members:
        network = _with_products(onnx.load(folder / member.file), products)
        for copy in ("", "-again"):
            file = member.file.replace(".onnx", f"{copy}.onnx")
            onnx.save(network, folder / file)
            members.append(replace(member, name=member.name + copy, file=file))
    probe = bundle.probe()
    # it is slow enough
    one = {"clips": probe.clips[:1], "images": probe.images[:1], "blended": probe.blended[:1]}
    scores = np.repeat(probe.member_scores, 2, axis=0)[:, :1]
    replace(probe, member_scores=scores, **one).write(folder / "probe.npz")
    seal_bundle(folder, replace(bundle.manifest, members=tuple(members)))
    return folder


def _with_products(network: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Before its first layer the image is multiplied so often by one, a matrix of 281 x 281."""
    slow = onnx.ModelProto()
    slow.CopyFrom(network)
    graph = slow.graph
    name = slow.graph.input[0].name
    names = [name, *(f"slow{n}" for n in range(count))]
    for node in graph.node:
        node.input[:] = [names[-1] if i == name else i for i in node.input]
    chain = [helper.make_node("MatMul", [a, "one"], [b]) for a, b in pairwise(names)]
    nodes = [*chain, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.eye(281, dtype=np.float32), "one"))
    return slow


def _chain_s(bundle: Path) -> float:
    """Seconds of `_CHAIN` products and one network on one core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    network = _with_products(onnx.load(next(bundle.glob("members/*.onnx"))), _CHAIN)
    session = ort.InferenceSession(
        network.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = {session.get_inputs()[0].name: np.zeros((1, 1, MEL_BANDS, 281), np.float32)}
    began = time.perf_counter()
    for _ in range(20):
        session.run(None, image)
    return (time.perf_counter() - began) / 20
