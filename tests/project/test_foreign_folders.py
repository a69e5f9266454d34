"""`--out` into a folder of other things: one line, and every file is as it was. What systems leave
there is nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from edge.capture.folder import FolderWatch
from edge.capture.recording import find_recordings
from edge.contract.bundle import read_bundle
from edge.contract.errors import UsageError
from edge.contract.folders import files_under, holds_nothing, passed_over
from edge.demo.run import run_demo
from export.demo_train import run_demo_train
from export.place_bundle import bundle_place, check_out
from export.trt.build import _alone
from export.trt.build import check_out as check_engines
from tests.conftest import hiss, make_bundle, write_sound
from tests.helpers.trainer_corpus import make_corpus
from trainer.corpus.backgrounds import background_files
from trainer.corpus.mix import MixOptions, mix_soundscapes
from trainer.files import check_replaceable, clear_temporaries, replacing
from trainer.pipeline.stages import STAGES, Options, run_stages
from trainer.recipe import find_recipe
from trainer.report.foldmap import folds_table
from trainer.run import Run
from trainer.student.student_sound import _recordings
from trainer.tuning.predict import Predictor, predict

QUIET = Console(quiet=True)
OTHERS = {  # names that programs of ours might take for their own, and that people use
    "thesis": {
        "thesis.docx": "years",
        ".2024-09-01-fieldnotes.txt": "notes",
        "corpus/.2019-05-backup.csv": "rows",
    },
    "web page": {
        "manifest.json": '{"name": "my site", "icons": []}',
        "index.html": "<p>",
        ".12-draft.html": "<p>",
    },
    "data set": {"manifest.json": "{}", "SHA256SUMS": "0  data.csv\n", "data.csv": "1,2"},
    "station": {
        "station.yaml": "station: {id: porch}\n",
        "station.db": "rows",
        "station.db-wal": "log",
    },
    "kitchen": {"recipe.yaml": "pancakes: 12\n", "summary.json": "{}"},
    "another program's run": {
        "run.json": '{"started": true}',
        "metadata/notes.json": "{}",
        "members/a.txt": "b",
    },
    "clips": {
        "source/bundle": "mine",
        "source/labels.csv": "mine",
        ".1.flac.part": "half",
        "report.html": "<p>",
    },
}


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def fill(folder: Path, kind: str) -> Path:
    for name, text in OTHERS[kind].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("foreign") / "corpus", 4, 1.0)


@pytest.mark.parametrize("kind", OTHERS)
def test_every_command_refuses_a_folder_of_other_things(
    kind: str, data: Path, tmp_path: Path
) -> None:
    out = fill(tmp_path / "theirs", kind)
    before = snapshot(out)
    noise = write_sound(tmp_path / "noise" / "a.wav", hiss(5)).parent
    for stage in STAGES:
        with pytest.raises(UsageError, match="choose a new or empty folder"):
            run_stages(Options(data, out, "demo", None, None, 1, "cpu"), (stage,), QUIET)
    with pytest.raises(UsageError, match="choose a new or empty folder"):
        mix_soundscapes(data, noise, out, MixOptions(0.25, 1, 1, (-5.0, 15.0), 1), lambda *_: None)
    with pytest.raises(UsageError, match="choose another folder"):
        check_out(out)
    with pytest.raises(UsageError, match="choose a new or empty folder"):
        run_demo_train(out, publish=False, console=QUIET)
    assert snapshot(out) == before


@pytest.mark.parametrize("kind", ["thesis", "data set", "station", "kitchen", "clips"])
def test_engines_are_not_laid_among_other_things(kind: str, tmp_path: Path) -> None:
    out = fill(tmp_path / "theirs", kind)
    (out / "build.log").write_text("of another program")
    (out / "yolo.engine").write_text("of another program")
    before = snapshot(out)
    with pytest.raises(UsageError, match="and no engines; choose a new or empty folder"):
        check_engines(out)
    assert snapshot(out) == before


def test_engines_are_built_in_a_folder_by_one_at_a_time(tmp_path: Path) -> None:
    with _alone(tmp_path):
        (tmp_path / ".mixup.engine").write_text("being tried")
        with (
            pytest.raises(UsageError, match="in use by another `export trt`; wait for it"),
            _alone(tmp_path),
        ):
            pass
        check_engines(tmp_path)
    with _alone(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".mixup.engine", "build.log"]


def test_a_table_replaces_no_folder_and_no_other_picture(data: Path, tmp_path: Path) -> None:
    fill(tmp_path / "a.csv", "thesis")
    (tmp_path / "holidays.png").write_text("theirs")
    (tmp_path / "sites.csv").write_text("id,place_name,country,lat,lon\nSSW,Here,X,10,-100\n")
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    (tmp_path / "link.csv").symlink_to(tmp_path / "sites.csv")
    (tmp_path / "nowhere.csv").symlink_to(tmp_path / "gone.csv")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="is a folder"):
        folds_table(data, tmp_path / "a.csv", find_recipe("demo"), QUIET)
    with pytest.raises(UsageError, match=r"holidays\.png: already exists"):
        folds_table(data, tmp_path / "holidays.csv", find_recipe("demo"), QUIET)
    for name in ("a.csv", "sites.csv", "link.csv", "nowhere.csv", "song.wav"):
        with pytest.raises(UsageError, match="not a table of this kind"):
            predict(cast("Predictor", None), data, tmp_path / name, None, lambda *_: None)
    with pytest.raises(UsageError, match="not a table of this kind"):
        folds_table(data, tmp_path / "sites.csv", find_recipe("demo"), QUIET)
    assert snapshot(tmp_path) == before
    (tmp_path / "older.csv").write_text("row_id,birds\n7_SSW_5,nocall\n")
    check_replaceable(tmp_path / "older.csv", ("row_id", "birds"))


@pytest.mark.parametrize("kind", ["station", "kitchen"])
def test_a_demonstration_takes_no_stations_record(kind: str, tmp_path: Path) -> None:
    out = fill(tmp_path / "theirs", kind)
    before = snapshot(out)
    with pytest.raises(UsageError, match="that was not made by a demonstration"):
        run_demo(out, QUIET)
    assert snapshot(out) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["trainer", "folds", "--data", "DATA", "--recipe", "demo"],
        ["trainer", "check-data", "--data", "DATA", "--recipe", "demo"],
        ["trainer", "mix-soundscapes", "--data", "DATA", "--backgrounds", "DATA"],
        ["trainer", "demo-data"],
        ["export", "demo-train"],
        ["edge", "demo"],
    ],
    ids=" ".join,
)
def test_the_refusal_is_exit_2_and_one_line(command: list[str], data: Path, tmp_path: Path) -> None:
    out = fill(fill(tmp_path / "theirs", "thesis"), "station")
    before = snapshot(out)
    words = [str(data) if word == "DATA" else word for word in command]
    where = [str(out)] if "demo-data" in words else ["--out", str(out)]
    done = subprocess.run([sys.executable, "-m", *words, *where], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    if "demo-data" not in words:  # there Typer puts it into a box
        assert done.stderr.count("\n") == 1
    assert snapshot(out) == before


@pytest.mark.slow
def test_a_run_may_begin_beside_what_systems_leave_and_go_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in (".DS_Store", "._run", ".2024-09-01-fieldnotes.txt", "Thumbs.db", ".77-notes.csv"):
        (out / name).write_text("theirs")
    before = snapshot(out)
    options = Options(data, out, "demo", None, None, 1, "cpu")
    run_stages(options, ("folds",), QUIET)
    (out / ".birdstation-part77-tune.json").write_text("of a killed trainer")
    run_stages(options, ("folds",), QUIET)
    assert not (out / ".birdstation-part77-tune.json").exists()
    assert before.items() <= snapshot(out).items()


def test_a_run_that_was_killed_at_its_very_beginning_goes_on(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / "taxonomy.csv").write_text("code,scientific_name,common_name\n")
    run = run_stages(Options(data, tmp_path / "run", "demo", None, None, 1, "cpu"), (), QUIET)
    assert isinstance(run, Run)


def test_only_our_own_temporaries_go(tmp_path: Path) -> None:
    names = (
        ".2024-09-01-fieldnotes.txt",
        "deep/.2019-05-backup.csv",
        ".1-a",
        ".birdstation-mine.txt",
        ".birdstation-2024-05-01-survey.csv",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("theirs")
    with replacing(tmp_path / "deep" / "a.json") as left:
        left.write_text("whole")
    left.write_text("half")  # as a kill would leave it
    clear_temporaries(tmp_path)
    assert not left.exists()
    assert all((tmp_path / name).read_text() == "theirs" for name in names)


def _export(out: Path, source: Path) -> None:
    """What `export onnx` does with its folder, the bundle ready made."""
    with bundle_place(out) as work:
        for path in files_under(source):
            (work / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, work / path.relative_to(source))


def test_an_older_bundle_is_replaced_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    older = make_bundle(tmp_path / "a")
    newer = make_bundle(tmp_path / "b", has_prior=False)
    wanted = {path.relative_to(newer): path.read_bytes() for path in files_under(newer)}
    (older / ".DS_Store").write_text("a Mac's")
    (older / "members" / "._mixup.onnx").write_text("a Mac's")
    (older / ".git" / "objects").mkdir(parents=True)
    (older / ".git" / "objects" / "1").write_text("a repository's")
    older.chmod(0o750)
    left = tmp_path / ".birdstation-export-a"  # of an export that was killed
    (left / "new" / "members").mkdir(parents=True)
    (left / "new" / "members" / "half.onnx").write_text("half")
    (left / "export.json").touch()
    (tmp_path / ".a.2024").write_text("theirs")
    (tmp_path / "link").symlink_to(older)
    _export(tmp_path / "link", newer)
    assert {path.relative_to(older): path.read_bytes() for path in files_under(older)} == wanted
    assert (older / ".git" / "objects" / "1").read_text() == "a repository's"
    assert older.stat().st_mode & 0o777 == 0o750
    assert (
        (older / ".DS_Store").read_text()
        == (older / "members" / "._mixup.onnx").read_text()
        == "a Mac's"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.2024", "a", "b", "link"]
    assert (tmp_path / "link").is_symlink()


def test_the_folder_that_one_is_in_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = make_bundle(tmp_path / "b", has_prior=False)
    (tmp_path / "here").mkdir()
    for _ in range(2):  # into an empty folder, then in the place of that bundle
        monkeypatch.chdir(tmp_path / "here")
        _export(Path(), newer)
        assert read_bundle(tmp_path / "here").id == read_bundle(newer).id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "here"]


@pytest.mark.parametrize("name", ["notes.txt", "members/mine.onnx", "mine", "link"])
def test_a_bundle_with_something_else_in_it_is_left_alone(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "a")
    if name == "mine":
        (bundle / name).mkdir()
    elif name == "link":
        (bundle / name).symlink_to(tmp_path)
    else:
        (bundle / name).write_text("theirs")
    before = snapshot(bundle)
    with pytest.raises(UsageError, match=f"contains {name}, which is not part of the bundle"):
        check_out(bundle)
    assert snapshot(bundle) == before


@pytest.mark.parametrize("name", ["file", "circle"])
def test_what_is_no_folder_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UsageError):
        check_out(tmp_path / name)


def test_a_demo_train_folder_of_before_is_taken_up_again(tmp_path: Path) -> None:
    """It has no mark; what it holds is ours by name, and its corpus says so."""
    for name in ("run", "bundle", "source"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="its corpus is not a demo's"):
        run_demo_train(tmp_path, publish=False, console=QUIET)
    (tmp_path / "thesis.txt").write_text("theirs")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps({"parameters": {}}))
    with pytest.raises(UsageError, match=r"found thesis\.txt"):
        run_demo_train(tmp_path, publish=False, console=QUIET)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "._7019_COR_20190904.ogg",
            ".DS_Store",
            ".Trash",
            ".Trash-1000",
            ".Spotlight-V100",
            "Thumbs.db",
            "THUMBS.DB",
        ),
        *(
            "desktop.ini",
            "Desktop.ini",
            "__MACOSX",
            "System Volume Information",
            "$RECYCLE.BIN",
            "~$labels.csv",
        ),
        *(
            "lost+found",
            "@eaDir",
            "Icon\r",
            ".fseventsd",
            "ehthumbs.db",
            "AUTORUN.INF",
            "a.wav:Zone.Identifier",
        ),
    ],
)
def test_what_systems_leave_is_passed_over(tmp_path: Path, name: str) -> None:
    assert passed_over(name)
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.wav").write_bytes(b"RIFF")
    assert holds_nothing(tmp_path)
    assert files_under(tmp_path) == []


def test_every_reader_of_a_folder_passes_over_them(tmp_path: Path) -> None:
    """The station's two, and the trainer's: backgrounds, sound without labels; predict has its own
    test."""
    wanted = write_sound(tmp_path / "in" / "deep" / "a.wav", hiss(1))
    for left in (
        "._a.wav",
        "deep/._a.wav",
        ".Trash-1000/b.wav",
        "System Volume Information/WPSettings.dat",
        "~$a.csv",
        "__MACOSX/deep/a.wav",
        "$RECYCLE.BIN/c.wav",
        "lost+found/d.wav",
        "@eaDir/a.wav",
    ):
        (tmp_path / "in" / left).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "in" / left).write_bytes(b"no sound")
    assert find_recordings(tmp_path / "in") == [wanted]
    assert FolderWatch(tmp_path / "in", settle_s=0.0).ready() == [wanted]
    assert background_files(tmp_path / "in") == [wanted]
    assert [recording.path for recording in _recordings([tmp_path / "in"], set())] == [wanted]


@pytest.mark.parametrize(
    "name", ["a.wav", "Thumbs", "DCIM", "7019_COR.ogg", "found.000", "dés ktop.ini", "_x.wav"]
)
def test_a_persons_files_are_not(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("theirs")
    assert files_under(tmp_path) == [tmp_path / name]
    assert not holds_nothing(tmp_path)
