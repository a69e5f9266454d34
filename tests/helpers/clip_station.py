"""A record with stretches and detections for the tests of clips, without a network: what was heard
is said here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge.config import Config
from edge.contract.audio import RATE_HZ
from edge.contract.bundle import read_bundle
from edge.store.record import Store
from edge.types import Detection, Place, RecordingRow, stable_id
from tests import HANGS_S, unmeasured

PROJECT = Path(__file__).parents[2]
START = datetime(2019, 5, 21, 23, 30, 0, 250_000, tzinfo=timezone.utc)


def stretch(name: str = "live", start: datetime = START) -> RecordingRow:
    """An hour of the microphone, two hours ahead of UTC."""
    place = Place(52.123456, 13.654321)
    return RecordingRow(
        name,
        f"microphone/{name}",
        0,
        0,
        None,
        start,
        "clock",
        "config",
        120,
        place,
        "microphone",
        "synced",
    )


def detection(
    row: RecordingRow,
    at: int,
    species: str = "lowtoo",
    score: float = 0.8,
    length: int = 5 * RATE_HZ,
) -> Detection:
    """A species in the window that begins at sample `at` of the stretch."""
    start = row.start + timedelta(seconds=at / RATE_HZ)
    return Detection(
        id=stable_id(row.id, species, str(at)),
        recording_id=row.id,
        start=start,
        end=start + timedelta(seconds=length / RATE_HZ),
        offset_s=at / RATE_HZ,
        species=species,
        score=score,
        acoustic=score,
        prior=None,
        threshold=0.5,
        rule="bundle",
        member_low=score,
        member_high=score,
        level_dbfs=-30.0,
    )


def commit(
    config: Config, bundle_folder: Path, row: RecordingRow, detections: Sequence[Detection]
) -> str:
    """Stretch and detections into the record, as they are before a clip is made. Returns the
    bundle's id."""
    bundle = read_bundle(bundle_folder)
    with Store(config.database) as store:
        store.add_bundle(bundle, "{}")
        store.begin(row, "porch", bundle.id, "a")
        store.add(row.id, bundle.id, detections, [], [])
    return bundle.id


def in_child(call: str, *arguments: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `tests.MODULE.FUNCTION` with paths in another process, which may die."""
    module, _, function = call.rpartition(".")
    code = (
        f"import sys, pathlib, {module} as m; {before}; m.{function}(*map(pathlib.Path, "
        "sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = unmeasured() if before else None
    return subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=HANGS_S
    )


def on_small_disk(call: str, folder: Path, megabytes: int, *arguments: Path) -> None:
    """Run `tests.MODULE.FUNCTION` with `folder` being a real file system of so many MB, in its own
    mount namespace.

    Root may do this, or anyone where the system lets people have namespaces; elsewhere the test
    says it did not run.
    """
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    mount = f"mount -t tmpfs -o size={megabytes}m none {folder}"
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("no small disk can be had here: neither root nor user namespaces may mount")
    module, _, function = call.rpartition(".")
    code = f"import sys, pathlib, {module} as m; m.{function}(*map(pathlib.Path, sys.argv[1:]))"
    shell = f'{mount} && exec "$0" -c "$1" "${{@:2}}"'
    command = [
        *unshare,
        "bash",
        "-c",
        shell,
        sys.executable,
        code,
        str(folder),
        *map(str, arguments),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stdout + done.stderr
