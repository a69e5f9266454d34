"""Spectrograms: the contract's images, in their places, after a kill as well; a cache of other
constants is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edge.contract.audio import CROP_SAMPLES, CROP_STEP, RATE_HZ, mel_images, training_crops
from edge.contract.errors import CorpusError
from tests.conftest import hiss, write_sound
from tests.helpers.trainer_corpus import CODES, make_corpus
from trainer.corpus.recordings import Corpus, read_sound
from trainer.corpus.spectrograms import (
    CROP_BYTES,
    CacheSummary,
    Spectrograms,
    crop_count,
    crops_max_samples,
    make_spectrograms,
)
from trainer.file_digests import Contents

QUIET = Console(quiet=True)


@pytest.mark.parametrize(
    "samples",
    [1, CROP_SAMPLES - 1, CROP_SAMPLES, CROP_SAMPLES + CROP_STEP - 1, 30 * RATE_HZ, 10**7],
)
@pytest.mark.parametrize("crops_max", [1, 3, 10])
def test_as_many_crops_are_planned_as_are_cut(samples: int, crops_max: int) -> None:
    assert crop_count(samples, crops_max) == len(
        training_crops(np.zeros(samples, np.float32), crops_max)
    )
    covered = min(samples, crops_max_samples(crops_max))
    assert crop_count(covered, crops_max) == crop_count(samples, crops_max)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Recordings of 1 s and of 13 s (one and two crops), one unreadable, one missing."""
    data = make_corpus(tmp_path_factory.mktemp("spectrograms") / "corpus", 3, 1.0)
    audio = data / "train_short_audio" / CODES[0]
    write_sound(audio / "XC00.ogg", hiss(13.0, 0.1))
    (audio / "XC10.ogg").write_bytes(b"not sound")
    (audio / "XC20.ogg").unlink()
    return Corpus.read(data)


def make(folder: Path, corpus: Corpus) -> Spectrograms:
    make_spectrograms(folder, corpus.recordings, Contents(), 10, 2, QUIET)
    return Spectrograms(folder)


@pytest.fixture(scope="module")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Spectrograms:
    return make(tmp_path_factory.mktemp("made") / "spectrograms", corpus)


def test_images_are_the_contract_s(corpus: Corpus, made: Spectrograms) -> None:
    paths = {r.recording: r.path for r in corpus.recordings}
    assert [e.count for e in made.entries] == [2, 1, 1, 1]
    for entry in made.entries:
        images, ranges = mel_images(
            training_crops(read_sound(paths[entry.recording], crops_max_samples(10)))
        )
        rows = slice(entry.first, entry.first + entry.count)
        assert np.array_equal(made.images[rows], images)
        assert np.array_equal(made.ranges[rows], ranges)


def test_what_cannot_be_read_is_skipped_and_listed(made: Spectrograms) -> None:
    skipped = (made.folder / "skipped.csv").read_text()
    assert f"{CODES[0]}/XC20.ogg,audio file missing" in skipped
    assert f"{CODES[0]}/XC10.ogg" in skipped
    assert len(skipped.splitlines()) == 3


def test_a_cache_of_other_constants_is_refused(made: Spectrograms, tmp_path: Path) -> None:
    state = json.loads((made.folder / "cache.json").read_text())
    state["front_end"]["n_fft"] = 2048
    (tmp_path / "cache.json").write_text(json.dumps(state))
    with pytest.raises(CorpusError, match="made with another front-end"):
        Spectrograms(tmp_path)


@pytest.mark.slow
def test_a_killed_run_makes_only_what_is_missing(
    corpus: Corpus, made: Spectrograms, tmp_path: Path
) -> None:
    folder = tmp_path / "spectrograms"
    made_here = make(folder, corpus)
    state = json.loads((folder / "cache.json").read_text())
    first = made_here.entries[0]
    images = np.lib.format.open_memmap(folder / "images.npy", "r+")
    wanted = images.copy()
    images[first.rows] = 77  # done according to the journal: must not be made again
    images[first.first + first.count :] = 0  # not done: must be made
    images.flush()
    count = f"{first.count}:".encode()
    sha256 = hashlib.sha256(
        count + images[first.rows].tobytes() + made_here.ranges[first.rows].tobytes()
    ).hexdigest()
    del images
    ranges = np.load(folder / "ranges.npy", allow_pickle=False)
    wanted_ranges = ranges.copy()
    ranges[first.first + first.count :] = 0
    np.save(folder / "ranges.npy", ranges)
    (folder / "cache.json").write_text(json.dumps(state | {"done": False}))
    journal = (
        f"{first.recording},{first.count},,{first.sound},{sha256}\n{made.entries[1].recording}"
    )
    header = "recording,count,reason,sound,images\n"
    (folder / "progress.csv").write_text(header + journal)  # the kill came in mid-line
    with pytest.raises(CorpusError, match="not finished"):
        Spectrograms(folder)
    again = make(folder, corpus)
    assert (again.images[first.rows] == 77).all()
    assert np.array_equal(
        again.images[first.first + first.count :], wanted[first.first + first.count :]
    )
    assert np.array_equal(again.ranges, wanted_ranges)
    assert [e.count for e in again.entries] == [e.count for e in made.entries]


def test_a_cache_without_ranges_is_refused_and_made_again(
    corpus: Corpus, made: Spectrograms, tmp_path: Path
) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "spectrograms")
    (folder / "ranges.npy").unlink()
    with pytest.raises(
        CorpusError, match=r"ranges\.npy is missing; .*run: python -m trainer spectrograms$"
    ):
        Spectrograms(folder)
    make_spectrograms(folder, corpus.recordings, Contents(), 10, 1, QUIET)
    again = Spectrograms(folder)
    assert np.array_equal(again.ranges, made.ranges)
    assert np.array_equal(again.images, made.images)


def test_a_full_disk_is_noticed_before_the_work(
    corpus: Corpus, made: Spectrograms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * CROP_BYTES - 1)
    monkeypatch.setattr("trainer.corpus.spectrograms.shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        CorpusError, match=r"5 crops take 0\.00 GB, .* are free; choose another --out"
    ):
        make_spectrograms(tmp_path / "new", corpus.recordings, Contents(), 10, 1, QUIET)
    assert not (tmp_path / "new" / "images.npy").exists()
    # what it has already is not asked for again
    there = shutil.copytree(made.folder, tmp_path / "there")
    make_spectrograms(there, corpus.recordings, Contents(), 10, 1, QUIET)


def test_the_published_corpus_is_projected() -> None:
    found = CacheSummary(9, 90, 0, 200.0).projected(2)
    assert found.startswith("200 crops/s, 100 per core; ")
    assert "13.7 GB) takes 32 min" in found


def test_a_corpus_without_readable_sound_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    lost = [r for r in corpus.recordings if not r.path.is_file()]
    with pytest.raises(CorpusError, match="no recording can be read"):
        make_spectrograms(tmp_path / "spectrograms", lost, Contents(), 10, 1, QUIET)
    assert len((tmp_path / "spectrograms" / "skipped.csv").read_text().splitlines()) == 1 + len(
        lost
    )
