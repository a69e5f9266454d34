"""Text and tables as spreadsheets, Windows and Macs save them: read where they say the same, named
where they don't."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config import MqttSettings, load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import BirdstationError, BundleError, ConfigError, CorpusError, UsageError
from edge.contract.labels import read_labels
from edge.contract.taxonomy import Taxonomy
from edge.contract.text import Table, TextError, lines_of, text_of
from edge.publisher.credentials import password
from export.adopt.labels import read_labels as read_species
from tests.conftest import make_bundle
from tests.helpers.trainer_corpus import CODES, make_corpus, row, write_table
from trainer.corpus.check import check_data
from trainer.corpus.recordings import METADATA, Corpus
from trainer.corpus.soundscapes import LABELS, SITES, read_sites
from trainer.corpus.tables import Problems
from trainer.files import read_csv, write_csv
from trainer.recipe import find_recipe, read_recipe
from trainer.tuning.predict import _places

LOW, MID = CODES
ROWS = "row_id,site,birds\n7_COR_5,COR,nocall\n7_COR_10,COR,amered blujay\n"
SAME = {
    "plain": ROWS.encode(),
    "byte order mark": ROWS.encode("utf-8-sig"),
    "two marks": ("\ufeff" + ROWS).encode("utf-8-sig"),
    "Windows": ROWS.replace("\n", "\r\n").encode("utf-8-sig"),
    "an old Mac": ROWS.replace("\n", "\r").encode(),
    "empty columns and lines at the end": (ROWS.replace("\n", ",,\n") + ",,,,\n\n  \n").encode(),
    "empty columns in the header alone": ROWS.replace("birds\n", "birds,,\n").encode(),
    "no line end at the end": ROWS.strip().encode(),
    "quotes": ("\n".join(f'"{line}"'.replace(",", '","') for line in ROWS.splitlines())).encode(),
    "spaces around": ROWS.replace("row_id,site,birds", " row_id , site , birds ").encode(),
    "capitals": ROWS.replace("row_id,site,birds", "Row_ID,site,Birds").encode(),
    "Excel's hint": f"sep=,\r\n{ROWS}".encode(),
    "an empty line first": f"\n{ROWS}".encode(),
    "spaces in cells": ROWS.replace("7_COR_5,", " 7_COR_5 ,").encode(),
}
OTHER = {
    "UTF-16 of Excel": (
        ROWS.encode("utf-16"),
        r"line 1: expected UTF-8, found UTF-16 \(Excel's Unicode text\)",
    ),
    "UTF-16 of big ends": (
        b"\xfe\xff" + ROWS.encode("utf-16-be"),
        "line 1: expected UTF-8, found UTF-16",
    ),
    "UTF-16 without a mark": (
        ROWS.encode("utf-16-le"),
        "line 1: expected UTF-8, found zero bytes, as in UTF-16",
    ),
    "UTF-32": (ROWS.encode("utf-32"), "line 1: expected UTF-8, found UTF-32"),
    "semicolons": (
        ROWS.replace(",", ";").encode("utf-8-sig"),
        "expected cells separated by commas, found semicolons",
    ),
    "semicolons and a hint": (
        b"sep=;\r\n" + ROWS.replace(",", ";").encode(),
        "separated by commas, found semicolons",
    ),
    "tabs": (ROWS.replace(",", "\t").encode(), "expected cells separated by commas, found tabs"),
    "Windows-1252": (
        ROWS.replace("COR,nocall", "Müller,nocall").encode("cp1252"),
        r"line 2: expected UTF-8, found byte 0xfc \('Müller', if it is Windows-1252\)",
    ),
    "Windows-1252 of an old Mac's lines": (
        ROWS.replace("COR,amered", "Brasília,amered").replace("\n", "\r").encode("cp1252"),
        r"line 3: expected UTF-8, found byte 0xed \('Brasília'",
    ),
    "a column twice": (ROWS.replace("site", "Birds").encode(), None),
    "a row too long": (
        ROWS.replace("nocall", "nocall,x").encode(),
        r"line 2: expected 3 cells \(row_id, site, birds\), found 4",
    ),
}


@pytest.mark.parametrize("saved", SAME)
def test_labels_say_the_same_however_they_were_saved(saved: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(SAME[saved])
    found = read_labels(tmp_path / "labels.csv")
    assert found.truth == {"7_COR_5": {"nocall"}, "7_COR_10": {"amered", "blujay"}}
    assert found.end_s == {"7_COR_5": 5, "7_COR_10": 10}


@pytest.mark.parametrize("saved", OTHER)
def test_labels_that_cannot_be_told_are_one_line_that_names_it(saved: str, tmp_path: Path) -> None:
    content, message = OTHER[saved]
    (tmp_path / "labels.csv").write_bytes(content)
    if message is None:  # the exact name goes before the others
        assert read_labels(tmp_path / "labels.csv").truth["7_COR_5"] == {"nocall"}
        return
    with pytest.raises(UsageError, match=message) as refused:
        read_labels(tmp_path / "labels.csv")
    assert str(refused.value).startswith(str(tmp_path / "labels.csv"))
    assert "\n" not in str(refused.value)


ODD_NAMES = [
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\nb",
    "a\rb",
    "a\r\nb",
    "a\x0bb",
    "a\x0cb",
    "a\x1cb",
    'a "b", c',
    "a'b",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_breaks_lines_goes_through_our_tables(name: str, tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t.csv",
        ("name", "fold"),
        [("before.ogg", 0), (f"{name}.ogg", 1), ("after.ogg", 2)],
    )
    read = [(row["name"], row["fold"]) for row in read_csv(tmp_path / "t.csv", ("name", "fold"))]
    assert read == [("before.ogg", "0"), (f"{name}.ogg", "1"), ("after.ogg", "2")]


def test_lines_end_where_those_of_files_do() -> None:
    assert lines_of("a\x85\u2028\x0cb\nc\r\nd\re\n") == ["a\x85\u2028\x0cb", "c", "d", "e"]
    assert lines_of("") == []
    labels = read_species("Turdus merula_A\u2028B\nParus major_C\x85D\n".encode(), "labels")
    assert [scientific for scientific, *_ in labels] == ["Turdus merula", "Parus major"]


@given(content=st.binary(max_size=200))
def test_any_bytes_are_text_or_one_line(content: bytes) -> None:
    try:
        text = text_of(content)
        problem = ""
    except TextError as error:
        text = content.decode("latin-1")
        problem = str(error)
    assert len(problem.splitlines()) == 1 or text == content.decode().lstrip("\ufeff")


@given(
    cells=st.lists(
        st.lists(st.text('ab,;"\n\r \té', max_size=4), min_size=2, max_size=2), max_size=5
    )
)
def test_a_table_gives_back_what_a_writer_wrote(cells: list[list[str]]) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    text = "\r\n".join(",".join(map(quoted, line)) for line in [["a", "b"], *cells])
    found = [row for _, row in Table(text, ("a", "b"))]
    assert found == [{"a": a, "b": b} for a, b in cells if a.strip() or b.strip()]


def _resave(path: Path, how: Callable[[str], bytes]) -> None:
    path.write_bytes(how(path.read_text(encoding="utf-8-sig")))


def _parts(corpus: Corpus) -> tuple[object, ...]:
    return corpus.recordings, corpus.soundscapes, corpus.taxonomy.species, corpus.problems


def _spreadsheet(text: str) -> bytes:
    """As Excel saves CSV UTF-8: a mark, Windows' line ends, empty cells and lines behind."""
    return ("\ufeff" + text.replace("\n", ",,\r\n") + ",,\r\n").encode()


def test_a_corpus_from_a_spreadsheet_is_the_same_corpus(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    before = Corpus.read(data)
    for name in (METADATA, LABELS, SITES):
        _resave(data / name, _spreadsheet)
    assert _parts(Corpus.read(data)) == _parts(before)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_a_corpus_in_windows_1252_keeps_its_names_and_says_so(
    encoding: str, tmp_path: Path
) -> None:
    rows = [
        row(LOW, "a.ogg", author="Jürg Müller"),
        row(MID, "b.ogg"),
        row(MID, "c.ogg", author="Ana Brandão"),
    ]
    rows[0]["common_name"] = "Bernstein-Säger"
    write_table(tmp_path / METADATA, rows)
    whole = Corpus.read(tmp_path)
    _resave(tmp_path / METADATA, lambda text: text.encode(encoding))
    found = Corpus.read(tmp_path)
    assert found.recordings == whole.recordings
    assert found.taxonomy.species == whole.taxonomy.species
    assert found.problems.counts["text not UTF-8"] == 2
    assert found.problems.examples["text not UTF-8"] == [
        f"{METADATA} line 2: Bernstein-Säger Jürg Müller (if it is Windows-1252)",
        f"{METADATA} line 4: Brandão (if it is Windows-1252)",
    ]
    assert "\ufffd" not in str(found)
    assert check_data(found, jobs=1).problems["text not UTF-8"] == 2


def test_one_line_of_another_program_damages_no_other_line(tmp_path: Path) -> None:
    write_table(tmp_path / METADATA, [row(LOW, "a.ogg", author="Jürg"), row(MID, "b.ogg")])
    with (tmp_path / METADATA).open("ab") as file:
        # 9d means nothing in Windows-1252
        file.write(b'cafe,"[]",,,,,,Andr\x9d\xe9,2019-01-04,c.ogg,,4,,\n')
    found = Corpus.read(tmp_path)
    assert found.recordings[0].author == "Jürg"
    assert found.recordings[2].author == "Andr\x9dé"
    assert found.problems.counts["text not UTF-8"] == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda text: text.encode("utf-16"), "line 1: expected UTF-8, found UTF-16"),
        (lambda text: text.encode("utf-16-le"), "line 1: expected UTF-8, found zero bytes"),
        (lambda text: text.replace(",", ";").encode(), "separated by commas, found semicolons"),
        (lambda text: text.replace(",", "\t").encode(), "separated by commas, found tabs"),
    ],
)
@pytest.mark.parametrize("name", [METADATA, LABELS, SITES])
def test_a_corpus_that_cannot_be_told_is_one_line(
    name: str, how: Callable[[str], bytes], message: str, tmp_path: Path
) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    _resave(data / name, how)
    with pytest.raises(CorpusError, match=message) as refused:
        Corpus.read(data)
    assert str(data / name) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sites_of_predict_are_read_with_a_mark_and_refused_in_windows_1252(tmp_path: Path) -> None:
    text = "id,place_name,country,lat,lon\nSSW,Brasília,BR,10,-100\n"
    path = tmp_path / "sites.csv"
    path.write_bytes(_spreadsheet(text))
    assert _places(path) == read_sites(path, Problems()) == {"SSW": (10.0, -100.0)}
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(
        ConfigError, match=r"sites\.csv: text not UTF-8: sites\.csv line 2: Brasília"
    ):
        _places(path)


def test_settings_and_recipes_are_read_with_a_mark(tmp_path: Path) -> None:
    settings = tmp_path / "station.yaml"
    recipe = tmp_path / "mine.yaml"
    settings.write_bytes(b"\xef\xbb\xbfstation: {id: porch}\r\nstate: K\xc3\xa4fer\r\n")
    assert load_config(settings).station.id == "porch"
    assert load_config(settings).state.name == "Käfer"
    recipe.write_bytes(
        b"\xef\xbb\xbf" + find_recipe("demo").as_yaml().replace("\n", "\r\n").encode()
    )
    assert read_recipe(recipe) == find_recipe("demo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "station: {id: porch}\nstate: Käfer\n".encode("cp1252"),
            r"line 2: .* UTF-8, found byte 0xe4 \('Käfer', if it is Win",
        ),
        ("station: {id: porch}\n".encode("utf-16"), "line 1: expected UTF-8, found UTF-16"),
        ("name: mine\n".encode("utf-16-be"), "line 1: expected UTF-8, found zero bytes"),
    ],
)
@pytest.mark.parametrize("read", [load_config, read_recipe])
def test_settings_and_recipes_of_another_encoding_are_one_line(
    read: Callable[[Path], object], content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refused:
        read(tmp_path / "mine.yaml")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfs\xc3\xa4cret\r\n", b"s\xc3\xa4cret", b"s\xc3\xa4cret\nmore"]
)
def test_a_password_has_no_mark(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(content)
    assert password(MqttSettings("localhost", password_file=tmp_path / "password"), {}) == "säcret"
    (tmp_path / "mqtt_password").write_bytes(content)
    assert password(MqttSettings("localhost"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "säcret"


@pytest.mark.parametrize("content", ["säcret\r\n".encode("utf-16"), "säcret".encode("cp1252")])
def test_a_password_of_another_encoding_is_refused_and_not_shown(
    content: bytes, tmp_path: Path
) -> None:
    """PowerShell's `>` writes UTF-16."""
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(ConfigError, match="is not UTF-8") as refused:
        password(MqttSettings("localhost", password_file=tmp_path / "password"), {})
    assert "cret" not in str(refused.value)


def test_species_with_a_mark_are_the_same(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    species = Taxonomy.read_csv(folder / "taxonomy.csv").species
    _resave(folder / "taxonomy.csv", _spreadsheet)
    assert Taxonomy.read_csv(folder / "taxonomy.csv").species == species
    _resave(
        folder / "taxonomy.csv", lambda text: text.replace("Low Tooter", "Bläser").encode("cp1252")
    )
    with pytest.raises(BundleError, match="line 2: expected UTF-8, found byte 0xe4"):
        Taxonomy.read_csv(folder / "taxonomy.csv")


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "members/._mixup.onnx",
        "Thumbs.db",
        "prior/desktop.ini",
        "__MACOSX/._manifest.json",
    ],
)
def test_what_systems_leave_in_a_bundle_does_not_stop_the_station(
    name: str, tmp_path: Path
) -> None:
    folder = make_bundle(tmp_path / "bundle")
    before = read_bundle(folder).id
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x00\x05\x16\x07")
    assert read_bundle(folder).id == before
    (folder / "members" / "another.onnx").write_bytes(b"foreign")
    with pytest.raises(BundleError, match=r"another\.onnx: not listed"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["._7_ABC_20190504.ogg", ".DS_Store", "Thumbs.db", "__MACOSX"])
def test_what_systems_leave_in_a_corpus_is_no_problem_of_it(name: str, tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    before = Corpus.read(data)
    for folder in ("train_soundscapes", "train_short_audio", f"train_short_audio/{LOW}"):
        if name == "__MACOSX":
            (data / folder / name).mkdir()
        (
            data / folder / name / "._x.ogg" if name == "__MACOSX" else data / folder / name
        ).write_bytes(b"\0\5\x16\7")
    assert _parts(Corpus.read(data)) == _parts(before)


@pytest.mark.slow
def test_check_data_says_what_was_guessed(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0)
    _resave(data / METADATA, lambda text: text.replace("A. Nyone", "Jürg").encode("cp1252"))
    assert "text not UTF-8" in Corpus.read(data).problems.counts
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "check-data", "--data", str(data)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "text not UTF-8" in done.stdout


def test_errors_are_of_the_tree() -> None:
    assert not issubclass(TextError, BirdstationError), "whoever reads a file names it"
