"""What a person's slip makes of a corpus, a run or a terminal: it is named, counted or refused, and
nothing hangs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.contract.errors import BirdstationError, ConfigError, CorpusError
from tests import HANGS_S
from tests.helpers.trainer_corpus import CODES
from tests.helpers.trainer_corpus import make_corpus as make_sounding_corpus
from tests.helpers.trainer_run import enter, finish, make_corpus, make_run
from trainer.corpus.check import check_data
from trainer.corpus.recordings import Corpus
from trainer.file_digests import UNREADABLE, Contents
from trainer.files import read_json, write_json
from trainer.recipe import find_recipe
from trainer.run import Run
from trainer.tuning.bag import choose_bag
from trainer.tuning.tune import tune


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("odd", [pipe, endless, loop, Path.mkdir])
def test_a_recording_that_is_no_file_is_counted_and_not_waited_for(
    odd: Callable[[Path], None], tmp_path: Path
) -> None:
    data = make_sounding_corpus(tmp_path / "corpus", 3, 1.0)
    path = data / "train_short_audio" / CODES[0] / "XC10.ogg"
    path.unlink()
    odd(path)
    assert Contents().of(path) == UNREADABLE
    checked = check_data(Corpus.read(data), 1)
    assert checked.counts["recordings_readable"] == 5
    assert checked.problems["audio not readable"] == 1
    assert "XC10.ogg" in checked.examples["audio not readable"][0]


@pytest.mark.parametrize("odd", [pipe, Path.mkdir])
def test_a_recipe_that_is_no_file_is_said(odd: Callable[[Path], None], tmp_path: Path) -> None:
    odd(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"mine\.yaml: expected a recipe in YAML, found no file"):
        find_recipe(str(tmp_path / "mine.yaml"))
    with pytest.raises(
        ConfigError, match=r"other\.yaml: expected a recipe in YAML, found nothing there"
    ):
        find_recipe(str(tmp_path / "other.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("slips")
    corpus = make_corpus(folder / "data")
    run = make_run(folder / "run", corpus)
    choose_bag(run)
    tune(run, corpus)
    finish(run)
    return Run.open(run.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"created": None}, "created: missing"),
        ({"created": "yesterday"}, "created: expected a time in ISO 8601, found 'yesterday'"),
        ({"versions": "v"}, "versions: expected keys and values"),
        ({"data": ["a"]}, "data: expected text"),
    ],
)
def test_how_a_run_began_is_read_strictly(
    finished: Run, changes: dict[str, Any], message: str
) -> None:
    path = finished.folder / "run.json"
    before = read_json(path)
    try:
        write_json(
            path, {key: value for key, value in (before | changes).items() if value is not None}
        )
        with pytest.raises(BirdstationError, match=rf"run\.json: .*{message}"):
            Run.open(finished.folder)
    finally:
        write_json(path, before)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["stripes-fold0-seed1"] * 2, "expected each name once"),
        (["stripes-fold9-seed1"], "expected names of members"),
        ([["stripes-fold0-seed1"]], "expected names of members"),
        ([], "expected names of members"),
    ],
)
def test_a_bag_names_members_once(finished: Run, members: list[Any], message: str) -> None:
    path = finished.folder / "bag.json"
    before = read_json(path)
    try:
        write_json(path, {"members": members})
        with pytest.raises(CorpusError, match=message):
            finished.bag()
    finally:
        write_json(path, before)


def test_a_terminal_that_knows_few_signs_gets_question_marks(tmp_path: Path) -> None:
    data = make_sounding_corpus(tmp_path / "corpus", 2, 1.0)
    command = [sys.executable, "-m", "trainer", "check-data", "--data", str(data), "--jobs", "1"]
    found = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, env=found, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "recordings readable" in done.stdout
    assert done.stdout.isascii()


def test_a_training_meanwhile_is_noticed(finished: Run, tmp_path: Path) -> None:
    """An export that was begun before it would hold networks of both."""
    run = Run.open(Path(shutil.copytree(finished.folder, tmp_path / "run")))
    run.require_unchanged()
    Run(run.folder).book.begin("tune")
    with pytest.raises(
        CorpusError, match="was changed by a training while it was read; run the same command again"
    ):
        run.require_unchanged()


def test_species_that_changed_places_are_noticed(finished: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    header, first, second, *others = (run / "taxonomy.csv").read_text().splitlines()
    (run / "taxonomy.csv").write_text("\n".join([header, second, first, *others]) + "\n")
    with pytest.raises(CorpusError, match=r"taxonomy\.csv: is damaged: its species are not those"):
        Run.open(run)


def test_counts_that_were_edited_are_not_exported(finished: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(finished.folder, tmp_path / "run")))
    enter(run, "check-data")
    Run.open(run.folder)
    write_json(
        run.folder / "check.json",
        read_json(run.folder / "check.json") | {"counts": {"recordings": 10**6}},
    )
    with pytest.raises(CorpusError, match=r"check\.json is damaged"):
        Run.open(run.folder)
    (run.folder / "check.json").unlink()
    assert Run.open(run.folder).provenance()["counts"] == {}


def test_a_book_that_cannot_be_read_is_not_begun_anew(finished: Run, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(finished.folder, tmp_path / "run")))
    (run.folder / "stages.json").unlink()
    (run.folder / "stages.json").symlink_to("stages.json")  # root may read whatever its rights are
    assert run.book.forget_damaged() == ""
    (run.folder / "stages.json").unlink()
    (run.folder / "stages.json").write_text("{")
    assert "stages.json" in run.book.forget_damaged()
    assert run.book.entries() == {}
