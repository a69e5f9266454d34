"""Where people speak nothing is kept that the settings forbid: the high tooter plays the human voice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.analysis import Analyst, Found, Stretch
from edge.config import load_config
from edge.contract.audio import IMAGE_SHAPE
from edge.contract.bundle import read_bundle
from edge.contract.errors import BundleError, ConfigError
from edge.recognizer import Recognizer
from tests.clip_station import stretch
from tests.clocked_station import station, utc
from tests.conftest import _member_onnx, hiss, note, write_sound
from tests.spoken import scene

StationYaml = Callable[..., Path]
VOICE = 0.02  # the faint note reaches this score long before it reaches the threshold for a detection


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder))


def heard(path: Path, recognizer: Recognizer) -> list[Found]:
    """A tooter alone, then one while somebody speaks so softly that no detection of a voice would come of it."""
    listened = Stretch(Analyst(load_config(path), recognizer), stretch())
    listened.push(np.concatenate([note("lowtoo", 10), hiss(10), note("lowtoo", 10, 0.3) + note("higtoo", 10, 0.1)]))
    listened.close()
    return list(listened.found())


def kept(found: list[Found], species: str) -> list[float]:
    return [d.offset_s for f in found for d in f.detections if d.species == species]


def private(found: list[Found]) -> list[tuple[float, float]]:
    return [span for f in found for span in f.private]


def test_without_class_or_detector_no_score_means_a_voice(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    """The speech detector listens, and takes no tooter for a person."""
    found = heard(station_yaml(), recognizer)
    assert private(found) == []
    assert sum(f.suppressed for f in found) == 0


def test_a_class_of_the_bundle_marks_its_windows(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    found = heard(station_yaml(f"privacy: {{classes: [higtoo], threshold: {VOICE}}}"), recognizer)
    spans = private(found)
    assert spans
    assert min(start for start, _ in spans) >= 15.0
    assert max(stop for _, stop in spans) == 30.0
    assert any(offset >= 20 for offset in kept(found, "lowtoo")), "detections stay, only clips are withheld"


@pytest.mark.slow
def test_all_withholds_detections_too_and_counts_them(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    open_ears = heard(station_yaml(name="open"), recognizer)
    found = heard(station_yaml(f"privacy: {{human: all, classes: [higtoo], threshold: {VOICE}}}"), recognizer)
    starts = {start for start, _ in private(found)}
    forbidden = [offset for f in open_ears for offset in (d.offset_s for d in f.detections) if offset in starts]
    assert forbidden
    assert sum(f.suppressed for f in found) == len(forbidden)
    assert not starts & set(kept(found, "lowtoo") + kept(found, "higtoo"))
    assert kept(found, "lowtoo") == [offset for offset in kept(open_ears, "lowtoo") if offset not in starts]


def test_off_is_off(station_yaml: StationYaml, recognizer: Recognizer) -> None:
    path = station_yaml(f'privacy: {{human: "off", classes: [higtoo], threshold: {VOICE}}}')
    assert private(heard(path, recognizer)) == []


def test_a_network_for_speech(station_yaml: StationYaml, recognizer: Recognizer, tmp_path: Path) -> None:
    _member_onnx(tmp_path / "speech.onnx", 24.0)  # its highest score counts, whatever it is of
    found = heard(station_yaml(f"privacy: {{detector: {tmp_path / 'speech.onnx'}, threshold: 0.5}}"), recognizer)
    assert {start for start, _ in private(found)} >= {0.0, 2.5, 5.0, 20.0, 22.5, 25.0}
    assert 12.5 not in {start for start, _ in private(found)}


def _network(path: Path, op: str, keep: int) -> Path:
    """The mean of a window's image, and `op` of it."""
    nodes = [
        helper.make_node("ReduceMean", ["grey", "axes"], ["mean"], keepdims=keep),
        helper.make_node("Flatten" if keep else "Identity", ["mean"], ["flat"]),
        helper.make_node(op, ["flat"], ["scores"]),
    ]
    grey = helper.make_tensor_value_info("grey", TensorProto.FLOAT, ["batch", 1, *IMAGE_SHAPE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1] if keep else ["batch"])
    axes = numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")
    graph = helper.make_graph(nodes, "detector", [grey], [scores], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_network_that_says_no_number_may_hear_a_voice(
    station_yaml: StationYaml, recognizer: Recognizer, tmp_path: Path
) -> None:
    """Nor does it hide what the classes say; scores without a second axis are refused before the first sound."""
    never = _network(tmp_path / "never.onnx", "Acos", 1)  # NaN beyond 1, as grey levels are
    found = heard(station_yaml(f"privacy: {{detector: {never}}}"), recognizer)
    assert len(private(found)) == sum(f.windows for f in found[-1:])
    flat = _network(tmp_path / "flat.onnx", "Sigmoid", 0)
    with pytest.raises(BundleError, match=r"privacy\.detector: .*flat\.onnx: gives \(2,\) for two windows"):
        heard(station_yaml(f"privacy: {{detector: {flat}}}", name="flat"), recognizer)


def test_in_a_cascade_the_bag_hears_whether_people_speak(station_yaml: StationYaml, student_bundle: Path) -> None:
    """A voice that the student is unsure of opens a window, although no detection hangs on it."""
    bundle = read_bundle(student_bundle)
    cascade = Recognizer(bundle, members="cascade")
    scores = np.full((3, len(bundle.taxonomy)), 0.001, np.float32)
    scores[:, bundle.taxonomy.index("higtoo")] = (0.03, 0.001, 0.2)  # near 0.02, far below, far above

    def opened(*lines: str) -> list[bool]:
        config = load_config(station_yaml("members: cascade", *lines, name=f"s{len(lines)}", bundle=student_bundle))
        return list(Stretch(Analyst(config, cascade), stretch()).undecided(scores))

    assert opened() == [False, False, False]
    assert opened(f"privacy: {{classes: [higtoo], threshold: {VOICE}}}") == [True, False, False]


def test_settings_that_cannot_be_kept_are_refused(
    station_yaml: StationYaml, recognizer: Recognizer, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.classes: expected codes of this bundle .*, found human"):
        heard(station_yaml("privacy: {classes: [human]}"), recognizer)
    (tmp_path / "speech.onnx").write_bytes(b"no network")
    with pytest.raises(BundleError, match=r"privacy\.detector: .*speech\.onnx"):
        heard(station_yaml(f"privacy: {{detector: {tmp_path / 'speech.onnx'}}}"), recognizer)


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
