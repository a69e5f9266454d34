"""npz and npy files cut short and with other bytes in them: one error that names the file, whatever
numpy raises."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.contract.arrays import ArraysError, map_array, read_array, read_arrays
from edge.contract.errors import BirdstationError, BundleError, CorpusError
from edge.prior.nearby import Nearby
from edge.prior.place import RASTERS, Grid
from tests.helpers.trainer_run import make_corpus, make_run
from trainer.corpus.backgrounds import read_backgrounds
from trainer.corpus.spectrograms import Spectrograms, cache_constants
from trainer.files import map_npy, read_npy, read_npz, write_json
from trainer.run import Run
from trainer.training.calls import read_calls
from trainer.tuning.row_images import read_row_images

ROWS = {"rows": np.arange(5), "scores": np.zeros((5, 3), np.float16), "source": np.array("abc")}


def content(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, ROWS["scores"])
    elif kind == "npz":
        np.savez(file, **ROWS)
    else:
        np.savez_compressed(file, **ROWS)
    return file.getvalue()


def damages(whole: bytes) -> Iterator[bytes]:
    for at in range(len(whole)):
        turned = bytearray(whole)
        turned[at] ^= (0x01, 0x41, 0xFF)[at % 3]
        yield bytes(turned)
    for length in range(0, len(whole), 17):
        yield whole[:length]


@pytest.mark.parametrize("kind", ["npz", "npz compressed", "npy", "npy mapped"])
def test_no_damage_is_anything_but_unreadable(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    told = set[str]()
    for damaged in damages(content(kind.removesuffix(" mapped"))):
        path.write_bytes(damaged)
        try:
            if kind.startswith("npz"):
                read_arrays(path, tuple(ROWS))
            else:
                (map_array if "mapped" in kind else read_array)(path)
        except ArraysError as error:
            told.add(str(error))
    assert len(told) > 3
    assert not any("\n" in cause for cause in told)


def test_what_is_there_is_read(tmp_path: Path) -> None:
    for kind in ("npz", "npz compressed"):
        (tmp_path / "a.npz").write_bytes(content(kind))
        found = read_arrays(tmp_path / "a.npz")
        assert {name: array.tolist() for name, array in found.items()} == {
            k: v.tolist() for k, v in ROWS.items()
        }
        assert list(read_arrays(tmp_path / "a.npz", ("scores",))) == ["scores"]
    (tmp_path / "a.npy").write_bytes(content("npy"))
    for array in (read_array(tmp_path / "a.npy"), map_array(tmp_path / "a.npy")):
        assert array.shape == (5, 3)
    assert not map_array(tmp_path / "a.npy").flags.writeable


@pytest.mark.parametrize(
    "kind", ["missing", "a folder", "empty", "the other kind", "pickled", "a name missing"]
)
def test_the_cause_is_said(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    advice = "make it again"
    if kind == "a folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "the other kind":
        path.write_bytes(content("npy"))
    elif kind == "pickled":
        np.savez(path, rows=np.array([{}], object), scores=ROWS["scores"])
    elif kind == "a name missing":
        np.savez(path, rows=ROWS["rows"])
    cause = {
        "missing": "No such file or directory",
        "a folder": "Is a directory",
        "empty": "No data left in file",
        "the other kind": "expected an npz file, found a single array",
        "pickled": "Object arrays cannot be loaded",
        "a name missing": "scores is not a file in the archive",
    }[kind]
    with pytest.raises(CorpusError, match=rf"a\.npz: not readable: .*{cause}.*; make it again$"):
        read_npz(path, ("rows", "scores"), advice)
    if kind in ("missing", "a folder", "empty"):
        for read in (read_npy, map_npy):
            with pytest.raises(CorpusError, match=r"a\.npz: not readable: .*; make it again$"):
                read(path, advice)


def test_an_npz_is_no_single_array(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content("npz"))
    with pytest.raises(
        CorpusError, match="expected a single array, found an npz file; make it again"
    ):
        read_npy(tmp_path / "a.npy", "make it again")
    with pytest.raises(CorpusError, match="magic string is not correct"):
        map_npy(tmp_path / "a.npy", "make it again")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("arrays")
    made = make_run(folder / "run", make_corpus(folder / "data", recordings=4, soundscapes=0))
    write_json(made.folder / "spectrograms" / "cache.json", cache_constants(2) | {"done": True})
    return made


Reader = Callable[[Run, Path], object]
READERS: dict[str, tuple[str, Reader, type[BirdstationError], str]] = {
    "calls": ("calls.npz", lambda _, path: read_calls(path), CorpusError, "fit-cnn"),
    "backgrounds": (
        "backgrounds.npz",
        lambda _, path: read_backgrounds(path),
        CorpusError,
        "spectrograms",
    ),
    "rows": ("soundscape_rows.npz", lambda _, path: read_row_images(path), CorpusError, "fit-cnn"),
    "out of fold": (
        "members/stripes-fold0-seed1/oof.npz",
        lambda run, _: run.out_of_fold("stripes-fold0-seed1"),
        CorpusError,
        "fit-all",
    ),
    "images": (
        "spectrograms/images.npy",
        lambda _, path: Spectrograms(path.parent).images,
        CorpusError,
        "spectrograms",
    ),
    "ranges": (
        "spectrograms/ranges.npy",
        lambda _, path: Spectrograms(path.parent).ranges,
        CorpusError,
        "spectrograms",
    ),
    "grid": ("metadata/grid.npz", lambda _, path: Grid.read(path), BundleError, ""),
    "nearby": (
        "metadata/nearby.npz",
        lambda _, path: Nearby.read(path.parent),
        BundleError,
        "fit-metadata",
    ),
}


@pytest.mark.parametrize("which", READERS)
@pytest.mark.parametrize("damage", ["cut", "turned", "text"])
def test_each_file_of_a_run_says_its_name(which: str, damage: str, run: Run) -> None:
    name, read, kind, stage = READERS[which]
    path = run.folder / name
    path.parent.mkdir(exist_ok=True)
    (run.folder / "spectrograms" / "ranges.npy").touch()
    layers = {layer: np.zeros((4, 8), np.float16) for layer in RASTERS}
    file = io.BytesIO()
    if name.endswith("npz"):
        np.savez(file, **(layers if which == "grid" else ROWS))
    else:
        np.save(file, np.zeros((4, 128, 281), np.uint8))
    whole = bytearray(file.getvalue())
    if damage == "turned":
        whole[len(whole) // 2 if name.endswith("npz") else 3] ^= 0x41
    kept = {"cut": whole[: len(whole) // 2], "turned": whole, "text": b"no arrays at all"}
    path.write_bytes(kept[damage])
    with pytest.raises(kind) as refusal:
        read(run, path)
    said = str(refusal.value)
    assert said.startswith(f"{path}: not ")
    assert stage in said
    assert "\n" not in said
