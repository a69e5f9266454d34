"""Settings that were lost: an empty file, one cut short, a section that is gone at a reload.
Nothing is no choice."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.check.settings import check_settings
from edge.config import load_config, read_settings
from edge.contract.errors import ConfigError
from edge.daemon.reload import LAST, keep, read_again, read_at_start
from tests import HANGS_S
from tests.helpers.brokers import until

PROJECT = Path(__file__).parents[2]
WHOLE = """station: {id: porch}
detect:
  threshold: 0.77
schedule: [[sunrise, sunset]]
mqtt: {host: broker}
clips:
  save: false
retention:
  per_species: 500
  days: 3000
privacy:
  human: all
  classes: [human]
sensitive:
  species: [owl]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "station.yaml").write_text(text)
    return folder / "station.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected settings, at least station: {id: …}, found nothing in it"),
        ("# birdstation\n\n", "found nothing in it"),
        ("---\n...\n", "found nothing in it"),
        ("null\n", "found nothing in it"),
        ("{}\n", "station.id: missing"),
        ("station: {}\n", "station.id: missing"),
        ("station:\n", "station: expected keys and values, found nothing"),
        ("station: {latitude: 1, longitude: 2}\n", "station.id: missing"),
        ("privacy: {human: all}\n", "station.id: missing"),
        ("station: {id: porch}\nprivacy:\n", "privacy: expected keys and values, found nothing"),
        (
            "station: {id: porch}\nsensitive: {species: }\n",
            "sensitive.species: expected a list, found nothing",
        ),
        ("\0" * 200, "zero bytes"),
    ],
)
def test_nothing_is_no_choice(tmp_path: Path, text: str, message: str) -> None:
    """At a start, and at a reload."""
    before = read_settings(write(tmp_path, WHOLE))
    path = write(tmp_path, text)
    for read in (load_config, lambda path: read_again(path, before)):
        with pytest.raises(ConfigError) as refused:
            read(path)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
        assert str(refused.value).startswith(f"{path}: ")


def test_a_file_cut_at_any_line_is_refused_by_a_running_station(tmp_path: Path) -> None:
    """Of these settings the last line protects something."""
    before = read_settings(write(tmp_path, WHOLE))
    lines = WHOLE.splitlines(keepends=True)
    for count in range(len(lines)):
        path = write(tmp_path, "".join(lines[:count]))
        with pytest.raises(ConfigError, match=r"^[^\n]+$"):
            read_again(path, before)


@pytest.mark.parametrize(
    ("gone", "written", "key"),
    [
        ("  human: all\n", "  human: clips\n", "privacy.human"),
        ("  classes: [human]\n", "  classes: []\n", "privacy.classes"),
        ("sensitive:\n  species: [owl]\n", "sensitive: {species: []}\n", "sensitive.species"),
        ("  per_species: 500\n", "  per_species: 20\n", "retention.per_species"),
        ("clips:\n  save: false\n", "clips: {save: true}\n", "clips.save"),
        ("schedule: [[sunrise, sunset]]\n", "schedule: []\n", "schedule"),
    ],
)
def test_what_protects_is_taken_away_by_its_default(
    tmp_path: Path, gone: str, written: str, key: str
) -> None:
    before = read_settings(write(tmp_path, WHOLE))
    path = write(tmp_path, WHOLE.replace(gone, ""))
    with pytest.raises(ConfigError, match=f": {key}: set before, now missing; .* its default"):
        read_again(path, before)
    path = write(tmp_path, WHOLE.replace(gone, written))
    reload = read_again(path, before)
    assert (reload.changed, reload.gone) == ((key,), ())


def test_what_else_is_gone_is_named(tmp_path: Path) -> None:
    before = read_settings(write(tmp_path, WHOLE))
    path = write(
        tmp_path,
        WHOLE.replace("detect:\n  threshold: 0.77\n", "").replace("mqtt: {host: broker}\n", ""),
    )
    reload = read_again(path, before)
    assert reload.gone == ("detect.threshold", "mqtt")
    assert reload.settings.config.privacy == before.config.privacy


@pytest.mark.parametrize("section", ["privacy", "sensitive", "retention", "clips"])
def test_a_misspelt_key_that_protects_is_refused(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.humans: unknown key; allowed here: "):
        load_config(write(tmp_path, f"station: {{id: porch}}\n{section}: {{humans: all}}\n"))


def test_a_file_that_says_how_it_ends_is_refused_without(tmp_path: Path) -> None:
    """As the shipped one does, cut at any of its lines; what is appended to it does not matter."""
    shipped = (PROJECT / "station.yaml").read_text()
    lines = shipped.splitlines(keepends=True)
    head = next(at for at, line in enumerate(lines) if line.startswith("# ends with: "))
    for count in range(head + 1, len(lines)):
        with pytest.raises(
            ConfigError, match="expected the line '# end of the settings', as its head says"
        ):
            load_config(write(tmp_path, "".join(lines[:count])))
    load_config(write(tmp_path, shipped + "# mine\n"))


def test_a_file_cut_at_any_line_is_refused_at_the_next_start(tmp_path: Path) -> None:
    """What says the same, or was edited, is taken."""
    text = (
        WHOLE.replace("detect:\n  threshold: 0.77\n", "state: state\n")
        + "detect: {threshold: 0.77}\n# the end\n"
    )
    path = write(tmp_path, text)
    (tmp_path / "state").mkdir()
    keep(read_at_start(path))
    assert stat.S_IMODE((tmp_path / "state" / LAST).stat().st_mode) == 0o600
    first = text.index("clips")
    last = text.index("# the end")
    cuts = [at + 1 for at in range(first, last - 1) if text[at] == "\n"]
    said = []
    for at in [*cuts, text.index("500") + 1]:
        with pytest.raises(ConfigError, match=r"^[^\n]+$") as refused:
            read_at_start(write(tmp_path, text[:at]))
        said.append(str(refused.value))
    of_a_cut = [
        line
        for line in said
        if "found only the beginning of those of the last start, without " in line
    ]
    assert len(of_a_cut) > len(cuts) / 2, "the others are no settings at all"
    assert "privacy.human" in said[cuts.index(text.index("privacy"))]
    for same in (text, text[:last], text[:last] + "# the", text[: last - 1]):
        assert (
            read_at_start(write(tmp_path, same)).config
            == read_settings(write(tmp_path, text)).config
        )
    for edited in (
        text[: cuts[-1]] + "# as I want it\n",
        text.replace("0.77", "0.5"),
        text + "members: bag\n",
    ):
        keep(read_at_start(write(tmp_path, edited)))
        assert (tmp_path / "state" / LAST).read_text() == edited
        keep(read_at_start(write(tmp_path, text)))


@pytest.mark.parametrize(
    "last", [b"", b"\0" * 400, b"\xff\xfe", b"station: {id: porch}\nfrom_an_older_version: 3\n"]
)
def test_a_copy_of_the_settings_that_is_none_stops_nothing(tmp_path: Path, last: bytes) -> None:
    path = write(tmp_path, "station: {id: porch}\n")
    (tmp_path / LAST).write_bytes(last)
    keep(read_at_start(path))
    assert (tmp_path / LAST).read_bytes() == path.read_bytes()
    (tmp_path / LAST).unlink()
    (tmp_path / LAST).mkdir()
    keep(read_at_start(path))


def test_the_check_says_that_the_last_line_has_no_end(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    assert check_settings(path, load_config(path))[0].verdict == "ok"
    path = write(tmp_path, WHOLE[:-3] + "]")
    (row,) = check_settings(path, load_config(path))
    assert (row.verdict, "its last line is not terminated" in row.found) == ("warning", True)


def test_a_running_station_keeps_what_it_has(
    tmp_path: Path, station_yaml: Callable[..., Path]
) -> None:
    lines = (
        "source: folder",
        "folder: {path: in}",
        "health: {interval_s: 1}",
        "privacy: {human: all}",
    )
    path = station_yaml(*lines)
    (path.parent / "in").mkdir()
    log = tmp_path / "log.txt"
    command = [sys.executable, "-m", "edge", "run", "--config", str(path)]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stderr=out, cwd=PROJECT, env=os.environ) as station,
    ):
        try:
            assert until((path.parent / "health.json").exists, HANGS_S), log.read_text()
            whole = path.read_text()
            for text, said in (
                ("", "settings not applied: "),
                (whole.replace(lines[3] + "\n", ""), "privacy.human: set before"),
                (whole.replace("all", "off"), "changed settings: privacy.human"),
            ):
                path.write_text(text)
                station.send_signal(signal.SIGHUP)
                assert until(lambda said=said: said in log.read_text(), HANGS_S), log.read_text()
                assert station.poll() is None
        finally:
            station.terminate()
    path.write_text(text[: text.index("privacy:")])
    cut = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=HANGS_S)
    assert (cut.returncode, cut.stderr.count("\n")) == (78, 1), cut.stderr
    assert f"{path}: expected complete settings" in cut.stderr
