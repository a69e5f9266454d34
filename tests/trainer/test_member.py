"""A member's loop: bfloat16 says what float32 says, nothing waits in a step, the right epoch is
kept."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from edge.contract.errors import CorpusError
from edge.contract.metrics import score_rows
from tests.helpers.devices import DEVICES
from tests.helpers.trainer_corpus import make_corpus
from tests.trainer.test_fit import fit_here, options, tiny_recipe
from trainer.corpus.folds import read_folds
from trainer.corpus.recordings import Corpus
from trainer.corpus.spectrograms import Spectrograms
from trainer.networks import precision
from trainer.pipeline.stages import run_stages
from trainer.recipe import Augment, MemberRecipe, Recipe, ValidationRecipe
from trainer.run import MemberInfo, Run
from trainer.training import batches, dataset, fit, member
from trainer.training.batches import Batch, Batches
from trainer.training.dataset import crop_set, images_line, open_images
from trainer.training.history import read_history
from trainer.training.member import Member, MemberTask, member_line
from trainer.training.validation import micro_f1, micro_f1_low
from trainer.tuning import row_images
from trainer.tuning.bag import choose
from trainer.tuning.row_images import RowImages, read_row_images
from trainer.tuning.sweep import LabelledRows

QUIET = Console(quiet=True)
CPU = torch.device("cpu")


def short_recipe(**changes: object) -> Recipe:
    """Three epochs, everything on that augmentation has."""
    augment = Augment((0.5, 3.0), 0.5, 0.5)
    member_of = MemberRecipe("only", "test_resnet", 3, (1,), augment, stem_pool=2)
    return dataclasses.replace(tiny_recipe(), members=(member_of,), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("member") / "corpus", 4, 8.0, soundscape=True)


@pytest.fixture(scope="module")
def task(data: Path, tmp_path_factory: pytest.TempPathFactory) -> MemberTask:
    """A member to train, of a run with spectrograms."""
    out = tmp_path_factory.mktemp("task") / "run"
    run = run_stages(options(data, out, short_recipe()), ("folds", "spectrograms"), QUIET)
    corpus = Corpus.read(data)
    folds = {p.recording: p.fold for p in read_folds(out / "folds.csv")}
    crops = crop_set(
        Spectrograms(out / "spectrograms").entries, corpus.recordings, folds, corpus.taxonomy
    )
    return MemberTask(out, run.recipe.members[0], 0, 1, crops, "-", "cpu", 1, None)


def fit_run(data: Path, out: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(fit, "_train_all", fit_here)
    return run_stages(options(data, out, recipe), ("folds", "spectrograms", "fit-cnn"), QUIET)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a worker on a CPU has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# precision


def trained(task: MemberTask, kind: str, monkeypatch: pytest.MonkeyPatch) -> Member:
    monkeypatch.setattr(member, "choose_precision", lambda _: kind)
    made = Member(Run(task.run), task)
    made.epoch()
    return made


def test_bfloat16_learns_what_float32_learns(
    task: MemberTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, rounded = (trained(task, kind, monkeypatch) for kind in ("fp32", "bf16"))
    other = trained(dataclasses.replace(task, seed=2), "fp32", monkeypatch)
    assert rounded.precision == "bf16"
    losses = [made.history[0].train_loss for made in (exact, rounded)]
    assert losses[0] != losses[1], "the same to the last bit: it was not computed in bfloat16"
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # bfloat16 keeps 8 bits
    assert rounded.history[0].valid_loss == pytest.approx(exact.history[0].valid_loss, rel=0.02)
    scores = [made.score(precision="fp32").scores for made in (exact, rounded, other)]
    assert np.abs(scores[1] - scores[0]).mean() < 0.5 * np.abs(scores[2] - scores[0]).mean()
    states = [*rounded.network.state_dict().values()]
    assert {t.dtype for t in states if t.is_floating_point()} == {torch.float32}
    moments = [t for state in rounded.optimiser.state.values() for t in state.values()]
    assert {t.dtype for t in moments} == {torch.float32}


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [("avx2 avx512_bf16", "bf16"), ("fma amx_bf16", "bf16"), ("avx512f", "fp32")],
)
def test_a_cpu_that_has_bfloat16_uses_it(
    flags: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(precision, "Path", lambda _: tmp_path / "cpuinfo")
    assert precision.choose_precision(CPU) == chosen


@pytest.mark.parametrize("architecture", ["resnest14d", "test_efficientnet", "mnasnet_small"])
def test_a_prepared_network_says_the_same_and_learns_the_same(architecture: str) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 64, 64)
    gradients = []
    plain = timm.create_model(architecture, in_chans=1, num_classes=3)
    prepared = timm.create_model(architecture, in_chans=1, num_classes=3)
    prepared.load_state_dict(plain.state_dict())
    precision.prepare(prepared, "bf16", CPU)
    logits = [network(image) for network in (plain, prepared)]
    assert torch.allclose(*logits, rtol=1e-3, atol=1e-3)
    for network, found in zip((plain, prepared), logits, strict=True):
        found.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999
    assert prepared.state_dict().keys() == plain.state_dict().keys()


def test_wide_depthwise_convolutions_are_float32_inside_bfloat16() -> None:
    conv = torch.nn.Conv2d(8, 8, 5, padding=2, groups=8)
    precision.prepare(torch.nn.Sequential(conv), "bf16", CPU)
    image = torch.rand(1, 8, 9, 9).bfloat16()
    with precision.autocast("bf16", CPU):
        found = conv(image)
    assert found.dtype == torch.bfloat16
    exact = torch.nn.functional.conv2d(image.float(), conv.weight, conv.bias, padding=2, groups=8)
    assert torch.equal(found, exact.bfloat16())


# nothing waits


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: numbers that are read, shapes that hang on
    values."""

    NAMES = (
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::equal",
        "aten::masked_select",
        "aten::unique",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.name().startswith(self.NAMES):
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def test_an_epoch_reads_one_number_from_the_device(task: MemberTask) -> None:
    made = Member(Run(task.run), task)
    rng = np.random.default_rng(0)
    with Waits() as waits:
        made._train(1, rng, member.Dice(rng, torch.Generator().manual_seed(0)))
    assert waits.found == ["aten::_local_scalar_dense"]


@pytest.mark.skipif("cuda" not in DEVICES, reason="no GPU")
def test_no_step_waits_for_the_gpu(task: MemberTask, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []
    monkeypatch.setattr(member, "set_rate", lambda *values: steps.append(values[-1]))
    made = Member(Run(task.run), dataclasses.replace(task, device="cuda:0"))
    made.epoch()  # compiles
    first = len(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            made.epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 2 * first, "it waited before the loss of the whole epoch was read"
    assert made.precision == precision.choose_precision(made.device)


def batch(step: int) -> Batch:
    return Batch(np.array([[step]]), torch.tensor([step]), torch.zeros(1), torch.zeros(1))


def test_batches_come_in_order_and_few_are_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(step: int) -> Batch:
        made.append(step)
        return batch(step)

    ticks: Iterator[int] = iter(range(1000))
    monkeypatch.setattr(batches.time, "monotonic", lambda: next(ticks))
    ahead = Batches(make, 20, CPU)
    for step, found in enumerate(ahead):
        assert int(found.images) == step
        assert len(made) <= step + 1 + batches._AHEAD
    assert made == list(range(20))
    assert ahead.waited_s == 20  # one tick of the clock for each


def test_an_error_of_the_thread_is_the_loops() -> None:
    def make(step: int) -> Batch:
        if step == 2:
            raise OSError("disk gone")
        return batch(step)

    seen = []
    with pytest.raises(OSError, match="disk gone"):
        seen.extend(int(found.images) for found in Batches(make, 5, CPU))
    assert list(Batches(batch, 0, CPU)) == []


@pytest.mark.parametrize("name", DEVICES)
def test_images_are_the_same_from_the_device_and_from_the_host(task: MemberTask, name: str) -> None:
    device = torch.device(name)
    rows = np.array([[3, 0], [1, 3]])
    images = Spectrograms(task.run / "spectrograms").images
    for source in (dataset.DeviceImages(images, device), dataset.HostImages(images, device)):
        found = source.place(source.gather(rows))
        assert (found.dtype, found.device.type) == (torch.uint8, device.type)
        assert np.array_equal(found.cpu().numpy(), images[rows])


def test_images_are_read_into_memory_where_they_fit(
    task: MemberTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Spectrograms(task.run / "spectrograms").images
    assert open_images(images, CPU).held == "memory"
    assert "read into memory before training" in images_line(images, ["cpu", "cpu"])
    assert "held by cuda:0, cuda:1 if they take less than 40%" in images_line(
        images, ["cuda:1", "cuda:0", "cuda:0"]
    )
    monkeypatch.setattr(dataset, "available_bytes", lambda: images.nbytes)
    assert open_images(images, CPU).held == "disk"
    assert "read from disk as needed, since they take more than 70%" in images_line(images, ["cpu"])


# the epoch that is kept


def test_a_lucky_epoch_on_few_recordings_loses() -> None:
    recordings = np.array([0] * 30 + [r for r in range(1, 16) for _ in range(2)])
    lucky = np.zeros((60, 2), np.float32)
    steady = np.zeros((60, 2), np.float32)
    lucky[:30, 0] = 1.0  # the one long recording, nothing else
    steady[::2, 0] = 1.0
    steady[30::6, 0] = 0.0
    lucky[30:32, 0] = 1.0
    primary = np.zeros(60, np.int64)
    assert micro_f1(lucky, primary) > micro_f1(steady, primary)
    low = [micro_f1_low(scores, primary, recordings, 200, seed=1) for scores in (lucky, steady)]
    assert low[0] < low[1] < micro_f1(steady, primary)
    assert micro_f1_low(lucky, primary, recordings, 200, seed=1) == low[0]


def test_with_one_crop_per_recording_it_is_the_interval_of_the_contract() -> None:
    """Where every crop names one species, F1 is the mean of its hits: the same as the interval of
    row-wise F1."""
    hit = np.random.default_rng(0).random(200) < 0.7
    scores = np.where(np.stack([hit, ~hit], axis=1), 0.9, 0.1).astype(np.float32)
    low = micro_f1_low(scores, np.zeros(200, np.int64), np.arange(200), 2000, seed=0)
    assert low == pytest.approx(
        hit.mean() - 1.96 * np.sqrt(hit.mean() * (1 - hit.mean()) / 200), abs=0.01
    )


@pytest.mark.slow
def test_with_bootstrap_the_lower_end_chooses(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = short_recipe(keep="best", validation=ValidationRecipe(50))
    low = {"only-fold0-seed1": iter([0.1, 0.3, 0.2]), "only-fold1-seed1": iter([0.4, 0.1, 0.2])}
    names = iter([name for name in low for _ in range(3)])
    monkeypatch.setattr(member, "micro_f1_low", lambda *_: next(low[next(names)]))
    run = fit_run(data, tmp_path / "run", recipe, monkeypatch)
    assert [(info.kept_epoch, info.valid_f1_low) for info in run.members()] == [(2, 0.3), (1, 0.4)]


@pytest.mark.slow
def test_without_it_the_lower_end_is_f1_itself(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fit_run(data, tmp_path / "run", short_recipe(), monkeypatch)
    for info in run.members():
        history = read_history(run.member_folder(info.name))
        assert all(e.valid_f1_low == e.valid_f1 and np.isnan(e.soundscape_f1) for e in history)
        assert info.valid_f1_low == info.valid_f1
        assert 0 <= info.data_wait < 1
        assert info.precision == precision.choose_precision(CPU)
        assert f"of the time waiting for images; {info.precision}, images in memory" in member_line(
            info, details=True
        )
        assert member_line(info) == f"F1 {info.valid_f1:.3f}, {info.seconds:.0f} s"


def test_the_bag_goes_by_the_lower_end() -> None:
    """Seed 1 has the better F1, seed 2 the better lower end; a file of before has none and goes by
    F1."""

    def info(seed: int, f1: float, low: float | None) -> MemberInfo:
        name = f"only-fold0-seed{seed}"
        return MemberInfo(name, "only", "-", 0, seed, 2, 1, f1, 1, 1, 1, 1.0, "-", valid_f1_low=low)

    assert [m.seed for m in choose([info(1, 0.6, 0.4), info(2, 0.58, 0.5)], 1)] == [2]
    assert [m.seed for m in choose([info(1, 0.6, None), info(2, 0.58, 0.58)], 1)] == [1]


@pytest.mark.slow
def test_soundscapes_choose_the_epoch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    f1s = iter([0.2, 0.9, 0.5, 0.6, 0.1, 0.6])
    scores: list[np.ndarray] = []
    monkeypatch.setattr(RowImages, "f1", lambda _, found, __: (scores.append(found), next(f1s))[1])
    run = fit_run(data, tmp_path / "run", short_recipe(keep="soundscapes"), monkeypatch)
    assert [info.kept_epoch for info in run.members()] == [2, 3]
    history = read_history(run.member_folder("only-fold1-seed1"))
    assert [e.soundscape_f1 for e in history] == [0.6, 0.1, 0.6]
    rows = read_row_images(run.folder / row_images.FILE)
    assert [len(found) for found in scores] == [len(rows.images)] * 6
    path = run.folder / row_images.FILE
    corpus = Corpus.read(data)
    made = path.stat().st_mtime_ns
    row_images.make_row_images(path, corpus, run.recipe, row_images._source(path), QUIET)
    assert path.stat().st_mtime_ns == made
    row_images.make_row_images(path, corpus, run.recipe, "of other labels", QUIET)
    assert path.stat().st_mtime_ns > made


def test_row_images_score_as_the_contract(data: Path, tmp_path: Path) -> None:
    corpus = Corpus.read(data)
    path = tmp_path / "rows.npz"
    row_images.make_row_images(path, corpus, short_recipe(), "-", QUIET)
    rows = read_row_images(path)
    soundscape = corpus.soundscapes[0]
    assert len(rows.at) == len(soundscape.labels)
    scores = np.where(rows.truth[np.argsort(rows.at)], 0.9, 0.1).astype(np.float32)[
        : len(rows.images)
    ]
    assert rows.f1(scores, short_recipe().tune) == pytest.approx(1.0)
    named = LabelledRows.of(
        [(row, "-", labels) for row, labels in soundscape.labels.items()], corpus.taxonomy
    )
    nothing = score_rows(dict(soundscape.labels), {}, dict.fromkeys(soundscape.labels, "-")).f1
    assert rows.f1(np.zeros_like(scores), short_recipe().tune) == pytest.approx(nothing)
    assert np.array_equal(named.truth, rows.truth)


def test_a_corpus_without_labelled_soundscapes_is_refused(tmp_path: Path) -> None:
    bare = make_corpus(tmp_path / "bare", 2, 1.0)
    with pytest.raises(
        CorpusError,
        match=r"train_soundscape_labels\.csv: no labelled soundscape; the recipe says keep",
    ):
        run_stages(
            options(bare, tmp_path / "run", short_recipe(keep="soundscapes")), ("folds",), QUIET
        )


def test_member_files_of_before_are_read(task: MemberTask) -> None:
    """member.json as version 0.1.0 wrote it."""
    old = {
        "name": "only-fold0-seed1",
        "kind": "only",
        "architecture": "test_resnet",
        "fold": 0,
        "seed": 1,
        "classes": 2,
        "stem_pool": 2,
        "valid_f1": 0.5,
        "epochs": 3,
        "kept_epoch": 3,
        "parameters": 1,
        "seconds": 1.0,
        "inputs": "-",
    }
    run = Run(task.run)
    path = run.member_folder(str(old["name"])) / "member.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(old))
    info = run.member("only-fold0-seed1")
    path.unlink()
    assert (info.precision, info.valid_f1_low) == ("fp32", None)
