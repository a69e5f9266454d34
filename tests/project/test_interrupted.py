"""Ctrl-C, as a terminal sends it: the same words in all three programs, nothing left behind, and
the work goes on."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge.contract.program import EXIT_CANNOT_CREATE
from edge.contract.startup import EXIT_INTERRUPTED, INTERRUPTED, is_program
from tests import HANGS_S
from tests.conftest import hiss, note, write_sound
from tests.helpers.brokers import until
from tests.helpers.records import differences, dump

StationYaml = Callable[..., Path]
PROJECT = Path(__file__).parents[2]


def interrupted(command: list[object], begun: Callable[[], bool]) -> str:
    """What the program said when all its processes got SIGINT, once it had begun."""
    line = [sys.executable, "-W", "error", "-m", *map(str, command)]
    with subprocess.Popen(
        line, cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert until(lambda: begun() or program.poll() is not None)
        os.killpg(program.pid, signal.SIGINT)
        said = program.communicate(timeout=HANGS_S)[1]
    assert program.returncode == EXIT_INTERRUPTED, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == INTERRUPTED
    assert until(lambda: not of_group(program.pid)), "somebody of its group is left"
    return said


def of_group(group: int) -> list[int]:
    """Processes of this group that have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(process.name))
    return found


@pytest.mark.slow
def test_a_replay_goes_on_where_it_was(tmp_path: Path, station_yaml: StationYaml) -> None:
    for number in range(3):
        sound = note("midtoo", 600) + hiss(600, seed=number)
        write_sound(tmp_path / "in" / f"r{number}_2019060{number + 1}_053000.wav", sound)
    whole = station_yaml(name="whole")
    broken = station_yaml(name="broken")
    done = [sys.executable, "-m", "edge", "replay", str(tmp_path / "in"), "--config"]
    subprocess.run([*done, str(whole)], cwd=PROJECT, check=True, capture_output=True)
    database = broken.parent / "station.db-wal"
    replay = ["edge", "replay", tmp_path / "in", "--config", broken, "--jobs", "1"]
    interrupted(replay, lambda: database.exists() and database.stat().st_size > 100_000)
    subprocess.run([*done, str(broken)], cwd=PROJECT, check=True, capture_output=True)
    assert differences(dump(broken.parent / "station.db"), dump(whole.parent / "station.db")) == []


@pytest.mark.slow
def test_the_trainer_and_its_workers_end(tmp_path: Path) -> None:
    command = ["trainer", "demo-data", tmp_path / "corpus", "--rasters", tmp_path / "rasters"]
    interrupted(command, lambda: any((tmp_path / "corpus").rglob("*.ogg")))


@pytest.mark.slow
def test_an_export_ends(bundle_folder: Path, tmp_path: Path) -> None:
    """`tune` listens to sound for a while; what it has found by then is not written."""
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    for number in range(8):
        write_sound(tmp_path / "in" / f"{number}.wav", hiss(600, seed=number))
    command = ["export", "tune", bundle, "--sound", tmp_path / "in", "--state", tmp_path / "state"]
    interrupted(command, (tmp_path / "state").is_dir)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a person's")
    for out in (tmp_path / "file" / "deeper", tmp_path / ("x" * 300)):
        command = [sys.executable, "-m", "edge", "demo", "--out", str(out)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)
        assert done.returncode in (2, EXIT_CANNOT_CREATE), done.stderr
        assert "Traceback" not in done.stderr
        assert str(out.name[:20]) in done.stderr.replace("\n", "") or "file" in done.stderr


@pytest.mark.parametrize("program", ["edge", "trainer", "export"])
def test_while_it_loads_it_ends_without_a_traceback(program: str, tmp_path: Path) -> None:
    """In place of the first of the libraries that take long, one that takes for ever."""
    body = f"pathlib.Path(__file__).with_name('begun').touch(); time.sleep({HANGS_S})"
    (tmp_path / "numpy.py").write_text(f"import pathlib, time; {body}")
    there = os.environ | {"PYTHONPATH": str(tmp_path)}
    heard = ["env", "--default-signal=INT"]  # where tests run in the background, it is ignored
    line = [*heard, sys.executable, "-W", "error", "-m", program, "--help"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=PROJECT, env=there, **pipes) as loading:
        assert until((tmp_path / "begun").exists)
        loading.send_signal(signal.SIGINT)
        said = loading.communicate(timeout=HANGS_S)[1]
    assert (loading.returncode, said) == (EXIT_INTERRUPTED, f"{INTERRUPTED}\n")


def test_who_imports_a_program_keeps_its_own_answer_to_ctrl_c() -> None:
    assert is_program("/usr/local/bin/birdstation")
    assert is_program("/home/a/birdstation/edge/__main__.py")
    assert not is_program("/venv/lib/python3.11/site-packages/pytest/__main__.py")
    assert not is_program("-c")


@pytest.mark.parametrize("command", [["edge", "--help"], ["trainer", "recipe", "demo"]])
def test_a_full_disk_behind_standard_output_is_one_line(command: list[str]) -> None:
    line = [sys.executable, "-W", "error", "-m", *command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            line, cwd=PROJECT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == EXIT_CANNOT_CREATE
    assert done.stderr == "error: No space left on device\n"


def test_a_demonstration_where_nothing_can_be_made_is_one_line() -> None:
    line = [sys.executable, "-W", "error", "-m", "edge", "demo", "--out", "/proc/x"]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --out /proc/x: cannot be written: No such file or directory\n",
    )


_TIDYING = """
import pathlib, sys, threading, time
from edge.contract.program import run_program
from trainer.corpus.decoder_noise import without_decoder_noise
def work():
    try:
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(600)
    finally:
        pathlib.Path(sys.argv[2]).touch()
        time.sleep(600)
threading.Thread(target=time.sleep, args=(600,)).start()  # one that an ordinary end would wait for
with without_decoder_noise():  # which puts a pipe in the place of stderr
    run_program(work)
"""


def test_a_second_one_ends_what_the_first_is_tidying_up(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    tidying = tmp_path / "tidying"
    line = [sys.executable, "-W", "error", "-c", _TIDYING, str(begun), str(tidying)]
    with subprocess.Popen(
        line, cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        for there in (begun, tidying):
            assert until(there.exists)
            program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=HANGS_S)[1]
    assert (program.returncode, said) == (EXIT_INTERRUPTED, f"{INTERRUPTED}\n")


_TREES = """
import pathlib, sys
from dataclasses import replace
import numpy as np
from edge.contract.program import run_program
from trainer.recipe import find_recipe
from trainer.place.trees import fit_trees
random = np.random.default_rng(0)
features = random.normal(size=(20_000, 12)).astype(np.float32)
label = random.integers(0, 30, 20_000)
recipe = replace(find_recipe("demo").metadata, iterations=100_000)
train, valid = np.arange(15_000), np.arange(15_000, 20_000)
run_program(lambda: fit_trees(recipe, 1, features, label, train, valid, pathlib.Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_in_the_middle_of_catboost_it_is_the_same_word(tmp_path: Path) -> None:
    """CatBoost makes a KeyboardInterrupt of whatever the signal was answered by."""
    line = [sys.executable, "-W", "error", "-c", _TREES, str(tmp_path)]
    with subprocess.Popen(
        line, cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert until((tmp_path / "catboost" / "tmp").exists)
        program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=HANGS_S)[1]
    assert program.returncode == EXIT_INTERRUPTED, said
    assert said.splitlines()[-1] == INTERRUPTED
    assert "Traceback" not in said


IN_A_CALLBACK = """
import io, os, signal, sys, time
import soundfile
from edge.contract.program import run_program

class File(io.BytesIO):
    struck = False
    def tell(self):
        if not File.struck:
            File.struck = True
            os.kill(os.getpid(), signal.SIGINT)
        return super().tell()

def app():
    buffer = io.BytesIO()
    soundfile.write(buffer, [0.0] * 32_000, 32_000, format="FLAC")
    soundfile.SoundFile(File(buffer.getvalue())).read()
    print("decoded", flush=True)
    time.sleep(float(sys.argv[1]))
    print("never")

run_program(app)
"""


def test_inside_a_callback_of_the_decoder_it_is_not_lost() -> None:
    command = [sys.executable, "-W", "error", "-c", IN_A_CALLBACK, str(HANGS_S)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S)
    assert (done.returncode, done.stdout) == (EXIT_INTERRUPTED, "decoded\n"), done.stderr
    assert done.stderr.splitlines() == [INTERRUPTED]
