"""`birdstation corpus`: reviewed clips as a corpus, by the rules for what may leave the station."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge.capture.tags import texts_of
from edge.config import Config, load_config
from edge.contract.errors import ConfigError, StoreError, UsageError
from edge.reports import corpus_folder
from edge.reports.corpus import StationCorpus, write_corpus
from edge.reports.reviewed_clips import (
    ClipVerdicts,
    ReviewedClips,
    SavedClip,
    code_of,
    merge_overlapping,
)
from edge.store.read_only import read_record
from edge.store.record import Store
from tests import HANGS_S
from tests.conftest import hiss, write_sound
from tests.helpers.clip_station import on_small_disk
from tests.helpers.reviewed_station import (
    CLIPS,
    PLACE,
    heard,
    replayed,
    review,
    state_of_files,
    table,
    write_archive,
)
from tests.helpers.spoken import scene
from tests.trials.kills_in_migration import earlier_version

StationYaml = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "in")


@pytest.fixture
def config(station_yaml: StationYaml, archive: Path) -> Config:
    return replayed(station_yaml(CLIPS, station=PLACE), archive)


def files(corpus: Path) -> set[str]:
    """Sounds in a corpus."""
    return {
        path.relative_to(corpus).as_posix()
        for path in corpus.rglob("*")
        if path.is_file() and path.suffix != ".csv" and not path.name.startswith(".")
    }


def text_in(path: Path) -> str:
    """The one text of a sound file."""
    with path.open("rb") as file:
        (text,) = [text.data for text in texts_of(file) if text.field in ("guan", "comment")]
    return text.decode()


def test_confirmed_and_renamed_clips_become_a_corpus(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    (low,) = {one.clip for one in heard(config, "lowtoo", "a_")}
    review(config, heard(config, "lowtoo", "a_")[0].id, "correct")
    review(config, heard(config, "higtoo")[0].id, "wrong", "A  Kazoo, played loud")
    review(config, heard(config, "lowtoo", "b_")[0].id, "correct")
    review(config, heard(config, "midtoo")[0].id, "wrong", "High Tooter")
    before = state_of_files(config.state)
    done = write_corpus(config, out)
    assert state_of_files(config.state) == before, "the station is as it was"
    assert done.species == {"a_kazoo_played_loud": 1, "higtoo": 1, "lowtoo": 2}
    assert done.named_by_people == {"a_kazoo_played_loud": "A Kazoo, played loud"}
    assert (done.added, done.removed, done.left_out, done.unread) == (4, 0, {}, 0)
    rows = table(out)
    assert files(out) == {f"train_short_audio/{r['primary_label']}/{r['filename']}" for r in rows}
    first, second, third, fourth = rows
    assert (first["scientific_name"], first["common_name"]) == ("", "A Kazoo, played loud")
    assert (second["scientific_name"], second["secondary_labels"]) == ("Tonus altus", "['lowtoo']")
    assert (third["primary_label"], third["filename"].startswith("porch_")) == ("lowtoo", True)
    assert {(r["date"], r["time"]) for r in rows} == {
        ("2024-05-12", "02:00"),
        ("2024-05-13", "06:00"),
    }
    assert {(r["latitude"], r["longitude"]) for r in rows} == {("52.123456", "13.654321")}
    assert {(r["author"], r["rating"], r["type"]) for r in rows} == {("porch", "0", "")}
    copies = [
        (out / f"train_short_audio/lowtoo/{r['filename']}").read_bytes() for r in (third, fourth)
    ]
    assert (config.clips_folder / low).read_bytes() in copies
    assert second["filename"] in {third["filename"], fourth["filename"]}, "one clip, one name"


def test_again_adds_what_is_new_and_takes_out_what_was_taken_back(
    config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    low, high = heard(config, "lowtoo", "a_")[0], heard(config, "higtoo")[0]
    review(config, low.id, "correct")
    write_corpus(config, out)
    before = state_of_files(out)
    assert write_corpus(config, out).added == 0
    assert state_of_files(out) == before, "not a byte is written twice"
    stranger = out / "train_short_audio" / "wren" / "mine.wav"
    write_sound(stranger, hiss(1))
    with (out / "train_metadata.csv").open("a") as file:
        file.write("wren,[],,,,Troglodytes,Wren,me,,mine.wav,,,,\n")
    review(config, high.id, "correct")
    done = write_corpus(config, out)
    assert (done.added, done.recordings) == (1, 2)
    assert [r["primary_label"] for r in table(out)] == ["higtoo", "lowtoo", "wren"]
    review(config, low.id, "wrong")
    done = write_corpus(config, out)
    assert (done.removed, done.left_out) == (1, {"not_named": 1})
    assert [r["primary_label"] for r in table(out)] == ["higtoo", "wren"]
    assert stranger.is_file()
    assert not (out / "train_short_audio" / "lowtoo").exists()


def test_the_latest_word_on_a_detection_counts(config: Config, tmp_path: Path) -> None:
    (one, *_) = heard(config, "lowtoo", "a_")
    review(config, one.id, "wrong", "midtoo", reviewer="bob")
    review(config, one.id, "correct", reviewer="ann")
    assert write_corpus(config, tmp_path / "a").species == {"lowtoo": 1}
    review(config, one.id, "unsure", reviewer="cem")
    done = write_corpus(config, tmp_path / "b")
    assert (done.species, done.left_out) == ({}, {"unsure": 1})


def test_contradicting_reviews_of_a_clip_are_one_line(config: Config, tmp_path: Path) -> None:
    first, second, *_ = heard(config, "lowtoo", "a_")
    assert first.clip == second.clip
    review(config, first.id, "correct")
    review(config, second.id, "wrong")
    done = write_corpus(config, tmp_path / "corpus")
    assert done.species == {}
    assert done.details == [f"{first.clip}: reviews contradict each other on lowtoo"]
    assert done.left_out["contradicting"] == 1


def test_backgrounds_are_clips_of_which_all_is_said_to_be_no_bird(
    config: Config, tmp_path: Path
) -> None:
    first, *others = heard(config, "lowtoo", "a_")
    assert others, "a long note is several detections"
    review(config, first.id, "wrong", "NoCall")
    review(config, heard(config, "midtoo")[0].id, "wrong", "nocall")
    assert write_corpus(config, tmp_path / "corpus").backgrounds == 0, "nobody heard the others"
    for one in others:
        review(config, one.id, "wrong", "Noise")
    done = write_corpus(config, tmp_path / "corpus")
    assert (done.backgrounds, done.recordings) == (1, 0), "in the other one a low note is heard"
    assert [name.split("/")[0] for name in files(tmp_path / "corpus")] == ["nocall"]
    review(config, heard(config, "higtoo")[0].id, "wrong")
    assert write_corpus(config, tmp_path / "corpus").backgrounds == 1, "wrong is not: no bird"


@pytest.mark.parametrize("kind", ["flac", "wav", "ogg"])
def test_a_sensitive_species_coarsens_every_place(
    station_yaml: StationYaml, tmp_path: Path, kind: str
) -> None:
    folder = write_archive(tmp_path / "in" / "N52.123456E013.654321")
    lines = f"clips: {{of_recordings: true, format: {kind}}}"
    exact = replayed(station_yaml(lines, station=PLACE), folder.parent)
    (low, *_) = heard(exact, "lowtoo", "%a_")
    (high, *_) = heard(exact, "higtoo")
    review(exact, low.id, "correct")
    review(exact, high.id, "correct")
    out = tmp_path / "corpus"
    assert write_corpus(exact, out).species == {"higtoo": 1, "lowtoo": 1}
    assert "52.123456" in "".join(text_in(out / name) for name in files(out))
    hides = load_config(station_yaml(lines, "sensitive: {species: [higtoo]}", station=PLACE))
    done = write_corpus(hides, out)
    assert (done.species, done.left_out) == ({"lowtoo": 1}, {"sensitive": 1})
    ((name,), (row,)) = files(out), table(out)
    assert (row["latitude"], row["longitude"]) == ("52.1", "13.7")
    assert "Loc Position: 52.1 13.7\n" in text_in(out / name)
    for path in filter(Path.is_file, out.rglob("*")):
        assert not any(fine in path.read_bytes() for fine in (b"52.12", b"13.65")), path
    said, heard_before = (
        soundfile.read(path, dtype="int16")[0]
        for path in (out / name, exact.clips_folder / low.clip)
    )
    assert np.array_equal(said, heard_before)


def test_a_slip_in_a_sensitive_species_stops(station_yaml: StationYaml, config: Config) -> None:
    slip = load_config(station_yaml(CLIPS, "sensitive: {species: [lowto]}", station=PLACE))
    with pytest.raises(ConfigError, match=r"^sensitive\.species: expected codes .* found lowto; "):
        write_corpus(slip, config.state.parent / "corpus")


def test_voices_stay(station_yaml: StationYaml, tmp_path: Path) -> None:
    """Clips that were saved while privacy was off."""
    folder = write_archive(tmp_path / "in")
    sound, _ = soundfile.read(folder / "b_20240513_060000.wav", dtype="float32")
    write_sound(folder / "b_20240513_060000.wav", sound + scene(len(sound) / 32_000, 14.2))
    off = replayed(station_yaml(CLIPS, "privacy: {human: off}", station=PLACE), folder)
    for species, recording in (("lowtoo", "a_"), ("midtoo", "b_")):
        review(off, heard(off, species, recording)[0].id, "correct")
    assert write_corpus(off, tmp_path / "corpus").species == {"lowtoo": 1, "midtoo": 1}
    on = load_config(station_yaml(CLIPS, station=PLACE))
    done = write_corpus(on, tmp_path / "corpus")
    assert (done.species, done.left_out) == ({"lowtoo": 1}, {"voices": 1})
    human = load_config(station_yaml(CLIPS, "privacy: {classes: [lowtoo]}", station=PLACE))
    assert write_corpus(human, tmp_path / "corpus").left_out == {"voices": 2}


def test_clips_that_cannot_be_read_are_counted_and_the_rest_goes_on(
    config: Config, tmp_path: Path
) -> None:
    ones = [
        heard(config, "lowtoo", "a_")[0],
        heard(config, "higtoo")[0],
        heard(config, "midtoo")[0],
    ]
    for one in ones:
        review(config, one.id, "correct")
    gone, cut, _ = (config.clips_folder / one.clip for one in ones)
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-5000])
    done = write_corpus(config, tmp_path / "corpus")
    assert (done.species, done.unread) == ({"midtoo": 1}, 2)
    assert done.left_out == {"missing": 1, "damaged": 1}
    assert len(done.details) == 2
    cut.write_bytes(cut.read_bytes() + bytes(5000))
    assert write_corpus(config, tmp_path / "corpus").left_out == {"missing": 1, "damaged": 1}


def test_a_clip_that_somebody_tagged_is_not_given_away(config: Config, tmp_path: Path) -> None:
    one = heard(config, "lowtoo", "a_")[0]
    review(config, one.id, "correct")
    path = config.clips_folder / one.clip
    content = path.read_bytes()
    at = content.find(b"GUANO|")
    path.write_bytes(content[:at] + b"X" + content[at + 1 :])
    assert write_corpus(config, tmp_path / "corpus").left_out == {"changed": 1}


def test_a_review_outlives_its_detection(
    station_yaml: StationYaml, archive: Path, config: Config, tmp_path: Path
) -> None:
    one = heard(config, "lowtoo", "a_")[0]
    review(config, one.id, "correct")
    station_yaml(CLIPS, "detect: {thresholds: {lowtoo: 1.0}}", station=PLACE)
    again = replayed(config.state / "station.yaml", archive)
    assert heard(again, "lowtoo") == []
    assert write_corpus(again, tmp_path / "corpus").species == {"lowtoo": 1}


class Killed(BaseException):
    """The end of the program, wherever it is."""


def test_a_killed_run_leaves_a_whole_corpus(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every file that it puts in place, in a first and in a later run."""
    low, high, both = (
        heard(config, *one)[0] for one in (("lowtoo", "a_"), ("higtoo",), ("midtoo",))
    )
    put = corpus_folder._put
    whole: dict[str, bytes] = {}
    for kill_at in range(20):
        out = tmp_path / f"corpus{kill_at}"
        review(config, low.id, "correct")
        review(config, high.id, "wrong", "nocall")
        review(config, both.id, "unsure")
        left = kill_at
        died = False

        def deadly(path: Path, content: bytes) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            put(path, content)

        monkeypatch.setattr(corpus_folder, "_put", deadly)
        for change in (None, (high.id, "correct"), (both.id, "correct"), (low.id, "wrong")):
            if change:
                review(config, *change)
            try:
                write_corpus(config, out)
            except Killed:
                died = True
                left = 100
                named = table(out) if (out / "train_metadata.csv").exists() else []
                for row in named:
                    path = out / "train_short_audio" / row["primary_label"] / row["filename"]
                    assert soundfile.info(path).frames > 0
        write_corpus(config, out)
        monkeypatch.setattr(corpus_folder, "_put", put)
        found = {name: content for name, (content, _) in state_of_files(out).items()}
        whole = whole or found
        assert found == whole
        if not died:
            return
    raise AssertionError("it always died")


def body_of_full_disk(small: Path, yaml: Path) -> None:
    config = load_config(yaml)
    (small / "filler").write_bytes(bytes(1_500_000))
    with pytest.raises(OSError, match="No space left") as caught:
        write_corpus(config, small / "corpus")
    assert "corpus" in str(caught.value.filename)
    (small / "filler").unlink()
    assert write_corpus(config, small / "corpus").recordings == 4
    assert not list(small.rglob("*.part"))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_goes_on_when_there_is_room(
    config: Config, tmp_path: Path
) -> None:
    for one in (("lowtoo", "a_"), ("higtoo",), ("midtoo",), ("lowtoo", "b_")):
        review(config, heard(config, *one)[0].id, "correct")
    (tmp_path / "small").mkdir()
    on_small_disk(
        "tests.edge.test_corpus.body_of_full_disk",
        tmp_path / "small",
        3,
        config.state / "station.yaml",
    )


def test_the_record_is_read_while_a_station_writes(config: Config, tmp_path: Path) -> None:
    review(config, heard(config, "lowtoo", "a_")[0].id, "correct")
    with Store(config.database) as store, store.bulk() as db:
        db.execute("DELETE FROM reviews")
        assert write_corpus(config, tmp_path / "corpus").species == {"lowtoo": 1}
    assert write_corpus(config, tmp_path / "corpus").species == {"lowtoo": 1}, (
        "no reviewer took it back: the record lost it"
    )


def test_a_record_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    earlier_version(tmp_path / "old.db")
    with pytest.raises(StoreError, match="of an earlier version; type `birdstation clock show`"):
        read_record(tmp_path / "old.db", lambda record: record.rows("SELECT * FROM reviews_kept"))
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE songs (title)")
    with pytest.raises(StoreError, match="another program's database"):
        read_record(tmp_path / "other.db", lambda record: record.rows("SELECT * FROM recordings"))
    (tmp_path / "no.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        read_record(tmp_path / "no.db", lambda record: record.rows("SELECT 1 FROM recordings"))


def test_it_writes_into_its_own_folders_only(
    config: Config, station_yaml: StationYaml, tmp_path: Path
) -> None:
    for out, words in (
        (config.clips_folder / "x", "where the station has its clips"),
        (tmp_path / "in", "found other files"),
        (config.database, "expected a folder, found a file"),
    ):
        before = state_of_files(tmp_path)
        with pytest.raises(UsageError, match=words):
            write_corpus(config, out)
        assert state_of_files(tmp_path) == before
    write_corpus(config, tmp_path / "corpus")
    other = load_config(station_yaml(CLIPS, station="id: garden"))
    with pytest.raises(UsageError, match="holds clips of station 'porch'"):
        write_corpus(other, tmp_path / "corpus")
    (tmp_path / "corpus" / "train_metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"train_metadata\.csv: .*choose another folder"):
        write_corpus(config, tmp_path / "corpus")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a  chain saw", "a_chain_saw"),
        ("Grünspecht", "grunspecht"),
        ("Chain Saw!", "chain_saw"),
        ("NOCALL?", "nocall_"),
    ],
)
def test_codes_of_names(name: str, code: str) -> None:
    assert code_of(name) == code


def test_codes_of_other_scripts_differ() -> None:
    names = ("Зяблик", "Скворец", "x", "ß", "a" * 40, "a" * 41, "Grønnfink")
    codes = [code_of(name) for name in names]
    assert len(set(codes)) == len(names)
    assert all(2 <= len(code) <= 32 and code.isascii() for code in codes)


@pytest.mark.slow
def test_the_command_as_it_is_typed(config: Config, tmp_path: Path) -> None:
    def edge(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-W", "error", "-m", "edge", *map(str, arguments)]
        line += ["--config", str(config.state / "station.yaml")]
        return subprocess.run(line, capture_output=True, text=True, timeout=HANGS_S)

    out = tmp_path / "corpus"
    done = edge("corpus", "--out", out)
    assert (done.returncode, "first review detections" in done.stdout) == (0, True), done.stderr
    one, other = heard(config, "lowtoo", "a_")[0], heard(config, "higtoo")[0]
    assert edge("review", one.id[:12], "correct", "--reviewer", "ann").returncode == 0
    assert edge("review", other.id, "wrong", "--instead", "a\nkazoo").returncode == 0
    done = edge("corpus", "--out", out)
    assert "2 recordings of 2 species; 2 new, 0 taken out" in done.stdout
    assert "a_kazoo (a kazoo)" in done.stdout
    (config.clips_folder / other.clip).unlink()
    shown = edge("corpus", "--out", tmp_path / "second", "--json")
    summary = StationCorpus(**json.loads(shown.stdout))
    assert (shown.returncode, summary.left_out) == (3, {"missing": 1})
    wrong = edge("corpus", "--out", config.clips_folder)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


def test_clips_of_the_same_sound_are_one() -> None:
    """Other settings, analysed anew, leave a clip beside that of an earlier review."""

    def clip(name: str, start_s: float, seconds: float = 8.0, recording: str = "r") -> SavedClip:
        begin = datetime(2024, 5, 12, 4, tzinfo=timezone.utc) + timedelta(seconds=start_s)
        facts = (f"{name}.flac", recording, begin, seconds, 1, False, "s", None, 0, False, True)
        return SavedClip(name, *facts, True, "")

    said = {
        "a": ClipVerdicts(clip("a", 0), heard={"lowtoo"}, detections={"1"}),
        "b": ClipVerdicts(clip("b", 3), heard={"midtoo"}, not_heard={"x"}, detections={"2"}),
        "c": ClipVerdicts(clip("c", 6), heard={"higtoo"}),
        "d": ClipVerdicts(clip("d", 3, recording="other"), heard={"higtoo"}),
    }
    reviewed = ReviewedClips(clips=said)
    merge_overlapping(reviewed)
    assert sorted(reviewed.clips) == ["a", "c", "d"], "a second's rest of a neighbour is no twin"
    assert reviewed.clips["a"].heard == {"lowtoo", "midtoo"}
    assert reviewed.clips["a"].detections == {"1", "2"}
    assert reviewed.left_out["same_sound"] == 1
    assert reviewed.merged == {"b"}, "what was written of it before is taken out"
