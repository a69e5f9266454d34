"""A bundle of the other kind, small and real: one network that takes the sound itself and serves
two members, a geo prior, classes that are no birds, names in two languages, somebody's licence."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.contract.audio import RATE_HZ, WAVEFORM, WINDOW_SAMPLES
from edge.contract.blend import Blend, acoustic_scores, blend_scores, scaled
from edge.contract.bundle import (
    LICENCE,
    NAMES,
    Bundle,
    BundleMember,
    Licence,
    Manifest,
    Probe,
    Student,
    Thresholds,
    named_front_end,
    seal_bundle,
)
from edge.contract.taxonomy import Species, Taxonomy
from edge.prior.place_table import compute_prior_table

CLASSES = (
    Species("lowtoo", "Tonus profundus", "Low Tooter"),
    Species("midtoo", "Tonus medius", "Middle Tooter"),
    Species("frogxx", "Rana tonans", "Tooting Frog", "animal"),
    Species("human1", "Homo tonans", "Human Tooting", "human"),
    Species("engine", "Machina", "Engine", "sound"),
)
HZ = {"lowtoo": 600.0, "midtoo": 2400.0, "frogxx": 1200.0, "human1": 300.0, "engine": 4800.0}
CREDIT = "CC-BY-NC-SA-4.0, Somebody; Tooters by Somebody"
_STEP = 640  # of the bank, in samples
_SCALE = "members/head.scale.npy"
_HEAD = ("midtoo", "lowtoo")  # the second member knows two species, in another order


def tone(code: str, seconds: float = 5.0, level: float = 0.3) -> NDArray[np.float32]:
    """A note that one class is heard in."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (level * np.sin(2 * np.pi * HZ[code] * time_s)).astype(np.float32)


def write_network(path: Path, gain: float = 15.0) -> None:
    """sound → energy at each class's pitch (`features`) → a convolution → scores of all, of two,
    and an embedding."""
    time = np.arange(_STEP) / RATE_HZ
    bank = (
        np.concatenate(
            [[f(2 * np.pi * HZ[s.code] * time) for s in CLASSES] for f in (np.sin, np.cos)]
        )
        / _STEP
        * 4
    )
    count = len(CLASSES)
    head = np.zeros((count, 2), np.float32)
    head[[s.code for s in CLASSES].index("midtoo"), 0] = head[0, 1] = 1.0
    constants = {
        "bank": bank[:, None].astype(np.float32),
        "one": np.array([1]),
        "pairs": np.array([0, 2, count, -1]),
        "eye": np.eye(count, dtype=np.float32)[:, :, None],
        "gain": np.array(gain, np.float32),
        "bias": np.array(0.1 * gain, np.float32),
        "time": np.array([2]),
        "head": head,
        "sum": np.array([1]),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["sound", "one"], ["channel"]),
        helper.make_node("Conv", ["channel", "bank"], ["waves"], strides=[_STEP]),
        helper.make_node("Mul", ["waves", "waves"], ["power"]),
        helper.make_node("Reshape", ["power", "pairs"], ["both"]),
        helper.make_node("ReduceSum", ["both", "sum"], ["features"], keepdims=0),
        helper.make_node("Conv", ["features", "eye"], ["map"]),
        helper.make_node("ReduceMean", ["map", "time"], ["embedding"], keepdims=0),
        helper.make_node("Mul", ["embedding", "gain"], ["louder"]),
        helper.make_node("Sub", ["louder", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("MatMul", ["logits", "head"], ["two"]),
        helper.make_node("Sigmoid", ["two"], ["head_scores"]),
    ]
    outputs = {"scores": count, "embedding": count, "head_scores": 2}
    graph = helper.make_graph(
        nodes,
        "waveform",
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["n", WINDOW_SAMPLES])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
            for name, size in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )


def write_geo(folder: Path) -> None:
    """A geo model that only looks at latitude and week: the low one lives in the north, the middle
    one in the south, and there from week 24 on alone; the rest is never expected anywhere."""
    folder.mkdir()
    slopes = np.zeros((3, len(CLASSES)), np.float32)
    slopes[0, :2] = (0.2, -0.2)
    slopes[2, 1] = 0.5
    bias = np.array([0.0, -12.0, -9.0, -9.0, -9.0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["place", "slopes", "bias"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
        ],
        "geo",
        [helper.make_tensor_value_info("place", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(slopes, "slopes"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        folder / "geo.onnx",
    )
    facts = {"floor": 0.03, "neutral": ["frogxx", "human1", "engine"]}
    (folder / "geo.json").write_text(json.dumps(facts))


def _clips() -> NDArray[np.int16]:
    sounds = [*(tone(s.code) for s in CLASSES), np.zeros(WINDOW_SAMPLES, np.float32)]
    return np.stack([np.round(sound * 32767).astype(np.int16) for sound in sounds])


def make_waveform_bundle(folder: Path, margin: float | None = None) -> Bundle:
    """The bundle; with a `margin` also a student, which takes the sound too."""
    (folder / "members").mkdir(parents=True)
    taxonomy = Taxonomy(CLASSES)
    taxonomy.write_csv(folder / "taxonomy.csv")
    with (folder / NAMES).open("w", newline="", encoding="utf8") as file:
        csv.writer(file).writerows(
            [("code", "de", "fr"), ("lowtoo", "Tieftuter", "Souffleur"), ("engine", "Motor", "")]
        )
    (folder / LICENCE).write_text("the whole text")
    write_network(folder / "members" / "ears.onnx")
    write_geo(folder / "prior")
    scale = np.array([[1.5, 0.5], [0.25, 0.0]], np.float32)
    np.save(folder / _SCALE, scale)
    members = (
        BundleMember(
            "all", "members/ears.onnx", "all", "bank", output="scores", embedding="embedding"
        ),
        BundleMember(
            "head",
            "members/ears.onnx",
            "head",
            "bank",
            output="head_scores",
            species=_HEAD,
            scale="members/head.scale.npy",
        ),
    )
    student = None
    if margin is not None:
        write_network(folder / "members" / "student.onnx", 10.0)
        network = BundleMember(
            "student", "members/student.onnx", "student", "bank", output="scores"
        )
        student = Student(network, below=margin, above=margin, agreement=1.0, opened=0.1)
    clips = _clips()
    sound = {"sound": clips.astype(np.float32) / 32768}
    session = ort.InferenceSession(str(folder / "members" / "ears.onnx"))
    every, two = session.run(["scores", "head_scores"], sound)
    scores = np.full((2, *every.shape), np.nan, np.float32)
    scores[0] = every
    scores[1][:, [taxonomy.index(code) for code in _HEAD]] = scaled(two, scale)
    blend = Blend("logit", 1.0)
    acoustic = acoustic_scores(scores, ["all", "head"], blend, ~np.isnan(scores[:, 0]))
    prior = compute_prior_table(folder / "prior", taxonomy, 20.0, 10.0)[99]
    probe = Probe.of_waveform(
        clips,
        member_scores=scores,
        latitude=20.0,
        longitude=10.0,
        day_of_year=100,
        prior=prior,
        blended=blend_scores(acoustic, prior, blend),
        **({} if student is None else {"student_scores": _student_scores(folder, sound)}),
    )
    probe.write(folder / "probe.npz")
    return seal_bundle(
        folder,
        Manifest(
            members=members,
            blend=blend,
            thresholds=Thresholds(0.5, 0.5),
            padding="zeros",
            taxonomy_digest=taxonomy.digest,
            prior="geo",
            training={"recipe": "test", "geo": {"floor": 0.03, "classes": len(CLASSES)}},
            student=student,
            licence=Licence(
                "CC-BY-NC-SA-4.0",
                "Somebody",
                "Tooters by Somebody",
                "https://example.org",
                "in a test",
            ),
            front_end=named_front_end(WAVEFORM),
        ),
    )


def _student_scores(folder: Path, sound: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = ort.InferenceSession(str(folder / "members/student.onnx")).run(
        ["scores"], sound
    )[0]
    return scores
