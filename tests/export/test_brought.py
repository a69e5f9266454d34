"""`export adopt` with an ONNX file that a person brings: a small one of BirdNET+ V3's shapes."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.contract.bundle import read_bundle
from edge.contract.errors import BundleError, UsageError
from export.adopt.assemble import read_source
from export.adopt.known import read_known
from export.adopt.labels import read_labels, species_of
from export.adopt.own_model import wrap
from tests import HANGS_S, unmeasured

NAME = "birdnet-v3"
LABELS = "Turdus merula\nParus major\nCorvus corax\nHomo sapiens\n"


def write_brought(path: Path, samples: int = 96_000) -> Path:
    """Sound → how loud it is → log-odds of four classes, and an embedding."""
    rng = np.random.default_rng(0)
    weights = {"scores": rng.standard_normal((1, 4)), "embedding": rng.standard_normal((1, 1280))}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["sound", "sound"], ["power"]),
            helper.make_node("ReduceMean", ["power"], ["loud"], axes=[1], keepdims=1),
            *(helper.make_node("MatMul", ["loud", f"{name}_weight"], [name]) for name in weights),
        ],
        "brought",
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["batch", samples])],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", w.shape[1]])
            for n, w in weights.items()
        ],
        [numpy_helper.from_array(w.astype(np.float32), f"{n}_weight") for n, w in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text(LABELS, encoding="utf8")
    return path


def test_a_file_that_is_not_the_model_is_not_remembered_as_the_first(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wrong = write_brought(tmp_path / "wrong.onnx", 160_000)
    right = write_brought(tmp_path / "right.onnx")
    with pytest.raises(BundleError, match="takes sound"):
        read_source(NAME, read_known(NAME), wrong, labels)
    assert len(read_source(NAME, read_known(NAME), right, labels).species) == 4
    model = onnx.load(right)
    model.doc_string = "another release"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(BundleError, match="adopted first had"):
        read_source(NAME, read_known(NAME), tmp_path / "other.onnx", labels)
    record = tmp_path / "cache" / "birdstation" / "models" / f"{NAME}.sha256"
    record.write_text("")  # as a full disk leaves it
    read_source(NAME, read_known(NAME), tmp_path / "other.onnx", labels)
    assert len(record.read_text().strip()) == 64


def test_people_are_no_birds_in_any_model() -> None:
    found = species_of(read_known("perch-v2"), read_labels(LABELS.encode(), "labels"), {})
    assert [one.kind for one in found] == ["bird", "bird", "bird", "human"]
    labels = b"Human_voice\nSpeech\nMale_singing\nVultur gryphus_Crowd Condor\n"
    events = species_of(read_known("perch-v2"), read_labels(labels, "labels"), {})
    assert [one.kind for one in events] == ["human", "human", "human", "bird"]


@pytest.mark.parametrize(
    ("codes", "wrong"), [(("aa", "aa"), "'aa' occurs twice"), (("a 1", "bb"), "species code 'a 1'")]
)
def test_codes_that_cannot_be_are_one_line(
    codes: tuple[str, str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = tmp_path / "labels.csv"
    rows = zip((*codes, "cc", "dd"), LABELS.splitlines(), strict=True)
    table.write_text(
        "code,scientific_name\n" + "".join(f"{code},{name}\n" for code, name in rows),
        encoding="utf8",
    )
    with pytest.raises(BundleError, match=rf"labels\.csv: .*{wrong}"):
        read_source(NAME, read_known(NAME), write_brought(tmp_path / "right.onnx"), table)


def test_labels_of_a_model_that_brings_its_own_are_refused(labels: Path) -> None:
    with pytest.raises(UsageError, match="has its own labels"):
        read_source("birdnet-v2.4", read_known("birdnet-v2.4"), None, labels)


def test_a_full_disk_is_one_line_and_the_older_bundle_stays(tmp_path: Path, labels: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "export",
        "adopt",
        NAME,
        "--from",
        str(write_brought(tmp_path / "right.onnx")),
    ]
    command += [
        "--labels",
        str(labels),
        "--accept",
        "CC-BY-SA-4.0",
        "--out",
        str(tmp_path / "bundle"),
    ]

    def adopt(file_max: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=unmeasured() | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_max, file_max)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANGS_S,
        )

    done = adopt(resource.RLIM_INFINITY)
    assert done.returncode == 0, done.stderr
    before = read_bundle(tmp_path / "bundle").id
    full = adopt(4096)
    assert full.returncode == 73, full.stderr
    assert (
        full.stderr.splitlines()[-1]
        == f"error: {tmp_path / 'bundle'}: cannot be written: File too large"
    )
    assert "Traceback" not in full.stderr
    assert read_bundle(tmp_path / "bundle").id == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundle",
        "cache",
        "labels.txt",
        "right.onnx",
    ]


def test_a_file_whose_weights_lie_elsewhere_is_named(tmp_path: Path) -> None:
    """ONNX keeps large weights in a file beside the network, which people forget to copy."""
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [weights],
    )
    path = tmp_path / "large.onnx"
    onnx.save(
        helper.make_model(graph),
        path,
        save_as_external_data=True,
        location="large.bin",
        size_threshold=0,
    )
    (tmp_path / "large.bin").unlink()
    with pytest.raises(UsageError, match=r"large\.onnx: not an ONNX file: .*large\.bin") as caught:
        wrap(read_known("perch-v2"), path, 5)
    assert "\n" not in str(caught.value)
