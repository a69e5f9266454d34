"""The service: units that systemd's own tools accept, what is laid down, what systemd is told, and
the backup."""

import hashlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edge.config import load_config
from edge.contract.errors import EXIT_CONFIG, StoreError
from edge.host.notify import Notifier
from edge.store.backup import backup
from tests import HANGS_S

PROJECT = Path(__file__).parents[2]
UNITS = sorted((PROJECT / "systemd").glob("*.service"))
TIMERS = sorted((PROJECT / "systemd").glob("*.timer"))
OPTIONAL = sorted((PROJECT / "systemd" / "optional").glob("*.conf"))
EXPOSURE_MAX = 1.7


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program, (
        "the tests want systemd's tools: apt-get install systemd (make test does it as root)"
    )
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=HANGS_S)


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Every key of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` lays down, without the environment."""
    folder = tmp_path_factory.mktemp("tree")
    subprocess.run(
        ["make", "install-files", f"DESTDIR={folder}"], cwd=PROJECT, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def runnable(tree: Path, tmp_path: Path) -> Path:
    """The units with commands that are on this machine too: systemd refuses what is not there."""
    for unit in (tree / "etc/systemd/system").iterdir():
        text = re.sub(
            r"^ExecStart=\S+ .*", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE
        )
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    units = [p for p in sorted(folder.iterdir()) if p.suffix in (".service", ".timer")]
    assert len(units) == len(UNITS) + len(TIMERS)
    return analyze("verify", "--man=no", "--recursive-errors=no", *units)


def test_systemd_accepts_the_units(runnable: Path) -> None:
    done = verify(runnable)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("bad", ["WatchdogSek=60", "Restart=sometimes"])
def test_systemd_would_not_accept_everything(runnable: Path, bad: str) -> None:
    unit = runnable / "birdstation.service"
    unit.write_text(unit.read_text().replace("Type=notify", f"Type=notify\n{bad}"))
    assert verify(runnable).returncode == 1


@pytest.mark.parametrize(
    "extra", [p for p in OPTIONAL if "systemd-" not in p.name], ids=lambda p: p.stem
)
def test_systemd_accepts_the_optional_settings(runnable: Path, extra: Path) -> None:
    (runnable / "birdstation.service.d").mkdir()
    shutil.copy(extra, runnable / "birdstation.service.d")
    done = verify(runnable)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.stem)
def test_the_sandbox_is_tight(unit: Path) -> None:
    done = analyze("security", "--offline=yes", unit)
    exposure = re.search(r"Overall exposure level for \S+ ([\d.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure.group(1)) <= EXPOSURE_MAX, done.stdout


def test_the_nightly_units_have_the_daemons_sandbox() -> None:
    """Each unit is whole by itself; what protects one protects all."""
    daemon = settings_of(PROJECT / "systemd" / "birdstation.service")
    protecting = [
        k
        for k in daemon
        if re.match("Protect|Private|Restrict(?!AddressFamilies|Prevent)|NoNew|Lock|Cap", k)
    ]
    assert len(protecting) > 15
    for unit in UNITS:
        settings = settings_of(unit)
        assert {k: settings.get(k) for k in protecting} == {k: daemon[k] for k in protecting}, unit
        assert settings["SystemCallFilter"][:2] == daemon["SystemCallFilter"][:2]
        assert settings["User"] == ["birdstation"]
        assert "ORT_DISABLE_TELEMETRY=1" in settings["Environment"], (
            "a station reports to its owner alone"
        )


@pytest.mark.parametrize("timer", TIMERS, ids=lambda p: p.stem)
def test_timers_run_every_night(timer: Path) -> None:
    (calendar,) = settings_of(timer)["OnCalendar"]
    done = analyze("calendar", "--iterations=2", calendar)
    assert done.returncode == 0, done.stderr
    assert timer.with_suffix(".service") in UNITS
    nights = re.findall(r"(?:elapse|Iter. #2): \w+ (\S+) (\d\d):\d\d:\d\d", done.stdout)
    assert len({day for day, _ in nights}) == 2
    assert all(0 <= int(hour) < 6 for _, hour in nights)


def test_what_is_never_given_up_and_what_is() -> None:
    settings = settings_of(PROJECT / "systemd" / "birdstation.service")
    assert settings["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]
    assert settings["StartLimitIntervalSec"] == ["0"]
    for unit in (*UNITS, *TIMERS):
        assert "time-sync" not in " ".join(settings_of(unit).get("After", [])), (
            "without network it would wait for ever"
        )
    assert all(settings_of(timer)["DefaultDependencies"] == ["no"] for timer in TIMERS), (
        "they would wait for it too"
    )


def test_units_name_what_is_laid_down(tree: Path) -> None:
    state = settings_of(PROJECT / "systemd" / "birdstation.service")["StateDirectory"]
    laid = load_config(tree / "etc/birdstation/station.yaml")
    assert str(laid.state) == f"/var/lib/{state[0]}"
    assert laid == replace(load_config(PROJECT / "station.yaml"), state=laid.state)
    for unit in (tree / "etc/systemd/system").glob("*.service"):
        text = unit.read_text()
        (config,) = re.findall(r"--config (\S+)", text)
        assert (tree / config.lstrip("/")).is_file()
        for document in re.findall(r"^Documentation=file://(\S+)", text, re.MULTILINE):
            assert (tree / document.lstrip("/")).is_file()
    assert (tree / "etc/sysusers.d/birdstation.conf").is_file()
    assert (tree / "usr/local/bin/birdstation").readlink() == Path(
        "/opt/birdstation/bin/birdstation"
    )
    for extra in (tree / "opt/birdstation/share/birdstation/optional").iterdir():
        (source,) = set(re.findall(r"(/opt/birdstation/\S+\.conf)", extra.read_text()))
        assert (tree / source.lstrip("/")) == extra


def test_install_leaves_settings_alone_and_uninstall_too(tmp_path: Path) -> None:
    def make(target: str) -> None:
        command = ["make", target, f"DESTDIR={tmp_path}", "PREFIX=/srv/birds"]
        subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)

    settings = tmp_path / "etc/birdstation/station.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("station: {id: porch}\n")
    make("install-files")
    assert settings.read_text() == "station: {id: porch}\n"
    units = list((tmp_path / "etc/systemd/system").iterdir())
    assert len(units) == len(UNITS) + len(TIMERS)
    assert all("/opt/birdstation" not in unit.read_text() for unit in units)
    assert (
        "/srv/birds/bin/python" in (tmp_path / "etc/systemd/system/birdstation.service").read_text()
    )
    assert (tmp_path / "usr/local/bin/birdstation").is_symlink()
    make("uninstall")
    assert [p for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()] == [settings]


def test_a_foreign_command_stays(tmp_path: Path) -> None:
    link = tmp_path / "usr/local/bin/birdstation"
    link.parent.mkdir(parents=True)
    link.symlink_to("/elsewhere/bin/birdstation")
    subprocess.run(
        ["make", "uninstall", f"DESTDIR={tmp_path}"], cwd=PROJECT, check=True, capture_output=True
    )
    assert link.is_symlink()


def test_sysusers_accepts_its_line(tree: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-sysusers")
    assert program
    line = tree / "etc/sysusers.d/birdstation.conf"
    (tmp_path / "etc").mkdir()
    subprocess.run([program, f"--root={tmp_path}", str(line)], check=True, capture_output=True)
    assert "birdstation:" in (tmp_path / "etc/passwd").read_text()
    assert re.search(r"^audio:.*birdstation$", (tmp_path / "etc/group").read_text(), re.MULTILINE)


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """A real notification socket, as systemd binds it: its address, and what comes in."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@birdstation-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(10)
        yield name, lambda: receiver.recv(4096)


def test_systemd_is_told(manager: tuple[str, Callable[[], bytes]]) -> None:
    address, received = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"})
    assert notifier.watchdog_s == 60.0
    notifier.ready("two lines\nare one")
    assert received() == b"READY=1\nSTATUS=two lines are one"
    notifier.status("3 s behind")
    assert received() == b"STATUS=3 s behind"
    notifier.watchdog()
    assert received() == b"WATCHDOG=1"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, usec = received().split(b"\n")
    assert reloading == b"RELOADING=1"
    assert before <= int(usec.removeprefix(b"MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.extend_timeout(1.5)
    assert received() == b"EXTEND_TIMEOUT_USEC=1500000"
    notifier.stopping()
    assert received() == b"STOPPING=1"


def test_without_systemd_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_s is None
    assert not caplog.records


def test_a_manager_that_went_away_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).watchdog()
    assert "could not be notified of WATCHDOG=1" in caplog.text


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [("2000000", None, 2.0), ("2000000", "1", None), ("0", None, None), ("soon", None, None)],
)
def test_the_watchdog_is_this_processs_own(
    usec: str, pid: str | None, seconds: float | None
) -> None:
    environment = {"WATCHDOG_USEC": usec} | ({"WATCHDOG_PID": pid} if pid else {})
    assert Notifier(environment).watchdog_s == seconds


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "station.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE heard (a INTEGER, b INTEGER)")
        db.commit()
    return path


def test_a_backup_beside_a_writer_is_whole(database: Path, tmp_path: Path) -> None:
    done = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(database, timeout=30)) as db:
            number = 0
            while not done.is_set():
                number += 1
                db.executemany(
                    "INSERT INTO heard VALUES (?, ?)", [(number, part) for part in range(10)]
                )
                db.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [backup(database, tmp_path / f"copies{n}", 7, "porch") for n in range(5)]
    finally:
        done.set()
        writer.join()
    for copy in copies:
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert (
                db.execute("SELECT count(*) FROM heard GROUP BY a HAVING count(*) <> 10").fetchall()
                == []
            )
        sums = copy.with_name(copy.name + ".sha256").read_text()
        assert sums == f"{hashlib.sha256(copy.read_bytes()).hexdigest()}  {copy.name}\n"
        assert sorted(p.name for p in copy.parent.iterdir()) == [copy.name, copy.name + ".sha256"]


def test_the_last_few_backups_stay(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    for day in range(1, 6):
        (folder / f"station-porch-2026010{day}T041700Z.db").touch()
        (folder / f"station-porch-2026010{day}T041700Z.db.sha256").touch()
    others = {
        "mine.db",
        "partial.db",
        "station-ridge-20260101T041700Z.db",
        "station-20260101T041700Z.db",
        "station-2024-in-the-fieldZ.db",
        "station-oldZ.db",
    }
    for name in others:
        (folder / name).touch()
    (folder / ".birdstation-partial.db").write_text("cut off by a power cut")
    made = backup(database, folder, 3, "porch")
    kept = {made.name, "station-porch-20260105T041700Z.db", "station-porch-20260104T041700Z.db"}
    assert {p.name for p in folder.iterdir()} == kept | {f"{name}.sha256" for name in kept} | others


def test_the_new_backup_stays_whatever_the_clock_says(database: Path, tmp_path: Path) -> None:
    for suffix in (".db", ".db.sha256"):
        (tmp_path / f"station-porch-29990101T000000Z{suffix}").touch()
    made = backup(database, tmp_path, 1, "porch")
    assert [p.name for p in tmp_path.glob("*.db")] == [made.name]


def test_backups_that_a_wrong_clock_has_named_go_first(database: Path, tmp_path: Path) -> None:
    """A week by a clock that was ahead: else they would stay for ever, and each night's copy would
    go the next."""
    wrong = [f"station-porch-2999010{day}T000000Z.db" for day in range(1, 4)]
    right = "station-porch-20260101T041700Z.db"
    for name in (*wrong, right):
        (tmp_path / name).touch()
        (tmp_path / f"{name}.sha256").touch()
    made = backup(database, tmp_path, 3, "porch")
    kept = {path.name for path in tmp_path.glob("station-porch-*.db")}
    assert kept == {made.name, right, wrong[-1]}


def test_copies_of_one_second_have_names_and_sums_of_their_own(
    database: Path, tmp_path: Path
) -> None:
    """A power cut between sum and copy would otherwise leave the one's sum beside the other."""
    with closing(sqlite3.connect(database)) as db:
        made = []
        for number in range(3):
            made.append(backup(database, tmp_path / "copies", 7, "porch"))
            db.execute("INSERT INTO heard VALUES (?, 0)", (number,))
            db.commit()
    assert len(set(made)) == 3
    for copy in made:
        assert (
            copy.with_name(copy.name + ".sha256").read_text().split()[0]
            == hashlib.sha256(copy.read_bytes()).hexdigest()
        )


def test_a_damaged_database_replaces_no_good_backup(database: Path, tmp_path: Path) -> None:
    good = tmp_path / "station-porch-20260101T041700Z.db"
    good.touch()
    with closing(sqlite3.connect(database)) as db:
        db.executemany("INSERT INTO heard VALUES (?, ?)", [(n, n) for n in range(5000)])
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(database.read_bytes())
    damaged[8192:20000] = bytes(20000 - 8192)
    database.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"no backup of .*malformed"):
        backup(database, tmp_path, 1, "porch")
    assert [p.name for p in tmp_path.glob("*.db*")] == [good.name]


def test_no_room_is_one_line(
    database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edge.store.backup._SPARE_BYTES", 1 << 60)
    with pytest.raises(StoreError, match=r"MB are free, expected \d+; make room") as refused:
        backup(database, tmp_path / "copies", 7, "porch")
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_the_command_makes_a_backup_or_says_why_not(station_yaml: Callable[..., Path]) -> None:
    config = station_yaml()
    command = [sys.executable, "-m", "edge", "backup", "--config", str(config)]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    assert missing.returncode == 1
    assert re.fullmatch(r"error: no backup of .*station\.db.*\n", missing.stderr)
    with closing(sqlite3.connect(config.parent / "station.db")) as db:
        db.execute("CREATE TABLE heard (a)")
    made = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    assert made.returncode == 0, made.stderr
    (copy,) = (config.parent / "backups").glob("station-*Z.db")
    assert made.stdout.startswith(str(copy))
