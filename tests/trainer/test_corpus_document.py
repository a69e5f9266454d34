"""docs/corpus.md: its table names the columns that are read, and its program makes a corpus of
folders of sound."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import hiss, write_sound
from trainer.corpus.recordings import COLUMNS, Corpus

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


def test_the_program_makes_a_corpus_of_a_folder_for_each_species(tmp_path: Path) -> None:
    for species, name in (
        ("Blackbird", "20240512_051500.wav"),
        ("Robin", "a.wav"),
        ("Robin", "b.wav"),
    ):
        write_sound(tmp_path / "sorted" / species / name, hiss(1.0, 0.01, 1))
    (program,) = re.findall("```python\n(.*?)```", TEXT, re.DOTALL)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    corpus = Corpus.read(tmp_path / "corpus")
    assert corpus.taxonomy.codes == ("blackbird", "robin")
    assert [r.path.is_file() for r in corpus.recordings] == [True] * 3
    assert [(r.latitude, str(r.date)) for r in corpus.recordings][:2] == [
        (48.52, "2024-05-12"),
        (48.52, "None"),
    ]
    assert corpus.problems.counts == {"date missing": 2}
