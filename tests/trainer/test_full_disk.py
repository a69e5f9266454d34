"""A disk that becomes full under the trainer: one OSError that names what could not be written,
never an abort."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.contract.errors import CorpusError
from tests.helpers.clip_station import in_child, on_small_disk
from trainer.files import naming, replacing, write_json
from trainer.networks.checkpoint import write_weights
from trainer.place.trees import fit_trees, trees_to_onnx
from trainer.recipe import find_recipe

KB = 1024


def fill(disk: Path, leave_kb: int) -> None:
    """A file that takes all room but so much."""
    (disk / "ballast").unlink(missing_ok=True)
    with (disk / "ballast").open("wb", buffering=0) as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave_kb * KB)))


def fit(work: Path) -> None:
    """A small metadata model, as ONNX."""
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 12)).astype(np.float32)
    label = random.integers(0, 3, 300)
    recipe = replace(find_recipe("demo").metadata, iterations=30)
    model = fit_trees(recipe, 1, features, label, np.arange(200), np.arange(200, 300), work)
    trees_to_onnx(model, work / "model.onnx")


def each_write(disk: Path) -> None:
    """On a disk of 1 MB: whatever is written last, the path is said."""
    fill(disk, 4)
    array = np.random.default_rng(0).normal(size=100_000)

    def text(path: Path) -> None:
        path.write_text("a" * 100_000)

    def own_handle(path: Path) -> None:
        with path.open("wb") as file:
            file.write(bytes(100_000))

    writers = {
        "text": text,
        "handle": own_handle,
        "npy": lambda path: np.save(path, array),  # numpy's error has neither number nor name
        "npz": lambda path: np.savez(path, array=array),
    }
    for name, write in writers.items():
        path = disk / f"a.{name}"  # numpy adds a suffix that is not its own
        with (
            pytest.raises(OSError, match="cannot be written: No space left") as told,
            replacing(path) as temporary,
        ):
            write(temporary)
        assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(OSError, match="cannot be written: No space left") as told:
        write_weights(disk / "weights.safetensors", torch.nn.Linear(300, 300))
    assert told.value.filename == str(disk / "weights.safetensors")
    with pytest.raises(OSError, match="cannot be written: No space left") as told, naming(disk):
        np.save(disk / "bare.npy", array)
    assert told.value.filename == str(disk)
    (disk / "bare.npy").unlink()
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def each_fit(disk: Path) -> None:
    """On a disk of 1 MB: CatBoost's words become ours, and with room it goes on."""
    ends = set[object]()
    for leave_kb in (0, 4, 16, 48, 60, 200):
        work = disk / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        fill(disk, leave_kb)
        try:
            fit(work)
            ends.add("made")
        except OSError as error:
            ends.add((error.errno, error.filename))
            (disk / "ballast").unlink()
            fit(work)
    assert ends == {"made", (errno.ENOSPC, str(disk / "work"))}


@pytest.mark.parametrize("function", [each_write, each_fit])
def test_a_full_disk_is_an_error_that_names_the_path(function: object, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    on_small_disk(
        f"tests.trainer.test_full_disk.{getattr(function, '__name__', '')}", tmp_path / "disk", 1
    )


def test_a_file_may_be_too_large(tmp_path: Path) -> None:
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    done = in_child("tests.trainer.test_full_disk.too_large", tmp_path / "a.json", before=limited)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def too_large(path: Path) -> None:
    with pytest.raises(OSError, match="cannot be written: File too large") as told:
        write_json(path, {"a": "b" * 10_000})
    assert told.value.filename == str(path)


def test_a_folder_taken_away_meanwhile_is_said(tmp_path: Path) -> None:
    """run_program takes a file that is not there for a mistake of ours, but for this one."""
    folder = tmp_path / "run"
    with (
        pytest.raises(PermissionError, match="cannot be written: No such file") as told,
        replacing(folder / "a.json"),
    ):
        shutil.rmtree(folder)
    assert told.value.filename == str(folder / "a.json")


def test_what_is_not_ours_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as told, replacing(tmp_path / "a.json"):
        (tmp_path / "source.json").read_text()
    assert told.value.filename == str(tmp_path / "source.json")
    with pytest.raises(OSError, match="odd"), naming(tmp_path):
        raise OSError("odd")


def test_catboost_says_what_it_does_not_take(tmp_path: Path) -> None:
    # one species, nothing to tell apart
    features = np.zeros((300, 12), np.float32)
    label = np.zeros(300, np.int64)
    with pytest.raises(
        CorpusError, match=r": CatBoost: .*; remove this folder and run the same command again"
    ) as told:
        fit_trees(
            find_recipe("demo").metadata,
            1,
            features,
            label,
            np.arange(200),
            np.arange(200, 300),
            tmp_path,
        )
    assert "\n" not in str(told.value)
