"""What the station says of itself: the rule from facts to state, the two files, the day's counts,
this machine."""

import errno
import json
import math
import mmap
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.config import Config, HealthSettings
from edge.contract.local_clock import LocalClock
from edge.daemon.day_counts import DayCounts, Today
from edge.daemon.health import Facts, Health, Mqtt, assess, health_folder, write_health
from edge.host.machine import disk, open_files, rss_mb, temperature_c

DOCS = (Path(__file__).parents[2] / "docs" / "health.md").read_text(encoding="utf8")
NOON = datetime(2024, 5, 12, 12, tzinfo=timezone.utc)
MQTT = Mqtt(connected=True, waiting=1, dropped=2, dead=0, sent=30, created=33, last_error="")
WELL = Health(
    station="porch",
    time_utc=NOON,
    source="microphone",
    hearing=True,
    level_dbfs=-51.5,
    lag_s=3.25,
    waiting_s=1.5,
    shed=0,
    lost_today_s=0.0,
    analysed_today_s=43_200.0,
    detections_today=17,
    last_sound_utc=NOON - timedelta(seconds=1),
    last_detection_utc=None,
    clock_state="synced",
    disk_free_mb=12_000.5,
    disk_hours_left=None,
    temperature_c=48.5,
    mqtt=MQTT,
    runtime="ONNX Runtime 1.20, CPU",
    members="cascade",
    bag_share=0.125,
    licence=None,
    notice=None,
    bundle="3fe1",
    probe=2.1e-6,
    suppressed_today=0,
    uptime_s=86_400.0,
    rss_mb=210.0,
    version="0.1.0",
)


# The rule

CARD = "microphone.rate_hz: 'x' delivers 2.0% more samples than at 48000 Hz, about 49000 per second"
DETECTOR = (
    "privacy.detector: no score for 3 of the last 720 windows: expected a score from 0 to 1, found "
    "nan"
)
NETWORKS = "the networks: no score for 3 of the last 720 windows: b0_fold1_seed2 gave no number"
RULES: list[tuple[str, str, dict[str, Any], Facts]] = [
    ("ok", "", {}, Facts()),
    ("ok", "", {"mqtt": None, "clock_state": "rtc"}, Facts()),
    ("ok", "", {"hearing": False}, Facts()),  # it rests
    ("ok", "", {"hearing": False}, Facts(silent_s=30.0, source_problem="Device unavailable")),
    (
        "failing",
        "No sound for 31 s (Device unavailable)",
        {},
        Facts(silent_s=31, source_problem="Device unavailable"),
    ),
    ("failing", "No sound for 3 h:", {"hearing": False}, Facts(silent_s=3 * 3600)),
    (
        "failing",
        "is its disk plugged in",
        {"source": "folder"},
        Facts(silent_s=60, source_problem="/x: not there"),
    ),
    (
        "degraded",
        "Part of the folder",
        {"source": "folder"},
        Facts(source_problem="/x/y: Permission denied"),
    ),
    ("failing", "cannot be stored (disk I/O error)", {}, Facts(store_problem="disk I/O error")),
    ("degraded", "windows.hop_s", {"shed": 1}, Facts()),
    (
        "degraded",
        "does not keep its sample rate (microphone.rate_hz: 'x' delivers",
        {},
        Facts(card_problem=CARD),
    ),
    (
        "degraded",
        "speech network fails (privacy.detector: no score for",
        {},
        Facts(privacy_problem=DETECTOR),
    ),
    (
        "degraded",
        "Scores are missing (the networks: no score for",
        {},
        Facts(networks_problem=NETWORKS),
    ),
    ("degraded", "Lost in the last hour: 2 min", {}, Facts(lost_hour_s=120.0)),
    ("degraded", "clock has not been set", {"clock_state": "unsynced"}, Facts()),
    ("ok", "", {"clock_state": "unsynced"}, Facts(time_known=True)),
    ("ok", "", {"disk_free_mb": 200.0, "disk_hours_left": 0.0}, Facts()),
    ("degraded", "Only 199 MB", {"disk_free_mb": 199.0}, Facts()),
    ("degraded", "stays 12 MB above", {}, Facts(disk_short_mb=12.0)),
    (
        "degraded",
        "Clips cannot be saved (No space left",
        {},
        Facts(clips_problem="No space left on device"),
    ),
    ("ok", "", {"mqtt": replace(MQTT, connected=False)}, Facts(broker_away_s=600.0)),
    (
        "degraded",
        "not answered for 3 days (refused)",
        {"mqtt": replace(MQTT, last_error="refused")},
        Facts(broker_away_s=3e5),
    ),
    (
        "degraded",
        "Messages are no longer sent (the publisher has stopped); 0 are waiting",
        {"mqtt": replace(MQTT, connected=False, waiting=0, last_error="")},
        Facts(publisher_ended=True, broker_away_s=3e5),
    ),
    ("degraded", "refused 4 messages", {"mqtt": replace(MQTT, dead=4)}, Facts()),
    (
        "degraded",
        "not on the best runtime of this machine (no engine)",
        {},
        Facts(runtime_problem="no engine"),
    ),
]


@pytest.mark.parametrize(("state", "words", "changes", "facts"), RULES)
def test_the_rule_from_facts_to_state(
    state: str, words: str, changes: dict[str, Any], facts: Facts
) -> None:
    health = assess(replace(WELL, **changes), facts)
    assert health.state == state
    assert len(health.problems) == (state != "ok")
    for sentence in health.problems:
        assert words in sentence
        assert re.fullmatch(r"[A-Z][^\n]{20,}\.", sentence), "a whole sentence"
        assert len(sentence) < 280


def test_of_many_problems_the_worst_decides_and_comes_first() -> None:
    health = assess(replace(WELL, shed=2), Facts(store_problem="full", lost_hour_s=9.0))
    assert health.state == "failing"
    assert ["stored" in p or "faster" in p or "Lost" in p for p in health.problems] == [True] * 3
    assert "stored" in health.problems[0]


# health.json


def test_the_documents_table_has_every_key_and_no_other() -> None:
    written = json.loads(WELL.to_json())
    keys = (
        [key for key in written if key != "mqtt"]
        + [f"mqtt.{key}" for key in written["mqtt"]]
        + ["mqtt"]
    )
    section = DOCS.split("## health.json")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_0-9.]+)` \|([^|]*)\|([^|]*)\|$", section, re.MULTILINE)
    assert sorted(key for key, _, _ in rows) == sorted(keys)
    assert all(meaning.strip() for _, _, meaning in rows)
    assert list(written) == [f.name for f in fields(Health)]


def test_json_is_plain() -> None:
    health = assess(
        replace(WELL, level_dbfs=-math.inf, lag_s=math.nan, runtime="Ünïcode \udcff"),
        Facts(lost_hour_s=1),
    )
    text = health.to_json()
    assert text.isascii()
    assert "\n" not in text
    written = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert written["level_dbfs"] is None
    assert written["lag_s"] is None
    assert written["last_sound_utc"] == "2024-05-12T11:59:59.000Z"
    assert written["schema"] == "health/1"
    assert written["problems"] == list(health.problems)
    assert written["mqtt"] == asdict(MQTT)
    assert written["probe"] == pytest.approx(2e-6)


# health.prom

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
Samples = dict[str, list[tuple[dict[str, str], float]]]


def parse_exposition(text: str) -> tuple[dict[str, str], Samples]:
    """Types and samples by metric; asserts Prometheus' text format 0.0.4, more strictly than
    Prometheus does."""
    types: dict[str, str] = {}
    samples: Samples = {}
    helped = ""
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if match := re.fullmatch(rf"# HELP ({_NAME}) ([^\\]+)", line):
            helped = match[1]
            assert helped not in types, "one group of lines per metric"
        elif match := re.fullmatch(rf"# TYPE ({_NAME}) (counter|gauge)", line):
            assert match[1] == helped
            types[helped] = match[2]
        else:
            match = re.fullmatch(rf"({_NAME})\{{(.*)\}} (\S+)", line)
            assert match, line
            name, inside, value = match.groups()
            assert name == helped
            assert name in types
            labels = _LABEL.findall(inside)
            assert ",".join(f'{key}="{text}"' for key, text in labels) == inside, line
            plain = {
                key: re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), text)
                for key, text in labels
            }
            assert len(plain) == len(labels)
            assert plain not in [other for other, _ in samples.get(name, [])], "no sample twice"
            samples.setdefault(name, []).append((plain, float(value)))
    return types, samples


def test_prometheus_has_units_labels_and_what_is_known() -> None:
    types, samples = parse_exposition(
        replace(WELL, state="degraded", last_detection_utc=NOON).to_prometheus()
    )
    where = {"station": "porch", "source": "microphone"}
    assert all(where.items() <= labels.items() for group in samples.values() for labels, _ in group)
    assert samples["birdstation_disk_free_bytes"] == [(where, 12_000_500_000.0)]
    assert samples["birdstation_resident_memory_bytes"] == [(where, 210e6)]
    assert samples["birdstation_last_detection_timestamp_seconds"] == [(where, NOON.timestamp())]
    assert samples["birdstation_hearing"] == [(where, 1.0)]
    assert samples["birdstation_mqtt_sent_messages_total"] == [(where, 30.0)]
    assert {labels["state"]: value for labels, value in samples["birdstation_state"]} == {
        "ok": 0.0,
        "degraded": 1.0,
        "failing": 0.0,
    }
    assert "birdstation_disk_left_seconds" not in samples
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types.items())
    alone = parse_exposition(replace(WELL, mqtt=None, level_dbfs=-math.inf).to_prometheus())[1]
    assert not [name for name in alone if "mqtt" in name or "level" in name]


def test_the_documents_table_has_every_metric() -> None:
    full = replace(WELL, last_detection_utc=NOON, disk_hours_left=7.5)
    types, _ = parse_exposition(full.to_prometheus())
    assert dict(re.findall(r"^\| `(birdstation_\w+)` \| (\w+) \|", DOCS, re.MULTILINE)) == types


def test_the_documents_alerts_ask_for_metrics_that_are_there() -> None:
    block = re.search(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    assert block
    types, samples = parse_exposition(WELL.to_prometheus())
    for rule in yaml.safe_load(block[1])["groups"][0]["rules"]:
        for name in re.findall(r"birdstation_\w+", rule["expr"]):
            assert name in types
        for state in re.findall(r'state="(\w+)"', rule["expr"]):
            assert state in [labels["state"] for labels, _ in samples["birdstation_state"]]


@given(st.text(max_size=20), st.text(max_size=20), st.floats(), st.integers(0, 10**12))
def test_any_text_and_number_gives_a_valid_exposition(
    name: str, runtime: str, level: float, sent: int
) -> None:
    health = replace(
        WELL, station=name, runtime=runtime, level_dbfs=level, mqtt=replace(MQTT, sent=sent)
    )
    _, samples = parse_exposition(health.to_prometheus())
    labels, _ = samples["birdstation_info"][0]
    assert (labels["station"], labels["runtime"]) == (name, runtime)
    assert samples["birdstation_mqtt_sent_messages_total"][0][1] == sent
    json.loads(health.to_json())


# The files


def test_the_files_are_whole_and_for_everybody(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "birdstation"
    before = os.umask(0o077)
    try:
        assert write_health(WELL, folder) is None
        assert write_health(replace(WELL, shed=1), folder) is None
    finally:
        os.umask(before)
    assert sorted(path.name for path in folder.iterdir()) == ["health.json", "health.prom"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    assert json.loads((folder / "health.json").read_text())["shed"] == 1
    assert (folder / "health.prom").read_text() == replace(WELL, shed=1).to_prometheus()


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Another process writes as fast as it can."""
    write_health(WELL, tmp_path)
    code = (
        "import pathlib, sys; from edge.daemon.health import write_health; from "
        "tests.edge.test_health import WELL\nfolder = pathlib.Path(sys.argv[1])\nwhile not (folder "
        "/ 'stop').exists(): assert write_health(WELL, folder) is None"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2]
    ) as writer:
        seen = set()
        reads = 0
        try:
            while (len(seen) < 20 or reads < 200) and writer.poll() is None:
                seen.add((tmp_path / "health.prom").stat().st_mtime_ns)
                assert (tmp_path / "health.json").read_text() == WELL.to_json() + "\n"
                assert (tmp_path / "health.prom").read_text() == WELL.to_prometheus()
                reads += 1
        finally:
            (tmp_path / "stop").touch()
    assert writer.returncode == 0
    assert reads >= 200


def test_a_folder_that_cannot_be_written_is_said_not_raised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problem = write_health(WELL, tmp_path / "file" / "run")
    assert (
        problem
        == f"{tmp_path / 'file' / 'run'}: health cannot be written: {os.strerror(errno.ENOTDIR)}"
    )
    (tmp_path / "full").mkdir()
    # every write to it says that the disk is full
    (tmp_path / "full" / ".health.json.new").symlink_to("/dev/full")
    problem = write_health(WELL, tmp_path / "full")
    assert problem == f"{tmp_path / 'full'}: health cannot be written: {os.strerror(errno.ENOSPC)}"
    assert list((tmp_path / "full").iterdir()) == [], "what was begun is taken away"


def test_where_the_files_go() -> None:
    config = Config(state=Path("/state"))
    assert health_folder(config, {}) == Path("/state")
    assert health_folder(config, {"RUNTIME_DIRECTORY": "/run/birdstation:/run/other"}) == Path(
        "/run/birdstation"
    )
    own = replace(config, health=HealthSettings(folder=Path("/own")))
    assert health_folder(own, {"RUNTIME_DIRECTORY": "/run/birdstation"}) == Path("/own")


# Today


class Day:
    """A Today in a zone, and a clock to be set."""

    def __init__(self, zone: str, now: str) -> None:
        self.zone = ZoneInfo(zone)
        self.now = self.at(now)
        self.today = Today(LocalClock(self.zone), lambda: self.now)

    def at(self, local: str) -> datetime:
        return datetime.fromisoformat(local).replace(tzinfo=self.zone).astimezone(timezone.utc)


def test_counts_of_the_day_end_at_local_midnight() -> None:
    day = Day("Asia/Kolkata", "2024-05-12 23:59")
    assert day.today.day == date(2024, 5, 12)
    day.today.add_lost(day.at("2024-05-12 23:00"), 600)
    day.today.add_detections(day.now, 3)
    day.today.add_detections(day.at("2024-05-11 23:59"), 5)  # yesterday's
    day.today.add_suppressed(day.now)
    assert day.today.counts == DayCounts(600.0, 0.0, 3, 1)
    day.now += timedelta(minutes=2)
    assert day.today.counts == DayCounts()
    day.today.add_analysed(day.at("2024-05-12 23:30"), 1860)
    assert day.today.counts.analysed_s == 60, "what is left of the stretch is today's"
    day.today.add_detections(day.at("2024-05-12 23:59"))
    assert day.today.counts.detections == 0
    assert day.today.day == date(2024, 5, 13)


@pytest.mark.parametrize(
    ("on", "hours"), [("2024-03-31", 23), ("2024-10-27", 25), ("2024-05-12", 24)]
)
def test_a_day_has_as_many_hours_as_it_has(on: str, hours: int) -> None:
    day = Day("Europe/Berlin", f"{on} 12:00")
    day.today.add_analysed(day.now - timedelta(hours=36), 72 * 3600)
    assert day.today.counts.analysed_s == hours * 3600
    day.now = day.at(f"{on} 23:59")
    assert day.today.counts.analysed_s == hours * 3600
    day.now += timedelta(minutes=1)
    assert day.today.counts.analysed_s == 24 * 3600, (
        "a recorder's clock was ahead: that was of this day"
    )


def test_a_clock_that_is_set_back_begins_another_day() -> None:
    day = Day("UTC", "2031-01-01 00:10")
    day.today.add_lost(day.at("2031-01-01 00:00"), 300)
    day.now = NOON
    assert day.today.counts == DayCounts()
    assert day.today.lost_hour_s == 0
    day.today.add_analysed(NOON, 60)
    assert day.today.counts == DayCounts(analysed_s=60)


@given(
    st.lists(st.floats(0, 7200), max_size=30),
    st.sampled_from(["Europe/Berlin", "UTC", "Asia/Kolkata"]),
)
def test_a_day_adds_up_whatever_the_pieces(pieces: list[float], zone: str) -> None:
    """Stretches end to end, from the evening before a day of 23 hours on, each told when it
    ends."""
    day = Day(zone, "2024-03-30 20:00")
    began = day.now
    for seconds in pieces:
        start, day.now = day.now, day.now + timedelta(seconds=seconds)
        day.today.add_analysed(start, seconds)
    since = max(began, day.at(f"{day.today.day} 00:00"))
    assert day.today.counts.analysed_s == pytest.approx((day.now - since).total_seconds(), abs=1e-3)


def test_sound_lost_in_the_last_hour() -> None:
    day = Day("UTC", "2024-05-12 00:20")
    assert day.today.lost_hour_s == 0
    day.today.add_lost(day.at("2024-05-11 23:50"), 900)  # over midnight
    day.today.add_lost(day.at("2024-05-12 00:19"), 1)
    day.today.add_lost(day.at("2024-05-01 00:19"), 50)  # of an old recording
    assert day.today.lost_hour_s == 901
    assert day.today.counts.lost_s == 301
    day.now += timedelta(minutes=50)
    assert day.today.lost_hour_s == 1
    day.now += timedelta(minutes=11)
    assert day.today.lost_hour_s == 0
    for _ in range(500):  # it goes on
        day.now += timedelta(seconds=10)
        day.today.add_lost(day.now - timedelta(seconds=10), 10.0)
    assert 3500 <= day.today.lost_hour_s <= 3600


# This machine


def test_the_hottest_plausible_sensor(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for zone, text in enumerate(["-273200\n", "61250\n", "cold\n", "255000\n", "48000\n"]):
        file = tmp_path / f"sys/class/thermal/thermal_zone{zone}" / "temp"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (tmp_path / "sys/class/thermal/thermal_zone9/temp").mkdir(parents=True)
    assert temperature_c(tmp_path) == 61.25
    here = temperature_c()
    assert here is None or -40 <= here <= 130


def test_disk_memory_and_files_of_this_process(tmp_path: Path) -> None:
    space = disk(tmp_path)
    assert space is not None
    assert space.free_mb == pytest.approx(
        os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize / 1e6, rel=0.2
    )
    assert space.free_mb <= space.total_mb
    assert disk(tmp_path / "not there") is None
    small = rss_mb()
    open_before = open_files()
    assert small is not None
    assert open_before is not None
    block = mmap.mmap(-1, 80_000_000)  # what malloc gives may have been this process's before
    for _ in range(80):
        block.write(b"\1" * 1_000_000)
    large = rss_mb()
    assert large is not None
    assert 60 < large - small < 120
    block.close()
    smaller = rss_mb()
    assert smaller is not None
    assert smaller < large - 60, "at present, not at the peak"
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        assert open_files() == open_before + 2
