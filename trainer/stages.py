"""The stages of a training, in order: what each is made from, when it is done, who does it. Parses no arguments."""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge.contract.audio import front_end
from edge.contract.errors import ConfigError, CorpusError
from trainer.bag import choose_bag
from trainer.check import check_data
from trainer.corpus import LABELS, METADATA, SITES, Corpus
from trainer.dataset import crop_set
from trainer.files import digest, write_json
from trainer.fit import choose_device, fit_members
from trainer.folds import draw_folds, make_folds, off_balance, read_folds, shares, write_folds
from trainer.metadata import fit_metadata
from trainer.oof import crop_table, score_crops
from trainer.recipe import Recipe, find_recipe, read_recipe
from trainer.report import write_report
from trainer.run import STAGES, Run
from trainer.spectrograms import Spectrograms, make_spectrograms
from trainer.tune import tune

# the stages whose results a stage reads
NEEDS: dict[str, tuple[str, ...]] = {
    "check-data": (),
    "folds": (),
    "spectrograms": (),
    "fit-cnn": ("folds", "spectrograms"),
    "fit-metadata": (),
    "bag": ("fit-cnn",),
    "tune": ("bag", "fit-metadata"),
    "report": ("check-data", "tune"),
}
assert tuple(NEEDS) == STAGES


@dataclass(frozen=True)
class Options:
    """What a person asked for. `recipe` None takes the one that the run was begun with."""

    data: Path
    out: Path
    recipe: str | None
    rasters: Path | None
    weights: Path | None
    jobs: int
    device: str


def run_stages(options: Options, names: Sequence[str], console: Console) -> Run:
    """Do the named stages that are not done yet, in order; each says what it did. Raises BirdstationError."""
    recipe = _recipe(options)
    choose_device(options.device)
    corpus = Corpus.read(options.data)
    with _alone(options.out):
        run = Run.create(options.out, recipe, corpus.name, corpus.taxonomy)
        work = _Work(options, run, corpus, console)
        for name in names:
            inputs = work.inputs(name)
            if run.done(name, inputs):
                console.print(f"[dim]{name}: done already[/dim]")
                continue
            for needed in NEEDS[name]:
                if not run.has(needed):
                    advice = f"run: python -m trainer {needed}"
                    raise CorpusError(f"{run.folder}: stage {needed} comes before {name}; {advice}")
            console.rule(f"[bold]{name}", align="left")
            begin = time.monotonic()
            work.do(name)
            run.mark(name, inputs, time.monotonic() - begin)
    return run


def stage_table(run: Run) -> Table:
    """How long every stage took."""
    table = Table("stage", "seconds", title=f"{run.folder}", title_justify="left")
    for name, seconds in run.seconds().items():
        table.add_row(name, f"{seconds:.0f}")
    table.add_section()
    table.add_row("all", f"{sum(run.seconds().values()):.0f}")
    return table


def _recipe(options: Options) -> Recipe:
    pinned = options.out / "recipe.yaml"
    if options.recipe is not None:
        return find_recipe(options.recipe)
    if pinned.is_file():
        return read_recipe(pinned)
    raise ConfigError(f"{options.out}: no run here yet; begin one with --recipe NAME")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One trainer per run: two would write the same files. The lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait for it or choose another --out"
            raise ConfigError(f"{folder}: another trainer is at work in it; {advice}") from None
        yield


class _Work:
    """The stages over one run and one corpus."""

    def __init__(self, options: Options, run: Run, corpus: Corpus, console: Console) -> None:
        self.options, self.run, self.corpus, self.console = options, run, corpus, console
        self.recipe = run.recipe

    def inputs(self, name: str) -> str:
        """Digest of everything that the stage is made from, short of this program."""
        data, folder = self.options.data, self.run.folder
        tables = [data / file for file in (METADATA, LABELS, SITES)]
        spectrograms, members = folder / "spectrograms", sorted(folder.glob("members/*/member.json"))
        metadata = sorted(folder.glob("metadata/*.json"))
        parts: dict[str, list[object]] = {
            "check-data": [*tables, self.audio],
            "folds": [tables[0], asdict(self.recipe.folds), self.recipe.seed],
            "spectrograms": [tables[0], self.audio, self.recipe.spectrograms.crops_max, front_end()],
            "fit-cnn": [tables[0], folder / "folds.csv", spectrograms / "index.csv", spectrograms / "cache.json"],
            "fit-metadata": [tables[0], asdict(self.recipe.metadata), _listing(self.options.rasters, "*.tif")],
            "bag": [*members],
            "tune": [*tables, folder / "bag.json", *members, *metadata, _listing(data / "train_soundscapes", "*.ogg")],
            "report": [*tables, *(folder / f for f in ("check.json", "tune.json", "oof.json", "folds.csv")), *metadata],
        }
        return digest(name, *parts[name])

    @cached_property
    def audio(self) -> list[tuple[str, int, int]]:
        return _listing(self.options.data / "train_short_audio", "*/*")

    def do(self, name: str) -> None:
        stages: dict[str, Callable[[], None]] = {
            "check-data": self.check_data,
            "folds": self.folds,
            "spectrograms": self.spectrograms,
            "fit-cnn": self.fit_cnn,
            "fit-metadata": lambda: fit_metadata(self.run, self.corpus, self.options.rasters),
            "bag": lambda: choose_bag(self.run),
            "tune": lambda: tune(self.run, self.corpus),
            "report": self.report,
        }
        stages[name]()

    def check_data(self) -> None:
        checked = check_data(self.corpus, self.options.jobs)
        write_json(self.run.folder / "check.json", asdict(checked))
        self.console.print(checked.table())

    def folds(self) -> None:
        count = self.recipe.folds.count
        placed = make_folds(self.corpus.recordings, self.recipe.folds, self.recipe.seed)
        draw_folds(self.run.folder / "folds.png", self.corpus.recordings, placed, count)
        write_folds(self.run.folder / "folds.csv", placed)
        blocks = {p.block for p in placed if p.block}
        blocked = sum(bool(p.block) for p in placed)
        self.console.print(f"{len(placed)} recordings, {blocked} of them in {len(blocks)} blocks, {count} folds")
        table = Table("quarter", "recordings", *(f"fold {k}" for k in range(count)))
        for quarter, row in shares(placed, count).items():
            recordings = sum(p.quarter == quarter for p in placed)
            table.add_row(quarter, f"{recordings:,}", *(f"{share:.1%}" for share in row))
        self.console.print(table)
        for line in off_balance(placed, count):
            self.console.print(f"[yellow]off balance:[/yellow] {line}")

    def spectrograms(self) -> None:
        made = make_spectrograms(
            self.run.folder / "spectrograms",
            self.corpus.recordings,
            self.recipe.spectrograms.crops_max,
            self.options.jobs,
            self.console,
        )
        speed = f", {made.crops_per_s:.0f} crops/s" if made.crops_per_s else ""
        self.console.print(f"{made.crops} crops of {made.recordings} recordings, {made.skipped} skipped{speed}")

    def fit_cnn(self) -> None:
        device = choose_device(self.options.device)
        spectrograms = Spectrograms(self.run.folder / "spectrograms")
        folds = {p.recording: p.fold for p in read_folds(self.run.folder / "folds.csv")}
        fit_members(
            self.run,
            crop_set(spectrograms.entries, self.corpus.recordings, folds, self.corpus.taxonomy),
            self.inputs("fit-cnn"),
            device=device,
            jobs=1 if device == "cuda" else self.options.jobs,
            weights=self.options.weights,
            console=self.console,
        )
        self.out_of_fold()

    def out_of_fold(self) -> None:
        """Write oof.json: how well members know the crops of the fold they have not seen, alone and together."""
        members = self.run.members()
        kinds = {kind.kind: [m for m in members if m.kind == kind.kind] for kind in self.recipe.members}
        table = Table("members", "balanced accuracy", "macro F1", "mean average precision", title="out of fold")
        figures: dict[str, dict[str, float | int]] = {}
        for name, chosen in {**kinds, "all": members}.items():
            score = score_crops(crop_table(self.run, self.corpus, chosen), self.corpus.taxonomy.codes)
            figures[name] = {
                "balanced_accuracy": round(score.balanced_accuracy, 4),
                "macro_f1": round(score.f1_macro, 4),
                "mean_average_precision": round(score.mean_average_precision, 4),
                "crops": score.crops,
            }
            table.add_row(name, *(f"{value:.3f}" for value in list(figures[name].values())[:3]))
        self.console.print(table)
        write_json(self.run.folder / "oof.json", figures.pop("all") | {"kinds": figures})

    def report(self) -> None:
        self.console.print(f"report: {write_report(self.run, self.corpus)}")


def _listing(folder: Path | None, pattern: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of files: cheap, and changed whenever their contents are."""
    if folder is None:
        return []
    found = ((path, path.stat()) for path in sorted(folder.glob(pattern)))
    return [(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in found]
