"""The command as a person types it: which settings it takes, what it says of itself and of the
model."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.check.model import check_bundle
from edge.check.settings import check_program, check_settings
from edge.config import DEMO_FOLDER, DetectSettings, find_settings, load_config, named
from edge.contract.bundle import read_bundle
from edge.contract.errors import ConfigError
from edge.demo.invented import NOTICE, notice_of
from edge.reports.known_classes import known_species
from edge.store.record import Store
from tests import HANGS_S

StationYaml = Callable[..., Path]
PROJECT = Path(__file__).parents[2]


def command(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "error", "-m", "edge", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=HANGS_S, cwd=folder)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's settings somewhere else, and a current folder without any."""
    monkeypatch.setattr("edge.config.SYSTEM_SETTINGS", tmp_path / "etc" / "station.yaml")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "etc" / "station.yaml"


def test_settings_that_nobody_named(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_settings() is None
    assert load_config(None).database == tmp_path / "here" / "station.db"
    system.parent.mkdir()
    system.write_text("")
    assert find_settings() == system
    Path("station.yaml").write_text("")
    assert find_settings() == Path("station.yaml")
    (tmp_path / "opt" / "share" / "birdstation").mkdir(parents=True)  # as `make install` leaves it
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "opt"))
    assert find_settings() == system, "the installed program means the installed station"
    system.unlink()
    assert find_settings() == Path("station.yaml")


def test_no_settings_are_said_by_the_check(system: Path) -> None:
    (row,) = check_settings(None, load_config(None))
    assert row.verdict == "warning"
    assert str(system.name) in row.found
    assert row.advice


def test_another_program_than_the_installed_one_is_said(tmp_path: Path) -> None:
    (alone,) = check_program(tmp_path / "birdstation")
    assert alone.verdict == "ok"
    (tmp_path / "birdstation").symlink_to("/opt/elsewhere/bin/birdstation")
    (row,) = check_program(tmp_path / "birdstation")
    assert (row.verdict, "/opt/elsewhere" in row.found) == ("warning", True)


@pytest.mark.slow
def test_the_command_says_which_it_is_and_which_settings_hold(tmp_path: Path) -> None:
    done = command("--version", folder=tmp_path)
    assert re.fullmatch(r"birdstation \d\S* \(Python 3\.\d+\.\d+, .*edge\)\n", done.stdout)
    listed = command("species", "echobird", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert re.match(
        r"settings: (none found, so the defaults apply|/etc/birdstation/station\.yaml)",
        listed.stderr,
    )
    (tmp_path / "station.yaml").write_text(
        "station: {id: porch}\ndetect: {thresholds: {easech: 0.9, nosuch: 0.5}}\n"
    )
    listed = command("species", "echobird", folder=tmp_path)
    assert listed.stderr == f"settings: {tmp_path / 'station.yaml'}\n"
    assert "Easterly Echobird" in listed.stdout
    assert "2 of 8 classes" in listed.stdout
    done = command("species", "ECHOBIRD", "--json", folder=tmp_path)
    assert done.stderr == ""
    assert {one["code"]: one["threshold"] for one in json.loads(done.stdout)}["easech"] == 0.9


def test_what_is_never_reported_has_no_threshold(bundle_folder: Path) -> None:
    known = known_species(read_bundle(bundle_folder), DetectSettings(kinds=("sound",)))
    assert [one.code for one in known] == ["lowtoo", "midtoo", "higtoo"]
    assert {one.threshold for one in known} == {None}
    shipped = known_species(read_bundle(DEMO_FOLDER / "bundle"), DetectSettings())
    assert all(one.threshold and one.threshold_acoustic for one in shipped)


def test_invented_birds_are_said_and_no_real_ones(bundle_folder: Path) -> None:
    shipped, other = (read_bundle(folder) for folder in (DEMO_FOLDER / "bundle", bundle_folder))
    assert len(shipped.taxonomy) == 8, "as the notice has it"
    assert notice_of(shipped.manifest.taxonomy_digest) == NOTICE
    assert notice_of(other.manifest.taxonomy_digest) is None
    assert notice_of(None) is None
    said = [check for check in check_bundle(shipped, 0.0) if check.verdict == "warning"]
    assert [(check.found, bool(check.advice)) for check in said] == [(NOTICE, True)]
    assert {check.verdict for check in check_bundle(other, 0.0)} == {"ok"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "--listen-s", "abc"), "expected a number, found 'abc'"),
        (("check", "--listen-s", "5000"), "expected at most 3600, found"),
        (("clock", "fix", "--boot", "b", "--seconds", "x"), "expected a number, found 'x'"),
        (("backup", "--keep", "0"), "expected at least 1, found"),
        (("review", "1", "maybe"), "'maybe' is not one of"),
    ],
)
def test_wrong_values_say_what_was_expected(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Input should" not in done.stderr
    assert "Value error" not in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "sensitive: {species: [lowtoo, lowtop]}",
            "sensitive.species: expected codes of this bundle (`birdstation ",
        ),
        (
            "detect: {kinds: [animal]}",
            "detect.kinds: expected a kind that this bundle has (bird), found animal",
        ),
        (
            "detect: {thresholds: {lowtop: 0.5}}",
            "detect.thresholds: expected codes of this bundle (`birdstation ",
        ),
        (
            "detect: {kinds: []}",
            "detect.kinds: expected a kind that this bundle has (bird), found none",
        ),
    ],
)
def test_a_slip_that_would_go_unnoticed_stops(
    station_yaml: StationYaml, line: str, message: str
) -> None:
    """A species that nobody protects, or a station that can hear nothing; said with its file."""
    config = station_yaml(line)
    done = command("replay", DEMO_FOLDER / "soundscapes", "--config", config, folder=config.parent)
    assert done.returncode == 78, done.stderr
    assert f"{config}: {message}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("said", "of_the_file"),
    [
        ("detect.kinds: expected a kind", True),
        ("state: expected a folder", True),
        ("members: found student", True),
        ("--cluster 10.0.0.1: no Ray cluster found", False),
        ("/srv/bundle: the bundle on node a differs from the one here", False),
        ("/etc/x.yaml: station.id: missing", False),
        ("catboost is not installed", False),
    ],
)
def test_what_is_of_the_settings_names_their_file(said: str, of_the_file: bool) -> None:
    with pytest.raises(ConfigError) as caught, named(Path("/etc/x.yaml")):
        raise ConfigError(said)
    assert str(caught.value) == (f"/etc/x.yaml: {said}" if of_the_file else said)


def test_bytes_that_are_no_text_are_one_line(station_yaml: StationYaml) -> None:
    """As a terminal of another encoding gives them."""
    config = station_yaml()
    config.with_name("station.db").touch()
    done = command(
        "why", b"M\xf6".decode("utf8", "surrogateescape"), "--config", config, folder=config.parent
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: expected text in UTF-8, found the bytes b'M\\xf6'\n"


def test_with_its_output_closed_it_ends_as_ever(tmp_path: Path) -> None:
    line = f'"{sys.executable}" -W error -m edge species >&-'
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, timeout=HANGS_S, cwd=tmp_path, check=True
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1e12"])
def test_no_clock_is_a_century_off(station_yaml: StationYaml, seconds: str) -> None:
    config = station_yaml()
    with Store(config.with_name("station.db")):
        pass
    line = ("clock", "fix", "--boot", "x", f"--seconds={seconds}", "--config", config)
    done = command(*line, folder=config.parent)
    assert done.returncode == 2, done.stderr
    assert "--seconds: expected a number within 100 years, found" in done.stderr


@pytest.mark.parametrize(
    "where", ["DESTDIR=/nosuch/my image", "PREFIX=/nosuch/my bird", "PREFIX=nosuch"]
)
def test_make_removes_nothing_that_was_not_named(where: str) -> None:
    """It takes a space for the end of a name."""
    done = subprocess.run(
        ["make", "-n", "uninstall", where], capture_output=True, text=True, cwd=PROJECT
    )
    assert done.returncode == 2
    assert "expected PREFIX" in done.stderr
    assert "rm" not in done.stdout
