"""The stages of a training, in order: what each is made from, when it is done, who does it. Parses no arguments."""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.contract.audio import front_end
from edge.contract.errors import ConfigError, CorpusError
from edge.contract.folders import passed_over
from trainer.backgrounds import FILE as BACKGROUNDS
from trainer.backgrounds import (
    background_source,
    check_folder,
    make_backgrounds,
    read_backgrounds,
    wants_backgrounds,
    wants_folder,
)
from trainer.bag import choose_bag
from trainer.calls import FILE as CALLS
from trainer.calls import make_calls
from trainer.check import check_data
from trainer.corpus import LABELS, METADATA, SITES, Corpus, require_corpus
from trainer.dataset import crop_set
from trainer.files import clear_temporaries, digest, make_folder, write_json
from trainer.fit import Workplace, fit_members
from trainer.foldmap import assign_folds
from trainer.folds import read_folds, write_folds
from trainer.metadata import fit_metadata
from trainer.model import check_clips
from trainer.oof import crop_table, score_crops
from trainer.rasters import Rasters
from trainer.recipe import MetadataKind, Recipe, find_recipe, read_recipe, recipe_names
from trainer.report import write_report
from trainer.row_images import FILE as ROW_IMAGES
from trainer.row_images import make_row_images, require_rows
from trainer.run import LOCK, STAGES, Run, check_out
from trainer.spectrograms import Spectrograms, cache_constants, make_spectrograms
from trainer.tracking import tracking
from trainer.tune import tune
from trainer.verdict import cautions, guessing

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
    devices: str | None = None  # `0,1`: where members are trained side by side
    cluster: str | None = None  # address of a Ray cluster to train members on
    track: bool | None = False  # log to MLflow; None: where it is installed
    nocall: Path | None = None  # folder of backgrounds; None takes those that the run has
    kind: MetadataKind | None = None  # of the metadata model, instead of the recipe's
    iterations: int | None = None  # as above
    details: bool = False  # more figures, for those who tune the training itself


def run_stages(options: Options, names: Sequence[str], console: Console) -> Run:
    """Do the named stages that are not done yet, in order; each says what it did. Raises BirdstationError."""
    require_corpus(options.data)
    check_out(options.out)
    recipe = _recipe(options, names)
    if options.rasters is not None and "fit-metadata" in names:
        Rasters.open(options.rasters)  # before the hours that come before it
    Workplace.of(options.device, options.devices, options.cluster, options.jobs)
    corpus = Corpus.read(options.data)
    require_rows(recipe, corpus)
    if {"spectrograms", "fit-cnn"} & set(names):  # before a run is begun: a refusal must not pin its recipe
        told = check_folder(recipe, options.nocall, options.out / BACKGROUNDS)
        if told:
            console.print(f"[yellow]{told}[/yellow]", highlight=False)
    with alone(options.out):
        clear_temporaries(options.out)
        run = Run.create(options.out, recipe, corpus.name, corpus.taxonomy)
        with tracking(run, options.track, console) as note:
            work = _Work(options, run, corpus, console, note)
            for name in names:
                _run_stage(work, name)
            work.note()
    return run


def _run_stage(work: "_Work", name: str) -> None:
    run, console, inputs = work.run, work.console, work.inputs(name)
    if run.done(name, inputs):
        console.print(f"[dim]{name}: done already[/dim]")
        return
    for needed in NEEDS[name]:
        if not run.has(needed):
            advice = f"run: python -m trainer {needed}"
            raise CorpusError(f"{run.folder}: stage {needed} comes before {name}; {advice}")
    console.rule(f"[bold]{name}", align="left")
    begin = time.monotonic()
    work.do(name)
    run.mark(name, inputs, time.monotonic() - begin)
    work.note()


def stage_table(run: Run) -> Table:
    """How long every stage took."""
    table = Table("stage", "seconds", title=f"{run.folder}", title_justify="left")
    for name, seconds in run.seconds().items():
        table.add_row(name, f"{seconds:.0f}")
    table.add_section()
    table.add_row("all", f"{sum(run.seconds().values()):.0f}")
    return table


def tell_cautions(run: Run, console: Console) -> None:
    """What speaks against using the run, loudly."""
    for line in cautions(run):
        console.print(f"[bold red]warning:[/bold red] {escape(line)}", highlight=False, soft_wrap=True)


def _recipe(options: Options, names: Sequence[str]) -> Recipe:
    """The recipe asked for, or that of the run. The metadata model alone can be begun without a name: as published."""
    pinned = options.out / "recipe.yaml"
    own = {key: value for key in ("kind", "iterations") if (value := getattr(options, key)) is not None}
    if options.recipe is not None:
        recipe = find_recipe(options.recipe)
    elif pinned.is_file():
        recipe = read_recipe(pinned)
    elif names == ("fit-metadata",):
        recipe = find_recipe("published")
    else:
        raise ConfigError(f"{options.out}: no run here yet; begin one: add --recipe {', '.join(recipe_names())}")
    return replace(recipe, metadata=replace(recipe.metadata, **own)) if own else recipe


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One trainer per run: two would write the same files. The lock goes with the process, however it ends."""
    make_folder(folder)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait for it or choose another --out"
            raise ConfigError(f"{folder}: another trainer is at work in it; {advice}") from None
        yield


class _Work:
    """The stages over one run and one corpus."""

    def __init__(
        self, options: Options, run: Run, corpus: Corpus, console: Console, tell: Callable[[str], None]
    ) -> None:
        self.options, self.run, self.corpus, self.console = options, run, corpus, console
        self.recipe, self._tell = run.recipe, tell

    def note(self) -> None:
        """Tell the tracking that there is something new; before the members begin there is nothing to track."""
        if self.run.has("folds") and self.run.has("spectrograms"):
            self._tell(self.inputs("fit-cnn"))

    def inputs(self, name: str) -> str:
        """Digest of everything that the stage is made from, short of this program."""
        data, folder = self.options.data, self.run.folder
        tables = [data / file for file in (METADATA, LABELS, SITES)]
        cache = [folder / "spectrograms" / name for name in ("index.csv", "cache.json")]
        members = sorted(folder.glob("members/*/member.json"))
        metadata = [path for path in sorted(folder.glob("metadata/*.json")) if not passed_over(path.name)]
        parts: dict[str, list[object]] = {
            "check-data": [*tables, self.audio],
            "folds": [tables[0], asdict(self.recipe.folds), self.recipe.seed, self.audio],
            "spectrograms": [tables[0], self.audio, cache_constants(self.recipe.spectrograms.crops_max), self.sounds],
            "fit-cnn": [tables[0], folder / "folds.csv", *cache, self.sounds, *self.rows],
            "fit-metadata": [tables[0], asdict(self.recipe.metadata), _listing(self.options.rasters, "*.tif")],
            "bag": [*members],
            "tune": [*tables, folder / "bag.json", *members, *metadata, _listing(data / "train_soundscapes", "*.ogg")],
            "report": [*tables, *(folder / f for f in ("check.json", "tune.json", "oof.json", "folds.csv")), *metadata],
        }
        return digest(name, *parts[name])

    @cached_property
    def audio(self) -> list[tuple[str, int, int]]:
        return _listing(self.options.data / "train_short_audio", "*/*")

    @cached_property
    def rows(self) -> list[object]:
        """What the labelled rows that choose epochs are made from, if the recipe wants them."""
        if self.recipe.keep != "soundscapes":
            return []
        sounds = _listing(self.options.data / "train_soundscapes", "*.ogg")
        return [self.options.data / LABELS, sounds, self.recipe.tune.padding[0], front_end()]

    @cached_property
    def sounds(self) -> str:
        """Digest of what the backgrounds are made from."""
        return background_source(self.recipe, self.options.nocall, self.run.folder / BACKGROUNDS)

    def do(self, name: str) -> None:
        stages: dict[str, Callable[[], None]] = {
            "check-data": self.check_data,
            "folds": self.folds,
            "spectrograms": self.spectrograms,
            "fit-cnn": self.fit_cnn,
            "fit-metadata": lambda: fit_metadata(self.run, self.corpus, self.options.rasters, self.options.details),
            "bag": lambda: choose_bag(self.run),
            "tune": lambda: tune(self.run, self.corpus),
            "report": self.report,
        }
        stages[name]()
        if name in ("fit-cnn", "tune"):
            tell_cautions(self.run, self.console)

    def check_data(self) -> None:
        checked = check_data(self.corpus, self.options.jobs)
        write_json(self.run.folder / "check.json", asdict(checked))
        self.console.print(checked.table())

    def folds(self) -> None:
        placed = assign_folds(
            self.corpus, self.recipe, self.run.folder / "folds.png", self.console, self.options.rasters
        )
        write_folds(self.run.folder / "folds.csv", placed)

    def spectrograms(self) -> None:
        made = make_spectrograms(
            self.run.folder / "spectrograms",
            self.corpus.recordings,
            self.recipe.spectrograms.crops_max,
            self.options.jobs,
            self.console,
        )
        self.console.print(f"{made.crops} crops of {made.recordings} recordings, {made.skipped} skipped")
        if made.crops_per_s and self.options.details:
            self.console.print(made.projected(self.options.jobs), highlight=False)
        self.backgrounds()

    def backgrounds(self) -> None:
        asked, folder = self.options, self.options.nocall if wants_folder(self.recipe) else None
        if folder != asked.nocall:
            self.console.print(f"--nocall is not used: recipe {self.recipe.name} mixes no backgrounds", highlight=False)
        if wants_backgrounds(self.recipe):
            make_backgrounds(self.run.folder / BACKGROUNDS, folder, self.sounds, asked.jobs, self.console)

    def calls(self, spectrograms: Spectrograms) -> None:
        if self.recipe.labels.call_probability:
            cache = [spectrograms.folder / name for name in ("index.csv", "cache.json")]
            source = digest(*cache, self.sounds, self.recipe.seed)
            backgrounds = read_backgrounds(self.run.folder / BACKGROUNDS)
            path, jobs = self.run.folder / CALLS, self.options.jobs
            make_calls(path, spectrograms, backgrounds, source, self.recipe.seed, jobs, self.console)

    def fit_cnn(self) -> None:
        asked, inputs = self.options, self.inputs("fit-cnn")
        for architecture in sorted({m.architecture for m in self.recipe.members if m.clip_crops > 1}):
            check_clips(architecture)
        spectrograms = Spectrograms(self.run.folder / "spectrograms")
        self.backgrounds()
        self.calls(spectrograms)
        if self.recipe.keep == "soundscapes":
            make_row_images(self.run.folder / ROW_IMAGES, self.corpus, self.recipe, digest(*self.rows), self.console)
        folds = {p.recording: p.fold for p in read_folds(self.run.folder / "folds.csv")}
        fit_members(
            self.run,
            crop_set(spectrograms.entries, self.corpus.recordings, folds, self.corpus.taxonomy),
            inputs,
            workplace=Workplace.of(asked.device, asked.devices, asked.cluster, asked.jobs),
            weights=asked.weights,
            console=self.console,
            note=lambda: self._tell(inputs),
            details=asked.details,
        )
        self.out_of_fold()

    def out_of_fold(self) -> None:
        """Write oof.json: how well members know the crops of the fold they have not seen, alone and together."""
        members = self.run.members()
        kinds = {kind.kind: [m for m in members if m.kind == kind.kind] for kind in self.recipe.members}
        table = Table("members", "balanced accuracy", "macro F1", "mean average precision", title="out of fold")
        figures: dict[str, dict[str, float | int]] = {}
        for name, chosen in {**kinds, "all": members}.items():
            table_of = crop_table(self.run, self.corpus, chosen)
            score = score_crops(table_of, self.corpus.taxonomy.codes)
            figures[name] = {
                "balanced_accuracy": round(score.balanced_accuracy, 4),
                "macro_f1": round(score.f1_macro, 4),
                "mean_average_precision": round(score.mean_average_precision, 4),
                "crops": score.crops,
            }
            figures[name] |= guessing(table_of, score)
            table.add_row(name, *(f"{value:.3f}" for value in list(figures[name].values())[:3]))
        self.console.print(table)
        write_json(self.run.folder / "oof.json", figures.pop("all") | {"kinds": figures})

    def report(self) -> None:
        self.console.print(f"report: {write_report(self.run, self.corpus)}", soft_wrap=True)


def _listing(folder: Path | None, pattern: str) -> list[tuple[str, int, int]]:
    """Names, sizes and times of files: cheap, and changed whenever their contents are."""
    if folder is None:
        return []
    paths = (path for path in sorted(folder.glob(pattern)) if not passed_over(path.name))
    found = ((path, path.stat()) for path in paths if path.exists())  # a link may lead nowhere
    return [(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in found]
