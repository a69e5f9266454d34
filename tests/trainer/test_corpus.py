"""The corpus: odd rows are counted with an example and survived; what is not a corpus is refused in
one line."""

import struct
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ
from edge.contract.errors import CorpusError, RecordingError
from tests.conftest import hiss, write_sound
from tests.helpers.named_species import write_names
from tests.helpers.trainer_corpus import CODES, make_corpus, row, write_table
from trainer.corpus.check import check_data
from trainer.corpus.folds import make_folds, read_folds, write_folds
from trainer.corpus.recordings import METADATA, Corpus, probe_audio, read_sound
from trainer.corpus.soundscapes import LABELS, SITES
from trainer.corpus.tables import Problems, day_of
from trainer.recipe import FoldRecipe

LOW, MID = CODES


def read(data: Path, *rows: dict[str, str]) -> Corpus:
    """A corpus of one good row per species and these."""
    write_table(data / METADATA, [row(LOW, "a.ogg"), row(MID, "b.ogg"), *rows])
    return Corpus.read(data)


def test_a_good_corpus_has_no_problems(tmp_path: Path) -> None:
    corpus = Corpus.read(make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True))
    assert corpus.problems.counts == {}
    assert corpus.taxonomy.codes == tuple(sorted(CODES))
    assert len(corpus.recordings) == 4
    first = corpus.recordings[0]
    assert (first.recording, first.latitude, first.date, first.rating) == (
        f"{LOW}/XC00.ogg",
        40.0,
        date(2019, 1, 4),
        4.0,
    )
    (soundscape,) = corpus.soundscapes
    assert (soundscape.site, soundscape.date, soundscape.latitude) == (
        "ABC",
        date(2019, 5, 4),
        48.0,
    )
    assert soundscape.labels["7_ABC_10"] == {"nocall"}


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ({"date": "2012-00-00"}, "date not valid"),
        ({"date": "0000-00-00"}, "date not valid"),
        ({"date": "2013-02-30"}, "date not valid"),
        ({"date": "yesterday"}, "date not valid"),
        ({"date": "2019-05-017"}, "date not valid"),
        ({"date": "2019-05-01; or 2012"}, "date not valid"),
        ({"date": "2019-05-31st"}, "date not valid"),
        ({"date": "2019-05-01T25"}, "date not valid"),
        ({"date": "٢٠١٩-٠٥-٠١"}, "date not valid"),
        ({"date": "9999-12-31"}, "date not valid"),
        ({"date": "0001-01-01"}, "date not valid"),
        ({"date": f"{date.today() + timedelta(days=2)}"}, "date not valid"),
        ({"date": ""}, "date missing"),
        ({"latitude": ""}, "place missing"),
        ({"latitude": "91.0"}, "place not valid"),
        ({"longitude": "nan"}, "place not valid"),
        ({"longitude": "11,5"}, "place not valid"),
        ({"rating": "good"}, "rating not valid"),
        ({"secondary_labels": "['unknown1']"}, "secondary label of an unknown species"),
        ({"secondary_labels": "[1]"}, "secondary labels not valid"),
        ({"secondary_labels": "__import__('os')"}, "secondary labels not valid"),
    ],
)
def test_an_odd_cell_is_counted_and_survived(
    tmp_path: Path, cells: dict[str, str], kind: str
) -> None:
    corpus = read(tmp_path, row(LOW, "odd.ogg", **cells))
    assert len(corpus.recordings) == 3
    assert corpus.problems.counts[kind] == 1
    assert f"{LOW}/odd.ogg" in corpus.problems.examples[kind][0]
    odd = corpus.recordings[2]
    if kind.startswith("date"):
        assert odd.date is None
        assert odd.quarter is None
    if kind.startswith("place"):
        assert odd.latitude is None
        assert odd.longitude is None


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ({"filename": ""}, "row without species or file"),
        ({"filename": "../../etc/passwd"}, "row without species or file"),
        ({"filename": "a.ogg"}, "row twice"),
        ({"primary_label": "Not A Code"}, "species code not usable"),
        ({"primary_label": "nocall"}, "species code not usable"),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_and_left_out(
    tmp_path: Path, cells: dict[str, str], kind: str
) -> None:
    corpus = read(tmp_path, row(LOW, "odd.ogg") | cells)
    assert len(corpus.recordings) == 2
    assert corpus.problems.counts[kind] == 1


@pytest.mark.parametrize(
    "text", ["2019-05-01", " 2019-05-01 ", "2019-05-01T10:00", "2019-05-01 00:00:00", "1889-01-01"]
)
def test_a_day_with_or_without_a_time_is_one(text: str) -> None:
    problems = Problems()
    found = day_of(text, "x", problems)
    assert found == date.fromisoformat(text.strip()[:10])
    assert problems.counts == {}
    assert day_of(str(date.today()), "x", problems) == date.today()


def labelled(data: Path, *rows: tuple[str, str, str, str, str]) -> Corpus:
    """A corpus with a soundscape and these rows: row_id, site, audio_id, seconds, birds."""
    names = ("row_id", "site", "audio_id", "seconds", "birds")
    write_table(data / LABELS, [dict(zip(names, row, strict=True)) for row in rows])
    return Corpus.read(data)


def label_row(second: int, birds: str) -> tuple[str, str, str, str, str]:
    return f"7_ABC_{second}", "ABC", "7", str(second), birds


def test_labelled_rows_that_contradict_each_other_teach_nothing(tmp_path: Path) -> None:
    """Equal ones count once; of contradicting ones neither is taken, nor a third that agrees with
    one of them."""
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    corpus = labelled(
        data,
        *(label_row(5, LOW), label_row(5, "nocall"), label_row(5, LOW)),
        *(label_row(10, f"{LOW} {MID}"), label_row(10, f" {MID}  {LOW} ")),
        *(label_row(15, MID), label_row(20, "")),
    )
    (soundscape,) = corpus.soundscapes
    assert soundscape.labels == {"7_ABC_10": {LOW, MID}, "7_ABC_15": {MID}, "7_ABC_20": {"nocall"}}
    assert corpus.problems.counts == {"row twice": 3, "labelled rows that contradict each other": 1}
    assert corpus.problems.examples["labelled rows that contradict each other"] == [
        f"{LABELS} line 3: 7_ABC_5"
    ]


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (("7_ABC_5", "ABC", "7", "10", LOW), "labelled row that contradicts its id"),
        (("7_ABC_5", "ABC", "8", "5", LOW), "labelled row that contradicts its id"),
        (("7_ABC_5", "XYZ", "7", "5", LOW), "labelled row that contradicts its id"),
        (("7_ABC_5", "ABC", "7", "soon", LOW), "labelled row that contradicts its id"),
        (("7_ABC", "ABC", "7", "5", LOW), "row malformed"),
        (("", "ABC", "7", "5", LOW), "row malformed"),
        (("7_ABC_²", "ABC", "7", "²", LOW), "row malformed"),
        (label_row(7, LOW), "labelled row of no 5 s"),
        (label_row(0, LOW), "labelled row of no 5 s"),
        (label_row(5, f"nocall {LOW}"), "labelled row with nocall beside species"),
    ],
)
def test_a_labelled_row_that_contradicts_itself_is_counted_and_not_taken(
    tmp_path: Path, odd: tuple[str, str, str, str, str], kind: str
) -> None:
    corpus = labelled(
        make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True), odd, label_row(10, MID)
    )
    (soundscape,) = corpus.soundscapes
    assert soundscape.labels == {"7_ABC_10": {MID}}
    assert corpus.problems.counts == {kind: 1}
    assert f"{LABELS} line 2" in corpus.problems.examples[kind][0]


def test_labels_in_capitals_are_the_species_they_name(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    corpus = labelled(
        data, label_row(5, f" {LOW.upper()} "), label_row(10, "NoCall"), label_row(15, "Unknown1")
    )
    (soundscape,) = corpus.soundscapes
    assert soundscape.labels == {"7_ABC_5": {LOW}, "7_ABC_10": {"nocall"}, "7_ABC_15": {"Unknown1"}}
    assert corpus.problems.counts == {
        "soundscape label in capitals": 1,
        "soundscape label of an unknown species": 1,
    }


def test_a_site_in_two_places_is_in_none(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    path = data / SITES
    first = path.read_text()
    path.write_text(first + first.splitlines()[1] + "\n")
    (soundscape,) = Corpus.read(data).soundscapes
    assert soundscape.latitude == 48.0
    path.write_text(first + first.splitlines()[1].replace("48.0", "49.0") + "\n")
    corpus = Corpus.read(data)
    assert corpus.soundscapes[0].latitude is None
    assert corpus.problems.counts == {"row twice": 1, "site in two places": 1}


@pytest.mark.parametrize(
    "name", ["a\x85b.ogg", "a\u2028b.ogg", "a\nb.ogg", "a\rb.ogg", 'a, "b".ogg', "a b;'.ogg"]
)
def test_a_file_of_any_name_is_found_and_has_a_fold(tmp_path: Path, name: str) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0)
    folder = data / "train_short_audio" / LOW
    (folder / "XC00.ogg").rename(folder / name)
    path = data / METADATA
    quoted = name.replace('"', '""')
    path.write_bytes(path.read_bytes().replace(b"XC00.ogg", f'"{quoted}"'.encode()))
    corpus = Corpus.read(data)
    assert corpus.problems.counts == {}
    assert corpus.recordings[0].recording == f"{LOW}/{name}"
    placed = make_folds(corpus.recordings, FoldRecipe(2, 5.0), 1)
    write_folds(tmp_path / "folds.csv", placed)
    assert read_folds(tmp_path / "folds.csv") == placed


def test_a_row_with_too_few_cells_is_named_by_its_line(tmp_path: Path) -> None:
    read(tmp_path)
    path = tmp_path / METADATA
    path.write_text(path.read_text() + f"{LOW},short\n")
    corpus = Corpus.read(tmp_path)
    assert corpus.problems.examples["row malformed"] == [f"{METADATA} line 4"]


def test_secondary_labels_are_the_known_others(tmp_path: Path) -> None:
    corpus = read(
        tmp_path, row(LOW, "c.ogg", secondary_labels=f"['{MID}', '{LOW}', 'unknown1', '{MID}']")
    )
    assert corpus.recordings[2].secondary_labels == (MID,)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda data: (data / METADATA).unlink(), "expected a corpus with train_metadata.csv"),
        (
            lambda data: (data / METADATA).write_text("primary_label,filename\n"),
            "column secondary_labels",
        ),
        (lambda data: (data / METADATA).write_text(""), "column primary_label"),
        (
            lambda data: write_table(data / METADATA, [row(LOW, "a.ogg")]),
            "expected at least 2 species, found 1",
        ),
        (lambda data: (data / LABELS).write_text("row_id\n"), "column site"),
    ],
)
def test_what_is_not_a_corpus_is_refused_in_one_line(tmp_path: Path, spoil, expected: str) -> None:  # type: ignore[no-untyped-def]
    read(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CorpusError) as refused:
        Corpus.read(tmp_path)
    assert expected in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        Corpus.read(tmp_path / "nothing")


def test_two_soundscapes_of_one_name_are_named_and_neither_is_learnt_from(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    folder = data / "train_soundscapes"
    (folder / "7_ABC_20190505.ogg").write_bytes((folder / "7_ABC_20190504.ogg").read_bytes())
    corpus = Corpus.read(data)
    assert corpus.soundscapes == ()
    assert corpus.problems.examples == {
        "soundscape of the same rows as another": ["7_ABC_20190504.ogg", "7_ABC_20190505.ogg"]
    }


def test_check_data_counts_unreadable_and_missing_audio(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0)
    audio = data / "train_short_audio"
    (audio / LOW / "XC00.ogg").write_bytes(b"OggS nonsense")
    (audio / MID / "XC01.ogg").unlink()
    (audio / MID / "XC11.ogg").write_bytes(b"")
    checked = check_data(Corpus.read(data), jobs=1)
    assert checked.counts["recordings"] == 4
    assert checked.counts["recordings_readable"] == 1
    assert checked.problems == {
        "audio file missing": 1,
        "audio not readable": 2,
        "species without readable audio": 1,
        "species with fewer than 5 recordings": 2,
    }


def test_sound_of_another_rate_and_channels_is_brought_to_32_khz_mono(tmp_path: Path) -> None:
    time_s = np.arange(48_000 * 2) / 48_000
    stereo = np.stack(
        [np.sin(2 * np.pi * 1000 * time_s) * 0.5, np.zeros(len(time_s))], axis=1
    ).astype(np.float32)
    path = write_sound(tmp_path / "x.wav", stereo, 48_000)
    sound = read_sound(path, 10 * RATE_HZ)
    assert sound.dtype == np.float32
    assert abs(len(sound) - 2 * RATE_HZ) <= 1
    middle = sound[RATE_HZ // 2 : RATE_HZ]
    wanted = 0.25 * np.sin(2 * np.pi * 1000 * (np.arange(len(middle)) + RATE_HZ // 2) / RATE_HZ)
    assert np.abs(middle - wanted).max() < 0.01
    assert probe_audio(path).samples == 2 * RATE_HZ


def test_only_the_wanted_part_of_a_long_recording_is_decoded(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "x.ogg", hiss(5.0))
    assert len(read_sound(path, RATE_HZ)) == RATE_HZ


@pytest.mark.parametrize("content", [b"", b"not sound", b"OggS" + bytes(200)])
def test_what_cannot_be_decoded_is_a_recording_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ogg"
    path.write_bytes(content)
    assert probe_audio(path).problem
    with pytest.raises(RecordingError):
        read_sound(path, RATE_HZ)


def in_odd_containers(folder: Path) -> dict[Path, float]:
    """Recordings of 6 s whose headers do not say so, by what of them can be heard."""
    sound = np.random.default_rng(0).normal(0, 0.1, 6 * RATE_HZ).astype(np.float32)
    kinds = (
        ("x.flac", "PCM_16"),
        ("x.mp3", "MPEG_LAYER_III"),
        ("x.ogg", "VORBIS"),
        ("y.ogg", "VORBIS"),
        ("x.wav", "PCM_16"),
    )
    for name, subtype in kinds:
        with soundfile.SoundFile(folder / name, "w", RATE_HZ, 1, subtype) as file:
            for at in range(0, len(sound), RATE_HZ):
                file.write(sound[at : at + RATE_HZ])
    flac = bytearray((folder / "x.flac").read_bytes())
    mp3 = (folder / "x.mp3").read_bytes()
    ogg = (folder / "x.ogg").read_bytes()
    wav = bytearray((folder / "x.wav").read_bytes())
    flac[21:26] = bytes([flac[21] & 0xF0]) + bytes(4)
    wav[40:44] = struct.pack("<I", 2 * RATE_HZ)
    made = {
        "piped.flac": (bytes(flac), 6.0),
        "absurd.flac": (
            bytes(flac[:21]) + bytes([flac[21] | 0x0F]) + b"\xff" * 4 + bytes(flac[26:]),
            6.0,
        ),
        "no_xing.mp3": (mp3[mp3.index(mp3[:2], mp3.index(b"Xing")) :], 6.0),
        "chained.ogg": (ogg + (folder / "y.ogg").read_bytes(), 12.0),
        "says_1_s.wav": (bytes(wav), 6.0),
        "cut.wav": ((folder / "x.wav").read_bytes()[: 44 + 4 * RATE_HZ], 2.0),
    }
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    return {folder / name: seconds for name, (_, seconds) in made.items()}


def test_the_stations_decoder_tells_the_length(tmp_path: Path) -> None:
    for path, seconds in in_odd_containers(tmp_path).items():
        with Decoder(path) as decoder:
            for _ in decoder:
                pass
        audio = probe_audio(path)
        assert audio.problem == "", path.name
        assert audio.seconds == decoder.decoded_s, path.name
        assert audio.seconds == pytest.approx(seconds, abs=0.1), path.name
        assert len(read_sound(path, 60 * RATE_HZ)) == pytest.approx(audio.samples, abs=1)
        assert len(read_sound(path, RATE_HZ)) == RATE_HZ


def test_headers_alone_tell_the_length_of_good_files(tmp_path: Path) -> None:
    """A corpus of tens of thousands of files is looked at in minutes."""
    in_odd_containers(tmp_path)
    for name in ("x.flac", "x.mp3", "x.ogg", "x.wav"):
        with Decoder(tmp_path / name) as decoder:
            assert decoder.certain_s == pytest.approx(6.0, abs=0.001), name
    for name in ("piped.flac", "absurd.flac", "no_xing.mp3"):
        with Decoder(tmp_path / name) as decoder:
            assert decoder.certain_s is None, name


def test_species_of_birdclef_are_recognised_by_code_or_scientific_name(tmp_path: Path) -> None:
    names = write_names(tmp_path / "bundle")
    rows = [
        row("eurbla", "a.ogg", scientific_name="", common_name=""),
        row("tit", "b.ogg", scientific_name="Parus major"),
        row("frog", "c.ogg", scientific_name="Rana temporaria"),
    ]
    write_table(tmp_path / METADATA, rows)
    with pytest.raises(CorpusError, match=r"train_metadata.csv: 1 name is not .* 'frog' .*--new"):
        Corpus.read(tmp_path, names)
    corpus = Corpus.read(tmp_path, names, new=("frog",))
    assert dict(corpus.known) == {"eurbla": "eurbla", "tit": "gretit1"}
    assert corpus.taxonomy.codes == ("eurbla", "frog", "tit"), "its own codes are kept"
    assert dict(Corpus.read(tmp_path).known) == {}


def test_one_place_stands_for_the_places_that_are_missing(tmp_path: Path) -> None:
    write_table(tmp_path / METADATA, [row(LOW, "a.ogg"), row(MID, "b.ogg", latitude="")])
    corpus = Corpus.read(tmp_path, place=(1.0, 2.0))
    assert [(r.latitude, r.longitude) for r in corpus.recordings] == [(48.1, 11.5), (1.0, 2.0)]
    assert "place missing" not in corpus.problems.counts
    assert Corpus.read(tmp_path).problems.counts["place missing"] == 1


def test_one_species_is_enough_when_asked(tmp_path: Path) -> None:
    write_table(tmp_path / METADATA, [row(LOW, "a.ogg")])
    assert len(Corpus.read(tmp_path, species_min=1).taxonomy) == 1
