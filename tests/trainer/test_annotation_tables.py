"""Corpora of annotated files: the tables of Raven, Audacity, BirdNET-Analyzer, Kaleidoscope and
people, as each of them writes it."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from edge.contract.errors import CorpusError
from tests.conftest import hiss, write_sound
from tests.helpers.named_species import write_names
from trainer.corpus.check import check_data
from trainer.corpus.recordings import Corpus, require_corpus
from trainer.corpus.species_names import SpeciesNames

RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
BIRDNET_RAVEN = f"{RAVEN}\tCommon Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> SpeciesNames:
    return write_names(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two files of 10 s below it."""
    for seed, name in enumerate(("audio/dawn_20240512_235955.wav", "audio/b/dusk.wav")):
        write_sound(tmp_path / name, hiss(10.0, 0.01, seed))
    return tmp_path


def spans(corpus: Corpus) -> set[str]:
    return {r.recording for r in (*corpus.recordings, *corpus.backgrounds)}


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def test_a_plain_table(data: Path) -> None:
    (data / "labels.csv").write_text(
        lines(
            "file,start,end,species,latitude,longitude,date",
            "dusk.wav,0.5,2,Great Tit,48.5,9.1,2023-01-02",
            "audio/dawn_20240512_235955.wav,1,3,Blackbird,,,",
            "audio/dawn_20240512_235955.wav,6,8,Blackbird,,,",
            "dusk.wav,8,9,nocall,,,",
        )
    )
    require_corpus(data)
    corpus = Corpus.read(data, place=(1.0, 2.0))
    assert corpus.layout == "annotations in labels.csv"
    assert corpus.taxonomy.codes == ("blackbird", "great_tit")
    assert corpus.problems.counts == {}
    first, second, third = corpus.recordings
    assert first.recording == "blackbird/dawn_20240512_235955.wav@1-3"
    assert (first.start_s, first.end_s, first.is_segment) == (1.0, 3.0, True)
    assert (first.latitude, first.longitude) == (1.0, 2.0)
    assert (first.date, second.date) == (date(2024, 5, 12), date(2024, 5, 13)), "past midnight"
    assert first.source == second.source != third.source
    assert (third.latitude, third.date) == (48.5, date(2023, 1, 2))
    (background,) = corpus.backgrounds
    assert (background.path.name, background.start_s, background.end_s) == ("dusk.wav", 8.0, 9.0)


@pytest.mark.parametrize("encoding", ["utf8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_as_excel_writes_it(data: Path, encoding: str) -> None:
    table = (
        "sep=;\r\nDATEI;Start;Ende\r\nFile;Begin Time (s);End Time (s);Species;Confidence\r\n"
        "C:\\Users\\Jörg\\audio\\b\\DUSK.wav;0,5;1:02,25;Merle d'Amérique;0,87\r\n"
        '"D:/x/dawn_20240512_235955.wav";3;4,5;Amsel;\r\n'
        ";;;;\r\n"
    ).replace("DATEI;Start;Ende\r\n", "")
    (data / "labels.csv").write_bytes(table.encode(encoding))
    corpus = Corpus.read(data)
    assert spans(corpus) == {
        "merle_damerique/dusk.wav@0.5-62.25",
        "amsel/dawn_20240512_235955.wav@3-4.5",
    }
    by_code = {r.primary_label: r for r in corpus.recordings}
    assert by_code["merle_damerique"].rating == pytest.approx(4.35)
    assert by_code["amsel"].rating == 0.0


def test_a_selection_table_of_raven(data: Path, names: SpeciesNames) -> None:
    """A selection is listed once for each view, and a table may stand for the file of its name."""
    (data / "audio" / "b" / "dusk.Table.1.selections.txt").write_text(
        lines(
            f"{RAVEN}\tSpecies",
            "1\tWaveform 1\t1\t0.5\t2.25\t100\t9000\tAmsel",
            "1\tSpectrogram 1\t1\t0.5\t2.25\t100\t9000\tAmsel",
            "2\tSpectrogram 1\t1\t3\t4\t100\t9000",
            "3\tSpectrogram 1\t1\t5\t6\t100\t9000\tGreat Tit",
        )
    )
    corpus = Corpus.read(data, names)
    assert spans(corpus) == {"eurbla/dusk.wav@0.5-2.25", "gretit1/dusk.wav@5-6"}
    assert corpus.problems.counts["annotation without species"] == 1
    assert "annotation twice" not in corpus.problems.counts


def test_without_the_offset_only_the_first_file_of_raven_is_known(
    data: Path, names: SpeciesNames
) -> None:
    """Of the others nobody knows where in its file an annotation is."""
    (data / "raven.txt").write_text(
        lines(
            f"{RAVEN}\tBegin File\tSpecies Code",
            "1\tSpectrogram 1\t1\t1.0\t2.0\t500\t3000\tdusk.wav\teurbla",
            "2\tSpectrogram 1\t1\t11.5\t12.5\t500\t3000\tdawn_20240512_235955.wav\teurbla",
        )
    )
    corpus = Corpus.read(data, names, species_min=1)
    assert [r.path.name for r in corpus.recordings] == ["dusk.wav"]
    told = corpus.problems.examples["annotation of a later file without File Offset (s)"]
    assert told == ["raven.txt line 3"]


def test_tables_that_are_not_read_are_told(data: Path) -> None:
    """Else folders of sites with a table in another language would be species without a word."""
    (data / "Rufe.csv").write_text("Datei;Beginn;Schluss;Ruf\ndusk.wav;1;2;Amsel\n")
    (data / "Rufe.xlsx").write_bytes(b"PK")
    (data / "audio" / "b" / "Label Track.txt").write_text("0.5\t2.0\tAmsel\n")
    (data / "README.txt").write_text("of the recordings")
    told = Corpus.read(data, species_min=1).problems.examples["table not used"]
    assert sorted(told) == ["Rufe.csv", "Rufe.xlsx", "audio/b/Label Track.txt"]


def test_a_table_of_raven_for_several_files_counts_within_each(
    data: Path, names: SpeciesNames
) -> None:
    """Begin times go on through all files of such a table; the offset is the time in the file."""
    (data / "all.txt").write_text(
        lines(
            f"{RAVEN}\tBegin File\tFile Offset (s)\tSpecies Code",
            "1\tSpectrogram 1\t1\t1\t2\t0\t9\tdusk.wav\t1\teurbla",
            "2\tSpectrogram 1\t1\t13\t15.5\t0\t9\tdawn_20240512_235955.wav\t3\tgretit1",
        )
    )
    assert spans(Corpus.read(data, names)) == {
        "eurbla/dusk.wav@1-2",
        "gretit1/dawn_20240512_235955.wav@3-5.5",
    }


def test_labels_of_audacity_beside_a_file(data: Path, names: SpeciesNames) -> None:
    (data / "audio" / "b" / "dusk.txt").write_text(
        lines(
            "0.500000\t2.250000\tAmsel",
            "\\\t100.000000\t9000.000000",
            "3,000000\t4,500000\tgreat tit",
            "5.0\t5.0\ta point",
            "6.0\t7.0\tnoise",
            "8.0\t9.0\t",
            "what is this",
        )
    )
    corpus = Corpus.read(data, names)
    assert spans(corpus) == {
        "eurbla/dusk.wav@0.5-2.25",
        "gretit1/dusk.wav@3-4.5",
        "nocall/dusk.wav@6-7",
    }
    assert corpus.problems.counts["annotation that ends before it begins"] == 1
    assert corpus.problems.counts["annotation without species"] == 1
    assert corpus.problems.counts["annotation without valid times"] == 1
    assert corpus.problems.examples["annotation without species"] == ["dusk.txt line 6"]


def birdnet_tables() -> Iterator[tuple[str, str]]:
    """File name and text of each of BirdNET-Analyzer's results for two files."""
    yield (
        "BirdNET_CombinedTable.csv",
        lines(
            "Start (s),End (s),Scientific name,Common name,Confidence,File",
            "0.0,3.0,Turdus merula,Eurasian Blackbird,0.8123,/data/in/audio/b/dusk.wav",
            "3.0,6.0,Parus major,Great Tit,0.5,/data/in/audio/dawn_20240512_235955.wav",
        ),
    )
    yield (
        "BirdNET_SelectionTable.txt",
        lines(
            BIRDNET_RAVEN,
            "1\tSpectrogram 1\t1\t0\t3\t0\t15000\tEurasian Blackbird\teurbla\t0.8123\t"
            "C:\\in\\audio\\b\\dusk.wav\t0",
            "2\tSpectrogram 1\t1\t13\t16\t0\t15000\tGreat Tit\tgretit1\t0.5\t"
            "C:\\in\\audio\\dawn_20240512_235955.wav\t3",
        ),
    )
    yield (
        "BirdNET_Kaleidoscope.csv",
        lines(
            "INDIR,FOLDER,IN FILE,OFFSET,DURATION,scientific_name,common_name,confidence,lat,lon",
            "/data,in,dusk.wav,0.0,3.0,Turdus merula,Eurasian Blackbird,0.8123,-1,-1",
            "/data,in,dawn_20240512_235955.wav,3.0,3.0,Parus major,Great Tit,0.5,-1,-1",
        ),
    )
    yield (
        "BirdNET_RTable.csv",
        lines(
            "filepath,start,end,scientific_name,common_name,confidence,lat,lon,week,overlap",
            "/data/in/dusk.wav,0.0,3.0,Turdus merula,Eurasian Blackbird,0.8123,-1.0,-1.0,-1,0.0",
            "/data/in/dawn_20240512_235955.wav,3.0,6.0,Parus major,Great Tit,0.5,-1,-1,-1,0.0",
        ),
    )


@pytest.mark.parametrize(("name", "text"), list(birdnet_tables()))
def test_results_of_birdnet(data: Path, names: SpeciesNames, name: str, text: str) -> None:
    (data / name).write_text(text)
    corpus = Corpus.read(data, names)
    assert [(r.recording, r.rating) for r in corpus.recordings] == [
        ("eurbla/dusk.wav@0-3", 4.06),
        ("gretit1/dawn_20240512_235955.wav@3-6", 2.5),
    ]
    assert corpus.problems.counts == {"place missing": 2, "date missing": 1}


def test_results_of_birdnet_for_each_file(data: Path, names: SpeciesNames) -> None:
    """They may lie in a folder of their own, and say of a file that nothing is heard in it."""
    results = data / "results"
    results.mkdir()
    (results / "dusk.BirdNET.results.txt").write_text(
        lines("0.0\t3.0\tTurdus merula, Common Blackbird\t0.8", "3\t6\tParus major_Great Tit\t0.9")
    )
    (results / "dawn_20240512_235955.BirdNET.selection.table.txt").write_text(
        lines(
            BIRDNET_RAVEN, "1\tSpectrogram 1\t1\t0\t3\t0\t15000\tnocall\tnocall\t1.0\tx.wav\t0"
        ).replace("x.wav", "/in/dawn_20240512_235955.wav")
    )
    (results / "BirdNET_analysis_params.csv").write_text("File splitting duration,600\n")
    corpus = Corpus.read(data, names)
    assert spans(corpus) == {
        "eurbla/dusk.wav@0-3",
        "gretit1/dusk.wav@3-6",
        "nocall/dawn_20240512_235955.wav@0-3",
    }


def test_species_at_the_same_time_are_secondary_labels(data: Path) -> None:
    (data / "labels.tsv").write_text(
        lines(
            "file\tstart\tend\tspecies",
            "dusk.wav\t0\t4\ta1",
            "dusk.wav\t1\t2\tb1",
            "dusk.wav\t3.5\t6\tc1",
            "dusk.wav\t4\t5\ta1",
            "dawn_20240512_235955.wav\t0\t4\td1",
            "dusk.wav\t0\t9\tnocall",
        )
    )
    found = {r.recording: r.secondary_labels for r in Corpus.read(data).recordings}
    assert found == {
        "a1/dusk.wav@0-4": ("b1", "c1"),
        "b1/dusk.wav@1-2": ("a1",),
        "c1/dusk.wav@3.5-6": ("a1",),
        "a1/dusk.wav@4-5": ("c1",),
        "d1/dawn_20240512_235955.wav@0-4": (),
    }


def test_rows_without_times_are_about_whole_files(data: Path) -> None:
    (data / "species.csv").write_text(
        lines("filename,species", "dusk,Amsel", "dawn_20240512_235955.wav,Kohlmeise")
    )
    assert spans(Corpus.read(data)) == {
        "amsel/dusk.wav",
        "kohlmeise/dawn_20240512_235955.wav",
    }


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("dusk.wav,3,2,a1", "annotation that ends before it begins"),
        ("dusk.wav,-1,2,a1", "annotation without valid times"),
        ("dusk.wav,soon,2,a1", "annotation without valid times"),
        ("dusk.wav,1,,a1", "annotation without valid times"),
        ("dusk.wav,,2,a1", "annotation without valid times"),
        ("dusk.wav,nan,2,a1", "annotation without valid times"),
        ("dusk.wav,1,inf,a1", "annotation without valid times"),
        ("dusk.wav,1,2,", "annotation without species"),
        ("none.wav,1,2,a1", "recording not found"),
        (",1,2,a1", "recording not found"),
        ("../../none.wav,1,2,a1", "recording not found"),
        ("twice.wav,1,2,a1", "several recordings of this name"),
        ("dusk.wav,0,1,a1", "annotation twice"),
        ("dusk.wav,0.0001,1,a1", "annotation twice"),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_and_the_rest_goes_on(
    data: Path, row: str, kind: str
) -> None:
    for folder in ("x", "y"):
        write_sound(data / folder / "twice.wav", hiss(1.0, 0.01, ord(folder)))
    good = ("file,start,end,species", "dusk.wav,0,1,a1", "dusk.wav,2,3,b1")
    (data / "labels.csv").write_text(lines(*good, row))
    corpus = Corpus.read(data)
    assert len(corpus.recordings) == 2
    assert corpus.problems.counts[kind] == 1
    assert "labels.csv line 4" in corpus.problems.examples[kind][0]


def test_an_annotation_beyond_the_end_of_its_file_is_told(data: Path) -> None:
    (data / "labels.csv").write_text(
        lines(
            "file,start,end,species",
            *("dusk.wav,0,1,a1", "dusk.wav,9,12,a1", "dusk.wav,8,10.5,b1", "dusk.wav,80,90,b1"),
        )
    )
    check = check_data(Corpus.read(data), 1)
    assert dict(check.species) == {"a1": 2, "b1": 1}
    assert check.problems["audio not readable"] == 1
    assert check.examples["audio not readable"] == [
        "b1/dusk.wav@80-90: dusk.wav: a segment from 80 s, but the file ends at 10.0 s"
    ]
    assert check.examples["annotation longer than its file"] == [
        "a1/dusk.wav@9-12: 2.0 s beyond the end of the file"
    ]
    assert check.examples["sound file without annotation"] == ["audio/dawn_20240512_235955.wav"]


def test_tables_of_which_nothing_can_be_used_are_named(data: Path) -> None:
    (data / "labels.csv").write_text(lines("file,start,end,species", "none.wav,1,2,a1"))
    with pytest.raises(CorpusError, match=r"no usable row in labels.csv: recording not found \(1,"):
        Corpus.read(data)


def test_a_name_that_is_not_recognised_is_told_of_tables_too(
    data: Path, names: SpeciesNames
) -> None:
    (data / "labels.csv").write_text(
        lines("file,start,end,species", "dusk.wav,1,2,Amsl", "dusk.wav,3,4,Amsel")
    )
    with pytest.raises(CorpusError, match=r"1 name is not .* 'Amsl' \(nearest: Amsel \(eurbla\)"):
        Corpus.read(data, names)
    corpus = Corpus.read(data, names, new=("amsl",))
    assert dict(corpus.known) == {"eurbla": "eurbla"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-12", date(2024, 5, 12)),
        ("2024-05-12 05:15:00", date(2024, 5, 12)),
        ("2024-05-12T05:15:00+02:00", date(2024, 5, 12)),
        ("20240512", date(2024, 5, 12)),
        ("2024/05/12", date(2024, 5, 12)),
        ("12.05.2024", date(2024, 5, 12)),
        ("5.1.2024 06:00", date(2024, 1, 5)),
        ("31/05/2024", date(2024, 5, 31)),
        ("05/31/2024", date(2024, 5, 31)),
        ("05/05/2024", date(2024, 5, 5)),
        ("05/12/2024", None),  # the fifth or the twelfth
        ("31.02.2024", None),
        ("2024", None),
        ("20240512123", None),
    ],
)
def test_days_are_read_as_people_write_them(data: Path, text: str, expected: date | None) -> None:
    rows = (f"dusk.wav,1,2,a1,{text}", "dusk.wav,3,4,b1,")
    (data / "labels.csv").write_text(lines("file,start,end,species,date", *rows))
    corpus = Corpus.read(data)
    assert corpus.recordings[0].date == expected
    assert corpus.problems.counts.get("date not valid", 0) == (expected is None)
