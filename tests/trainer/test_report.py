"""The report stands alone, shows every section, escapes what it is given and says why something is
missing."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers.trainer_run import make_corpus, make_rasters, make_run
from trainer.place.metadata import fit_metadata
from trainer.report.report import write_report
from trainer.tuning.bag import choose_bag
from trainer.tuning.tune import tune

SECTIONS = {
    "threshold",
    "blend",
    "species",
    "confusions",
    "learning",
    "metadata",
    "folds",
    "corpus",
    "timings",
}


class Reader(HTMLParser):
    """Collects anchors, references and text; an unbalanced tag is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.anchors: set[str] = set()
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.anchors.add(str(value))
            if name in ("src", "href", "srcset", "action"):
                self.references.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> tuple[str, Reader]:
    text = path.read_text(encoding="utf8")
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return text, reader


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    corpus = make_corpus(folder / "data <i>&")
    run = make_run(folder / "run", corpus)
    fit_metadata(run, corpus, make_rasters(folder / "rasters"))
    choose_bag(run)
    tune(run, corpus)
    return write_report(run, corpus)


def test_every_section_is_there(full: Path) -> None:
    _, reader = read(full)
    assert reader.anchors == SECTIONS
    assert {r for r in reader.references if r.startswith("#")} == {f"#{name}" for name in SECTIONS}
    for words in (
        "Row-wise F1 on soundscapes",
        "Balanced accuracy",
        "Accuracy by place",
        "stripes-fold0-seed2",
    ):
        assert words in reader.text


def test_it_needs_no_network(full: Path) -> None:
    text, reader = read(full)
    outside = [r for r in reader.references if not r.startswith(("#", "data:image/"))]
    assert not outside
    assert not re.search(r"@import|url\(|<script|<link", text)
    assert sum(r.startswith("data:image/") for r in reader.references) == 6
    assert full.stat().st_size < 2_000_000


def test_text_is_escaped(full: Path) -> None:
    text, reader = read(full)
    assert "<b>" not in re.sub(r"<span class=.label.>[^<]*</span><b>", "", text)
    assert "<b>&amp; Red" in reader.text  # a species' common name, as given
    assert "data <i>&" in reader.text
    assert "<i>" not in text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "data", placed=False, soundscapes=0)
    run = make_run(tmp_path / "run", corpus)
    fit_metadata(run, corpus, None)
    choose_bag(run)
    tune(run, corpus)
    (run.folder / "check.json").unlink()
    _, reader = read(write_report(run, corpus))
    assert reader.anchors == SECTIONS
    for words in (
        "There are no labelled soundscapes",
        "Not searched",
        "There is no metadata model: expected at least 50 recordings",
        "No recording has a place",
        "check-data has not run",
    ):
        assert words in reader.text


def test_writing_again_replaces_it(full: Path) -> None:
    assert [path.name for path in full.parent.glob("*report*")] == ["report.html"]
