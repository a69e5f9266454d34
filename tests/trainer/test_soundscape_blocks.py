"""Soundscapes are heard block by block: the same scores to the last bit, in memory that does not
know their length; and what could not be read is said.
"""

import csv
import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ, Padding, Window, WindowCutter
from edge.contract.blend import Scores, kind_means
from edge.contract.errors import ConfigError, CorpusError, RecordingError
from edge.types import Gap
from tests.helpers.trainer_run import finish, make_corpus, make_run
from trainer.corpus.recordings import Corpus, read_sound
from trainer.corpus.soundscape_windows import row_window, windows_of
from trainer.corpus.spectrograms import crops_max_samples
from trainer.networks.model import load_network
from trainer.run import Run
from trainer.tuning.bag import choose_bag, score_images
from trainer.tuning.ensemble import ImageEnsemble
from trainer.tuning.predict import Predictor, predict
from trainer.tuning.row_images import make_row_images, read_row_images
from trainer.tuning.soundscape_scores import WindowSpan, hear, samples_of
from trainer.tuning.tune import tune

PADDINGS: tuple[Padding, ...] = get_args(Padding)
HOP_S = 0.5  # many windows of little sound
QUIET = Console(quiet=True)
SPECIES = 3
DAY_BLOCKS = 24 * 3600 * RATE_HZ // 256  # folded up by an AudioMoth


class Crowd(nn.Module):
    """A network each of whose scores hangs on all images that share its batch, and on how many
    these are."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self._meanwhile = meanwhile

    def forward(self, grey: Tensor) -> Tensor:
        """Scores `(n, 3)`."""
        self._meanwhile()
        level = grey.mean(dim=(1, 2, 3)) / 100
        return (
            torch.stack([level, level - level.mean(), level * len(grey) / 64], dim=1) * self.weight
        )


CROWD = ImageEnsemble([Crowd()], ["crowd"])


def noise(seconds: float, seed: int = 0) -> NDArray[np.int16]:
    """Noise whose colour changes, so that no two windows are alike."""
    random = np.random.default_rng(seed)
    loud = np.repeat(random.uniform(50, 3000, int(seconds) + 2), RATE_HZ)[
        : round(seconds * RATE_HZ)
    ]
    return np.asarray(np.clip(random.normal(0, 1, len(loud)) * loud, -32768, 32767), np.int16)


def fold(blocks: int) -> NDArray[np.int16]:
    """What AudioMoth writes in place of so many blocks of silence."""
    block = np.zeros(256, np.int16)
    block[:32] = [1 if blocks >> bit & 1 else -1 for bit in range(32)]
    return block


def triggered(path: Path, before: float, blocks: int, behind: float) -> Path:
    """A recording with a gap in the middle."""
    # a block's end, counted from AudioMoth's own header
    first = 12 + round(before * RATE_HZ / 256) * 256 + 244
    first -= (first - 12) % 256
    sound = [noise(before + 1)[:first], fold(blocks), noise(behind, 1)]
    soundfile.write(path, np.concatenate(sound), RATE_HZ)
    return path


def together(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Batches of 64, each in parts of 16, the last part of a batch with what is left beside."""
    sizes = list[int]()
    for begin in range(0, len(images), 64):
        count = min(64, len(images) - begin)
        sizes += [16] * (count // 16 - 1) + [16 + count % 16] if count >= 16 else [count]
    return np.split(images, np.cumsum(sizes)[:-1])


def all_at_once(
    path: Path,
    networks: Sequence[nn.Module],
    kinds: Sequence[str],
    paddings: Sequence[Padding],
    hop_s: float,
) -> tuple[list[tuple[int, int]], dict[Padding, Scores]]:
    """The plain way: unpack the recording, cut it, make one array of all images of all paddings,
    score that."""
    with Decoder(path, block_s=5) as decoder:
        pieces = list(decoder)
    windows: dict[Padding, list[Window]] = {}
    for padding in paddings:
        cutter = WindowCutter(round(hop_s * RATE_HZ), padding)
        found = list[Window]()
        for piece in pieces:
            if isinstance(piece, Gap):
                found += cutter.close()
                resumes = round((piece.at_s + piece.seconds) * RATE_HZ)
                cutter = WindowCutter(round(hop_s * RATE_HZ), padding, first_sample=resumes)
            else:
                found += cutter.push(piece)
        windows[padding] = [*found, *cutter.close()]
    images = np.stack([window.input for found in windows.values() for window in found])
    means = np.concatenate(
        [kind_means(score_images(networks, part), kinds)[1] for part in together(images)], axis=1
    )
    spans = [(window.start, window.samples) for window in windows[paddings[0]]]
    return spans, dict(zip(paddings, np.split(means, len(paddings), axis=1), strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run with a bag of two kinds, without a metadata model."""
    folder = tmp_path_factory.mktemp("blocks")
    corpus = make_corpus(folder / "data", recordings=8)
    run = make_run(folder / "run", corpus)
    choose_bag(run)
    tune(run, corpus)
    finish(run)
    return Run.open(folder / "run")


@pytest.mark.parametrize("paddings", [("context",), ("zeros",), PADDINGS, ("image", "zeros")])
@pytest.mark.parametrize(
    ("seconds", "gap_behind"),
    [(0.3, None), (5.0, None), (20.1, None), (36.5, None), (37.0, None), (36.6, 3.0), (9.0, 33.3)],
)
def test_the_same_scores_as_all_at_once(
    finished: Run,
    tmp_path: Path,
    seconds: float,
    gap_behind: float | None,
    paddings: tuple[Padding, ...],
) -> None:
    """To the last bit: 64 windows are a batch, also across paddings, and the last bit hangs on how
    they are parted."""
    path = tmp_path / "20240512_040000T.wav"
    if gap_behind is None:
        soundfile.write(path, noise(seconds), RATE_HZ)
    else:
        triggered(path, seconds, 75_000, gap_behind)
    bag = finished.bag()
    networks = [*(load_network(finished, member.name) for member in bag), Crowd(), Crowd()]
    kinds = [*(member.kind for member in bag), "crowd", "mixup"]
    heard = hear(path, ImageEnsemble(networks, kinds), SPECIES, paddings, HOP_S)
    spans, scores = all_at_once(path, networks, kinds, paddings, HOP_S)
    assert heard.windows == spans
    assert list(heard.scores) == list(paddings)
    for padding in paddings:
        np.testing.assert_array_equal(heard.scores[padding], scores[padding], strict=True)


def test_a_recording_in_which_nothing_was_above_the_trigger(tmp_path: Path) -> None:
    soundfile.write(
        tmp_path / "20240512_040000T.wav", np.concatenate([noise(1)[:12], fold(75_000)]), RATE_HZ
    )
    heard = hear(tmp_path / "20240512_040000T.wav", CROWD, SPECIES, PADDINGS, 5.0)
    assert heard.windows == []
    assert [part.shape for part in heard.scores.values()] == [(1, 0, SPECIES)] * 3


def test_what_is_lost_is_said_once_however_many_paddings(tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    lost = list[str]()
    soundfile.write(path, noise(20), RATE_HZ)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 12 * RATE_HZ])
    heard = hear(path, CROWD, SPECIES, PADDINGS, 5.0, lost)
    assert samples_of(heard.windows) == 12 * RATE_HZ
    assert lost == [f"{path}: truncated: header says 20.0 s, 12.0 s could be read"]


@pytest.mark.parametrize(
    ("meanwhile", "reason"),
    [("replaced", "changed while it was read"), ("removed", "cannot be opened")],
)
def test_a_recording_that_changes_from_one_padding_to_the_next(
    tmp_path: Path, meanwhile: str, reason: str
) -> None:
    path = tmp_path / "a.wav"
    other = tmp_path / "b.wav"
    soundfile.write(path, noise(40), RATE_HZ)
    soundfile.write(other, noise(39), RATE_HZ)
    change = (
        path.unlink
        if meanwhile == "removed"
        else lambda: shutil.copy(other, tmp_path / "c").replace(path)
    )
    network = Crowd(lambda: change() if path.exists() else None)
    with pytest.raises(RecordingError, match=rf"a\.wav: {reason}"):
        hear(path, ImageEnsemble([network], ["crowd"]), SPECIES, PADDINGS, HOP_S)


def _peak(work: Callable[[], object]) -> int:
    """Bytes that numpy and Python held at once; torch's are not counted."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _long(path: Path, minutes: int) -> Path:
    with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
        for minute in range(minutes):
            file.write(noise(60, minute % 3))
    return path


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve minutes, in which several batches become full, and thirty-six."""
    folder = tmp_path_factory.mktemp("lengths")
    return _long(folder / "short.wav", 12), _long(folder / "long.wav", 36)


# bytes; the images of the 24 minutes are 10 MB, in one array and windows 20, their sound 184
SLACK = 2_000_000


def test_memory_does_not_know_the_length(lengths: tuple[Path, Path]) -> None:
    short, long = (
        _peak(lambda path=path: hear(path, CROWD, SPECIES, ["context"], 5.0))  # type: ignore[misc]
        for path in lengths
    )
    assert long < short + SLACK


def test_a_long_unlabelled_recording_is_read_as_far_as_its_crops(
    lengths: tuple[Path, Path],
) -> None:
    short, long = (
        _peak(lambda path=path: read_sound(path, crops_max_samples(2))) for path in lengths
    )  # type: ignore[misc]
    assert long < short + SLACK


def _labelled(data: Path, sound: Path, ends: Sequence[int]) -> Corpus:
    """A corpus with this soundscape alone, labelled in the rows that end at these seconds."""
    make_corpus(data, recordings=2, soundscapes=1)
    shutil.copy(sound, data / "train_soundscapes" / "0_SSW_20190610.ogg")
    rows = [
        "row_id,site,audio_id,seconds,birds",
        *(f"0_SSW_{end},SSW,0,{end},amered" for end in ends),
    ]
    (data / "train_soundscape_labels.csv").write_text("\n".join(rows) + "\n")
    return Corpus.read(data)


def test_of_a_long_soundscape_only_labelled_windows_are_kept(
    finished: Run, lengths: tuple[Path, Path], tmp_path: Path
) -> None:
    peaks = []
    for path, end in zip(lengths, (720, 2160), strict=True):
        corpus = _labelled(tmp_path / path.stem, path, [10, 200, end, end + 5])
        rows = tmp_path / f"{path.stem}.npz"
        peaks.append(_peak(lambda: make_row_images(rows, corpus, finished.recipe, "-", QUIET)))  # noqa: B023
        assert read_row_images(rows).at.tolist() == [0, 1, 2, -1]
    assert peaks[1] < peaks[0] + SLACK


@pytest.mark.parametrize(
    ("before", "behind"), [(4.0, None), (12.0, None), (13.0, None), (11.0, 3.0), (3.0, 8.0)]
)
def test_labelled_windows_are_those_of_all(
    finished: Run, tmp_path: Path, before: float, behind: float | None
) -> None:
    """Also where the last one answers for a row that the recording only began, and behind a gap of
    600 s."""
    path = tmp_path / "20240512_040000T.wav"
    ends = [5, 10, 15, 605, 610, 615, 620]
    if behind is None:
        soundfile.write(path, noise(before), RATE_HZ)
    else:
        triggered(path, before, 75_000, behind)
    corpus = _labelled(tmp_path / "data", path, ends)
    (soundscape,) = corpus.soundscapes
    renamed = path.replace(soundscape.path.with_name("0_SSW_20190610.ogg"))
    windows = list(windows_of(renamed, finished.recipe.tune.padding[0], 5.0))
    samples = samples_of([WindowSpan(window.start, window.samples) for window in windows])
    expected = [row_window(row, samples) for row in soundscape.labels]
    make_row_images(tmp_path / "rows.npz", corpus, finished.recipe, "-", QUIET)
    rows = read_row_images(tmp_path / "rows.npz")
    by_start = {window.start: window.input for window in windows}
    for start, at in zip(expected, rows.at.tolist(), strict=True):
        assert (at >= 0) == (start in by_start)
        if at >= 0:
            np.testing.assert_array_equal(rows.images[at], by_start[start])  # type: ignore[index]


def test_row_images_of_soundscapes_that_cannot_be_read(finished: Run, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "data", recordings=2)
    for path in (tmp_path / "data" / "train_soundscapes").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        CorpusError, match=r"found none of 2: .*0_SSW_20190610\.ogg: empty file; .*1_SSW"
    ):
        make_row_images(tmp_path / "rows.npz", corpus, finished.recipe, "-", QUIET)
    assert not (tmp_path / "rows.npz").exists()


def _rows(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["row_id"]: row["birds"] for row in csv.DictReader(file)}


def test_a_day_with_a_gap_in_the_middle(finished: Run, tmp_path: Path) -> None:
    """24 h that an AudioMoth folded up have their rows; nothing is heard in them."""
    (tmp_path / "in").mkdir()
    triggered(tmp_path / "in" / "20240512_040000T.wav", 12.0, DAY_BLOCKS, 21.0)
    out = tmp_path / "not" / "yet" / "out.csv"
    told = predict(Predictor(finished, "cpu"), tmp_path / "in", out, None, lambda *_: None)
    assert (told.rows, told.unreadable) == (24 * 720 + 7, ())
    assert list(_rows(out))[-1] == f"20240512_040000T_{24 * 3600 + 35}"
    assert set(list(_rows(out).values())[3:-6]) == {"nocall"}


def test_what_cannot_be_read_is_named(finished: Run, tmp_path: Path) -> None:
    """Empty, a link to nowhere, a pipe, one that goes while others are heard; a folder with such a
    name is none."""
    folder = tmp_path / "in"
    (folder / "d.wav").mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"")
    (folder / "b.wav").symlink_to(folder / "nowhere.wav")
    os.mkfifo(folder / "c.wav")
    for name in ("e.wav", "f.wav", "g.flac"):
        soundfile.write(folder / name, noise(10), RATE_HZ)

    def progress(done: int, total: int) -> None:
        assert total == 6
        if done == 4:
            (folder / "f.wav").unlink()

    told = predict(Predictor(finished, "cpu"), folder, tmp_path / "out.csv", None, progress)
    assert (told.soundscapes, told.rows) == (2, 4)
    reasons = [
        "a.wav: empty file",
        "b.wav: cannot be opened",
        "c.wav: not a regular file",
        "f.wav: cannot be opened",
    ]
    assert [line[len(f"{folder}/") :].split(": No such")[0] for line in told.unreadable] == reasons
    assert list(_rows(tmp_path / "out.csv")) == ["e_5", "e_10", "g_5", "g_10"]


@pytest.mark.parametrize("count", [1, 7])
def test_where_nothing_can_be_read_nothing_is_written(
    finished: Run, tmp_path: Path, count: int
) -> None:
    folder = tmp_path / "in"
    out = tmp_path / "out.csv"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.ogg").write_bytes(b"no sound")
    out.write_text("row_id,birds\nold_5,nocall\n")
    with pytest.raises(ConfigError, match=rf"found none of {count}: .*0\.ogg: ") as told:
        predict(Predictor(finished, "cpu"), folder, out, None, lambda *_: None)
    assert ("and 2 more" in str(told.value)) == (count == 7)
    assert "\n" not in str(told.value)
    assert _rows(out) == {"old_5": "nocall"}


def test_a_folder_that_may_not_be_read_is_one_line(finished: Run) -> None:
    """Root may read everything, so root looks as nobody here."""
    predictor = Predictor(finished, "cpu")
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # pytest's are their owner's alone
        Path(name).chmod(0o777)
        folder = Path(name, "in")
        out = Path(name, "out.csv")
        folder.mkdir()
        soundfile.write(folder / "a.wav", noise(5), RATE_HZ)
        for mode in (0o000, 0o444):
            folder.chmod(mode)
            try:
                os.seteuid(user or 65534)
                with pytest.raises(ConfigError, match="cannot be listed: Permission denied"):
                    predict(predictor, folder, out, None, lambda *_: None)
            finally:
                os.seteuid(user)
                folder.chmod(0o755)
        assert not out.exists()
