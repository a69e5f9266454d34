"""station.yaml: every key is shown, every mistake is one line that says what was expected."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import Config, MqttSettings, check_state, load_config
from edge.contract.errors import ConfigError

PROJECT = Path(__file__).parents[2]


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "station.yaml"
    path.write_text(text)
    return load_config(path)


def test_the_shipped_file_shows_every_key_with_its_default() -> None:
    path = PROJECT / "station.yaml"
    config = load_config(path)
    assert config == Config(state=PROJECT)
    raw = yaml.safe_load(path.read_text())
    assert set(raw) == {f.name for f in dataclasses.fields(Config)}
    for section in ("station", "windows", "detect", "runtime"):
        assert set(raw[section]) == {f.name for f in dataclasses.fields(getattr(config, section))}
    for key in (f.name for f in dataclasses.fields(MqttSettings)):
        assert f"#  {key}:" in path.read_text()


def test_a_file_that_names_the_station_alone_is_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "station: {id: porch}")
    assert config.database == tmp_path / "station.db"
    assert config.hop_samples == 80_000
    assert config.bundle_folder.name == "bundle"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "station: {id: a}\nbundle: models/a\nstate: /var/lib/birdstation\nmqtt: "
        "{host: h, password_file: secret}",
    )
    assert config.bundle == tmp_path / "models" / "a"
    assert config.database == Path("/var/lib/birdstation/station.db")
    assert config.mqtt
    assert config.mqtt.password_file == tmp_path / "secret"


MISTAKES = [
    ("statoin: {}", "statoin: unknown key; allowed here: station"),
    ("station: {lat: 3}", r"station\.lat: unknown key; allowed here: id, latitude"),
    ("station: {latitude: 91, longitude: 0}", r"station\.latitude: expected -90 to 90.*, found 91"),
    (
        "station: {latitude: '50', longitude: 0}",
        r"station\.latitude: expected a number.*, found '50'",
    ),
    (
        "station: {latitude: .nan, longitude: 0}",
        r"station\.latitude: expected -90 to 90, found nan",
    ),
    (
        "station: {latitude: true, longitude: 0}",
        r"station\.latitude: expected a number.*, found yes/true",
    ),
    (
        "station:\n  latitude: 52,5\n  longitude: 13",
        r"station\.latitude: expected a number, found '52,5'; write 52\.5",
    ),
    (
        "station: {latitude: 52,5, longitude: 13}",
        r"station\.5: unknown key; .*; write decimals with a point: 52\.5",
    ),
    ("station: {id: a, latitude: 5}", "latitude and longitude go together"),
    (
        "station: {id: NO}",
        r"station\.id: expected text.*, found no/false; put it in quotes \(\"no\"\)",
    ),
    ("station: {id: 7}", r"station\.id: expected text.*, found 7"),
    ("station: {id: a b}", r"station\.id: expected 1 to 64.*, found 'a b'"),
    ("station: {id: a, timezone: Mars/Base}", r"station\.timezone: expected .*, found 'Mars/Base'"),
    (
        "windows: {hop_s: 5e-1}",
        r"windows\.hop_s: expected a number, found '5e-1', which YAML reads as text; write 0\.5",
    ),
    ("windows: {hop_s: 1e-9}", r"found '1e-9', which YAML reads as text; write 1\.0e-09"),
    (
        "station: {id: a}\nwindows: {hop_s: 0.33}",
        r"windows\.hop_s: expected a multiple of 0\.025.*, found 0\.33",
    ),
    ("windows: {hop_s: 6}", r"windows\.hop_s: expected 0\.025 to 5.*, found 6"),
    ("windows: 5", "windows: expected keys and values.*, found 5"),
    ("detect: {prior: maybe}", r"detect\.prior: expected one of auto, off.*, found 'maybe'"),
    ("detect: {threshold: 40}", r"detect\.threshold: expected 0 to 1.*, found 40"),
    (
        "detect: {thresholds: {norcar: high}}",
        r"detect\.thresholds\.norcar: expected a number.*, found 'high'",
    ),
    ("detect: {thresholds: [1]}", r"detect\.thresholds: expected keys and values.*, found \[1\]"),
    (
        "runtime: {engine: cuda}",
        r"runtime\.engine: expected one of auto, onnx, tensorrt.*, found 'cuda'",
    ),
    ("runtime: {batch: 1.5}", r"runtime\.batch: expected a whole number.*, found 1\.5"),
    ("mqtt: {port: 1883}", r"mqtt\.host: missing"),
    ("mqtt: {host: h, port: 70000}", r"mqtt\.port: expected 1 to 65535.*, found 70000"),
    ("station: {id: a}\nmqtt: {host: h, topic: a/#}", r"mqtt\.topic: expected .*, found 'a/#'"),
    ("mqtt: {host: ''}", r"mqtt\.host: expected a value, found an empty text"),
    ("sites: {COR: {latitude: 1}}", r"sites\.COR\.longitude: missing"),
    ("sites: {1: {latitude: 1, longitude: 1}}", r"sites: expected text.*, found 1"),
    ("station: {id: a, id: b}", "line 1, column 18: not YAML: key 'id' is given twice"),
    ("station: [", "line 1"),
    ("- 1", "top level: expected keys and values, found"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "station.yaml"))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = "windows: {hop_s: 9}\nstation: {lat: 3, latitude: 91, longitude: 0}\nmqtt: {}\n"
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    for key in (
        "windows.hop_s: expected",
        "station.lat: unknown key",
        "station.latitude: expected",
        "mqtt.host: missing",
    ):
        assert key in str(refused.value)


def test_off_may_be_written_bare(tmp_path: Path) -> None:
    assert load(tmp_path, "station: {id: a}\ndetect: {prior: off}").detect.prior == "off"


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; give --config"):
        load_config(tmp_path / "none.yaml")


def loads_or_says_why(path: Path) -> None:
    message = ""
    try:
        load_config(path)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(
    ["station", "bundle", "state", "windows", "detect", "runtime", "mqtt", "sites", "x"]
)


@given(raw=st.dictionaries(keys, values, max_size=5))
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_it_loads_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "station.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf8")
    loads_or_says_why(path)


@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_loads_or_says_why(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "station.yaml"
    path.write_bytes(text.encode("utf8", "surrogatepass"))
    loads_or_says_why(path)


def test_a_state_that_is_a_file_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    check_state(state)
    state.mkdir()
    check_state(state)
    state.rmdir()
    state.touch()
    with pytest.raises(ConfigError, match=f"^state: expected a folder, found a file: {state}$"):
        check_state(state)
