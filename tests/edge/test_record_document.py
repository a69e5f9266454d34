"""docs/record.md and the database: the same tables, views and columns, and queries that run."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge.store.record import Store

DOCUMENT = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf8")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The database of a station that has heard nothing yet."""
    with Store(tmp_path / "station.db"):
        pass
    return tmp_path / "station.db"


def documented() -> dict[str, list[str]]:
    """Table or view -> its columns, in order."""
    found = {}
    for section in re.split(r"^### ", DOCUMENT, flags=re.MULTILINE)[1:]:
        name, *lines = section.splitlines()
        found[name.strip("`")] = [line.split("`")[1] for line in lines if line.startswith("| `")]
    return found


def test_the_document_has_every_table_view_and_column(record: Path) -> None:
    with closing(sqlite3.connect(record)) as db:
        of_sqlite = "name GLOB 'sqlite_*' OR name GLOB '_sqlite_*'"
        names = db.execute(
            f"SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND NOT ({of_sqlite})"
        )
        there = {
            name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for (name,) in names
        }
    assert documented() == there


def test_the_views_are_under_views_and_the_tables_under_tables(record: Path) -> None:
    views, tables = DOCUMENT.split("## Views")[1].split("## Tables")
    with closing(sqlite3.connect(record)) as db:
        kinds = dict(db.execute("SELECT name, type FROM sqlite_master"))
    for text, kind in ((views, "view"), (tables, "table")):
        assert {kinds[name] for name in re.findall(r"^### `(\w+)`", text, re.MULTILINE)} == {kind}


def test_its_queries_run(record: Path) -> None:
    blocks = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
    shell = re.findall(r'sqlite3 .*station\.db "([^"]+)"', DOCUMENT)
    assert blocks
    assert shell
    with closing(sqlite3.connect(record)) as db:
        for query in [*";".join(blocks).split(";"), *shell]:
            if query.strip():
                db.execute(query).fetchall()
