"""`export tune` writes to the state folder of the settings that a station here would take."""

from pathlib import Path

import pytest

from edge.contract.errors import ConfigError
from export.__main__ import _state


def test_the_state_is_that_of_the_settings_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "station.yaml").write_text("station: {id: here}\nstate: there\n")
    monkeypatch.chdir(tmp_path)
    assert _state(None) == tmp_path / "there"
    assert f"settings: {tmp_path / 'station.yaml'}; state: {tmp_path / 'there'}" in capsys.readouterr().err


def test_named_settings_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("station: {id: named}\nstate: elsewhere\n")
    assert _state(named) == tmp_path / "elsewhere"
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        _state(tmp_path / "none.yaml")
