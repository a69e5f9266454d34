"""BirdNET rebuilt: a small network of the same layers hears what TensorFlow's arithmetic hears, at
32 kHz, in batches, cut to a region; foreign files are refused."""

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from edge.contract.audio import INPUT_SHAPES, RATE_HZ, WAVEFORM, WINDOW_SAMPLES
from edge.contract.bundle import PROBE_TOLERANCE
from edge.contract.errors import BundleError

pytest.importorskip("tflite", reason="the extra adopt is not installed")

from export.adopt.birdnet import birdnet_to_onnx
from export.adopt.cut import most_likely, points_around
from export.adopt.flatbuffer import TfliteNetwork, parse_tflite
from export.adopt.front_end import read_spectrogram
from export.adopt.geo import geo_to_onnx
from export.trt.native import build_engine, window_profile
from export.trt.onnx_torch import OnnxNetwork
from tests.helpers.tiny_tflite import CLASSES, EMBEDDING, heard, tiny_birdnet, tiny_geo

Windows = NDArray[np.float32]
PARITY = 2e-3  # as BirdNET itself is held to


@pytest.fixture(scope="module")
def content() -> bytes:
    return tiny_birdnet()


@pytest.fixture(scope="module")
def network(content: bytes) -> TfliteNetwork:
    return parse_tflite(content, "tiny.tflite")


@pytest.fixture(scope="module")
def model(network: TfliteNetwork) -> onnx.ModelProto:
    return birdnet_to_onnx(network)


def session(model: onnx.ModelProto, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def sounds() -> Windows:
    """Noise, a sweep, trills over noise, song in the first second only, a faint note with an
    offset."""
    rng = np.random.default_rng(3)
    time_s = np.arange(WINDOW_SAMPLES) / RATE_HZ
    noise = rng.standard_normal(WINDOW_SAMPLES) * 0.05
    sweep = 0.3 * np.sin(2 * np.pi * (800 + 700 * time_s) * time_s)
    trill = (
        0.2 * np.sin(2 * np.pi * 4200 * time_s) * (np.sin(2 * np.pi * 11 * time_s) > 0)
        + noise * 0.1
    )
    song = np.where(time_s < 1, 0.4 * np.sin(2 * np.pi * 2500 * time_s), noise * 0.02)
    faint = 1e-3 * np.sin(2 * np.pi * 6500 * time_s) + 0.01
    return np.stack([noise, sweep, trill, song, faint]).astype(np.float32)


def test_hears_what_tensorflow_hears(model: onnx.ModelProto, content: bytes) -> None:
    found, embedding = session(model).run(["scores", "embedding"], {"sound": sounds()})
    reference = heard(content, sounds())
    assert np.abs(found - reference).max() <= PARITY
    assert (found.argmax(axis=1) == reference.argmax(axis=1)).all()
    # 24 channels, filled up to 32 with silent ones
    assert embedding.shape == (len(sounds()), 2, 32)
    assert (embedding[..., :EMBEDDING] > 0).any(axis=(0, 1)).sum() > EMBEDDING // 3
    assert not embedding[..., EMBEDDING:].any()


def test_digital_silence_is_exactly_silent(model: onnx.ModelProto, content: bytes) -> None:
    silence = np.zeros((1, WINDOW_SAMPLES), np.float32)
    assert (
        np.abs(
            session(model).run(["scores"], {"sound": silence})[0] - heard(content, silence)
        ).max()
        <= 1e-5
    )


def test_a_short_sound_is_one_with_silence_behind(model: onnx.ModelProto, content: bytes) -> None:
    short = sounds()[1:2].copy()
    short[:, RATE_HZ:] = 0
    assert (
        np.abs(session(model).run(["scores"], {"sound": short})[0] - heard(content, short)).max()
        <= PARITY
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_window_scores_the_same_whatever_shares_its_batch(
    model: onnx.ModelProto, threads: int
) -> None:
    """To the last bit, and whatever the number of threads."""
    windows = np.concatenate(
        [sounds(), sounds()[::-1] * np.float32(0.37), sounds()[:, ::-1], sounds()[:1]]
    )
    alone = [session(model).run(None, {"sound": one[None]}) for one in windows]
    several = session(model, threads)
    for size in (1, 2, 3, 8, 16):
        parts = [
            several.run(None, {"sound": windows[at : at + size]})
            for at in range(0, len(windows), size)
        ]
        for output in (0, 1):
            whole = np.concatenate([part[output] for part in parts])
            assert np.array_equal(whole, np.concatenate([one[output] for one in alone]))


def test_a_window_that_is_no_number_spoils_no_other(model: onnx.ModelProto) -> None:
    windows = sounds()[:3].copy()
    clean = session(model).run(["scores"], {"sound": windows})[0]
    windows[1, 777] = np.nan
    found = session(model).run(["scores"], {"sound": windows})[0]
    assert np.array_equal(found[[0, 2]], clean[[0, 2]])


def test_the_graph_is_one_that_old_and_other_runtimes_read(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 9)
    assert not {node.op_type for node in model.graph.node} & {"DFT", "STFT", "If", "Loop", "Scan"}
    assert all(not node.domain for node in model.graph.node)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {
        v.name: [side.dim_value for side in v.type.tensor_type.shape.dim]
        for v in inferred.graph.value_info
    }
    assert shapes["features"][1:] == [2, 96, 511]  # from here on precision may be lowered


def test_a_cut_gives_the_same_scores_for_fewer_classes(
    network: TfliteNetwork, model: onnx.ModelProto
) -> None:
    kept = np.array([0, 2, 5])
    cut = session(birdnet_to_onnx(network, kept)).run(["scores"], {"sound": sounds()})[0]
    whole = session(model).run(["scores"], {"sound": sounds()})[0]
    assert cut.shape == (len(sounds()), 3)
    assert np.abs(cut - whole[:, kept]).max() <= 1e-6


def test_twice_the_same_bytes(network: TfliteNetwork, model: onnx.ModelProto) -> None:
    assert birdnet_to_onnx(network).SerializeToString() == model.SerializeToString()


def test_the_spectrograms_must_be_those_that_are_known(network: TfliteNetwork) -> None:
    renamed = {
        index: name.replace("MEL_SPEC2", "MEL_SPEC9") for index, name in network.names.items()
    }
    with pytest.raises(BundleError, match="MEL_SPEC2: no constant"):
        read_spectrogram(dataclasses.replace(network, names=renamed), "MEL_SPEC2")


@pytest.mark.parametrize("op", ["TANH", "FULLY_CONNECTED", "MEAN"])
def test_another_network_is_refused(network: TfliteNetwork, op: str) -> None:
    """A layer that is not known; no layer of classes; none behind the spectrograms."""
    layers = [
        dataclasses.replace(layer, op="TANH")
        if layer.op == ("LOGISTIC" if op == "TANH" else op)
        else layer
        for layer in network.layers
    ]
    with pytest.raises(BundleError, match=r"not BirdNET V2\.4"):
        birdnet_to_onnx(dataclasses.replace(network, layers=tuple(layers)))


def test_other_files_are_refused() -> None:
    with pytest.raises(BundleError, match=r"x\.tflite: not a TensorFlow Lite file"):
        parse_tflite(b"PK\3\4 some wheel", "x.tflite")
    with pytest.raises(BundleError, match=r"not BirdNET V2\.4"):
        birdnet_to_onnx(parse_tflite(tiny_geo(), "geo.tflite"))
    with pytest.raises(BundleError, match="not BirdNET's geo model"):
        geo_to_onnx(parse_tflite(tiny_birdnet(), "audio.tflite"))


def test_the_geo_model_knows_place_and_season() -> None:
    whole = session(geo_to_onnx(parse_tflite(tiny_geo(), "geo.tflite")))
    places = np.array(
        [[48.5, 9.1, 1], [48.5, 9.1, 24.5], [48.5, 9.1, 0], [48.5, 9.1, 49], [-30, 140, 24]],
        np.float32,
    )
    found = whole.run(["probabilities"], {"place": places})[0]
    assert found.shape == (5, CLASSES)
    assert np.array_equal(found[2], found[3])  # beyond 1 to 48 there is no season
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[4])
    assert np.allclose(found, _geo_by_numpy(places), atol=1e-5)
    cut = session(geo_to_onnx(parse_tflite(tiny_geo(), "geo.tflite"), np.array([4, 1])))
    assert np.allclose(
        cut.run(["probabilities"], {"place": places})[0], found[:, [4, 1]], atol=1e-6
    )


def _geo_by_numpy(places: Windows) -> NDArray[np.float64]:
    """The file's weights, read here once more, times what tiny_geo says it does."""
    network = parse_tflite(tiny_geo(), "geo.tflite")
    halves = [
        network.constants[layer.inputs[0]].astype(float)
        for layer in network.layers
        if layer.op == "DEQUANTIZE"
    ]
    steps = np.linspace(0, 1.5, 4).astype(np.float16).astype(float)
    parts = []
    for column, (offset, scale) in enumerate(((90.0, 1 / 180), (180.0, 1 / 360), (-1.0, 1 / 47))):
        sines = np.sin((places[:, column, None] + offset) * float(np.float16(scale)) * 6 + steps)
        known = (places[:, 2] >= 1) & (places[:, 2] <= 48)
        parts.append(sines * known[:, None] if column == 2 else sines)
    w1, b1, w2, b2 = halves[-4:]
    hidden = np.maximum(np.concatenate(parts, axis=1) @ w1.T + b1, 0)
    return np.asarray(1 / (1 + np.exp(-(hidden @ w2.T + b2))))


def test_points_lie_within_the_radius() -> None:
    for latitude, longitude in ((48.52, 9.06), (-89.9, 0.0), (10.0, 179.9)):
        points = np.radians(points_around(latitude, longitude, 300.0))
        lat, lon = np.radians([latitude, longitude])
        cosine = np.sin(lat) * np.sin(points[:, 0]) + np.cos(lat) * np.cos(points[:, 0]) * np.cos(
            points[:, 1] - lon
        )
        km = 6371 * np.arccos(np.clip(cosine, -1, 1))
        assert km[0] < 0.1
        assert np.allclose(np.sort(km[1:]), np.repeat([100, 200, 300], 12), atol=0.1)
        assert (np.abs(points[:, 1]) <= np.pi + 1e-9).all()


def test_the_most_likely_week_counts() -> None:
    geo = geo_to_onnx(parse_tflite(tiny_geo(), "geo.tflite"))
    highest = most_likely(geo.SerializeToString(), points_around(48.52, 9.06, 300.0))
    assert (highest[:2] > 0.9).all()
    assert (highest[2:] < 0.03).all()


@pytest.mark.slow
# its timing cache does nothing
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_tensorrt_for_rtx_compiles_it(model: onnx.ModelProto) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="on PyPI for x86-64 Linux and Windows alone")
    profile = window_profile("sound", INPUT_SHAPES[WAVEFORM], 4)
    content = model.SerializeToString()
    assert build_engine(trt, content, profile, workspace_mib=256, output="scores").plan
    with pytest.raises(BundleError, match=r"gives logits, found \['scores', 'embedding'\]"):
        build_engine(trt, content, profile, workspace_mib=256, output="logits")


def test_torch_tensorrt_is_given_all_of_it(model: onnx.ModelProto) -> None:
    (wanted,) = session(model).run(["scores"], {"sound": sounds()})
    with torch.no_grad():
        found = (
            OnnxNetwork(model.SerializeToString(), "scores")
            .eval()(torch.from_numpy(sounds()))
            .numpy()
        )
    # small powers of faint sound magnify rounding
    np.testing.assert_allclose(found, wanted, atol=PROBE_TOLERANCE)
