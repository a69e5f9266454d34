"""Fit: trains the missing members, one at a time on each device. Chooses them; member.py trains
each."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from edge.contract.errors import ConfigError, CorpusError
from trainer.corpus.spectrograms import Spectrograms
from trainer.files import digest
from trainer.networks.model import check_architecture, find_weights
from trainer.networks.precision import choose_device
from trainer.recipe import MemberRecipe
from trainer.run import MemberInfo, Run
from trainer.training import cluster
from trainer.training.dataset import CropSet, images_line
from trainer.training.history import read_history
from trainer.training.member import MemberTask, fit_member, member_line
from trainer.workers import POLL_S, progress_bar, worker_pool

Rounds = Generator[list[MemberInfo], None, None]  # members finished in the last POLL_S


@dataclass(frozen=True)
class Workplace:
    """The place for training members: devices, one member at a time on each (naming one twice
    trains two there), or a cluster."""

    devices: tuple[str, ...]
    cores: int  # of this machine, shared by the devices
    cluster: str | None = None  # address of a Ray cluster
    threads: int | None = None  # of each member on the CPU, if given

    @classmethod
    def of(
        cls,
        device: str,
        devices: str | None,
        cluster: str | None,
        jobs: int,
        threads: int | None = None,
    ) -> "Workplace":
        """The workplace for --device, --devices, --cluster, --jobs and --threads. Raises
        ConfigError for a device that does not exist."""
        if devices is not None:
            others = (
                [f"--cluster {cluster}"]
                if cluster
                else []
                if device == "auto"
                else [f"--device {device}"]
            )
            if others:
                raise ConfigError(
                    f"--devices {devices} and {others[0]} contradict each other: give one of them"
                )
            return cls(_device_names(devices), jobs, threads=threads)
        if cluster is not None:
            return cls((device,), jobs, cluster, threads)
        device = choose_device(device)
        return cls(("cuda:0",) if device == "cuda" else ("cpu",) * jobs, jobs, threads=threads)


def _device_names(devices: str) -> tuple[str, ...]:
    """Names of torch for `0,1` or `cpu,cpu`."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    allowed = ", ".join(["cpu", *(str(i) for i in range(there))])
    found = []
    for name in (part.strip() for part in devices.split(",")):
        if name != "cpu" and not (name.isdecimal() and int(name) < there):
            raise ConfigError(f"--devices {devices}: {name!r} does not exist; available: {allowed}")
        found.append("cpu" if name == "cpu" else f"cuda:{int(name)}")
    return tuple(found)


def fit_members(
    run: Run,
    crops: CropSet,
    inputs: str,
    *,
    workplace: Workplace,
    weights: Path | None,
    console: Console,
    note: Callable[[], None] = lambda: None,
    details: bool = False,
) -> int:
    """Train the missing members. Returns their number. `inputs` is the digest of their training
    inputs apart from their own recipes: spectrograms, folds, labels. `note` is called after every
    epoch of any member; `details` prints more about each."""
    recipe = run.recipe
    devices = workplace.devices[: len(run.wanted())]
    spare = max(1, workplace.cores // len(devices))
    threads = _threads(run, workplace, spare, console)
    # Workers may have another working directory.
    folder = run.folder.resolve()
    weights = weights.resolve() if weights else None
    tasks = [
        MemberTask(
            folder, kind, fold, seed, crops, _digest_of(inputs, kind), devices[0], threads, weights
        )
        for fold in range(recipe.folds.count)
        for kind in recipe.members
        for seed in kind.seeds
    ]
    missing = [task for task in tasks if not _finished(run, task, console)]
    for architecture in sorted({task.kind.architecture for task in missing}):
        check_architecture(architecture)
        if recipe.pretrained:
            find_weights(architecture, weights or True)
    for fold in range(recipe.folds.count):
        if not (crops.fold == fold).any() or (crops.fold == fold).all():
            raise CorpusError(
                f"{run.folder / 'folds.csv'}: expected readable recordings in each fold, to "
                f"validate on; found none in fold {fold}, or all of them; check-data names the "
                "unreadable files; start again with a new --out"
            )
    if missing:
        trained = f"{len(missing)} of {len(tasks)} networks to train"
        if workplace.cluster is not None:
            where = f"on the cluster {workplace.cluster}"
            rounds = cluster.train(workplace.cluster, missing)
        else:
            devices = devices[: len(missing)]
            where = f"{len(devices)} at a time on {_device_counts(devices)}"
            rounds = _side_by_side(missing, devices, spare)
            if details:
                console.print(
                    images_line(Spectrograms(run.folder / "spectrograms").images, devices),
                    highlight=False,
                )
        console.print(f"{trained}, {where}", highlight=False)
        _train_all(run, missing, rounds, console, note, details)
    return len(missing)


def _digest_of(inputs: str, kind: MemberRecipe) -> str:
    """Digest of the training inputs of a member of this kind, independent of other kinds and of
    seeds."""
    own = {key: value for key, value in asdict(kind).items() if key != "seeds"}
    return digest(inputs, own)


def _threads(run: Run, workplace: Workplace, spare: int, console: Console) -> int:
    """Number of threads of each member on the CPU. Results depend on it, so a run keeps its first
    number: one, unless given. Raises ConfigError if another number is given later."""
    kept = run.book.kept("threads") or _threads_of_members(run)
    asked = workplace.threads
    if (
        kept is None
        and asked is None
        and spare > 1
        and not workplace.cluster
        and "cpu" in workplace.devices
    ):
        told = (
            f"--threads {spare} would use all cores, but only in a new run: results depend on "
            "threads"
        )
        console.print(f"each network has one thread; {told}", highlight=False, soft_wrap=True)
    threads = int(kept or asked or 1)
    if asked not in (None, threads):
        advice = "leave it out, or choose a new --out"
        raise ConfigError(
            f"--threads {asked}: networks of this run have {threads}, and results depend on it; "
            f"{advice}"
        )
    run.book.keep("threads", threads)
    return threads


def _threads_of_members(run: Run) -> int | None:
    """The number of threads that existing members were trained with, in case the book was lost."""
    for name in run.wanted():
        with suppress(CorpusError):  # missing or damaged
            if threads := run.member(name).threads:
                return threads
    return None


def _finished(run: Run, task: MemberTask, console: Console) -> bool:
    """True if a member exists, is undamaged and is from these inputs. Prints damage."""
    folder = run.member_folder(task.name)
    if not (folder / "member.json").is_file():
        return False
    try:
        info = run.member(task.name)
    except CorpusError as error:
        console.print(f"{escape(str(error))}; trained again", highlight=False, soft_wrap=True)
        return False
    if info.inputs != task.inputs:
        return False
    for name, sha256 in info.files.items():
        if run.book.contents.of(folder / name) != sha256:
            console.print(
                f"{escape(str(folder / name))}: missing or damaged; trained again", soft_wrap=True
            )
            return False
    return True


def _device_counts(devices: Sequence[str]) -> str:
    counts = {name: devices.count(name) for name in devices}
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())


def _train_all(
    run: Run,
    tasks: list[MemberTask],
    rounds: Rounds,
    console: Console,
    note: Callable[[], None],
    details: bool = False,
) -> None:
    """Show the progress of the training: this process only watches the histories that workers
    write."""
    number = len(run.wanted()) - len(tasks)
    all_of_them = len(run.wanted())
    total = sum(task.kind.epochs for task in tasks)
    seen = 0
    with closing(rounds), progress_bar(console) as progress:
        bar = progress.add_task(f"{len(tasks)} networks", total=total, note="")
        for finished in rounds:
            for info in finished:
                number += 1
                line = f"network {number} of {all_of_them}: {member_line(info, details)}"
                progress.console.print(line, markup=False, highlight=False)
            epochs = sum(len(read_history(run.member_folder(task.name))) for task in tasks)
            progress.update(bar, completed=epochs, note="epochs")
            if epochs != seen:
                seen = epochs
                note()


def _side_by_side(tasks: Sequence[MemberTask], devices: Sequence[str], spare: int) -> Rounds:
    """Train members in one worker process per device, which takes the next member as soon as it is
    free. For a GPU it has `spare` threads, since results do not depend on them there. Yields the
    members finished, possibly none, every POLL_S."""
    with ExitStack() as stack:
        pools = [stack.enter_context(worker_pool(1)) for _ in devices]
        waiting = list(tasks)
        free = list(range(len(devices)))
        busy = dict[Future[MemberInfo], int]()
        while waiting or busy:
            while waiting and free:
                slot = free.pop(0)
                task = replace(waiting.pop(0), device=devices[slot])
                if task.device.startswith("cuda"):
                    task = replace(task, threads=spare)
                busy[pools[slot].submit(fit_on_device, task)] = slot
            done, _ = wait(busy, POLL_S, FIRST_COMPLETED)
            free += [busy.pop(future) for future in done]
            yield [future.result() for future in done]


def fit_on_device(task: MemberTask) -> MemberInfo:
    """Train one member in this process, which uses only the device of the task."""
    if task.device.startswith("cuda"):
        # Calls without a device would open a context on the first GPU.
        torch.cuda.set_device(task.device)
    return fit_member(task)
