"""Texts of others on a terminal, in a log, in a status: they may say anything, and do nothing."""

import csv
import io
import json
import logging
import re
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.table import Table
from typer.testing import CliRunner

from edge.__main__ import app
from edge.config import load_config
from edge.contract.bundle import read_bundle, seal_bundle
from edge.contract.errors import BundleError, ConfigError
from edge.contract.program import run_program
from edge.contract.screen import LogLines, Screen, say
from edge.contract.strict import SchemaError, parse
from edge.contract.taxonomy import read_names
from edge.contract.text import is_printable, printable
from edge.host.notify import Notifier
from tests.conftest import note, write_sound

PROJECT = Path(__file__).parents[2]
_WRITERS = ("edge/contract/screen.py", "export/trt/member.py")
TITLE = "Robin\x1b]0;TITLE\x07\x1b[8mhidden"
NASTY = {
    "a title": TITLE,
    "8-bit controls": "Robin\x9b2J",
    "a line": "Erithacus\nrubecula",
    "a line of Unicode": "Erithacus\u2028rubecula",
    "turned round": "Robin\u202egnp.exe",
    "an isolate": "Robin\u2067x\u2069",
    "half a character": "Robin\ud800",
    "tags": "Robin\U000e0041",
}
NAMES = (
    "Grünspecht",
    "зяблик",
    "コマドリ",
    "قُبَّرة\u200f",
    "می\u200cخواهم",
    "a\u00adb",
    "Pic-épeiche\u00a0",
)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize("text", NASTY.values())
def test_what_a_terminal_obeys_is_written_out(text: str) -> None:
    shown = printable(text)
    assert is_printable(shown)
    assert not is_printable(text)
    assert printable(shown) == shown
    assert len(shown.splitlines()) == 1
    assert json.loads(printable(json.dumps({"a": text}, ensure_ascii=False))) == {"a": text}


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_language_stay(name: str) -> None:
    assert printable(name) == name


BAD_NAMES = [("common_name", what) for what in NASTY if what != "half a character"]


@pytest.mark.parametrize(("column", "what"), [*BAD_NAMES, ("scientific_name", "a line")])
def test_a_bundle_with_such_names_is_refused(
    what: str, column: str, bundle_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle_folder, tmp_path / "b")
    path = tmp_path / "b" / "taxonomy.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf8"))))
    rows[1][column] = NASTY[what]
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(BundleError) as refused:
        seal_bundle(tmp_path / "b", read_bundle(bundle_folder).manifest)
    assert re.search(
        rf"taxonomy\.csv: .* line \d: {column}: expected printable text, found '",
        str(refused.value),
    )
    assert is_printable(str(refused.value))


def test_names_in_another_language_are_checked_where_they_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text(f"code,de,fr\nx,Grünspecht,{NASTY['turned round']}\n", encoding="utf8")
    assert read_names(path, "de") == {"x": "Grünspecht"}
    with pytest.raises(
        BundleError, match=r"names\.csv: line 2: fr: expected printable text, found '"
    ):
        read_names(path, "fr")


@dataclass(frozen=True)
class Coded:
    codes: str


@pytest.mark.parametrize("text", NASTY.values())
def test_settings_and_manifests_are_checked(text: str, tmp_path: Path) -> None:
    for raw in ({"codes": text}, {"codes": "a", text: 1}):
        with pytest.raises(SchemaError) as refused:
            parse(Coded, raw)
        assert is_printable(str(refused.value))
    path = tmp_path / "station.yaml"
    quoted = json.dumps(text)  # which YAML reads, too
    path.write_text(f"station: {{id: porch}}\nmicrophone: {{device: {quoted}}}\n")
    with pytest.raises(ConfigError) as wrong:
        load_config(path)
    assert is_printable(str(wrong.value))


@pytest.fixture
def told(tmp_path: Path, station_yaml: Callable[..., Path]) -> tuple[Path, str]:
    """A station whose record has a detection of an earlier version, in which a species has such a
    name."""
    config = station_yaml("detect: {prior: off}")
    write_sound(tmp_path / "in" / "20240512_061500.wav", note("lowtoo", 6))
    done = CliRunner().invoke(
        app, ["replay", str(tmp_path / "in"), "--config", str(config), "--jobs", "1"]
    )
    assert done.exit_code == 0, done.output
    with closing(sqlite3.connect(config.parent / "station.db")) as db, db:
        (one,) = db.execute("SELECT id FROM detections LIMIT 1").fetchone()
        db.execute(
            "UPDATE species SET common_name = ?, scientific_name = ?",
            (TITLE, NASTY["turned round"]),
        )
    return config, one


def test_names_that_a_record_already_has_do_nothing(told: tuple[Path, str], tmp_path: Path) -> None:
    config, one = told
    for command in (
        ["why", one],
        ["why", one, "--json"],
        [
            "review",
            one,
            "wrong",
            "--instead",
            f"a bat{TITLE}",
            "--note",
            TITLE,
            "--reviewer",
            f"me{TITLE}",
        ],
        ["review", one, "unsure", "--reviewer", f"me{TITLE}"],
        ["replay", str(tmp_path / "in")],
        ["replay", str(tmp_path / "in"), "--json"],
    ):
        done = CliRunner().invoke(app, [*command, "--config", str(config)])
        assert done.exit_code == 0, (command, done.output)
        assert all(map(is_printable, _COLOUR.sub("", done.output).split("\n"))), command
        assert "TITLE" in done.output or command[0] == "replay"


def test_the_screens_own_colours_stay() -> None:
    screen = Screen(file=io.StringIO(), force_terminal=True, width=200)
    table = Table("name", title=TITLE)
    table.add_row(f"[red]{TITLE}[/red]")
    screen.print(table)
    screen.print(TITLE, NASTY["turned round"], markup=False)
    with screen.status(TITLE):
        pass
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert _COLOUR.search(said)
    assert "\x1b]" not in said
    assert "\x1b[8m" not in said
    assert "\u202e" not in said


def test_what_is_said_and_logged_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(TITLE, NASTY["a line"], file=sys.stderr)
    assert (
        capsys.readouterr().err
        == r"Robin\u001b]0;TITLE\u0007\u001b[8mhidden Erithacus\u000arubecula" + "\n"
    )
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogLines())
    log = logging.Logger("others")
    log.addHandler(handler)
    log.warning("broker: %s", "not\r\nWARNING all is well\x1b[2J")
    try:
        raise ValueError(TITLE)
    except ValueError:
        log.exception("it failed")
    lines = stream.getvalue().split("\n")
    assert lines[0] == r"broker: not\u000d\u000aWARNING all is well\u001b[2J"
    assert lines[1:3] == ["it failed", "Traceback (most recent call last):"]
    assert all(map(is_printable, lines))


def test_an_error_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConfigError(f"{TITLE}\nerror: nothing is wrong")

    with pytest.raises(SystemExit, match="78"):
        run_program(fail)
    (line,) = capsys.readouterr().err.splitlines()
    assert is_printable(line)


def test_systemd_is_told_one_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).status(f"{TITLE}\udcff\nWATCHDOG=1")
        (told,) = manager.recv(4096).decode().split("\n")
    assert told == r"STATUS=Robin\u001b]0;TITLE\u0007\u001b[8mhidden\udcff WATCHDOG=1"


def test_nothing_else_writes_to_a_terminal() -> None:
    """A new command says what it says by `say` and `Screen`. A member's build speaks to its parent,
    in JSON."""
    found = []
    for folder in ("edge", "trainer", "export"):
        for path in (PROJECT / folder).rglob("*.py"):
            if path.relative_to(PROJECT).as_posix() not in _WRITERS:
                text = path.read_text(encoding="utf8")
                found += [
                    f"{path}: {one}" for one in re.findall(r"(?<![.\w])(?:print|Console)\(.*", text)
                ]
    assert not found
