"""Lower precision in networks that take the sound: it begins behind their front end, and what
engines run in parts is what they run at once."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from edge.contract.audio import INPUT_SHAPES, WAVEFORM
from edge.contract.bundle import BundleMember, Thresholds
from edge.engines.onnx import OnnxEngine
from edge.engines.openvino import OpenvinoEngine
from export.half import front_end_nodes, to_half
from export.int8 import quantise_members, to_int8
from export.parity import parity
from tests.helpers.waveform_bundle import HZ, make_waveform_bundle, tone, write_network

SHAPE = INPUT_SHAPES[WAVEFORM]


def windows() -> NDArray[np.float32]:
    rng = np.random.default_rng(5)
    sounds = [tone(code, level=level) for code in HZ for level in (0.3, 0.05)]
    return np.stack([sound + rng.standard_normal(len(sound)) * 0.003 for sound in sounds]).astype(
        np.float32
    )


def test_the_front_end_is_what_makes_the_features(tmp_path: Path) -> None:
    write_network(tmp_path / "a.onnx")
    nodes = onnx.load(tmp_path / "a.onnx").graph.node
    front = front_end_nodes(onnx.load(tmp_path / "a.onnx"))
    assert [nodes[index].op_type for index in sorted(front)] == [
        "Unsqueeze",
        "Conv",
        "Mul",
        "Reshape",
        "ReduceSum",
    ]
    for node in nodes:
        node.output[:] = ["other" if name == "features" else name for name in node.output]
    assert front_end_nodes(onnx.ModelProto(graph=onnx.GraphProto(node=nodes))) == set()


def test_half_precision_begins_behind_the_features(tmp_path: Path) -> None:
    write_network(tmp_path / "a.onnx")
    assert to_half(tmp_path / "a.onnx", tmp_path / "b.onnx")
    model = onnx.load(tmp_path / "b.onnx")
    types = {
        v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)
    }
    assert (types["waves"], types["features"]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    assert types["map_half"] == TensorProto.FLOAT16
    engines = [OnnxEngine([tmp_path / name], input_shape=SHAPE) for name in ("a.onnx", "b.onnx")]
    scores = [engine.scores(windows())[0] for engine in engines]
    assert parity(scores[1], scores[0]).holds("fp16")


def test_nothing_to_quantise_behind_the_features(tmp_path: Path) -> None:
    """The first convolution there stays as it is, and there is no second."""
    write_network(tmp_path / "a.onnx")
    assert not to_int8(tmp_path / "a.onnx", tmp_path / "b.onnx", windows())
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8])
def test_windows_of_sound_go_in_twos(tmp_path: Path, count: int, pairs: bool) -> None:
    write_network(tmp_path / "a.onnx")
    engine = OnnxEngine([tmp_path / "a.onnx"], 1, input_shape=SHAPE, pairs=pairs)
    session = ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    whole = session.run(["scores"], {"sound": windows()})[0]
    assert np.array_equal(engine.scores(windows()[:count])[0], whole[:count])


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_openvino_hears_the_same(tmp_path: Path, threads: int) -> None:
    """Silence too, whose logarithm is none; to the last bit whatever shares the batch."""
    pytest.importorskip("tflite", reason="the extra adopt is not installed")
    from export.adopt.birdnet import birdnet_to_onnx
    from export.adopt.flatbuffer import parse_tflite
    from tests.helpers.tiny_tflite import tiny_birdnet

    onnx.save(birdnet_to_onnx(parse_tflite(tiny_birdnet(), "tiny")), tmp_path / "a.onnx")
    sounds = np.concatenate([windows(), np.zeros((1, *SHAPE), np.float32)])
    engine = OpenvinoEngine([tmp_path / "a.onnx"], threads, pairs=True, input_shape=SHAPE)
    found = engine.scores(sounds)[0]
    assert (
        np.abs(
            found - OnnxEngine([tmp_path / "a.onnx"], 1, input_shape=SHAPE).scores(sounds)[0]
        ).max()
        <= 1e-4
    )
    for size in (1, 2, 3, 8):
        parts = [engine.scores(sounds[at : at + size])[0] for at in range(0, len(sounds), size)]
        assert np.array_equal(np.concatenate(parts), found)


@pytest.mark.slow
def test_birdnets_layers_in_lower_precision(tmp_path: Path) -> None:
    pytest.importorskip("tflite", reason="the extra adopt is not installed")
    from export.adopt.birdnet import birdnet_to_onnx
    from export.adopt.flatbuffer import parse_tflite
    from tests.helpers.tiny_tflite import CLASSES, tiny_birdnet

    (tmp_path / "members").mkdir()
    onnx.save(
        birdnet_to_onnx(parse_tflite(tiny_birdnet(), "tiny")), tmp_path / "members" / "a.onnx"
    )
    bundle = make_waveform_bundle(tmp_path / "bundle")
    manifest = dataclasses.replace(
        bundle.manifest,
        members=(BundleMember("a", "members/a.onnx", "a", "tiny", output="scores"),),
        thresholds=Thresholds(0.5, 0.5),
    )
    species = [
        dataclasses.replace(bundle.taxonomy[0], code=f"tooter{index}") for index in range(CLASSES)
    ]
    found = quantise_members(
        tmp_path, manifest, type(bundle.taxonomy)(species), windows(), windows()
    )
    # random weights round badly; that they compute at all is meant
    assert found.apart["a"].mean < 0.1
    model = onnx.load(tmp_path / "members" / "a.onnx")
    assert to_int8(tmp_path / "members" / "a.onnx", tmp_path / "eight.onnx", windows())
    eight = onnx.load(tmp_path / "eight.onnx")
    weights = {w.name: w for w in eight.graph.initializer}
    front = [model.graph.node[index].name for index in front_end_nodes(model)]
    kept = {node.name: node for node in eight.graph.node}
    assert all(
        kept[name].input == next(n for n in model.graph.node if n.name == name).input
        for name in front
    )
    assert sum(weight.data_type == TensorProto.INT8 for weight in weights.values()) >= 5
    alone = OnnxEngine([tmp_path / "eight.onnx"], 1, input_shape=SHAPE, pairs=True)
    several = alone.scores(windows()[:5])[0]
    assert np.array_equal(
        several, np.concatenate([alone.scores(windows()[k : k + 1])[0] for k in range(5)])
    )
    assert to_half(tmp_path / "members" / "a.onnx", tmp_path / "half.onnx")
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in onnx.load(tmp_path / "half.onnx").graph.value_info
    }
    assert types["features"] == TensorProto.FLOAT
    halved = OnnxEngine([tmp_path / "half.onnx"], input_shape=SHAPE).scores(windows())[0]
    full = OnnxEngine([tmp_path / "members" / "a.onnx"], input_shape=SHAPE).scores(windows())[0]
    assert parity(halved, full).holds("fp16")
