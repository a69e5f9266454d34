"""A corpus of one folder for each species: named in any way, with whatever else lies in it."""

import os
from datetime import date
from pathlib import Path

import pytest

from edge.contract.errors import CorpusError
from tests.conftest import hiss, write_sound
from tests.helpers.named_species import write_names
from trainer.corpus.check import check_data
from trainer.corpus.recordings import FOLDERS, Corpus, require_corpus
from trainer.corpus.species_names import SpeciesNames

_SEEDS = iter(range(10_000))


def sound(path: Path, seconds: float = 0.5) -> Path:
    """A file of a sound that no other file has."""
    return write_sound(path, hiss(seconds, 0.01, next(_SEEDS)))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> SpeciesNames:
    return write_names(tmp_path_factory.mktemp("bundle"))


def test_folders_are_species(tmp_path: Path) -> None:
    sound(tmp_path / "Great Tit" / "20240512_051500.wav")
    sound(tmp_path / "Great Tit" / "more" / "dawn" / "b.flac")
    sound(tmp_path / "Turdus merula_Common Blackbird" / "a.WAV")
    sound(tmp_path / "Noise" / "wind.wav")
    require_corpus(tmp_path)
    corpus = Corpus.read(tmp_path)
    assert corpus.layout == FOLDERS
    assert [(s.code, s.scientific_name, s.common_name) for s in corpus.taxonomy] == [
        ("great_tit", "", "Great Tit"),
        ("turdus_merula", "Turdus merula", "Common Blackbird"),
    ]
    assert [r.recording for r in corpus.recordings] == [
        "great_tit/20240512_051500.wav",
        "great_tit/b.flac",
        "turdus_merula/a.WAV",
    ]
    assert all(r.path.is_file() and not r.is_segment for r in corpus.recordings)
    assert corpus.recordings[0].date == date(2024, 5, 12)
    assert corpus.recordings[1].date is None
    assert [r.path.name for r in corpus.backgrounds] == ["wind.wav"]
    assert dict(corpus.known) == {}


def test_names_of_two_languages_are_one_species_and_noted(
    tmp_path: Path, names: SpeciesNames
) -> None:
    sound(tmp_path / "Amsel" / "a.wav")
    sound(tmp_path / "Merle noir" / "a.wav")
    sound(tmp_path / "gretit1" / "a.wav")
    corpus = Corpus.read(tmp_path, names)
    assert corpus.taxonomy.codes == ("eurbla", "gretit1")
    assert corpus.taxonomy[1].common_name == "Great Tit"
    assert [r.recording for r in corpus.recordings] == [
        "eurbla/Amsel/a.wav",
        "eurbla/Merle noir/a.wav",
        "gretit1/a.wav",
    ]
    assert corpus.problems.examples["names that are one species"] == ["Amsel, Merle noir: eurbla"]
    assert dict(corpus.known) == {"eurbla": "eurbla", "gretit1": "gretit1"}


def test_every_name_that_is_not_recognised_is_named_at_once(
    tmp_path: Path, names: SpeciesNames
) -> None:
    for folder in ("Amsel", "Blackbrd", "Robin", "Frog of the pond"):
        sound(tmp_path / folder / "a.wav")
    with pytest.raises(CorpusError) as refused:
        Corpus.read(tmp_path, names)
    told = str(refused.value)
    assert "\n" not in told
    assert "'Blackbrd' (nearest: Common Blackbird (eurbla)" in told
    assert "'Robin' (may be Turdus migratorius (amerob) or Erithacus rubecula (eurrob1))" in told
    assert "'Frog of the pond'" in told
    assert "Amsel" not in told
    assert "--new" in told


def test_a_species_may_be_declared_that_the_model_does_not_know(
    tmp_path: Path, names: SpeciesNames
) -> None:
    for folder in ("Amsel", "Robin", "Dog"):
        sound(tmp_path / folder / "a.wav")
    corpus = Corpus.read(tmp_path, names, new=("robin", "DOG"))
    assert dict(corpus.known) == {"eurbla": "eurbla"}
    assert corpus.taxonomy.codes == ("dog_new", "eurbla", "robin"), "dog is a code of the model"
    with pytest.raises(CorpusError, match=r"--new 'Wren': no such species .* Amsel, Dog, Robin"):
        Corpus.read(tmp_path, names, new=("Robin", "Dog", "Wren"))


def test_one_species_is_enough_when_asked(tmp_path: Path) -> None:
    sound(tmp_path / "Amsel" / "a.wav")
    with pytest.raises(CorpusError, match=r"expected at least 2 species, found 1 \(amsel\)"):
        Corpus.read(tmp_path)
    assert len(Corpus.read(tmp_path, species_min=1).recordings) == 1


def test_the_table_wins_over_the_file_and_the_file_over_the_place_for_all(tmp_path: Path) -> None:
    sound(tmp_path / "a" / "one_20240512_051500 [52.5 13.4].wav")
    sound(tmp_path / "a" / "two_20240512_051500 [52.5 13.4].wav")
    sound(tmp_path / "b" / "three.wav")
    sound(tmp_path / "b" / "four.wav")
    (tmp_path / "metadata.csv").write_text(
        "File;Latitude;Longitude;Date\r\n"
        "two_20240512_051500 [52.5 13.4].wav;48,5;9,1;13.05.2023\r\n"
        "b\\four.wav;;;2022-01-02\r\n"
        "none.wav;1;2;2022-01-02\r\n",
        encoding="utf-16",
    )
    corpus = Corpus.read(tmp_path, place=(1.0, 2.0), species_min=0)
    assert corpus.layout == FOLDERS
    found = {
        r.path.name.split("_")[0]: (r.latitude, r.longitude, r.date) for r in corpus.recordings
    }
    assert found == {
        "one": (52.5, 13.4, date(2024, 5, 12)),
        "two": (48.5, 9.1, date(2023, 5, 13)),
        "three.wav": (1.0, 2.0, None),
        "four.wav": (1.0, 2.0, date(2022, 1, 2)),
    }
    assert corpus.problems.counts == {"recording not found": 1, "date missing": 1}
    assert Corpus.read(tmp_path).problems.counts["place missing"] == 2


def test_a_table_of_other_things_does_no_harm(tmp_path: Path) -> None:
    for name in ("aa", "bb"):
        sound(tmp_path / name / "x.wav")
    (tmp_path / "metadata.csv").write_text("id,licence\n1,CC0\n")
    (tmp_path / "places.csv").write_text("")
    corpus = Corpus.read(tmp_path)
    assert corpus.problems.counts["table of places without a column for the file"] == 2


def test_when_a_file_was_last_written_is_no_date(tmp_path: Path) -> None:
    os.utime(sound(tmp_path / "a" / "x.wav"), (1_700_000_000, 1_700_000_000))
    sound(tmp_path / "b" / "y.wav")
    assert [r.date for r in Corpus.read(tmp_path).recordings] == [None, None]


def test_odd_things_cost_a_line_each(tmp_path: Path) -> None:
    sound(tmp_path / "Amsel" / "good.wav")
    sound(tmp_path / "Robin 🐦 " / "good.wav")
    (tmp_path / "Amsel" / "damaged.wav").write_bytes(b"no sound")
    (tmp_path / "Amsel" / "empty.wav").write_bytes(b"")
    (tmp_path / "Amsel" / "song.m4a").write_bytes(b"x")
    (tmp_path / "Amsel" / "notes.txt").write_text("a fine morning")
    (tmp_path / "Amsel" / "._good.wav").write_bytes(b"x")
    (tmp_path / "Amsel" / ".hidden").mkdir()
    (tmp_path / "Empty").mkdir()
    (tmp_path / "Texts").mkdir()
    (tmp_path / "Texts" / "a.md").write_text("x")
    sound(tmp_path / "loose.wav")
    sound(tmp_path / "🐦" / "a.wav")
    sound(tmp_path / "-Parus major_Great Tit" / "not.wav")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "Amsel" / "broken.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "Linked").symlink_to(sound(tmp_path.parent / "elsewhere" / "c.wav").parent)
    with (tmp_path / os.fsdecode(b"Amsel/b\xff.wav")).open("wb") as file:
        file.write(b"x")
    check = check_data(Corpus.read(tmp_path), 1)
    assert check.layout == FOLDERS
    assert dict(check.species) == {"amsel": 1, "robin": 1, "linked": 1}
    assert check.names["robin"] == "Robin 🐦"
    problems = {
        kind: count
        for kind, count in check.problems.items()
        if not kind.startswith(("date", "place", "species with"))
    }
    assert problems == {
        "audio not readable": 2,
        "not a sound file that can be read": 1,
        "file whose name is not UTF-8": 1,
        "species folder without sound": 2,
        "sound file outside the species' folders": 1,
        "folder whose name has no letters": 1,
        "folder of sounds that a species is not": 1,
        "folder that leads back to the corpus": 1,
    }


def test_a_file_of_two_species_is_told(tmp_path: Path) -> None:
    first = sound(tmp_path / "aa" / "x.wav")
    (tmp_path / "bb").mkdir()
    (tmp_path / "bb" / "copy.wav").write_bytes(first.read_bytes())
    (tmp_path / "bb" / "link.wav").symlink_to(first)
    check = check_data(Corpus.read(tmp_path), 1)
    assert check.problems["same sound as two species"] == 1
    assert check.examples["same sound as two species"] == ["aa/x.wav, bb/copy.wav, bb/link.wav"]


def test_a_folder_of_several_species_labels_its_files_with_all(tmp_path: Path) -> None:
    sound(tmp_path / "Parus major_Great Tit,Turdus merula_Amsel" / "x.wav")
    sound(tmp_path / "Tits, all of them" / "y.wav")
    corpus = Corpus.read(tmp_path)
    assert [(r.recording, r.secondary_labels) for r in corpus.recordings] == [
        ("parus_major/x.wav", ("turdus_merula",)),
        ("tits_all_of_them/y.wav", ()),
        ("turdus_merula/x.wav", ("parus_major",)),
    ]


def test_what_is_no_corpus_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for read in (Corpus.read, require_corpus):
        with pytest.raises(CorpusError) as refused:
            read(tmp_path)
        told = str(refused.value)
        assert "\n" not in told
        assert "folder of sound files for each species" in told
        assert "file, start, end and species" in told
        assert "found notes.txt" in told
    sound(tmp_path / "train_short_audio" / "a" / "x.wav")
    with pytest.raises(CorpusError, match=r"train_metadata.csv is missing.*--data .*short_audio"):
        Corpus.read(tmp_path)
