"""docs/corpus.md: its table names the columns that are read, and the layouts that it shows are
corpora."""

import re
from pathlib import Path

from tests.conftest import hiss, write_sound
from trainer.corpus.recordings import COLUMNS, Corpus
from trainer.corpus.species_names import BACKGROUND

TEXT = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text(encoding="utf8")


def test_every_column_is_named() -> None:
    table = TEXT.split("## train_metadata.csv")[1].split("##")[0]
    named = [
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line)
    ]
    assert set(COLUMNS) <= set(named)


def test_every_layout_that_is_shown_is_read(tmp_path: Path) -> None:
    tree, table, birdclef, commands = re.findall("```\n(.*?)```", TEXT, re.DOTALL)[:4]
    folders = [line.split("/")[0].strip() for line in tree.splitlines()[1:] if "/ " in f"{line} "]
    for i, folder in enumerate(name for name in folders if "pond" not in name):
        write_sound(tmp_path / "folders" / folder / "20240512_051500.wav", hiss(1.0, 0.01, i))
    corpus = Corpus.read(tmp_path / "folders")
    assert corpus.taxonomy.codes == ("eurasian_blackbird", "parus_major")
    assert len(corpus.backgrounds) == 1

    write_sound(tmp_path / "table" / "20240512_051500.wav", hiss(20.0, 0.01, 1))
    (tmp_path / "table" / "labels.csv").write_text(table)
    corpus = Corpus.read(tmp_path / "table")
    assert [(r.primary_label, r.secondary_labels) for r in corpus.recordings] == [
        ("eurasian_blackbird", ("great_tit",)),
        ("great_tit", ("eurasian_blackbird",)),
    ]
    assert "train_metadata.csv" in birdclef
    assert "check-data --data corpus" in commands


def test_every_word_for_a_background_is_named() -> None:
    text = TEXT.split("## Names of species")[1].split("##")[0]
    assert all(f"`{word}`" in text for word in BACKGROUND)
