"""distil: a real student of a real (tiny) bag, killed and taken up again; what it is asked; what it
refuses."""

import io
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from edge.contract.audio import (
    CONTEXT_SAMPLES,
    CROP_SAMPLES,
    GREY_MAX,
    IMAGE_SHAPE,
    RATE_HZ,
    WINDOW_SAMPLES,
    Padding,
    WindowCutter,
    mel_image,
    mel_images,
)
from edge.contract.bundle import PROBE, read_bundle, seal_bundle
from edge.contract.errors import BirdstationError, BundleError, CorpusError
from export.assemble import assemble
from export.verify import PARITY, verify
from tests.helpers.trainer_run import CROPS, enter, finish, make_corpus, make_run
from trainer.corpus.spectrograms import cache_constants
from trainer.files import read_json, write_json
from trainer.run import Run
from trainer.student.distil import DistilOptions, distil
from trainer.student.student import load_student, read_student
from trainer.student.targets import as_window
from trainer.tuning.bag import choose_bag
from trainer.tuning.tune import tune

pytestmark = pytest.mark.slow

_DEADLINE_S = 240.0
_QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run beside its corpus `data`, and `sound`: two unlabelled recordings and one that
    is none."""
    folder = tmp_path_factory.mktemp("distil")
    corpus = make_corpus(folder / "data", recordings=8)
    run = make_run(folder / "run", corpus)
    _images(run, 8 * len(run.taxonomy) * CROPS)
    choose_bag(run)
    tune(run, corpus)
    finish(run)
    (folder / "sound" / "deep").mkdir(parents=True)
    random = np.random.default_rng(1)
    for name in ("a.wav", "deep/b.wav"):
        soundfile.write(
            folder / "sound" / name, random.normal(0, 0.05, 9 * RATE_HZ).astype(np.float32), RATE_HZ
        )
    (folder / "sound" / "c.wav").write_bytes(b"RIFF, but nothing else")
    return folder


def _images(run: Run, count: int) -> None:
    """A cache of invented images: bright bands, as birds have them."""
    folder = run.folder / "spectrograms"
    random = np.random.default_rng(2)
    images = random.integers(0, 80, (count, *IMAGE_SHAPE), np.uint8)
    for image in images:
        band = int(random.integers(8, 120))
        image[band : band + 4, int(random.integers(0, 200)) :] += 150
    np.save(folder / "images.npy", images)
    np.save(folder / "ranges.npy", np.tile(np.array([-80.0, -20.0], np.float32), (count, 1)))
    write_json(folder / "cache.json", cache_constants(CROPS) | {"done": True})


def _options(folder: Path, run: Path) -> DistilOptions:
    return DistilOptions(run, (folder / "sound",), folder / "data", None, 1, "cpu")


@pytest.fixture(scope="module")
def distilled(finished: Path) -> Path:
    """The same run, with a student."""
    run = Path(shutil.copytree(finished / "run", finished / "distilled"))
    distil(_options(finished, run), _QUIET)
    return run


def test_the_student_is_made_and_judged(distilled: Path) -> None:
    run = Run.open(distilled)
    info = read_student(run)
    assert info is not None
    assert info.epochs == 3
    sound = info.figures["sound"]
    assert sound["unlabelled"] == 2
    assert sound["unreadable"] == 1
    assert sound["held_out"] >= 4
    assert info.figures["soundscapes"]["rows"] == 6
    assert 0 <= info.opened <= 1
    judged = info.figures["cascade"]
    assert judged["windows"] > 8
    assert info.agreement == pytest.approx(judged["agreement"])
    assert not (distilled / "student" / "checkpoint.safetensors").exists()
    with torch.inference_mode():
        assert load_student(run, info)(torch.zeros(2, 1, *IMAGE_SHAPE)).shape == (2, 3)


def test_what_is_done_is_not_done_again(distilled: Path, finished: Path) -> None:
    files = [path for path in (distilled / "student").rglob("[!.]*") if path.is_file()]
    before = [path.stat().st_mtime_ns for path in files]
    distil(_options(finished, distilled), _QUIET)
    assert [path.stat().st_mtime_ns for path in files] == before


def test_damaged_weights_are_not_used_and_are_learnt_again(
    distilled: Path, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(distilled, tmp_path / "run"))
    path = run / "student" / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    opened = Run.open(run)
    info = read_student(opened)
    assert info is not None
    with pytest.raises(
        CorpusError, match=r"weights\.safetensors: is missing or damaged.*; run: .* distil"
    ):
        load_student(opened, info)
    distil(_options(finished, run), _QUIET)
    assert path.read_bytes() == content


def test_killed_twice_it_comes_out_the_same(
    distilled: Path, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    for sign in ("views/000.npy", "checkpoint.safetensors"):
        command = [
            sys.executable,
            "-m",
            "trainer",
            "distil",
            "--run",
            str(run),
            "--sound",
            str(finished / "sound"),
        ]
        command += ["--data", str(finished / "data"), "--jobs", "1", "--device", "cpu"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as started:
            deadline = time.monotonic() + _DEADLINE_S
            while (
                not (run / "student" / sign).is_file()
                and started.poll() is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            started.kill()
            assert started.wait() in (-signal.SIGKILL, 0), started.stderr and started.stderr.read()
        assert (run / "student" / sign).is_file()
    distil(_options(finished, run), _QUIET)
    for name in ("weights.safetensors", "views/001.npy"):
        assert (run / "student" / name).read_bytes() == (distilled / "student" / name).read_bytes()
    for key in ("loss", "below", "above", "agreement", "opened", "figures"):
        assert (
            read_json(run / "student" / "student.json")[key]
            == read_json(distilled / "student" / "student.json")[key]
        )


def test_where_no_soundscape_can_be_read_nothing_is_learnt(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    data = Path(shutil.copytree(finished / "data", tmp_path / "data"))
    for path in (data / "train_soundscapes").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        CorpusError, match=r"expected one that can be read, found none of 2: .*: empty file; "
    ):
        distil(replace(_options(finished, run), data=data), _QUIET)
    assert not (run / "student").exists()


def test_a_soundscape_that_cannot_be_read_is_said(
    finished: Path, distilled: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(distilled, tmp_path / "run"))
    data = Path(shutil.copytree(finished / "data", tmp_path / "data"))
    (data / "train_soundscapes" / "0_SSW_20190610.ogg").write_bytes(b"")
    student = read_json(run / "student" / "student.json")
    console = Console(file=io.StringIO(), width=200)
    # judged anew, learnt as it was
    write_json(run / "student" / "student.json", student | {"judged": "otherwise"})
    info = distil(replace(_options(finished, run), data=data), console)
    assert info.figures["soundscapes"]["rows"] == 3
    assert isinstance(console.file, io.StringIO)
    assert "distil: not readable: 0_SSW_20190610.ogg: empty file" in console.file.getvalue()


@pytest.fixture(scope="module")
def exported(distilled: Path) -> Path:
    """A bundle of it."""
    return assemble(Run.open(distilled), distilled.parent / "bundle", per_kind=1, half=False).folder


def test_a_student_travels_in_the_bundle(exported: Path, distilled: Path) -> None:
    info = read_student(Run.open(distilled))
    assert info is not None
    found = verify(exported)
    assert found.student is not None
    assert found.student <= PARITY
    manifest = read_bundle(exported).manifest
    assert {network.half for network in manifest.networks} == {None}, (
        "it was to have none in half precision"
    )
    assert not list(exported.rglob("*.fp16.onnx"))
    student = manifest.student
    assert student is not None
    assert (student.below, student.above, student.agreement) == (
        info.below,
        info.above,
        info.agreement,
    )
    assert [network.name for network in manifest.networks][-1] == "student"
    assert manifest.training["student"]["taught_by"].startswith(
        "all 4 members of the run's bag, of which"
    )


def test_verify_finds_a_student_that_computes_otherwise(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    bundle = read_bundle(folder)
    probe = bundle.probe()
    replace(probe, student_scores=probe.student_scores + np.float32(0.01)).write(folder / PROBE)
    seal_bundle(folder, bundle.manifest)
    with pytest.raises(BundleError, match=r"the student differs from torch by 0\.01"):
        verify(folder)


def test_a_student_of_another_tuning_is_not_exported(distilled: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(distilled, tmp_path / "run"))
    tuned = read_json(run / "tune.json")
    tuned["thresholds"]["blended"] = 0.99
    write_json(run / "tune.json", tuned)
    enter(Run(run), "tune")
    with pytest.raises(
        CorpusError,
        match="another bag or tuning than the run has now; run: python -m trainer distil",
    ):
        assemble(Run.open(run), tmp_path / "bundle")


@pytest.mark.parametrize("padding", ["context", "zeros", "image"])
def test_it_learns_from_the_images_that_a_station_makes(padding: Padding) -> None:
    time_s = np.arange(CROP_SAMPLES) / RATE_HZ
    sound = (0.2 * np.sin(2 * np.pi * 3000 * time_s) * (np.sin(5 * time_s) > 0)).astype(np.float32)
    sound += np.random.default_rng(0).normal(0, 0.02, CROP_SAMPLES).astype(np.float32)
    images, ranges = mel_images(sound[None])
    db = torch.from_numpy(
        ranges[0, 0] + images[:, None].astype(np.float32) * (ranges[0, 1] - ranges[0, 0]) / GREY_MAX
    )
    found = as_window(db, padding)[0, 0].numpy()
    if padding == "context":
        wanted = mel_image(sound)
    else:
        start = 0 if padding == "zeros" else CONTEXT_SAMPLES
        cutter = WindowCutter(padding=padding)
        wanted = [*cutter.push(sound[start : start + WINDOW_SAMPLES]), *cutter.close()][0].input
    apart = np.abs(found - wanted)
    # frames half inside
    edges = np.abs(np.diff(wanted.astype(int), axis=1, prepend=wanted[:, :1])) > 60
    # the darkest pixel, which is grey 0, may lie where the window's own edge is
    assert np.median(apart) <= 3.0
    assert (apart[~edges] <= 6).mean() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sound": "empty"}, "no sound file in it"),
        ({"run": "nowhere"}, "no run here"),
        ({"run": "begun"}, r"tune\.json is missing"),
        ({"data": "other"}, "has other species than the run"),
    ],
)
def test_refusals_are_one_line(
    finished: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    begun = Path(shutil.copytree(finished / "run", tmp_path / "begun"))
    (begun / "tune.json").unlink()
    shutil.copytree(finished / "data", tmp_path / "other")
    table = tmp_path / "other" / "train_metadata.csv"
    table.write_text(table.read_text().replace("comyel", "zzzbird"))
    sound = (tmp_path / options["sound"],) if "sound" in options else ()
    run = tmp_path / options["run"] if "run" in options else finished / "run"
    data = tmp_path / options["data"] if "data" in options else None
    with pytest.raises(BirdstationError, match=message) as refused:
        distil(DistilOptions(run, sound, data, None, 1, "cpu"), _QUIET)
    assert "\n" not in str(refused.value)
