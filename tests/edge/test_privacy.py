"""Where people speak nothing is kept that the settings forbid: the high tooter plays the human
voice."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.analysis.privacy import DETECTOR_BYTES_MAX
from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, BatchResult, Stretch
from edge.config import load_config
from edge.contract.audio import IMAGE_SHAPE
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from tests.conftest import _member_onnx, hiss, note, write_sound
from tests.helpers.clip_station import stretch
from tests.helpers.clocked_station import station, utc
from tests.helpers.spoken import scene

StationYaml = Callable[..., Path]
VOICE = (
    0.02  # the faint note reaches this score long before it reaches the threshold for a detection
)


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


def heard(path: Path, recognizer: Recognizer) -> list[BatchResult]:
    """A tooter alone, then one while somebody speaks so softly that no detection of a voice would
    come of it."""
    listened = Stretch(Analyst(load_config(path), recognizer), stretch())
    listened.push(
        np.concatenate(
            [note("lowtoo", 10), hiss(10), note("lowtoo", 10, 0.3) + note("higtoo", 10, 0.1)]
        )
    )
    listened.close()
    return list(listened.found())


def kept(found: list[BatchResult], species: str) -> list[float]:
    return [d.offset_s for f in found for d in f.detections if d.species == species]


def private(found: list[BatchResult]) -> list[tuple[float, float]]:
    return [span for f in found for span in f.private]


def test_without_class_or_detector_no_score_means_a_voice(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """The speech detector listens, and takes no tooter for a person."""
    found = heard(station_yaml(), recognizer)
    assert private(found) == []
    assert sum(f.suppressed for f in found) == 0


def test_a_class_of_the_bundle_marks_its_windows(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    found = heard(station_yaml(f"privacy: {{classes: [higtoo], threshold: {VOICE}}}"), recognizer)
    spans = private(found)
    assert spans
    assert min(start for start, _ in spans) >= 15.0
    assert max(stop for _, stop in spans) == 30.0
    assert any(offset >= 20 for offset in kept(found, "lowtoo")), (
        "detections stay, only clips are withheld"
    )


@pytest.mark.slow
def test_all_withholds_detections_too_and_counts_them(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    open_ears = heard(station_yaml(name="open"), recognizer)
    found = heard(
        station_yaml(f"privacy: {{human: all, classes: [higtoo], threshold: {VOICE}}}"), recognizer
    )
    starts = {start for start, _ in private(found)}
    forbidden = [
        offset
        for f in open_ears
        for offset in (d.offset_s for d in f.detections)
        if offset in starts
    ]
    assert forbidden
    assert sum(f.suppressed for f in found) == len(forbidden)
    assert not starts & set(kept(found, "lowtoo") + kept(found, "higtoo"))
    assert kept(found, "lowtoo") == [
        offset for offset in kept(open_ears, "lowtoo") if offset not in starts
    ]


def test_off_is_off(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    path = station_yaml(f'privacy: {{human: "off", classes: [higtoo], threshold: {VOICE}}}')
    assert private(heard(path, recognizer)) == []


def test_a_network_for_speech(
    station_yaml: StationYaml, recognizer: Recognizer, tmp_path: Path
) -> None:
    _member_onnx(tmp_path / "speech.onnx", 24.0)  # its highest score counts, whatever it is of
    found = heard(
        station_yaml(f"privacy: {{detector: {tmp_path / 'speech.onnx'}, threshold: 0.5}}"),
        recognizer,
    )
    assert {start for start, _ in private(found)} >= {0.0, 2.5, 5.0, 20.0, 22.5, 25.0}
    assert 12.5 not in {start for start, _ in private(found)}


Nodes = list[tuple[str, list[str], dict[str, Any]]]
ODD_NETWORKS: dict[str, Nodes] = {  # of x, which is 0 in silence and in noise, and more in sound
    "nan": [("Neg", ["x"], {}), ("Sqrt", ["0"], {})],
    "inf": [("Mul", ["x", "million"], {}), ("Exp", ["0"], {})],
    "-inf": [
        ("Neg", ["x"], {}),
        ("Mul", ["0", "million"], {}),
        ("Exp", ["1"], {}),
        ("Log", ["2"], {}),
    ],
    "more than 1": [("Mul", ["x", "million"], {})],
    "less than 0": [("Mul", ["x", "million"], {}), ("Neg", ["0"], {})],
    "raises": [
        ("Ceil", ["x"], {}),
        ("Cast", ["0"], {"to": TensorProto.INT64}),
        ("Gather", ["none", "1"], {}),
    ],
}


def _network(
    path: Path, nodes: Nodes, out_shape: tuple[str | int, ...] = ("batch", 1), **more: Any
) -> Path:
    """A graph of the window's mean grey level m `(batch, 1)`, and of how far m (m - 127.5) is from
    0: x."""
    numbers = {
        "axes": np.array([1, 2], np.int64),
        "last": np.array([1], np.int64),
        "middle": np.float32(127.5),
        "some": np.float32(500),
        "million": np.float32(1e6),
        "none": np.zeros(1, np.float32),
    }
    first = [
        helper.make_node("ReduceMean", ["grey", "axes"], ["means"], keepdims=0),
        helper.make_node("ReduceMean", ["means", "last"], ["m"], keepdims=1),
        helper.make_node("Sub", ["m", "middle"], ["apart"]),
        helper.make_node("Mul", ["m", "apart"], ["product"]),
        helper.make_node("Abs", ["product"], ["size"]),
        helper.make_node("Sub", ["size", "some"], ["beyond"]),
        helper.make_node("Relu", ["beyond"], ["x"]),
    ]
    own = [
        helper.make_node(op, inputs, [str(at)], **given)
        for at, (op, inputs, given) in enumerate(nodes)
    ]
    out = helper.make_tensor_value_info(
        str(len(nodes) - 1), more.get("kind", TensorProto.FLOAT), out_shape
    )
    inputs = [helper.make_tensor_value_info("grey", TensorProto.FLOAT, ["batch", 1, *IMAGE_SHAPE])]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        for name in more.get("inputs", ())
    ]
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()
    ]
    graph = helper.make_graph(first + own, "detector", inputs, [out], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    return path


@pytest.mark.parametrize("what", ODD_NETWORKS)
def test_what_is_no_score_may_be_a_voice(
    what: str,
    station_yaml: StationYaml,
    recognizer: Recognizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a network that answered rightly when it was tried; it is said once."""
    network = _network(tmp_path / "odd.onnx", ODD_NETWORKS[what])
    analyst = Analyst(load_config(station_yaml(f"privacy: {{detector: {network}}}")), recognizer)
    assert analyst.privacy.trouble is None
    listened = Stretch(analyst, stretch())
    for _ in range(2):
        listened.push(note("lowtoo", 10))
        found = list(listened.found())
        assert sum(len(f.private) for f in found) > 1
        assert {round(stop - start, 1) for start, stop in private(found)} == {5.0}
    told = [
        r.getMessage() for r in caplog.records if "privacy.detector: no score for" in r.getMessage()
    ]
    assert len(told) == 1
    assert (analyst.privacy.trouble or "").startswith("privacy.detector: no score for ")


def _no_input(path: Path) -> None:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1])
    node = helper.make_node(
        "Constant", [], ["y"], value=numpy_helper.from_array(np.zeros((2, 1), np.float32))
    )
    graph = helper.make_graph([node], "constant", [], [out])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(DETECTOR_BYTES_MAX + 1)


NO_DETECTORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.exists, "expected a file, found nothing"),
    "a folder": (Path.mkdir, "expected a file, found something else"),
    "a pipe": (os.mkfifo, "expected a file, found something else"),
    "nothing in it": (Path.touch, "ONNX Runtime cannot load it"),
    "text": (lambda path: path.write_text("no network"), "ONNX Runtime cannot load it"),
    "huge": (_huge, "expected at most 1024 MiB"),
    "no input": (_no_input, ""),
    "another input": (
        lambda path: _network(path, [("Add", ["x", "more"], {})], inputs=["more"]),
        "",
    ),
    "no rows": (
        lambda path: _network(path, [("Squeeze", ["x"], {})], ("batch",)),
        "a row of scores for each window",
    ),
    "text out": (
        lambda path: _network(
            path, [("Cast", ["x"], {"to": TensorProto.STRING})], kind=TensorProto.STRING
        ),
        "",
    ),
    "grey levels": (
        lambda path: _network(path, [("Identity", ["m"], {})]),
        "for noise: expected a score from 0 to 1, ",
    ),
    "no number": (
        lambda path: _network(path, [("Log", ["x"], {})]),
        "for silence: expected a score from 0 to 1, ",
    ),
}


@pytest.mark.parametrize("what", NO_DETECTORS)
def test_a_detector_that_is_none_is_one_line_about_it(
    what: str, station_yaml: StationYaml, recognizer: Recognizer, tmp_path: Path
) -> None:
    make, words = NO_DETECTORS[what]
    make(tmp_path / "odd.onnx")
    config = load_config(station_yaml(f"privacy: {{detector: {tmp_path / 'odd.onnx'}}}"))
    with pytest.raises(ConfigError) as refused:
        Analyst(config, recognizer)
    message = str(refused.value)
    assert message.startswith(f"privacy.detector: {tmp_path / 'odd.onnx'}: ")
    assert words in message
    assert message.endswith(
        "; name an ONNX network with the same inputs as the bundle's networks, or leave it out"
    )
    assert "\n" not in message


def test_in_a_cascade_the_bag_hears_whether_people_speak(
    station_yaml: StationYaml, student_bundle: Path
) -> None:
    """A voice that the student is unsure of opens a window, although no detection hangs on it."""
    bundle = read_bundle(student_bundle)
    cascade = Recognizer(bundle, members="cascade")
    scores = np.full((3, len(bundle.taxonomy)), 0.001, np.float32)
    # near 0.02, far below, far above
    scores[:, bundle.taxonomy.index("higtoo")] = (0.03, 0.001, 0.2)

    def opened(*lines: str) -> list[bool]:
        config = load_config(
            station_yaml("members: cascade", *lines, name=f"s{len(lines)}", bundle=student_bundle)
        )
        return list(Stretch(Analyst(config, cascade), stretch()).undecided(scores))

    assert opened() == [False, False, False]
    assert opened(f"privacy: {{classes: [higtoo], threshold: {VOICE}}}") == [True, False, False]


def test_settings_that_cannot_be_kept_are_refused(
    station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    with pytest.raises(
        ConfigError, match=r"privacy\.classes: expected codes of this bundle .*, found human"
    ):
        heard(station_yaml("privacy: {classes: [human]}"), recognizer)
    with pytest.raises(
        ConfigError, match=r"sensitive\.species: expected codes of this bundle .*, found owll"
    ):
        heard(station_yaml("sensitive: {species: [owll]}"), recognizer)
    with pytest.raises(
        ConfigError, match=r"privacy\.classes: expected codes of this bundle .*, found human"
    ):
        heard(station_yaml("privacy: {human: 'off', classes: [human]}", name="off"), recognizer)


@pytest.mark.parametrize("human", ["clips", "all", "off"])
def test_health_counts_windows_in_which_somebody_spoke(
    human: str, tmp_path: Path, station_yaml: StationYaml, recognizer: Recognizer
) -> None:
    """Whether a detection was withheld in them, one or several."""
    write_sound(tmp_path / "in" / "20240512_061500.wav", note("lowtoo", 30, 0.05) + scene(30, 12))
    lines = "clips: {of_recordings: true}", f"privacy: {{human: '{human}'}}"
    here = station(station_yaml, recognizer, "UTC", utc("2024-05-12 07:00"), *lines)
    here.replay(tmp_path / "in")
    assert here.health().suppressed_today == (0 if human == "off" else 3)
