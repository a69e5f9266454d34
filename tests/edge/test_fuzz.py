"""Whatever stands in station.yaml, on a card or in a recording: a Config or one line, an analysis
or a reason."""

import contextlib
import dataclasses
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.capture.recording import DURATION_S_MAX, record_name
from edge.capture.schedule import Schedule
from edge.config import Config, MqttSettings, SiteSettings, TlsSettings, load_config
from edge.contract.bundle import read_bundle
from edge.contract.errors import EXIT_REFUSED, BundleError, ConfigError, UsageError
from edge.daemon.live_microphone import schedule_of
from edge.messages import topic_of
from edge.replay.archive import recordings_in, replay_folder
from edge.store.record import Store
from edge.types import Place
from tests import HANGS_S
from tests.trials.fuzz import true_name

StationYaml = Callable[..., Path]
PROJECT = Path(__file__).parents[2]
LAUGHS = ", ".join(
    f"&{n} [{', '.join(9 * (f'*{m}',))}]" for m, n in zip("abcdefgh", "bcdefghi", strict=True)
)
LAUGHS = f"[&a [ha], {LAUGHS}]"  # nine lists that stand for a billion


def keys(kind: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of station.yaml."""
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        inner = {"mqtt": MqttSettings, "tls": TlsSettings}.get(item.name, hints[item.name])
        yield (*at, item.name)
        if dataclasses.is_dataclass(inner):
            yield from keys(inner, (*at, item.name))


KEYS = [
    *keys(Config),
    ("sites", "COR"),
    *keys(SiteSettings, ("sites", "COR")),
    ("detect", "thresholds", "lowtoo"),
]
# What YAML 1.1 makes something else of, what PyYAML stumbles over, and what no setting can be.
ODD = """NO|off|~|''|1:30|20:00|0o17|017|5e-1|.5e1|1_000|.nan|.inf|-.inf|1.0e+999|-1|0|1|0.5|1e400
2024-05-12|2024-99-99|2024-05-12T03:45:00+99:99|!!binary aGk=|!!binary ?|!!timestamp x|!!bool x
!!int ""|!!int 0x|!!float x|!!null x|!!set {a}|!!omap [a: 1]|!!pairs [a: 1]
!!python/object:os.x {}|!x y|[]|{}|[[1, 2], 3]|[{}]|{a: 1}|{a: 1, a: 2}|{[1]: 2}|{1: 2, true: 3}
&x [*x]|&x {a: *x}|*nothing|{<<: {a: 1}}|{=: 1}|"\\0"|"\\ud800"|"a\\nb"|"\\e[2J"|"\\u2028"|"é"|#
a b|a/b|/a|a/|../..|/|/dev/null|~nobody_here/x|~/x|%41|${HOME}|"|'|{|[|- 1|? |: |@|`|auto|all
lowtoo|nosuch|[lowtoo]|[nosuch, nosuch]|Europe/Berlin|Europe|posixrules|../../etc/passwd
[[sunrise, sunset]]|[[a]]|[[a, b, c]]|[null]|[[sunrise-60, "11:00"]]|[["25:00", "1:0"]]
[["1:00", "1:00"]]|[[20:00, 21:00]]|[["sunset+999", "٠١:٠٠"]]""".replace("\n", "|").split("|")
ODD += [
    LAUGHS,
    "1" * 5_000,
    "-0x" + "f" * 5_000,
    "x" * 5_000,
    "[" * 600,
    "{a: " * 400 + "}" * 400,
    "\t",
    "a\tb",
    "|\n   text\n",
    "1.5\n 2",
]
values = (
    st.sampled_from(ODD) | st.text(max_size=20) | st.integers().map(str) | st.floats().map(repr)
)


def line_of(key: tuple[str, ...], value: str) -> str:
    """A key with its sections around it, in one line: `station: {id: x}`."""
    return (
        f"{key[0]}: {value}"
        if len(key) == 1
        else f"{key[0]}: {{" + ": {".join(key[1:]) + f": {value}" + "}" * (len(key) - 1)
    )


def block_of(key: tuple[str, ...], value: str) -> str:
    """The same in lines: a value may then be anything that a line can hold."""
    return "\n".join(f"{'  ' * depth}{part}:" for depth, part in enumerate(key)) + f" {value}"


def load(path: Path, content: bytes) -> Config | str:
    """The settings, or the one line about them."""
    path.write_bytes(content)
    try:
        return load_config(path)
    except ConfigError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 5_000
    return message


@pytest.fixture(scope="module")
def recognizer(bundle_folder: Path) -> Recognizer:
    return Recognizer(read_bundle(bundle_folder), 1)


def use(config: Config, recognizer: Recognizer) -> None:
    """What the daemon does with settings before its first sound; an error in one line is an
    answer."""
    assert config.zone is None or config.zone.key
    assert topic_of(config, "state").encode()
    os.fspath(config.database).encode()
    for ask in (
        lambda: Analyst(config, recognizer).digest(),
        lambda: schedule_of(config).open_at(NOON),
    ):
        message = ""
        try:
            ask()
        except (ConfigError, BundleError) as error:
            message = str(error)
        assert "\n" not in message


NAMED = "station: {id: porch}\n"
NOON = datetime(2026, 6, 21, 12, tzinfo=timezone.utc)
fuzzing = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzzing
@given(
    entries=st.lists(st.tuples(st.sampled_from(KEYS), values), min_size=1, max_size=3),
    in_blocks=st.booleans(),
)
def test_any_value_at_any_key_is_a_config_or_a_line(
    tmp_path: Path,
    recognizer: Recognizer,
    entries: list[tuple[tuple[str, ...], str]],
    in_blocks: bool,
) -> None:
    write = block_of if in_blocks else line_of
    text = "\n".join(write(key, value) for key, value in entries)
    if all(key[0] != "station" for key, _ in entries):
        text = NAMED + text
    found = load(tmp_path / "station.yaml", text.encode("utf8", "surrogatepass"))
    if isinstance(found, Config):
        use(found, recognizer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"station: {LAUGHS}", r"station: expected keys and values, found \[\['ha'\]"),
        ("[" * 1_000, "nested too deeply"),
        ("station: {id: 2024-99-99}", "column 15: not YAML: '2024-99-99' is not a valid timestamp"),
        ("clips: {save: !!bool x}", "not YAML: 'x' is not a valid bool"),
        ('runtime: {threads: !!int ""}', "not YAML: '' is not a valid int"),
        (f"runtime: {{threads: {'1' * 5_000}}}", "not YAML: '1{60}' is not a valid int"),
        (
            f"runtime: {{threads: 0x{'f' * 5_000}}}",
            r"runtime\.threads: expected 0 to 256, found 0xf{58}",
        ),
        (
            "state: ~nobody_here/x",
            r"state: expected a path, found '~nobody_here/x'; no user of that name",
        ),
        (
            NAMED + r'bundle: "a\0b"',
            r"bundle: expected printable text of at most 4096 characters, found 'a\\x00b'",
        ),
        (
            NAMED + r'mqtt: {host: "\ud800"}',
            r"mqtt\.host: expected printable text of at most .*found '\\ud800'",
        ),
        (
            NAMED + "mqtt: {host: h, homeassistant: 'a/#'}",
            r"mqtt\.homeassistant: expected no #.*found 'a/#'",
        ),
        (NAMED + "mqtt: {host: h, topic: $SYS}", r"mqtt\.topic: expected no #.*found '\$SYS'"),
        (f"? {'k' * 9_000}\n: 1", "k{60}: unknown key"),
        ("\n".join(f"k{n}: 1" for n in range(50_000)), "larger than 256 KiB"),
    ],
)
def test_what_broke_it_once(tmp_path: Path, text: str, message: str) -> None:
    found = load(tmp_path / "station.yaml", text.encode())
    assert isinstance(found, str)
    assert re.search(message, found)


def damaged(content: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    for at, new, gone in edits:
        at %= len(content) + 1
        content = content[:at] + new + content[at + gone :]
    return content


snippets = st.sampled_from([value.encode() for value in ODD]) | st.binary(max_size=8)


@fuzzing
@example(edits=[(0, b"\xef\xbb\xbf", 0)])
@example(edits=[(0, b"\xff\xfe", 0)])
@example(edits=[(50, b"\0", 0)])
@example(edits=[(50, "ä".encode("latin1"), 0)])
@given(edits=st.lists(st.tuples(st.integers(0, 10_000), snippets, st.integers(0, 40)), max_size=4))
def test_the_shipped_file_with_accidents(
    tmp_path: Path, edits: list[tuple[int, bytes, int]]
) -> None:
    load(tmp_path / "station.yaml", damaged((PROJECT / "station.yaml").read_bytes(), edits))


@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "device", "unreadable", "missing", "loop", "long"]
)
def test_what_is_no_file_of_settings(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 300 if kind == "long" else "station.yaml")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "unreadable":
        path.write_text("{}")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("root reads everything")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["clips: {save: !!bool x}", "[" * 1_000, NAMED + "schedule: [[a, b]]", f"mqtt: {LAUGHS}"],
)
def test_the_command_says_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(text)
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "edge",
        "replay",
        str(tmp_path),
        "--config",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    if "schedule" in text:  # of no account in a replay
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 78
        assert done.stderr.startswith(f"error: {path}: ")
        assert done.stderr.count("\n") == 1


ends = st.sampled_from(
    [
        "sunrise",
        "sunset",
        "sunrise-720",
        "sunset+720",
        "00:00",
        "23:59",
        "12:00",
        "24:00",
        "sunset+",
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(ends | st.text(max_size=8), ends), max_size=3),
    latitude=st.sampled_from([-90.0, 90.0, 66.56, -0.0, 89.999]) | st.floats(-90, 90),
    longitude=st.sampled_from([-180.0, 180.0]) | st.floats(-180, 180),
    moment=st.datetimes(datetime(1990, 1, 1), datetime(2105, 1, 1)),
)
def test_a_schedule_that_parses_can_be_kept(
    pairs: list[tuple[str, str]], latitude: float, longitude: float, moment: datetime
) -> None:
    message = ""
    try:
        schedule = Schedule.parse(pairs, Place(latitude, longitude), None)
    except ValueError as error:
        message = str(error)
    if message:
        assert re.fullmatch(r"schedule\[\d\]: expected .+, found .+", message)
        return
    now = moment.replace(tzinfo=timezone.utc)
    change = schedule.changes_after(now)
    assert change is None or (change > now and schedule.open_at(change) != schedule.open_at(now))


@settings(max_examples=300, deadline=None)
@given(
    names=st.lists(
        st.binary(min_size=1, max_size=30).filter(lambda name: not {0, 47} & set(name)), unique=True
    )
)
@example(
    names=[
        b"a\xff",
        b"a\\xff",
        "a\xff".encode(),
        b"a\\u00ff",
        b"\\",
        b"\\\\",
        b"\xed\xa0\x80",
        b"a\nb",
        b"a\\u000ab",
    ]
)
def test_the_record_knows_every_name_and_tells_them_apart(names: list[bytes]) -> None:
    known = [
        record_name(Path("in", os.fsdecode(name)), Path("in")) for name in names if name != b"."
    ]
    assert [true_name(name) for name in known] == [name for name in names if name != b"."]
    assert all(
        name.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", name)
        for name in known
    )
    assert json.loads(json.dumps(known, ensure_ascii=False).encode()) == known


def test_an_ordinary_name_is_itself() -> None:
    assert (
        record_name(Path("in", "deep", "Zaunkönig 20240512_034500.wav"), Path("in"))
        == "deep/Zaunkönig 20240512_034500.wav"
    )


@pytest.mark.slow
def test_rounds_of_damaged_recordings_with_odd_names() -> None:
    """`python -m tests.trials.fuzz` run shorter; a decoder that crashes ends the child, not the
    test."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.trials.fuzz",
        "--rounds",
        "10",
        "--seed",
        "7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10 rounds of 20 files")


def test_a_header_that_promises_centuries(tmp_path: Path, station_yaml: StationYaml) -> None:
    """The gap is no longer than what would have been read, and its end is a date."""
    file = io.BytesIO()
    soundfile.write(file, np.full(4_000, 0.1), 1_000, "PCM_U8", format="WAV")
    content = file.getvalue()
    at = content.index(b"data")
    size = 2**48 - 2
    wide = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I3QI", 28, size, size, size, 0)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.wav").write_bytes(
        wide + content[12:at] + b"data\xff\xff\xff\xff" + content[at + 8 :]
    )
    config = load_config(station_yaml())
    assert [o.state for o in replay_folder(config, tmp_path / "in", lambda *_: None).outcomes] == [
        "analysed"
    ]
    with Store(config.database) as store:
        ((seconds,),) = store.rows("SELECT seconds FROM gaps WHERE reason = 'damaged'")
    assert seconds == DURATION_S_MAX - 4.0


@pytest.mark.slow
def test_names_on_a_terminal(tmp_path: Path, station_yaml: StationYaml) -> None:
    """What rich takes for markup, what would clear the screen, what is no text: shown, and told
    apart."""
    folder = tmp_path / "in" / "["
    folder.mkdir(parents=True)
    for name in (b"red].wav", b"\x1b[2J\n\xff.wav"):
        path = Path(folder, os.fsdecode(name))
        path.write_bytes(b"no sound")
        os.utime(path, (0, 1.5e10))  # later than a row can say
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "edge",
        "replay",
        str(tmp_path / "in"),
        "--config",
        str(station_yaml()),
    ]
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        command, stdout=terminal, stderr=terminal, env=os.environ | {"TERM": "xterm"}
    ) as program:
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # EIO: the program has ended
            while piece := os.read(screen, 4096):
                said += piece
    os.close(screen)
    assert program.returncode == EXIT_REFUSED, said
    assert b"Traceback" not in said
    assert b"[/red].wav" in said
    assert b"[/\\u001b[2J\\u000a\\xff.wav" in said


@pytest.mark.parametrize("kind", ["pipe", "device", "long"])
def test_a_replay_of_what_is_neither_folder_nor_file(tmp_path: Path, kind: str) -> None:
    path = (
        Path("/dev/zero") if kind == "device" else tmp_path / ("x" * (300 if kind == "long" else 1))
    )
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(UsageError, match=str(path)):
        recordings_in(path)
