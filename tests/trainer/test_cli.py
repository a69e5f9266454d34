"""The command line: every command is there, mistakes end with one line and the right exit code,
--help is quick."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import HANGS_S
from tests.helpers.trainer_corpus import make_corpus

COMMANDS = (
    *("check-data", "folds", "spectrograms", "fit-cnn", "fit-metadata", "bag", "tune", "report"),
    *("fit-all", "demo-data", "recipe", "mix-soundscapes", "predict", "score"),
)


def trainer(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)


@pytest.mark.slow
def test_help_names_every_command_and_imports_no_torch() -> None:
    told = trainer("--help")
    assert told.returncode == 0
    for command in COMMANDS:
        assert command in told.stdout
    light = (
        "import sys, trainer.__main__; print(sorted({'torch', 'catboost', 'matplotlib'} & "
        "set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", light], capture_output=True, text=True, timeout=HANGS_S, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_folds_and_check_data_need_no_run(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "data")
    told = trainer("folds", "--data", data, "--out", tmp_path / "folds.csv")
    assert told.returncode == 0, told.stderr
    lines = (tmp_path / "folds.csv").read_text().splitlines()
    assert lines[0] == "filename,fold,region,block,quarter"
    assert len(lines) == 9
    assert (tmp_path / "folds.png").read_bytes().startswith(b"\x89PNG")
    told = trainer("check-data", "--data", data, "--jobs", "1")
    assert told.returncode == 0, told.stderr
    assert "species with fewer than 5" in told.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "folds.csv", "folds.png"]


@pytest.mark.slow
def test_a_recipe_is_printed_as_yaml_and_json() -> None:
    assert "architecture: resnest50d" in trainer("recipe", "published").stdout
    assert json.loads(trainer("recipe", "published", "--json").stdout)["optimiser"]["batch"] == 64


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["fit-all"],
        ["fit-all", "--data", "x", "--out", "y", "--device", "gpu"],
        ["fit-all", "--data", "x", "--out", "y", "--jobs", "0"],
        ["recipe"],
    ],
)
def test_a_usage_error_ends_with_2(arguments: list[str]) -> None:
    told = trainer(*arguments)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr


def test_demo_data_out_of_range_is_a_usage_error(tmp_path: Path) -> None:
    told = trainer(
        "demo-data", "--out", tmp_path / "d", "--rasters", tmp_path / "r", "--species", "1"
    )
    assert told.returncode == 2
    assert "Traceback" not in told.stderr


def test_what_a_stage_alone_needs_is_loaded_when_it_is_done() -> None:
    """Else each refusal takes seconds and a gigabyte."""
    heavy = "{'torch', 'timm', 'catboost', 'pandas', 'matplotlib'}"
    code = (
        f"import sys, trainer.__main__, trainer.pipeline.stages; print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


@pytest.mark.slow
def test_a_wrong_setting_or_corpus_ends_with_78_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    data = make_corpus(tmp_path / "data", 1, 1.0)
    sorted_ = tmp_path / "sorted"
    two_columns = tmp_path / "two"
    (sorted_ / "Robin").mkdir(parents=True)
    two_columns.mkdir()
    (two_columns / "train_metadata.csv").write_text("primary_label,filename\nrobin,a.wav\n")
    cases: list[tuple[list[object], str]] = [
        (
            ["recipe", "nothing"],
            "recipe 'nothing': unknown; allowed: demo, improved, published, small, transfer",
        ),
        (["recipe", tmp_path / "mine.yaml"], f"{tmp_path / 'mine.yaml'}: seed: missing"),
        (
            ["folds", "--data", tmp_path / "none", "--out", tmp_path / "run", "--recipe", "demo"],
            "no such folder",
        ),
        (
            ["fit-all", "--data", tmp_path / "none", "--out", tmp_path / "run"],
            f"{tmp_path / 'none'}: no such folder",
        ),
        (
            ["check-data", "--data", sorted_],
            "expected a corpus with train_metadata.csv and train_short_audio/, found",
        ),
        (
            ["check-data", "--data", two_columns],
            "url, found primary_label, filename; all but primary_label",
        ),
        (
            ["fit-all", "--data", data, "--out", tmp_path / "run"],
            "no run here yet; to start one, add --recipe demo",
        ),
        (
            [
                "fit-all",
                "--data",
                data,
                "--out",
                tmp_path / "run",
                "--recipe",
                "demo",
                "--rasters",
                tmp_path / "maps",
            ],
            f"{tmp_path / 'maps'}: no such folder; expected one with",
        ),
    ]
    for arguments, expected in cases:
        told = trainer(*arguments)
        assert told.returncode == 78, told.stderr
        assert expected in told.stderr
        assert told.stderr.startswith("error: ")
        assert told.stderr.count("\n") == 1, told.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_cannot_be_written_is_told_in_one_line_before_the_work(tmp_path: Path) -> None:
    """Also where the system says that there is no such file, as in /proc."""
    data = make_corpus(tmp_path / "data", 5, 1.0)
    (tmp_path / "file").write_text("a person's")
    for out, arguments in (
        ("/proc/x", ["demo-data", "/proc/x"]),
        ("/proc/f.csv", ["folds", "--data", data, "--out", "/proc/f.csv"]),
        ("/proc/run", ["check-data", "--data", data, "--out", "/proc/run", "--recipe", "demo"]),
        (
            tmp_path / "file" / "run",
            ["folds", "--data", data, "--out", tmp_path / "file" / "run", "--recipe", "demo"],
        ),
    ):
        told = trainer(*arguments)
        assert told.returncode in (2, 73), told.stderr
        assert told.stderr.strip().startswith(f"error: {out}: cannot be written: ")
        assert told.stderr.strip().count("\n") == 0
