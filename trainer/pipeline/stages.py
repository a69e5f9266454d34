"""Runs the stages of a training in order, those that are not done. Parses no arguments.

A stage is done if the book of the run has an entry for it, made from the present inputs, and its
files are unchanged.
"""

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.contract.errors import ConfigError, CorpusError, UsageError
from trainer.book import FILE, HEAD_STAGES, STAGES, Book, stage_part, versions
from trainer.corpus.backgrounds import FILE as BACKGROUNDS
from trainer.corpus.backgrounds import background_files, check_folder
from trainer.corpus.recordings import Corpus, require_corpus
from trainer.corpus.soundscape_windows import require_readable
from trainer.corpus.species_names import SpeciesNames
from trainer.corpus.spectrograms import IMAGES, RANGES
from trainer.files import clear_temporaries, digest, make_folder, read_json
from trainer.pipeline.chain import CHAIN, Stage
from trainer.pipeline.transfer_chain import TRANSFER_CHAIN
from trainer.pipeline.work import NONE, Options, StageParts, Work
from trainer.place.places import check_rasters
from trainer.place.rasters import Rasters
from trainer.recipe import Recipe, find_recipe, read_recipe, recipe_names
from trainer.report.tracking import tracking
from trainer.run import LOCK, Run, check_out
from trainer.transfer.backbone import FOLDER as BACKBONE
from trainer.transfer.backbone import check_backbone, keep_backbone
from trainer.tuning.cautions import tell_cautions
from trainer.tuning.row_images import require_rows

__all__ = ["STAGES", "Options", "alone", "run_stages", "stage_table", "tell_cautions"]

# Loaded when needed.
_LIBRARIES = ("torch", "timm", "catboost", "onnx", "onnxruntime", "matplotlib", "scipy")
_STAGE = {stage.name: stage for stage in CHAIN}
_HEAD_STAGE = {stage.name: stage for stage in TRANSFER_CHAIN}
# Inputs that are files.
_READ = ("sound", "soundscapes", "rasters", "backgrounds", "map", "equal recordings")
_REPAIRED = (IMAGES, RANGES)  # the stage finds their damaged rows itself


def run_stages(options: Options, names: Sequence[str], console: Console) -> Run:
    """Run the named stages that are not done yet, in order; each prints its result. Raises
    BirdstationError; before any work, ModuleNotFoundError for a library that a later stage
    needs."""
    for library in _LIBRARIES:
        if find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
    require_corpus(options.data)
    check_out(options.out)
    recipe = _recipe(options, names)
    names = _names_for(recipe, names, options.out)
    if options.rasters is not None and options.no_rasters:
        raise UsageError(
            f"--rasters {options.rasters} and --no-rasters contradict each other: give one of them"
        )
    if options.rasters is not None and "fit-metadata" in names:
        Rasters.open(options.rasters)  # before hours of other stages
    if {"embeddings", "fit-heads"} & set(names):
        check_backbone(options.out, options.backbone)
        if options.nocall is not None:
            background_files(options.nocall)
    corpus = read_corpus(options, recipe)
    require_rows(recipe, corpus)
    if "tune" in names:
        require_readable(corpus)
    # Before a run begins: an error must not fix its recipe.
    if {"spectrograms", "fit-cnn"} & set(names):
        _check_networks(recipe, options)
        told = check_folder(recipe, options.nocall, options.out / BACKGROUNDS, corpus.backgrounds)
        if told:
            console.print(f"[yellow]{told}[/yellow]", highlight=False)
    with alone(options.out):
        clear_temporaries(options.out)
        run = Run.create(options.out, recipe, corpus.name, corpus.taxonomy)
        if recipe.transfer is not None and {"embeddings", "fit-heads"} & set(names):
            keep_backbone(options.out, options.backbone)
        for line in (run.book.forget_damaged(), _other_versions(run)):
            if line:
                console.print(f"[yellow]{escape(line)}[/yellow]", highlight=False, soft_wrap=True)
        with tracking(run, options.track, console) as note:
            _keep_told(run, options)
            _Chain(Work(options, run, corpus, console, note)).run(names)
    return run


def read_corpus(options: Options, recipe: Recipe) -> Corpus:
    """The corpus, with the place and the new species that are given, else with those that the run
    was given before; with the names of the published model that heads are on. Raises CorpusError,
    BundleError."""
    book = Book(options.out)
    place = options.place
    new = options.new
    with suppress(CorpusError):  # a damaged book is reported when the run is opened
        if place is None and (kept := book.kept("place")):
            place = float(kept[0]), float(kept[1])
        new = new or tuple(book.kept("new") or ())
    if recipe.transfer is None:
        return Corpus.read(options.data, place=place, new=new)
    kept = options.out / BACKBONE
    model = options.backbone if options.backbone is not None else kept
    if not model.is_dir():  # a stage that needs none of it, in a new run
        return Corpus.read(options.data, place=place, new=new, species_min=1)
    return Corpus.read(options.data, SpeciesNames.of_bundle(model), place, new, species_min=1)


def _keep_told(run: Run, options: Options) -> None:
    """Keep what commands for single stages need not repeat."""
    if options.place is not None:
        run.book.keep("place", list(options.place))
    if options.new:
        run.book.keep("new", list(options.new))


def _check_networks(recipe: Recipe, options: Options) -> None:
    """Raise ConfigError for networks that timm does not have, and for devices that do not exist."""
    from trainer.networks.model import check_architecture
    from trainer.training.fit import Workplace

    Workplace.of(options.device, options.devices, options.cluster, options.jobs)
    for member in recipe.members:
        check_architecture(member.architecture)


def _other_versions(run: Run) -> str:
    """One line about stages and members made with other library versions than the installed
    ones."""
    here = versions()
    made = {name: entry.versions for name, entry in run.book.entries().items()}
    made |= {"the beginning": read_json(run.folder / "run.json")["versions"], **_of_members(run)}
    others: dict[str, list[str]] = {}
    for name, found in made.items():
        if differs := [
            f"{key} {value}" for key, value in found.items() if value != here.get(key, value)
        ]:
            others.setdefault(", ".join(differs), []).append(name)
    if not others:
        return ""
    told = "; ".join(f"{', '.join(names)}: {differs}" for differs, names in others.items())
    now = ", ".join(f"{key} {value}" for key, value in here.items())
    return (
        f"made with other library versions than here ({now}): {told}. Finished work is kept; to "
        "make it again, choose a new --out"
    )


def _of_members(run: Run) -> dict[str, Mapping[str, str]]:
    """Library versions that each finished member was trained with; the stage finds damaged ones."""
    found = {}
    for name in run.wanted():
        with suppress(CorpusError):
            found[name] = run.member(name).versions
    return found


class _Chain:
    """The stages of one run with one corpus."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.book = work.run.book
        self._stages = _STAGE if work.run.recipe.transfer is None else _HEAD_STAGE
        self._current: set[str] = set()  # stages known to be done

    def run(self, names: Sequence[str]) -> None:
        """Run those of the named stages that are not done, in order."""
        self._require_rasters(names)
        self._check_rasters(names)
        if self.work.options.rasters is not None and "fit-metadata" in names:
            # in case this start ends before that stage
            self.book.keep("rasters", self.work.rasters())
        try:
            for name in names:
                self._run_stage(self._stages[name])
            self.note()
        finally:
            self.book.contents.save()

    def note(self) -> None:
        """Notify the tracking; before the members begin there is nothing to track."""
        if "fit-heads" in self._stages:
            return  # heads take seconds: there is nothing to track
        if self.book.entry("folds") and self.book.entry("spectrograms"):
            self.work.tell(digest(self._parts(self._stages["fit-cnn"])))

    def _run_stage(self, stage: Stage) -> None:
        work = self.work
        book = self.book
        name = stage.name
        for needed in stage.needs:
            self._require(self._stages[needed], name)
        parts = self._parts(stage)
        why = self._reason(stage, parts)
        if not why:
            kept = (
                " (no --rasters given: its model is kept)"
                if name == "fit-metadata" and _keeps_model(work)
                else ""
            )
            work.console.print(f"[dim]{name}: done already{kept}[/dim]", highlight=False)
            self._current.add(name)
            return
        if book.entry(name):
            work.console.print(
                f"{name}: made again: {escape(why)}", highlight=False, soft_wrap=True
            )
        _clear(work.run, book.damaged(name))
        book.begin(name)
        parts = self._parts(stage)  # its earlier inputs are void now
        for part in stage.keeps:
            book.keep(part, parts[part])
        work.console.rule(f"[bold]{name}", align="left")
        begin = time.monotonic()
        stage.do(work, parts)
        self._require_unchanged(stage, parts)
        book.finish(
            name, parts, stage.result(work.run), _went_in(work, stage), time.monotonic() - begin
        )
        self._current.add(name)
        self.note()

    def _parts(self, stage: Stage) -> StageParts:
        """All inputs of a stage; the stages that it needs are done."""
        entries = {name: self.book.entry(name) for name in stage.needs}
        left = {stage_part(name): entry.result for name, entry in entries.items() if entry}
        return {**stage.made_from(self.work), **left}

    def _reason(self, stage: Stage, parts: StageParts) -> str:
        """The reason to run a stage; empty if it is done."""
        if self.book.entry(stage.name) is None:
            return f"{FILE} does not have it"
        if damaged := self.book.damaged(stage.name):
            return self.book.told(damaged)
        changed = self.book.changed(stage.name, parts)
        return f"{', '.join(changed)} changed" if changed else ""

    def _require(self, needed: Stage, name: str) -> None:
        """Raise CorpusError unless a stage that another one needs is done, from the present
        inputs."""
        if needed.name in self._current:
            return
        for earlier in needed.needs:
            self._require(self._stages[earlier], name)
        folder = self.work.run.folder
        advice = f"run: python -m trainer {needed.name}"
        if self.book.entry(needed.name) is None:
            raise CorpusError(f"{folder}: stage {needed.name} comes before {name}; {advice}")
        if why := self._reason(needed, self._parts(needed)):
            raise CorpusError(
                f"{folder}: {needed.name} comes before {name} and must be run again: {why}; "
                f"{advice}"
            )
        self._current.add(needed.name)

    def _require_rasters(self, names: Sequence[str]) -> None:
        """Raise CorpusError, before hours of other stages, if the metadata model must be fitted
        again but no rasters are given."""
        work = self.work
        stage = self._stages["fit-metadata"]
        if stage.name not in names or not _keeps_model(work):
            return
        if why := self._reason(stage, self._parts(stage)):
            raise CorpusError(
                f"{work.run.folder / 'metadata'}: must be made again ({why}): add --rasters "
                "FOLDER, or --no-rasters to continue without a model of place and season"
            )

    def _check_rasters(self, names: Sequence[str]) -> None:
        """Check new rasters before hours of training networks."""
        rasters = self.work.options.rasters
        begun = self.book.entry("fit-cnn")
        if rasters is not None and {"fit-cnn", "fit-metadata"} <= set(names) and begun is None:
            check_rasters(self.work.corpus, rasters)

    def _require_unchanged(self, stage: Stage, parts: StageParts) -> None:
        """Raise CorpusError if files changed while a stage read them."""
        self.work.look_again()
        now = stage.made_from(self.work)
        changed = [part for part in _READ if now.get(part) != parts.get(part)]
        if changed:
            raise CorpusError(
                f"{stage.name}: {', '.join(changed)} changed meanwhile; run the same command again"
            )


def _keeps_model(work: Work) -> bool:
    """True if the run has a metadata model and no option about rasters is given."""
    kept = work.run.metadata() is not None or work.run.book.kept("rasters") not in (None, NONE)
    return work.options.rasters is None and not work.options.no_rasters and kept


def _went_in(work: Work, stage: Stage) -> dict[str, Any]:
    return {"corpus": work.corpus.name, **stage.went_in(work)}


def _clear(run: Run, damaged: Sequence[str]) -> None:
    """Remove damaged files, so that they are made again; of a member, member.json too."""
    for name in damaged:
        path = run.folder / name
        if path.name not in _REPAIRED:
            path.unlink(missing_ok=True)
        if name.startswith("members/"):
            path.with_name("member.json").unlink(missing_ok=True)


def stage_table(run: Run) -> Table:
    """A table of the duration of every stage."""
    table = Table("stage", "seconds", title=f"{run.folder}", title_justify="left")
    for name, seconds in run.book.seconds().items():
        table.add_row(name, f"{seconds:.0f}")
    table.add_section()
    table.add_row("all", f"{sum(run.book.seconds().values()):.0f}")
    return table


def _names_for(recipe: Recipe, names: Sequence[str], out: Path) -> Sequence[str]:
    """The stages to run: all of the recipe's chain where all were asked for. Raises UsageError for
    a stage that only the other chain has."""
    chain = STAGES if recipe.transfer is None else HEAD_STAGES
    if tuple(names) == STAGES:
        return chain
    foreign = [name for name in names if name not in chain]
    if foreign:
        other = STAGES if chain is HEAD_STAGES else HEAD_STAGES
        instead = chain[other.index(foreign[0])]
        raise UsageError(
            f"{out}: recipe {recipe.name} has no stage {foreign[0]}; it has {instead} instead"
        )
    return names


def next_steps(out: Path) -> tuple[str, str]:
    """Where the report of a finished run is, and how to put the run to work."""
    return (
        f"report: {out / 'report.html'} (open it in a browser)",
        f"next: python -m export onnx --run {quote(str(out))} --out BUNDLE; then in station.yaml, "
        "bundle: BUNDLE",
    )


def _recipe(options: Options, names: Sequence[str]) -> Recipe:
    """The recipe asked for, or that of the run. The metadata model alone can begin without a
    recipe: as published; with a backbone, heads on it."""
    pinned = options.out / "recipe.yaml"
    own = {
        key: value for key in ("kind", "iterations") if (value := getattr(options, key)) is not None
    }
    if options.recipe is not None:
        recipe = find_recipe(options.recipe)
    elif pinned.is_file():
        recipe = read_recipe(pinned)
    elif options.backbone is not None:
        recipe = find_recipe("transfer")
    elif names == ("fit-metadata",):
        recipe = find_recipe("published")
    else:
        raise ConfigError(
            f"{options.out}: no run here yet; to start one, add --recipe "
            f"{', '.join(recipe_names())}"
        )
    if options.backbone is not None and recipe.transfer is None:
        raise UsageError(
            f"--backbone {options.backbone}: recipe {recipe.name} trains networks of its own; "
            "leave it out, or choose --recipe transfer"
        )
    return replace(recipe, metadata=replace(recipe.metadata, **own)) if own else recipe


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a run for one trainer: two would write the same files. The lock ends with the
    process."""
    make_folder(folder)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait for it or choose another --out"
            raise ConfigError(f"{folder}: in use by another trainer; {advice}") from None
        yield
