"""What a person without the station's rights is told: whose it is, and what to type."""

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.check.storage import check_state
from edge.config import load_config
from edge.contract.errors import ConfigError, StoreError
from edge.contract.program import EXIT_CANNOT_CREATE, run_program
from edge.contract.rights import look_at, whose
from edge.store.backup import backup
from edge.store.record import Store

NOBODY = 65534


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A folder of another user with a database in it, which this test may not enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        state = Path(name) / "state"
        state.mkdir()
        Store(state / "station.db").close()
        (Path(name) / "station.yaml").write_text("station: {id: porch}\nstate: state\n")
        for path in (state, *state.iterdir()):
            os.chown(path, 1, 1)
        state.chmod(0o750)
        os.seteuid(NOBODY)
        try:
            yield state
        finally:
            os.seteuid(0)


def test_the_owner_is_named_and_what_to_type(foreign: Path) -> None:
    owner = pwd.getpwuid(1).pw_name
    said = (
        f"{foreign} belongs to the user {owner}: type `sudo -u {owner}` before the command, or "
        "choose your own settings with --config"
    )
    config = load_config(foreign.parent / "station.yaml")
    for attempt in (
        lambda: look_at(foreign / "station.db"),
        lambda: Store(foreign / "station.db"),
        lambda: backup(foreign / "station.db", foreign / "backups", 7, "porch"),
        lambda: check_state(config),
    ):
        with pytest.raises(StoreError) as refused:
            attempt()
        assert str(refused.value).endswith(said)
        assert "\n" not in str(refused.value)


def test_a_database_that_may_only_be_read_too(foreign: Path) -> None:
    os.seteuid(0)
    foreign.chmod(0o755)
    os.seteuid(NOBODY)
    with pytest.raises(StoreError, match=r"sudo -u"):
        Store(foreign / "station.db")


def test_settings_that_may_not_be_read(foreign: Path) -> None:
    with pytest.raises(ConfigError, match=r"Permission denied; .*type `sudo -u"):
        load_config(foreign / "station.yaml")


def test_what_else_may_not_be_written_is_one_line(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: (foreign / "birds.html").write_text(""))
    assert ended.value.code == EXIT_CANNOT_CREATE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {foreign / 'birds.html'}: Permission denied; ")


def test_ones_own_files_need_no_word(tmp_path: Path) -> None:
    assert whose(tmp_path / "nothing" / "station.db") == ""
    look_at(tmp_path / "nothing" / "station.db")
