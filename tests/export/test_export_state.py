"""`export tune` writes to the state folder of the settings that a station here would take."""

from pathlib import Path

import pytest

from edge.contract.errors import ConfigError
from export.__main__ import _check_state, _state


def test_the_state_is_that_of_the_settings_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "station.yaml").write_text("station: {id: here}\nstate: there\n")
    monkeypatch.chdir(tmp_path)
    assert _state(None) == tmp_path / "there"
    assert (
        f"settings: {tmp_path / 'station.yaml'}; state: {tmp_path / 'there'}"
        in capsys.readouterr().err
    )


def test_named_settings_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("station: {id: named}\nstate: elsewhere\n")
    assert _state(named) == tmp_path / "elsewhere"
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        _state(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "kind", ["file", "below a file", "tuned.json is a folder", "not to be written"]
)
def test_a_state_that_cannot_hold_what_is_found_is_said_before_it_is_measured(
    kind: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    if kind == "file":
        state.touch()
    elif kind == "below a file":
        (tmp_path / "file").touch()
        state = tmp_path / "file" / "state"
    elif kind == "tuned.json is a folder":
        (state / "tuned.json").mkdir(parents=True)
    else:
        state = Path("/proc/state")  # not even root's
    with pytest.raises(ConfigError, match=f"^--state {state}: "):
        _check_state(state)


def test_a_state_that_can_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "tuned.json").write_text("{}")
    _check_state(tmp_path / "state")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["tuned.json"]
