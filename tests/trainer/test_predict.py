"""A submission from a finished run says what the station says of the same recordings with the
exported bundle."""

import csv
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from torch import nn

from edge.contract.audio import RATE_HZ
from edge.contract.blend import Blend
from edge.contract.bundle import Thresholds
from edge.contract.errors import EXIT_CONFIG, EXIT_REFUSED, ConfigError
from export.assemble import assemble
from tests.helpers.trainer_run import (
    CODES,
    enter,
    finish,
    make_corpus,
    make_rasters,
    make_run,
    note_files,
)
from trainer.files import write_json
from trainer.networks.model import load_network
from trainer.place.metadata import fit_metadata
from trainer.run import Run
from trainer.tuning.predict import Predictor, predict
from trainer.tuning.tune import tune

SITES = "id,place_name,country,lat,lon\nSSW,Here,X,10,-100\n"

LENGTHS = (
    ("7_SSW_20190610.ogg", RATE_HZ, 32.0),  # the last window is of the row before
    ("8_XXX_20190610.ogg", RATE_HZ, 19.98),  # the recorder stopped a buffer early
    ("field.v1.wav", 22_050, 18.0),
    ("short.flac", 48_000, 3.5),
)


def _wake(run: Run, name: str) -> None:
    """An untrained network says 0.5 to everything: give it averages of some noise and a loud
    classifier."""
    network = load_network(run, name)
    torch.manual_seed(len(name))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the average over the batches below
    network.train()
    with torch.no_grad():
        for _ in range(4):
            network(torch.rand(8, 1, 128, 281) * torch.rand(8, 1, 128, 1) * 255)
        for parameter in network.body.get_classifier().parameters():
            parameter.normal_(0, 0.05)
    safetensors.torch.save_file(
        network.state_dict(), run.member_folder(name) / "weights.safetensors"
    )
    note_files(run, name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run: members of two kinds that heard nothing but noise, a metadata model, neighbours
    that count."""
    folder = tmp_path_factory.mktemp("predict")
    corpus = make_corpus(folder / "data")
    run = make_run(folder / "run", corpus)
    for member in run.members():
        _wake(run, member.name)
    fit_metadata(run, corpus, make_rasters(folder / "rasters"))
    write_json(run.folder / "bag.json", {"members": ["mixup-fold1-seed1", "stripes-fold0-seed1"]})
    tune(run, corpus)
    blend = Blend("logit", 0.5, smoothing=0.2)
    run.write_tuning(replace(run.tuning(), blend=blend))
    finish(run)
    return Run.open(folder / "run")


@pytest.fixture(scope="module")
def soundscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loud and soft noise of changing colour: with a place, without one, of another rate, last rows
    cut short."""
    folder = tmp_path_factory.mktemp("soundscapes")
    for number, (name, rate, seconds) in enumerate(LENGTHS):
        random = np.random.default_rng(number)
        noise = random.normal(0, 0.05, round(seconds * rate))
        for second in range(0, int(seconds), 3):
            part = slice(second * rate, (second + 3) * rate)
            noise[part] = np.convolve(noise[part], random.normal(0, 0.4, 30), mode="same")
        with soundfile.SoundFile(folder / name, "w", rate, 1) as file:
            for start in range(0, len(noise), rate):
                file.write(noise[start : start + rate].astype(np.float32))
    (folder / "notes.txt").write_text("no sound")
    (folder / "__MACOSX").mkdir()
    for left in (
        "._7_SSW_20190610.ogg",
        "._field.v1.wav",
        ".DS_Store",
        "Thumbs.db",
        "~$a.csv",
        "__MACOSX/._a.wav",
    ):
        (folder / left).write_bytes(bytes.fromhex("00051607000200004d6163204f532058") + bytes(4080))
    (folder / "deeper.ogg").mkdir()
    (folder / "bad.wav").write_bytes(b"RIFF????WAVEhello")
    return folder


def _amid(scores: np.ndarray) -> float:
    """The middle of the widest gap among the middle half of some scores: no rounding decides what
    passes it."""
    middle = np.sort(scores)[len(scores) // 4 : -(len(scores) // 4)]
    gap = int(np.argmax(np.diff(middle)))
    return float(middle[gap : gap + 2].mean())


def _set_thresholds(run: Run, soundscapes: Path) -> Run:
    """The run with thresholds that some windows pass and others do not."""
    predictor = Predictor(run)
    prior = predictor.prior((10.0, -100.0), date(2019, 6, 10))
    with_prior = predictor.scores(soundscapes / "7_SSW_20190610.ogg", prior)[1]
    alone = [
        predictor.scores(soundscapes / name, None)[1]
        for name in ("8_XXX_20190610.ogg", "field.v1.wav")
    ]
    own = {code: _amid(with_prior[:, i]) for i, code in enumerate(CODES)}
    cut = Thresholds(0.5, _amid(np.concatenate(alone).max(axis=1)), own)
    run.write_tuning(replace(run.tuning(), thresholds=cut))
    enter(run, "tune")
    return Run.open(run.folder)


@pytest.mark.slow
def test_the_submission_is_what_the_station_detects(
    finished: Run, soundscapes: Path, tmp_path: Path
) -> None:
    copied = Run(Path(shutil.copytree(finished.folder, tmp_path / "run")))
    finished = _set_thresholds(copied, soundscapes)
    (tmp_path / "sites.csv").write_text(SITES)
    told = predict(
        Predictor(finished),
        soundscapes,
        tmp_path / "out.csv",
        tmp_path / "sites.csv",
        lambda *_: None,
    )
    assert (told.soundscapes, told.rows, told.without_prior) == (4, 7 + 4 + 4 + 1, 3)
    assert len(told.unreadable) == 1
    assert "bad.wav" in told.unreadable[0]
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {row["row_id"]: row["birds"] for row in csv.DictReader(file)}
    assert [*rows][-5:] == ["field_5", "field_10", "field_15", "field_20", "short_5"]
    assert rows["7_SSW_35"] == "nocall"
    assert len({birds for row, birds in rows.items() if row.startswith("7_")}) > 1
    assert len({birds for row, birds in rows.items() if not row.startswith("7_")}) > 1

    assemble(finished, tmp_path / "bundle")
    (tmp_path / "station.yaml").write_text(
        "station: {id: porch}\nbundle: bundle\nwindows: {hop_s: 5}\nsites: "
        "{SSW: {latitude: 10.0, longitude: -100.0}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "edge",
        "replay",
        str(soundscapes),
        "--config",
        str(tmp_path / "station.yaml"),
    ]
    replayed = subprocess.run(command, capture_output=True, text=True)
    assert replayed.returncode == 3, replayed.stderr  # one recording is refused
    names = ("7_SSW", "8_XXX", "field", "short")
    row_of = {
        (path, 5.0 * row): f"{name}_{5 * row + 5}"
        for name, (path, *_) in zip(names, LENGTHS, strict=True)
        for row in range(6)
    }
    row_of |= {("8_XXX_20190610.ogg", 14.98): "8_XXX_20", ("field.v1.wav", 13.0): "field_20"}
    heard: dict[str, set[str]] = {row: set() for row in rows}
    with closing(sqlite3.connect(tmp_path / "station.db")) as db, db:
        found = db.execute(
            "SELECT r.path, d.offset_s, d.species FROM detections d JOIN recordings r ON r.id = "
            "d.recording"
        )
        for path, offset_s, species in found:
            row = row_of.get((path, round(offset_s, 3)))
            if row:
                heard[row].add(species)
    assert rows == {row: " ".join(sorted(birds)) or "nocall" for row, birds in heard.items()}
    assert any(heard[row] for row in ("8_XXX_20", "field_20", "short_5"))


def test_the_place_weighs_only_where_it_is_known(
    finished: Run, soundscapes: Path, tmp_path: Path
) -> None:
    told = predict(Predictor(finished), soundscapes, tmp_path / "out.csv", None, lambda *_: None)
    assert told.without_prior == 4


@pytest.mark.parametrize(
    ("sites", "files", "message"),
    [
        ("id,lat,lon\nSSW,95,0\n", ["1_SSW_20190610.ogg"], "place not valid: SSW: 95, 0"),
        (None, [], "expected recordings"),
        (None, ["a.wav", "a.ogg"], "its rows would have the same names as those of a.ogg"),
    ],
)
def test_mistakes_are_one_line(
    finished: Run, tmp_path: Path, sites: str | None, files: list[str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in files:
        soundfile.write(tmp_path / "in" / name, np.zeros(RATE_HZ, np.float32), RATE_HZ)
    table = tmp_path / "sites.csv" if sites else None
    if sites:
        (tmp_path / "sites.csv").write_text(sites)
    with pytest.raises(ConfigError, match=message):
        predict(Predictor(finished), tmp_path / "in", tmp_path / "out.csv", table, lambda *_: None)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_the_command_writes_the_submission(
    finished: Run, soundscapes: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "trainer", "predict", "--run", str(finished.folder)]
    command += ["--soundscapes", str(soundscapes), "--out", str(tmp_path / "out.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == EXIT_REFUSED, done.stderr
    assert "16 rows of 4 soundscapes" in done.stdout
    assert "1 could not be read" in done.stdout
    assert "not readable" in done.stdout
    assert (tmp_path / "out.csv").read_text().startswith("row_id,birds\n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"no sound at all")
    command[-3:] = [str(tmp_path / "bad"), "--out", str(tmp_path / "none.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == EXIT_CONFIG, done.stderr
    assert done.stderr.startswith(
        f"error: {tmp_path}/bad: soundscapes: expected one that can be read, found none of 1"
    )
    assert not (tmp_path / "none.csv").exists()


def test_what_was_lost_is_said(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    sound = np.random.default_rng(0).normal(0, 0.1, 20 * RATE_HZ).astype(np.float32)
    for name in ("whole.wav", "cut.wav"):
        soundfile.write(folder / name, sound, RATE_HZ)
    (folder / "cut.wav").write_bytes((folder / "cut.wav").read_bytes()[: 44 + 2 * 12 * RATE_HZ])
    told = predict(Predictor(finished, "cpu"), folder, tmp_path / "out.csv", None, lambda *_: None)
    assert (told.soundscapes, told.rows, told.unreadable) == (2, 4 + 3, ())
    (line,) = told.partly_lost
    assert line.endswith("cut.wav: truncated: header says 20.0 s, 12.0 s could be read")
