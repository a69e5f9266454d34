"""Heads on a published model: trained, judged on what they have not heard, resumed, refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import ConfigError, CorpusError, UsageError
from export.assemble import assemble
from tests.conftest import hiss, write_sound
from tests.helpers.transfer_run import (
    BIRDS,
    fit_transfer,
    quiet_sounds,
    song,
    transfer_corpus,
    transfer_recipe,
)
from tests.helpers.waveform_bundle import make_waveform_bundle
from trainer.corpus.backgrounds import background_recordings
from trainer.corpus.folds import read_folds
from trainer.corpus.recordings import Corpus
from trainer.files import digest, read_json
from trainer.pipeline.stages import STAGES, Options, run_stages
from trainer.recipe import find_recipe
from trainer.run import Run
from trainer.student.distil import DistilOptions, distil
from trainer.transfer.backbone import Backbone, keep_backbone
from trainer.transfer.embeddings import Embeddings
from trainer.transfer.ensemble import TransferEnsemble
from trainer.transfer.head_windows import head_scores, transfer_set
from trainer.transfer.out_of_fold import Scales, unseen_scores
from trainer.transfer.sounds import background_windows, mixed_copy, windows_in
from trainer.tuning.cautions import cautions
from trainer.tuning.predict import Predictor, predict


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("transfer")
    data = transfer_corpus(folder / "data")
    return fit_transfer(folder, data), folder


def results(run: Path) -> dict[str, str]:
    """What stands for a training: weights, scores, scales, choices, by file."""
    names = [*run.glob("members/*/weights.safetensors"), *run.glob("members/*/oof.npz")]
    names += [run / "scales.npz", run / "tune.json", run / "bag.json", run / "embeddings/index.csv"]
    return {path.relative_to(run).as_posix(): digest(path) for path in names}


def test_it_names_birds_that_it_has_not_heard(made: tuple[Run, Path], tmp_path: Path) -> None:
    run, _ = made
    for number, code in enumerate(BIRDS):
        sound = np.concatenate([hiss(5, 0.02, number), song(code, 5, 77 + number)])
        write_sound(tmp_path / "sounds" / f"{number}_ABC_20240512.ogg", sound)
    told = predict(
        Predictor(Run.open(run.folder)), tmp_path / "sounds", tmp_path / "out.csv", None, print
    )
    assert (told.rows, told.rows_with_calls) == (6, 3)
    rows = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == [
        word for code in BIRDS for word in ("nocall", code)
    ]


def test_a_species_that_the_model_does_not_know(made: tuple[Run, Path]) -> None:
    run, _ = made
    ensemble = TransferEnsemble(run, run.bag())
    assert list(ensemble.classes) == ["lowtoo", "middle"]
    assert list(ensemble.known[-1]) == [True, True, False]
    scores = ensemble.scores(song("newtoo", 5, 3)[None])
    assert np.isnan(scores[-1, 0, 2])
    assert scores[:-1, 0].mean(axis=0).argmax() == 2
    assert ensemble.kinds == ["head"] * 8 + ["own"]


def test_every_window_is_judged_by_heads_that_did_not_hear_it(made: tuple[Run, Path]) -> None:
    run, folder = made
    corpus = Corpus.read(folder / "data")
    learning = transfer_set(run, corpus, Embeddings(run.folder / "embeddings"))
    for info in run.members():
        found = head_scores(run, info.name)
        assert set(learning.fold[found.rows]) == {info.fold}
        assert set(learning.background_fold[found.background_rows]) == {info.fold}
    rows = [head_scores(run, info.name).rows for info in run.members()[:4]]
    assert sorted(np.concatenate(rows)) == list(range(len(learning.fold)))
    unseen = unseen_scores(run, run.members())
    assert unseen.trained[np.arange(len(learning.primary)), learning.primary].all()
    same = learning.recording[:, None] == learning.recording
    assert (learning.fold[:, None] == learning.fold)[same].all(), "a recording is in one fold"


def test_one_scale_for_all(made: tuple[Run, Path]) -> None:
    """After the scale a call of any species, by any kind, has a score above one half."""
    run, folder = made
    scales = Scales.read(run)
    assert scales.head.shape == scales.own.shape == (2, 3)
    unseen = unseen_scores(run, run.members()).scaled(scales)
    corpus = Corpus.read(folder / "data")
    learning = transfer_set(run, corpus, Embeddings(run.folder / "embeddings"))
    own = np.arange(len(learning.primary)), learning.primary
    for kind, windows in enumerate(unseen.mixed[:, 0]):
        known = learning.primary != 2 if kind else np.ones(len(learning.primary), bool)
        assert np.median(windows[own][known]) > 0.5
        assert np.nanmedian(unseen.backgrounds[kind]) < 0.5


def test_run_again_everything_is_done(made: tuple[Run, Path]) -> None:
    run, folder = made
    before = results(run.folder)
    parts = {p.name: p.stat().st_mtime_ns for p in run.folder.rglob("*.npz")}
    fit_transfer(folder, folder / "data")
    assert results(run.folder) == before
    assert {p.name: p.stat().st_mtime_ns for p in run.folder.rglob("*.npz")} == parts


def test_two_jobs_and_a_lost_half_give_the_same_bytes(
    made: tuple[Run, Path], tmp_path: Path
) -> None:
    run, folder = made
    shutil.copytree(folder, tmp_path / "again", ignore=shutil.ignore_patterns("run"))
    again = tmp_path / "again"
    fit_transfer(again, folder / "data", jobs=2)
    assert results(again / "run") == results(run.folder)
    # as if it had been killed: some recordings heard, some heads trained, no later stage
    for part in sorted((again / "run/embeddings/parts").iterdir())[::2]:
        part.unlink()
    for info in run.members()[::2]:
        (again / "run/members" / info.name / "member.json").unlink()
    (again / "run/scales.npz").unlink()
    fit_transfer(again, folder / "data", jobs=2)
    assert results(again / "run") == results(run.folder)


def test_a_recording_more_is_heard_alone(made: tuple[Run, Path], tmp_path: Path) -> None:
    _, folder = made
    shutil.copytree(folder, tmp_path / "more")
    more = tmp_path / "more"
    before = {p.name for p in (more / "run/embeddings/parts").iterdir()}
    write_sound(more / "data/train_short_audio/newtoo/XC99.ogg", song("newtoo", 6, 99))
    table = more / "data/train_metadata.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[-1].replace("XC23", "XC99"))
    fit_transfer(more, more / "data")
    after = {p.name for p in (more / "run/embeddings/parts").iterdir()}
    assert before < after
    assert len(after) == len(before) + 1


def test_a_species_of_one_recording_is_learnt_and_not_judged(tmp_path: Path) -> None:
    data = transfer_corpus(tmp_path / "data")
    for path in sorted((data / "train_short_audio/newtoo").iterdir())[1:]:
        path.unlink()
    run = fit_transfer(tmp_path, data)
    infos = run.members()
    without = [info for info in infos if not head_scores(run, info.name).known[2]]
    assert len({info.fold for info in without}) == 1
    ensemble = TransferEnsemble(run, run.bag())
    scores = ensemble.scores(song("newtoo", 5, 3)[None])[:, 0, 2]
    assert np.isnan(scores).sum() == len(without) + 1
    assert np.nanmin(scores) > 0


def test_one_species(tmp_path: Path) -> None:
    run = fit_transfer(tmp_path, transfer_corpus(tmp_path / "data", codes=["newtoo"]))
    ensemble = TransferEnsemble(run, run.bag())
    assert ensemble.kinds == ["head"] * 8
    mean = ensemble.scores(np.stack([song("newtoo", 5, 3), hiss(5, 0.02)])).mean(axis=0)[:, 0]
    threshold = run.tuning().thresholds.blended
    assert mean[0] > threshold > mean[1]
    (line,) = cautions(run)
    assert line.startswith("no recording says where and on which day it was made")


def test_one_site_and_one_day(tmp_path: Path) -> None:
    """There is nothing to keep apart, so recordings are; and everything is judged."""
    day = {"latitude": "48.5", "longitude": "9.0", "date": "2024-05-12"}
    data = transfer_corpus(tmp_path / "data", where=lambda *_: day)
    run = fit_transfer(tmp_path, data)
    assert {p.fold for p in read_folds(run.folder / "folds.csv")} == {0, 1, 2, 3}
    assert read_json(run.folder / "oof.json")["not_judged"] == []
    assert "the folds are split by recording" in (run.folder / "report.html").read_text()


def test_a_species_in_one_fold_alone(tmp_path: Path) -> None:
    """One of three species is always of the same place and season: the heads of that fold do not
    know it, the others do, and the run says that nobody can judge it."""
    places = [("48.5", "9.0"), ("40.0", "-3.0"), ("60.0", "20.0"), ("52.0", "25.0")]

    def where(code: str, index: int) -> dict[str, str]:
        place = places[0 if code == "middle" else index]
        return {"latitude": place[0], "longitude": place[1], "date": "2024-05-12"}

    run = fit_transfer(tmp_path, transfer_corpus(tmp_path / "data", where=where))
    known = [head_scores(run, info.name).known.tolist() for info in run.members()]
    assert known.count([True, False, True]) == 2, "one head of each form"
    assert known.count([True, True, True]) == 6
    assert read_json(run.folder / "oof.json")["not_judged"] == ["middle"]
    assert any(line.startswith("middle: learnt, but nobody can say") for line in cautions(run))
    ensemble = TransferEnsemble(run, run.bag())
    scores = np.nanmean(ensemble.scores(song("middle", 5, 3)[None])[:, 0], axis=0)
    assert scores.argmax() == 1


def test_what_needs_a_backbone_says_so(made: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = made
    data, out = folder / "data", tmp_path / "run"

    def ask(recipe: str | None, backbone: Path | None, names: tuple[str, ...] = STAGES) -> None:
        options = Options(
            data, out, recipe, None, None, 1, "cpu", backbone=backbone, new=("newtoo",)
        )
        run_stages(options, names, Console(quiet=True))

    with pytest.raises(ConfigError, match=r"needs --backbone BUNDLE.*export adopt"):
        ask("transfer", None)
    for wrong in (tmp_path, folder / "backbone/members/ears.onnx"):
        with pytest.raises(ConfigError, match="expected the folder of an adopted model"):
            ask("transfer", wrong)
    with pytest.raises(UsageError, match="recipe small trains networks of its own"):
        ask("small", folder / "backbone")
    with pytest.raises(UsageError, match="has no stage fit-cnn; it has fit-heads instead"):
        ask("transfer", folder / "backbone", ("fit-cnn",))
    assert not out.exists(), "no error began a run"
    other = make_waveform_bundle(tmp_path / "other", margin=1.0)
    with pytest.raises(ConfigError, match="began with another one"):
        keep_backbone(run.folder, other.folder)
    assert not list(run.folder.glob(".backbone*"))


def test_embeddings_may_be_deleted_afterwards(made: tuple[Run, Path], tmp_path: Path) -> None:
    run, _ = made
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/embeddings/parts")
    assert Run.open(tmp_path / "run").tuning() == run.tuning()


def test_heads_on_heads_are_refused(made: tuple[Run, Path], tmp_path: Path) -> None:
    """They have heard the recordings that they would be judged by."""
    assemble(Run.open(made[0].folder), tmp_path / "own")
    with pytest.raises(ConfigError, match="expected the bundle of a published model, found heads"):
        Backbone.open(tmp_path / "own")


def test_a_recording_is_no_sound_without_birds(
    made: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a slip of the completion key: --nocall names a species' folder."""
    _, folder = made
    quiet = quiet_sounds(tmp_path / "quiet", 2)
    for path in (folder / "data/train_short_audio/lowtoo").iterdir():
        shutil.copy(path, quiet)
    recipe = str(transfer_recipe(tmp_path / "recipe.yaml"))
    options = Options(
        *(folder / "data", tmp_path / "run", recipe, None, None, 1, "cpu"),
        nocall=quiet,
        backbone=folder / "backbone",
        new=("newtoo",),
    )
    run_stages(options, ("embeddings",), Console(width=200))
    said = capsys.readouterr().out
    assert "4 sounds without birds are recordings of the corpus: left out" in said
    assert "backgrounds: 4 windows of 2 files" in said


def test_there_is_no_student(made: tuple[Run, Path]) -> None:
    options = DistilOptions(made[0].folder, (), None, None, 1, "cpu")
    with pytest.raises(ConfigError, match="a student cannot imitate"):
        distil(options, Console(quiet=True))


def test_a_damaged_copy_of_the_backbone_is_named(made: tuple[Run, Path], tmp_path: Path) -> None:
    _, folder = made
    shutil.copytree(folder / "run", tmp_path / "run")
    network = tmp_path / "run/backbone/members/ears.onnx"
    network.write_bytes(network.read_bytes()[:-7])
    with pytest.raises(CorpusError, match=r"ears.onnx: damaged.*remove .*backbone and run"):
        keep_backbone(tmp_path / "run", None)


def test_other_backgrounds_are_asked_for_again(made: tuple[Run, Path], tmp_path: Path) -> None:
    _, folder = made
    shutil.copytree(folder, tmp_path / "copy")
    copy = tmp_path / "copy"
    next((copy / "run/embeddings/parts").iterdir()).unlink()
    recipe = str(transfer_recipe(copy / "recipe.yaml"))
    options = Options(copy / "data", copy / "run", recipe, None, None, 1, "cpu")
    with pytest.raises(CorpusError, match="give their folder again: --nocall FOLDER"):
        run_stages(options, STAGES, Console(quiet=True))


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(2.0, [None]), (5.0, [0.0]), (5.5, [0.0]), (6.0, [0.0, 1.0]), (11.0, [0.0, 5.0, 6.0])],
)
def test_windows_of_a_recording(seconds: float, starts: list[float | None]) -> None:
    sound = np.arange(1, round(seconds * RATE_HZ) + 1, dtype=np.float32)
    found = windows_in(sound, 10)
    assert found.shape == (len(starts), WINDOW_SAMPLES)
    for window, start in zip(found, starts, strict=True):
        if start is None:  # in the middle
            inside = np.flatnonzero(window)
            assert (inside[0], len(inside)) == (round(1.5 * RATE_HZ), len(sound))
        else:
            assert window[0] == round(start * RATE_HZ) + 1
    assert len(windows_in(sound, 1)) == 1


def test_a_copy_depends_on_its_recording_alone() -> None:
    windows = song("lowtoo", 10, 1).reshape(2, -1)
    quiet = (hiss(10, 0.1).reshape(2, -1) * 32767).astype(np.int16)
    first = mixed_copy(windows, "a", 0, quiet, (0.0, 0.0))
    np.testing.assert_array_equal(first, mixed_copy(windows, "a", 0, quiet, (0.0, 0.0)))
    assert not np.array_equal(first, mixed_copy(windows, "b", 0, quiet, (0.0, 0.0)))
    share = np.dot(first[0], windows[0]) / np.dot(windows[0], windows[0])
    added = first[0] / share - windows[0]
    assert 0.5 < np.square(added).mean() / np.square(windows[0]).mean() < 2, "0 dB"


def test_backgrounds_that_cannot_be_read(tmp_path: Path) -> None:
    folder = quiet_sounds(tmp_path, 2)
    (folder / "broken.ogg").write_bytes(b"no sound")
    soundfile.write(folder / "silence.wav", np.zeros(RATE_HZ * 6), RATE_HZ)
    found = background_windows(background_recordings(folder, ()))
    assert (found.real, len(found.unreadable)) == (4, 1)
    assert "broken.ogg" in found.unreadable[0]
    with pytest.raises(ConfigError, match="none of 1 files"):
        background_windows(
            [one for one in background_recordings(folder, ()) if "broken" in one.path.name]
        )
    assert background_windows([]).real == 0


def test_a_backbone_must_give_an_embedding(bundle_folder: Path) -> None:
    with pytest.raises(ConfigError, match="expected the bundle of a published model"):
        Backbone.open(bundle_folder)


def test_the_recipe_is_checked(tmp_path: Path) -> None:
    text = find_recipe("transfer").as_yaml()
    for old, new, told in (
        ("pretrained: false", "pretrained: true", "pretrained: expected false beside transfer"),
        ("copies: 1", "copies: 0", "copies: expected 1 to 10"),
        ("- mlp", "- logistic", "heads: expected different heads"),
        ("dropout: 0.3", "dropout: 1.0", "dropout: expected 0 to 0.9"),
    ):
        assert old in text
        path = tmp_path / "recipe.yaml"
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=told):
            find_recipe(str(path))
