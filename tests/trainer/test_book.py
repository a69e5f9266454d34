"""A run's book: what was made from what, and what is made again when something changed, was damaged
or is gone.

One finished run of a tiny corpus, copied for each test; tests/helpers/trainer_edits.py has the
edits.
"""

import dataclasses
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge.contract.bundle import file_sha256
from edge.contract.errors import CorpusError, UsageError
from tests.helpers.trainer_edits import EDITS, LATER
from tests.helpers.trainer_finished import (
    FIRST,
    SECOND,
    again,
    as_from_scratch,
    copied,
    damage,
    finished_ground,
)
from tests.helpers.trainer_ground import Ground
from tests.helpers.trainer_walk import apart, fit_all, picture
from trainer import book
from trainer.book import STAGES, Book, Result, versions
from trainer.corpus.spectrograms import IMAGES, make_spectrograms
from trainer.file_digests import Contents
from trainer.files import read_json, write_json
from trainer.pipeline import stages
from trainer.run import Run
from trainer.training import fit, member
from trainer.training.fit import Workplace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with finished_ground(tmp_path_factory.mktemp("book") / "home") as ground:
        yield ground


@pytest.fixture
def ground(done: Ground, tmp_path: Path) -> Ground:
    return copied(done, tmp_path / "home")


# other sound, other tables


def test_other_sound_of_the_same_size_and_time_is_learnt(ground: Ground) -> None:
    chance = random.Random(1)
    for _ in range(4):
        EDITS["sound replaced"](ground, chance)
    told = again(ground)
    assert set(told.made) >= LATER
    assert {"folds", "fit-metadata"}.isdisjoint(told.made)
    assert told.trained == (FIRST, SECOND)
    assert as_from_scratch(ground) == []


def test_sound_that_was_put_back_is_the_sound_of_before(ground: Ground) -> None:
    before = picture(Run.open(ground.out))
    EDITS["sound replaced"](ground, random.Random(1))
    again(ground)
    ground.put_back("first")
    assert set(again(ground).made) >= LATER
    assert apart(picture(Run.open(ground.out)), before) == []


_ONE_EDIT = [
    *(
        "soundscape labels",
        "site moved",
        "site renamed",
        "soundscape replaced",
        "soundscape removed",
    ),
    *(
        "soundscape row twice",
        "sound removed",
        "sound cut short",
        "place and day",
        "background species",
        "rating",
    ),
    *(
        "columns for people",
        "names corrected",
        "row removed",
        "row twice",
        "row moved",
        "raster edited",
        "more jobs",
    ),
]


@pytest.mark.parametrize("name", _ONE_EDIT)
def test_an_edit_costs_what_it_touches(ground: Ground, name: str) -> None:
    touched = next(
        found for seed in range(9) if (found := EDITS[name](ground, random.Random(seed)))
    )
    told = again(ground)
    assert told.refused == ""
    assert touched.must <= set(told.made) <= touched.may, told.said
    assert again(ground).made == ()


def test_a_soundscape_that_is_trained_on_is_counted_at_once(ground: Ground) -> None:
    shutil.copyfile(ground.sounds()[0], ground.soundscapes()[0])
    assert "check-data" in again(ground).made
    assert "soundscape that is trained on, too" in read_json(ground.out / "check.json")["problems"]


def test_corrected_names_reach_the_run_and_train_nothing(ground: Ground) -> None:
    EDITS["names corrected"](ground, random.Random(1))
    assert set(again(ground).made) <= {"check-data", "report"}
    assert "Other " in (ground.out / "taxonomy.csv").read_text()
    assert "Other " in (ground.out / "report.html").read_text()


def test_recordists_count_where_the_model_remembers_them(ground: Ground) -> None:
    recipe = ground.recipe_now()
    ground.set_recipe(
        dataclasses.replace(recipe, metadata=dataclasses.replace(recipe.metadata, kind="better"))
    )
    assert "fit-metadata" in again(ground).made
    ground.edit(
        "train_metadata.csv", lambda rows: [found.update(author="Another") for found in rows[:20]]
    )
    assert again(ground).made[:1] == ("fit-metadata",)


# stopped in the middle


class Stopped(BaseException):
    """In place of SIGKILL: nothing catches it."""


def stopped_after_the_first_member(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(_run: Run, tasks: list[member.MemberTask], *_: object) -> None:
        member.fit_member(tasks[0])
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_train_all", train)
        with pytest.raises(Stopped):
            fit_all(ground.options())


def other_labels(ground: Ground) -> None:
    for seed in range(6):
        EDITS["background species"](ground, random.Random(seed))


def test_a_wrong_table_put_back_leaves_no_member_of_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = picture(Run.open(ground.out))
    inputs = Run(ground.out).member(FIRST).inputs
    other_labels(ground)
    stopped_after_the_first_member(ground, monkeypatch)
    assert Run(ground.out).member(FIRST).inputs != inputs
    with pytest.raises(
        CorpusError, match="stage fit-cnn is missing; run: python -m trainer fit-all"
    ):
        Run.open(ground.out)
    ground.put_back("first")
    told = again(ground)
    assert told.trained == (FIRST,)
    assert {info.inputs for info in Run(ground.out).members()} == {inputs}
    assert apart(picture(Run.open(ground.out)), before) == []


def test_a_wrong_table_made_another_leaves_no_member_of_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_labels(ground)
    stopped_after_the_first_member(ground, monkeypatch)
    EDITS["sound replaced"](ground, random.Random(3))
    assert again(ground).trained == (FIRST, SECOND)
    assert as_from_scratch(ground) == []


def test_an_entry_is_taken_out_before_the_work_begins(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ground.out / "bag.json").unlink()
    seen = []

    def do(work: Any, _: Any) -> None:
        seen.append(work.run.book.entry("bag"))
        raise Stopped

    monkeypatch.setitem(stages._STAGE, "bag", dataclasses.replace(stages._STAGE["bag"], do=do))
    with pytest.raises(Stopped):
        fit_all(ground.options())
    assert seen == [None]


# stages that do not fit each other


def test_networks_of_another_table_than_the_bag_are_not_used(ground: Ground) -> None:
    other_labels(ground)
    told = fit_all(ground.options(), ("fit-cnn",))
    assert told.made == ("fit-cnn",)
    with pytest.raises(
        CorpusError, match=r"bag was made from another fit-cnn than the run has now; run: .*fit-all"
    ):
        Run.open(ground.out)
    told = fit_all(ground.options(), ("tune",))
    assert re.search(
        "bag comes before tune and must be run again: .*; run: python -m trainer bag",
        told.refused,
    )
    assert again(ground).trained == ()
    assert as_from_scratch(ground) == []


def test_a_recipe_that_was_edited_is_not_that_of_the_run(ground: Ground) -> None:
    recipe = ground.recipe_now()
    ground.set_recipe(
        dataclasses.replace(recipe, tune=dataclasses.replace(recipe.tune, padding=("image",)))
    )
    with pytest.raises(
        CorpusError, match=r"tune was made with another tune than recipe\.yaml has now"
    ):
        Run.open(ground.out)
    assert set(again(ground).made) == {"tune", "report"}
    Run.open(ground.out)


@pytest.mark.parametrize("stage", STAGES[3:])
def test_single_stages_say_what_comes_before(ground: Ground, stage: str) -> None:
    options = dataclasses.replace(ground.options(), out=ground.home / "new")
    told = fit_all(options, (stage,))
    if stage == "fit-metadata":
        assert told.made == (stage,)
    else:
        needed = {"fit-cnn": "folds", "bag": "folds", "tune": "folds", "report": "check-data"}[
            stage
        ]
        before = {"fit-cnn": "fit-cnn", "bag": "fit-cnn", "tune": "fit-cnn", "report": "report"}[
            stage
        ]
        expected = f"stage {needed} comes before {before}|stage {needed} comes before {stage}"
        assert re.search(f"({expected}); run: python -m trainer {needed}$", told.refused), (
            told.refused
        )


# options that are not given


def test_without_rasters_the_model_stays(ground: Ground) -> None:
    before = picture(Run.open(ground.out))
    for names in (STAGES, ("fit-metadata",)):
        ground.asked = {"rasters": None}
        told = fit_all(ground.options(), names)
        assert (told.made, told.refused) == ((), "")
        assert "no --rasters given: its model is kept" in told.said
    assert apart(picture(Run.open(ground.out)), before) == []


def test_no_rasters_is_said_and_done(ground: Ground) -> None:
    ground.rasters = False
    assert set(again(ground).made) == {"folds", "fit-metadata", "tune", "report"}
    assert Run.open(ground.out).provenance()["place_model"] == {
        "absent": "no rasters were given (--rasters FOLDER)"
    }
    assert as_from_scratch(ground) == []


def test_a_model_that_is_to_be_made_again_wants_its_rasters_before_all_else(ground: Ground) -> None:
    EDITS["sound replaced"](ground, random.Random(1))
    EDITS["place and day"](ground, random.Random(1))
    told = again(ground, rasters=None)
    assert told.made == ()
    assert re.search(
        r"must be made again \(places changed\): add --rasters FOLDER, or --no-rasters",
        told.refused,
    )
    assert again(ground).refused == ""


def test_rasters_and_none_contradict_each_other(ground: Ground) -> None:
    options = dataclasses.replace(ground.options(), no_rasters=True)
    with pytest.raises(UsageError, match="contradict each other"):
        stages.run_stages(options, STAGES, Console(quiet=True))


def test_folds_without_rasters_show_no_land_and_say_so(ground: Ground) -> None:
    (ground.out / "folds.png").unlink()
    told = again(ground, rasters=None)
    assert told.made == ("folds",)
    assert "folds.png shows no land" in told.said
    assert again(ground).made == ("folds",)
    assert as_from_scratch(ground) == []


# places, machines and libraries


def test_moved_and_copied_nothing_is_made_again(ground: Ground) -> None:
    ground.sounds()[0].write_bytes(b"no sound")
    ground.soundscapes()[0].write_bytes(b"no sound")
    again(ground)
    chance = random.Random(1)
    for name in ("run moved", "corpus moved", "corpus copied"):
        assert EDITS[name](ground, chance) is not None
        assert (again(ground).made, name) == ((), name)
    home = str(ground.home).encode()
    holding = [
        p.name
        for p in ground.out.rglob("*")
        if p.is_file() and p.suffix != ".html" and home in p.read_bytes()
    ]
    assert holding == []
    assert home not in json.dumps(Run.open(ground.out).provenance()).encode()
    assert as_from_scratch(ground) == []


def test_a_corpus_of_another_name_is_named_anew_and_trains_nothing(ground: Ground) -> None:
    ground.data.rename(ground.data.with_name("other"))
    told = again(ground, data=ground.data.with_name("other"))
    assert set(told.made) == {"check-data", "report"}
    found = Run.open(ground.out).provenance()
    assert found["corpus"] == "corpus"  # it was trained then
    assert read_json(ground.out / "check.json")["corpus"] == "other"


def test_without_its_corpus_a_run_is_still_whole(ground: Ground) -> None:
    shutil.rmtree(ground.data)
    shutil.rmtree(ground.layers)
    before = {path: path.stat().st_mtime_ns for path in ground.out.rglob("*")}
    run = Run.open(ground.out, images=True)
    assert run.provenance()["counts"]["recordings"] == 60
    assert {path: path.stat().st_mtime_ns for path in ground.out.rglob("*")} == before


def test_networks_say_the_libraries_that_trained_them(ground: Ground) -> None:
    path = ground.out / "run.json"
    facts = read_json(path)
    now = facts["versions"]["torch"]
    # when it was begun
    write_json(path, facts | {"versions": facts["versions"] | {"torch": "1.13.0"}})
    other_labels(ground)
    told = again(ground)
    assert "made with other library versions than here" in told.said
    assert "the beginning: torch 1.13.0" in told.said
    assert Run.open(ground.out).provenance()["versions"]["torch"] == now


def test_networks_of_two_versions_name_both(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(ground.out / "members" / FIRST / "weights.safetensors", "turned")
    now = versions()["torch"]
    with monkeypatch.context() as patch:
        patch.setattr(book, "version", lambda _: "1.13.0")
        versions.cache_clear()
        told = again(ground)
        assert told.trained == (FIRST,)
        assert "Finished work is kept" in told.said
    versions.cache_clear()
    found = Run.open(ground.out).provenance()
    assert found["versions"]["torch"] == f"1.13.0, {now}"
    assert found["members"][FIRST]["versions"]["torch"] == "1.13.0"
    assert found["stages"]["fit-cnn"]["versions"]["torch"] == "1.13.0"
    assert again(ground).made == ()


def test_threads_are_those_the_run_began_with(ground: Ground, done: Ground) -> None:
    (ground.out / "members" / SECOND / "oof.npz").unlink()
    told = again(ground, jobs=4)
    assert told.trained == (SECOND,)
    assert apart(picture(Run.open(ground.out)), picture(Run(done.out))) == []
    (ground.out / "members" / SECOND / "oof.npz").unlink()
    assert (
        "--threads 2: networks of this run have 1, and results depend on it"
        in again(ground, threads=2).refused
    )


def test_other_threads_are_other_networks_and_on_record(ground: Ground, done: Ground) -> None:
    """Whatever --jobs is, a network has one thread, unless somebody says so when the run begins."""
    out = ground.home / "new"
    told = fit_all(dataclasses.replace(ground.options(), out=out, jobs=4))
    assert "each network has one thread; --threads 2 would use all cores" in told.said
    assert apart(picture(Run.open(out)), picture(Run(done.out))) == []
    out = ground.home / "newer"
    assert fit_all(dataclasses.replace(ground.options(), out=out, jobs=4, threads=2)).refused == ""
    found = Run.open(out).provenance()["members"]
    assert {about["threads"] for about in found.values()} == {2}
    assert Workplace.of("cpu", None, None, 4).devices == ("cpu",) * 4


# the book alone


def test_a_file_on_a_memory_disk_is_known_by_what_is_in_it(tmp_path: Path, ground: Ground) -> None:
    """What is written into a mapped file there changes no time of it."""
    memory = Path("/dev/shm")
    folder = memory / f"birdstation-test-{os.getpid()}" if memory.is_dir() else tmp_path / "cache"
    try:
        contents = Contents()
        for seed in range(2):
            made = stages.Corpus.read(ground.data).recordings
            make_spectrograms(folder, made, contents, 2, 1, Console(quiet=True))
            assert contents.of(folder / IMAGES) == file_sha256(folder / IMAGES)
            EDITS["sound replaced"](ground, random.Random(seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_an_entry_tells_what_changed(tmp_path: Path) -> None:
    found = Book(tmp_path)
    (tmp_path / "a").write_text("a")
    found.finish(
        "folds", {"places": "1", "sound": "2"}, Result(("a",), "left"), {"corpus": "c"}, 1.26
    )
    assert found.changed("folds", {"places": "1", "sound": "3"}) == ["sound"]
    assert found.changed("folds", {"places": "1"}) == []  # what is not asked may be any
    assert found.changed("folds", {"new": "1"}) == ["new"]
    assert (found.seconds(), found.damaged("folds")) == ({"folds": 1.3}, [])
    (tmp_path / "a").unlink()
    assert found.told(found.damaged("folds")) == "a is missing"
    found.begin("folds")
    assert (found.entry("folds"), found.entries()) == (None, {})


def test_what_is_kept_stays_until_another_is(tmp_path: Path) -> None:
    found = Book(tmp_path)
    assert found.kept("threads") is None
    found.keep("threads", 2)
    found.finish("folds", {}, Result((), "left"), {}, 0.0)
    found.begin("folds")
    assert Book(tmp_path).kept("threads") == 2
    assert found.forget_damaged() == ""
    assert found.kept("threads") == 2
