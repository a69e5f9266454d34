"""Which clips go, on real files and a real record: never the wrong ones, at 0 bytes free too,
whatever is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge.clips.disk_reserve import Reserve
from edge.clips.reconcile import reconcile
from edge.clips.retention import DiskBytes, Retention, RetentionSummary
from edge.config import Config, RetentionSettings
from edge.contract.audio import RATE_HZ
from edge.contract.errors import StoreError
from edge.host.clock import Clock, boot_id
from edge.store.clips import ClipTable
from edge.store.clock import ClockTable
from edge.types import ClipRow, StationRun, utc_text
from tests import HANGS_S
from tests.helpers.clip_station import (
    PROJECT,
    START,
    commit,
    detection,
    in_child,
    on_small_disk,
    stretch,
)

MB = 1_000_000
NOW = datetime.now(timezone.utc)
ROOMY = DiskBytes(1000 * MB, 900 * MB)


def fill(
    state: Path,
    bundle_folder: Path,
    ages_days: list[float],
    size: int = 1000,
    species: str = "lowtoo",
) -> None:
    """A clip per age, `clip0` first, each of one detection; the younger the better its score."""
    config = Config(state=state)
    row = stretch(species)
    found = [
        detection(row, n * 10 * RATE_HZ, species, 0.5 + n / 1000) for n in range(len(ages_days))
    ]
    commit(config, bundle_folder, row, found)
    with ClipTable(config.database) as table:
        for n, age in enumerate(ages_days):
            path = f"2019-05-22/{species}{n}.flac"
            file = config.clips_folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(os.urandom(size))
            clip = ClipRow(f"{species}{n}", path, row.id, START, 11.0, size)
            table.add(clip, [found[n].id], lambda: None)
            since = utc_text(NOW - timedelta(days=age))
            with table._transaction():
                table._db.execute(
                    "UPDATE clips SET start_utc = ?, created_utc = ? WHERE id = ?",
                    (since, since, clip.id),
                )


def tidy(
    state: Path,
    settings: RetentionSettings,
    disk: DiskBytes | None = ROOMY,
    limit: int = 500,
    dry_run: bool = False,
) -> RetentionSummary:
    """One clean-up; `disk` stands for a disk of that size, None is the real one."""
    config = Config(state=state)
    given = {"disk": lambda _: disk} if disk else {}
    with ClipTable(config.database) as table:
        keeper = Retention(table, config.clips_folder, Reserve(state), settings, **given)
        return keeper.tidy(NOW, dry_run=dry_run, limit=limit)


def left(state: Path) -> set[str]:
    """Ids of the clips that are left; asserts that files, rows and detections agree."""
    folder = state / "clips"
    with ClipTable(state / "station.db") as table:
        rows = dict(table.rows("SELECT path, id FROM clips"))
        referred = {
            clip for (clip,) in table.rows("SELECT clip FROM detections WHERE clip IS NOT NULL")
        }
    assert referred <= set(rows.values())
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(rows)
    return set(rows.values())


def protect(state: Path, kept: str, reviewed: str) -> None:
    with ClipTable(state / "station.db") as table, table._transaction():
        table._db.execute("UPDATE clips SET kept = 1 WHERE id = ?", (kept,))
        table._db.execute(
            "INSERT INTO reviews (detection, reviewer, verdict, note, reviewed_utc) SELECT id, "
            "'me', 'wrong', '', '2026-01-01' FROM detections WHERE clip = ?",
            (reviewed,),
        )


def test_old_clips_go_and_protected_ones_stay(tmp_path: Path, bundle_folder: Path) -> None:
    fill(tmp_path, bundle_folder, [40, 39, 38, 37, 36, 29, 1])
    fill(tmp_path, bundle_folder, [99], species="midtoo")
    protect(tmp_path, kept="lowtoo1", reviewed="lowtoo2")
    done = tidy(tmp_path, RetentionSettings(days=30, per_species=3))
    assert done.removed == {"age": 2}
    assert done.removed_bytes == {"age": 2000}
    # The best three of the low species are the youngest three; the middle one has but one.
    assert left(tmp_path) == {"lowtoo1", "lowtoo2", "lowtoo4", "lowtoo5", "lowtoo6", "midtoo0"}
    assert (done.clips, done.clips_bytes) == (6, 6000)
    with ClipTable(tmp_path / "station.db") as table:
        assert table.rows("SELECT count(*) FROM detections") == [(8,)]
        assert table.protected(3) == (6, 6000)
    assert tidy(tmp_path, RetentionSettings(days=30, per_species=3)).removed == {}


def test_a_dry_run_changes_nothing_and_says_the_same(tmp_path: Path, bundle_folder: Path) -> None:
    fill(tmp_path, bundle_folder, [40, 39, 1])
    settings = RetentionSettings(days=30, per_species=0)
    would = tidy(tmp_path, settings, dry_run=True)
    assert len(left(tmp_path)) == 3
    assert not (tmp_path / "reserve").exists()
    assert tidy(tmp_path, settings).removed == would.removed == {"age": 2}


def test_a_clock_that_nobody_set_removes_nothing_by_age(
    tmp_path: Path, bundle_folder: Path
) -> None:
    fill(tmp_path, bundle_folder, [40])
    config = Config(state=tmp_path)
    with ClipTable(config.database) as table:
        keeper = Retention(
            table,
            config.clips_folder,
            Reserve(tmp_path),
            RetentionSettings(days=1, per_species=0),
            lambda _: ROOMY,
        )
        assert keeper.tidy(NOW + timedelta(days=9999), clock_is_set=False).removed == {}
    assert left(tmp_path) == {"lowtoo0"}


def test_where_nobody_knows_the_time_there_is_no_rate(tmp_path: Path, bundle_folder: Path) -> None:
    """Of a start in 1970 all clips are those of the last day."""
    fill(tmp_path, bundle_folder, [9, 8, 7, 6], size=10 * MB)
    settings = RetentionSettings(per_species=0, hours_left=72)
    epoch = datetime(1970, 1, 1, 0, 5, tzinfo=timezone.utc)
    for free, gone in ((600 * MB, 0), (101 * MB, 0), (92 * MB, 1)):  # a tenth is to be free
        with ClipTable(Config(state=tmp_path).database) as table:
            keeper = Retention(
                table,
                tmp_path / "clips",
                Reserve(tmp_path),
                settings,
                lambda _, free=free: DiskBytes(1000 * MB, free),  # type: ignore[misc]
            )
            done = keeper.tidy(epoch, clock_is_set=False)
        assert (sum(done.removed.values()), done.hours_left) == (gone, None)


def test_a_filling_disk_takes_the_oldest_until_there_is_room(
    tmp_path: Path, bundle_folder: Path
) -> None:
    fill(tmp_path, bundle_folder, [9, 8, 7, 6, 5, 4, 3, 2], size=1 * MB)
    disk = DiskBytes(1000 * MB, 97 * MB)  # 3 MB fuller than it may be
    settings = RetentionSettings(disk_share=0.9, per_species=3, hours_left=0)
    assert tidy(tmp_path, settings, disk, limit=2).more
    done = tidy(tmp_path, settings, DiskBytes(1000 * MB, 99 * MB))
    assert (done.removed, done.more, done.short_bytes) == ({"disk": 1}, False, 0)
    assert left(tmp_path) == {f"lowtoo{n}" for n in range(3, 8)}
    done = tidy(tmp_path, settings, DiskBytes(1000 * MB, 91 * MB + 20_000))
    assert done.removed["disk"] == 2
    assert done.short_bytes == 9 * MB - 20_000 - 2 * MB


def test_it_looks_ahead_at_the_rate_of_the_last_day(tmp_path: Path, bundle_folder: Path) -> None:
    """4 MB in the last 10 hours: 9.6 MB in 24 hours."""
    fill(
        tmp_path, bundle_folder, [9, 8, 7, 6, 5, 4, 3, 10 / 24, 9 / 24, 8 / 24, 7 / 24], size=1 * MB
    )
    settings = RetentionSettings(disk_share=0.9, per_species=0, hours_left=24)
    # 8 MB until it is as full as it may be
    done = tidy(tmp_path, settings, DiskBytes(200 * MB, 28 * MB))
    assert done.hours_left == pytest.approx(20.0, abs=0.1)
    assert done.removed == {"disk": 2}
    # Where a whole day does not fit, half of the space stays for clips.
    done = tidy(tmp_path, settings, DiskBytes(200 * MB, 20 * MB))
    assert (done.removed, done.hours_left) == ({"disk": 5}, 0.0)
    assert left(tmp_path) == {"lowtoo7", "lowtoo8", "lowtoo9", "lowtoo10"}


def test_what_cannot_be_removed_is_in_nobodys_way(tmp_path: Path, bundle_folder: Path) -> None:
    fill(tmp_path, bundle_folder, [50, 49, 48, 47, 46])
    folder = tmp_path / "clips" / "2019-05-22"
    (folder / "lowtoo1.flac").unlink()
    (folder / "lowtoo2.flac").unlink()
    (folder / "lowtoo2.flac").mkdir()
    (tmp_path / "precious").write_text("not a clip")
    with ClipTable(tmp_path / "station.db") as table, table._transaction():
        table._db.execute("UPDATE clips SET path = '../precious' WHERE id = 'lowtoo3'")
    done = tidy(tmp_path, RetentionSettings(days=30, per_species=0))
    assert done.removed == {"age": 2}
    assert (done.missing, done.failed) == (1, 2)
    assert (tmp_path / "precious").exists()
    with ClipTable(tmp_path / "station.db") as table:
        assert table.rows("SELECT count(*) FROM clips") == [(0,)]
        assert table.rows("SELECT count(*) FROM detections WHERE clip IS NULL") == [(5,)]


def test_clips_deleted_by_hand_are_forgotten_and_a_disk_that_is_away_is_not(
    tmp_path: Path, bundle_folder: Path
) -> None:
    fill(tmp_path, bundle_folder, [1.0] * 60)
    (tmp_path / "clips" / "2019-05-22" / "lowtoo7.flac").unlink()
    assert tidy(tmp_path, RetentionSettings()).missing == 1
    assert len(left(tmp_path)) == 59
    (tmp_path / "clips").rename(tmp_path / "unplugged")
    with pytest.raises(StoreError, match="is its disk mounted"):
        tidy(tmp_path, RetentionSettings(days=1))
    with ClipTable(tmp_path / "station.db") as table:
        assert reconcile(table, tmp_path / "clips").away
        assert table.rows("SELECT count(*) FROM clips") == [(59,)]


def test_a_clip_of_no_detection_goes(tmp_path: Path, bundle_folder: Path) -> None:
    """Its recording was analysed anew under other settings."""
    fill(tmp_path, bundle_folder, [1, 1, 1])
    with ClipTable(tmp_path / "station.db") as table, table._transaction():
        table._db.execute("UPDATE detections SET clip = NULL WHERE clip <> 'lowtoo2'")
        table._db.execute("UPDATE clips SET kept = 1 WHERE id = 'lowtoo1'")
    assert tidy(tmp_path, RetentionSettings()).removed == {"unused": 1}
    assert left(tmp_path) == {"lowtoo1", "lowtoo2"}


def body_killed(state: Path) -> None:
    tidy(state, RetentionSettings(days=30, per_species=0))


def test_a_kill_between_row_and_file_leaves_no_row_without_file(
    tmp_path: Path, bundle_folder: Path
) -> None:
    fill(tmp_path, bundle_folder, [50, 49, 48, 1])
    folder = tmp_path / "clips" / "2019-05-22"
    with ClipTable(tmp_path / "station.db") as table, table._transaction():
        for n in range(4):  # as the maker names them
            name = f"lowtoo_0.50_20190521T233007.250Z_{n:08x}.flac"
            (folder / f"lowtoo{n}.flac").rename(folder / name)
            table._db.execute(
                "UPDATE clips SET path = ? WHERE id = ?", (f"2019-05-22/{name}", f"lowtoo{n}")
            )
    kill = "import os, signal; os.unlink = lambda *a: os.kill(os.getpid(), signal.SIGKILL)"
    died = in_child("tests.edge.test_retention.body_killed", tmp_path, before=kill)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(list(folder.iterdir())) == 4
    with ClipTable(tmp_path / "station.db") as table:
        assert table.rows("SELECT id FROM clips") == [("lowtoo3",)]
        done = reconcile(table, tmp_path / "clips")
    assert (done.files_removed, done.rows_cleaned) == (3, 0)
    assert left(tmp_path) == {"lowtoo3"}


def test_the_reserve_is_given_up_and_made_again(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path)
    assert reserve.make()
    assert reserve.path.stat().st_blocks * 512 >= reserve.bytes  # really on the disk
    assert not reserve.give_up_if_full()
    assert reserve.make()
    reserve.path.write_bytes(b"cut short")
    assert reserve.make()
    assert reserve.path.stat().st_size == reserve.bytes
    assert not Reserve(tmp_path / "nowhere").make()


def fill_up(disk: Path) -> None:
    """Write until not one byte is free."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\1" * size)
            except OSError:
                continue


def body_no_byte_free(disk: Path, bundle_folder: Path) -> None:
    """40 clips of 1 MB on a disk of 64 MB, filled to the last byte by somebody else."""
    fill(disk, bundle_folder, [40.0 - n for n in range(38)], size=1 << 20)
    protect(disk, kept="lowtoo0", reviewed="lowtoo1")
    assert Reserve(disk).make()
    fill_up(disk)
    assert os.statvfs(disk).f_bavail == 0
    # what it is like without the reserve
    with pytest.raises(StoreError), ClipTable(disk / "station.db") as table:
        table.forget([f"lowtoo{n}" for n in range(38)])
    assert Reserve(disk).give_up_if_full()
    done = tidy(disk, RetentionSettings(per_species=20, disk_share=0.5, hours_left=0), disk=None)
    assert done.removed == {"disk": 16}  # all that are neither protected nor among the best 20
    assert done.short_bytes > 5_000_000
    assert (disk / "reserve").stat().st_size == 8 << 20
    assert left(disk) == {"lowtoo0", "lowtoo1", *(f"lowtoo{n}" for n in range(18, 38))}
    # Filled again with nothing left but the best: of these as many go as the record needs, the
    # worst first.
    fill_up(disk)
    Reserve(disk).give_up_if_full()
    done = tidy(disk, RetentionSettings(per_species=20, disk_share=0.9, hours_left=0), disk=None)
    # what is short of twice the reserve, to a page or so
    assert done.removed in ({"full": 8}, {"full": 9}), done
    assert done.short_bytes == 0
    assert left(disk) == {
        "lowtoo0",
        "lowtoo1",
        *(f"lowtoo{n}" for n in range(18 + done.removed["full"], 38)),
    }
    assert (disk / "reserve").exists()
    assert os.system(f"mount -o remount,ro {disk}") == 0
    with pytest.raises(StoreError, match=r"station\.db|not writable"):
        tidy(disk, RetentionSettings(days=1, per_species=0), disk=None)


def test_with_no_byte_free_it_makes_room(tmp_path: Path, bundle_folder: Path) -> None:
    on_small_disk("tests.edge.test_retention.body_no_byte_free", tmp_path, 64, bundle_folder)


@pytest.mark.slow
def test_the_command(bundle_folder: Path, station_yaml: Callable[..., Path]) -> None:
    # however full this disk is
    path = station_yaml("retention: {days: 30, per_species: 1, disk_share: 0.99}")

    def command(*options: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "edge", "retention", "--config", str(path), *options]
        return subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)

    nothing = command()
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("error: ")
    assert nothing.stderr.count("\n") == 1
    fill(path.parent, bundle_folder, [50, 49, 1], size=500_000)
    this_boot = StationRun("r", "folder", boot_id() or "", 0.0, 0, "unsynced")
    with ClockTable(path.parent / "station.db") as table:
        table.begin_run("porch", this_boot)
        if Clock().state == "unsynced":
            unknown = json.loads(command("--json").stdout)
            assert (unknown["removed"], unknown["time_known"], unknown["hours_left"]) == (
                {},
                False,
                None,
            )
            assert "The time is not known" in command("--dry-run").stdout
        now = Clock()
        # a person knows it
        table.fix(this_boot.boot, round(now.shown.timestamp() - now.boot_s(now.at_s()), 3))
    shown = command("--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "Clips that would be removed" in shown.stdout
    assert "older than retention.days" in shown.stdout
    assert len(left(path.parent)) == 3
    done = json.loads(command("--json").stdout)
    assert done["removed"] == {"age": [2, 1_000_000]}
    assert (done["clips"], done["protected"], done["missing"], done["failed"]) == (1, 1, 0, 0)
    assert left(path.parent) == {"lowtoo2"}
