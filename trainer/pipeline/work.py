"""A training at work: what was asked for, the run, the corpus, and the parts that each stage is
made from.

A part is a name and a digest: of the columns of tables that a stage uses, of the contents of files,
of sections of the recipe, of what earlier stages left. What an option does not say is what the run
has. Does no stage itself.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from edge.contract.audio import front_end
from edge.contract.errors import ConfigError, CorpusError
from edge.contract.folders import passed_over
from edge.prior.place import RASTERS
from trainer.contents import ABSENT
from trainer.corpus.backgrounds import FILE as BACKGROUNDS
from trainer.corpus.backgrounds import (
    background_source,
    read_backgrounds,
    wants_backgrounds,
    wants_folder,
)
from trainer.corpus.recordings import Corpus, Recording
from trainer.corpus.soundscapes import Soundscape
from trainer.corpus.spectrograms import cache_constants
from trainer.files import digest
from trainer.recipe import MetadataKind
from trainer.run import Run

NONE = "none"
StageParts = dict[str, str]


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
    threads: int | None = None  # of each network on the CPU; None: as the run began, or one
    no_rasters: bool = False  # without a metadata model, also where the run has one


@dataclass(frozen=True)
class Work:
    """The stages' common ground. Digests of files are looked up once, until `look_again`."""

    options: Options
    run: Run
    corpus: Corpus
    console: Console
    tell: Callable[[str], None]  # the tracking
    _seen: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's sections as plain values."""
        return self.run.recipe.as_dict()

    def look_again(self) -> None:
        """Forget what files held: a stage has taken its time."""
        self._seen.clear()

    def _once(self, name: str, value: Callable[[], Any]) -> Any:
        if name not in self._seen:
            self._seen[name] = value()
        return self._seen[name]

    # digests of what lies outside the run

    def sounds(self) -> dict[str, str]:
        """Contents of each recording, by its key; of those that are not there, too."""
        recordings = self.corpus.recordings

        def read() -> dict[str, str]:
            paths = [r.path for r in recordings]
            found = self.run.book.contents.of_all(paths, self.console, "sound")
            return {r.recording: sha256 for r, sha256 in zip(recordings, found, strict=True)}

        found: dict[str, str] = self._once("sounds", read)
        return found

    def sound(self) -> str:
        """Of all recordings, in order."""
        return digest(list(self.sounds().items()))

    def labels(self) -> str:
        """Of what is heard in the recordings that have sound, and how well where that counts."""
        sounds = self.sounds()
        weighed = self.run.recipe.loss.rating_weight
        rows = [
            (r.recording, r.primary_label, r.secondary_labels, r.rating if weighed else None)
            for r in self.corpus.recordings
            if sounds[r.recording] != ABSENT
        ]
        return digest(self.run.taxonomy.codes, rows)

    def places(self) -> str:
        """Of where and when all recordings were made, and of what."""
        return digest(self.run.taxonomy.codes, [_place(r) for r in self.corpus.recordings])

    def met(self) -> StageParts:
        """Who met what besides, where the metadata model remembers it."""
        if self.run.recipe.metadata.kind != "better":
            return {}
        return {
            "recordists": digest([(r.author, r.secondary_labels) for r in self.corpus.recordings])
        }

    def names(self) -> str:
        """Of the species for people."""
        return digest([asdict(species) for species in self.run.taxonomy])

    def soundscapes(self) -> str:
        """Of the labelled soundscapes: sound, labels, place and day."""

        def read() -> str:
            contents = self.run.book.contents
            return digest([_soundscape(s, contents.of(s.path)) for s in self.corpus.soundscapes])

        found: str = self._once("soundscapes", read)
        return found

    def corpus_tables(self) -> StageParts:
        """The tables, and the name that goes with them into what people read."""
        return {"name of the corpus": digest(self.corpus.name), "tables": self.tables()}

    def tables(self) -> str:
        """Of all that check-data counts and the report shows of the tables."""
        facts = [(*_place(r), r.secondary_labels, r.rating) for r in self.corpus.recordings]
        soundscapes = [_soundscape(s, "") for s in self.corpus.soundscapes]
        return digest(self.run.taxonomy.digest, facts, soundscapes, asdict(self.corpus.problems))

    def rasters(self) -> str:
        """Of the rasters that were given, else of those that the run has a model of; NONE without
        any."""
        if self.options.no_rasters:
            return NONE
        folder = self.options.rasters
        if folder is None:
            return str(self.run.book.kept("rasters") or NONE)
        found: str = self._once("rasters", lambda: self._files(folder, tuple(RASTERS)))
        return found

    def elevation(self) -> str:
        """Of the raster that the map of the folds is drawn on, or was; NONE without any."""
        folder = self.options.rasters
        drawn = self.run.book.entry("folds")
        if folder is not None:
            found: str = self._once("elevation", lambda: self._files(folder, ("elevation",)))
            return found
        return (
            NONE if self.options.no_rasters or drawn is None else drawn.made_from.get("map", NONE)
        )

    def _files(self, folder: Path, stems: tuple[str, ...]) -> str:
        """Of the files of a folder with one of these names, whatever their suffix: a layer may have
        its description beside it."""
        paths = [
            p
            for p in sorted(folder.iterdir())
            if p.name.split(".")[0] in stems and not passed_over(p.name)
        ]
        return digest([(p.name, self.run.book.contents.of(p)) for p in paths])

    def backgrounds(self) -> str:
        """Of the backgrounds that were given, else of those that the run has; NONE where the recipe
        mixes none.

        Raises CorpusError if those are gone and were more than pink noise.
        """
        recipe = self.run.recipe
        book = self.run.book
        if not wants_backgrounds(recipe):
            return NONE
        folder = self.options.nocall if wants_folder(recipe) else None
        if folder is not None:
            found: str = self._once("backgrounds", lambda: background_source(folder, book.contents))
            return found
        path = self.run.folder / BACKGROUNDS
        pink = background_source(None, book.contents)
        there: str | None = None
        with suppress(CorpusError):
            there = read_backgrounds(path).source if path.is_file() else None
        kept = book.kept("backgrounds")
        kept = there or pink if kept in (None, NONE) else kept
        if kept != pink and (there != kept or BACKGROUNDS in book.damaged("spectrograms")):
            why = (
                "is missing"
                if not path.is_file()
                else "is damaged, or of another folder than the run's"
            )
            raise CorpusError(f"{path}: {why}; give the folder again: --nocall FOLDER")
        return str(kept)

    def weights(self) -> str:
        """Of the ImageNet weights that were given, else of those that the run began with."""
        folder = self.options.weights
        if folder is None:
            kept = self.run.book.kept("weights")
            return "timm" if kept in (None, NONE) else str(kept)
        names = sorted({member.architecture for member in self.run.recipe.members})
        return digest(
            [(name, self.run.book.contents.of(folder / f"{name}.safetensors")) for name in names]
        )

    def require_weights(self) -> None:
        """Raise ConfigError if the networks began with weights that were given then and are not
        given now."""
        if self.run.recipe.pretrained and self.options.weights is None and self.weights() != "timm":
            raise ConfigError(
                "networks are to be trained, and this run began with other weights: add --weights "
                "FOLDER"
            )

    def labelled_rows(self) -> StageParts:
        """Of the soundscapes that choose epochs, if the recipe says so."""
        if self.run.recipe.keep != "soundscapes":
            return {}
        tune = self.run.recipe.tune
        return {
            "soundscapes": digest(
                self.soundscapes(), tune.padding[0], asdict(tune.threshold), front_end()
            )
        }

    def images(self) -> str:
        """Of what images of crops are made with."""
        return digest(cache_constants(self.run.recipe.spectrograms.crops_max))


def _place(recording: Recording) -> tuple[object, ...]:
    place = recording.latitude, recording.longitude, recording.date
    return recording.recording, recording.primary_label, *place


def _soundscape(soundscape: Soundscape, sha256: str) -> tuple[object, ...]:
    labels = {row: sorted(heard) for row, heard in soundscape.labels.items()}
    where = soundscape.latitude, soundscape.longitude, soundscape.date
    return (
        soundscape.path.name,
        sha256,
        soundscape.audio_id,
        soundscape.site,
        *where,
        list(labels.items()),
    )
