"""The programs in examples/, run as their first lines say, on what a real replay made."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests import HANGS_S
from tests.conftest import note, write_sound

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_subscriber_and_a_query_show_what_a_replay_found(
    mosquitto: int, station_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    config = station_yaml("mqtt:", "  host: 127.0.0.1", f"  port: {mosquitto}")
    write_sound(tmp_path / "in" / "20240512_061500.wav", note("lowtoo", 12))
    subscriber = subprocess.Popen(
        [sys.executable, EXAMPLES / "subscriber.py", "127.0.0.1", str(mosquitto)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert subscriber.stdout
    assert subscriber.stderr
    try:
        assert subscriber.stderr.readline() == "subscribed\n"
        command = [sys.executable, "-m", "edge", "replay", tmp_path / "in", "--config", config]
        subprocess.run(command, check=True, capture_output=True, timeout=HANGS_S)
        first = subscriber.stdout.readline()
    finally:
        subscriber.kill()
        subscriber.communicate()
    assert first.startswith("2024-05-12T06:15:00.000Z  porch  ")

    database = config.parent / "station.db"
    command = [sys.executable, EXAMPLES / "species_by_hour.py", database]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=HANGS_S)
    header, effort, *species = csv.reader(done.stdout.splitlines())
    six = header.index("06")
    assert effort[six] == "0"  # 12 s
    assert sum(int(row[six]) for row in species) > 0
    assert all(sum(map(int, row[1:])) == int(row[six]) for row in species)
    assert first.split("  ")[2] in {row[0] for row in species}
