"""A training at work: its options, run and corpus, and digests of the inputs of each stage.

An input is a name and a digest: of the columns of tables that a stage uses, of contents of files,
of sections of the recipe, of results of earlier stages. An option that is not given stands for what
the run has. Runs no stage itself.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from edge.contract.audio import front_end
from edge.contract.errors import ConfigError, CorpusError
from edge.contract.folders import passed_over
from edge.prior.place import RASTERS
from trainer.corpus.backgrounds import FILE as BACKGROUNDS
from trainer.corpus.backgrounds import (
    OWN,
    background_recordings,
    background_source,
    read_backgrounds,
    wants_backgrounds,
    wants_folder,
)
from trainer.corpus.recordings import Corpus, Recording
from trainer.corpus.soundscapes import Soundscape
from trainer.corpus.spectrograms import cache_constants
from trainer.file_digests import ABSENT
from trainer.files import digest
from trainer.recipe import MetadataKind
from trainer.run import Run

if TYPE_CHECKING:
    from trainer.transfer.backbone import Backbone

NONE = "none"
StageParts = dict[str, str]


@dataclass(frozen=True)
class Options:
    """Options of a command. `recipe` None takes the recipe that the run was started with."""

    data: Path
    out: Path
    recipe: str | None
    rasters: Path | None
    weights: Path | None
    jobs: int
    device: str
    devices: str | None = None  # `0,1`: devices that train members at the same time
    cluster: str | None = None  # address of a Ray cluster to train members on
    track: bool | None = False  # log to MLflow; None: if it is installed
    nocall: Path | None = None  # folder of backgrounds; None takes those of the run
    kind: MetadataKind | None = None  # of the metadata model, instead of the recipe's
    iterations: int | None = None  # likewise
    details: bool = False  # more figures, for those who tune the training itself
    threads: int | None = None  # of each network on the CPU; None: those of the run, or one
    no_rasters: bool = False  # without a metadata model, even if the run has one
    backbone: Path | None = None  # bundle of a published model; None takes that of the run
    place: tuple[float, float] | None = None  # of recordings without one; None: that of the run
    new: tuple[str, ...] = ()  # species unknown to an adopted model; empty: the run's


@dataclass(frozen=True)
class Work:
    """The context of all stages. Digests of files are looked up once, until `look_again`."""

    options: Options
    run: Run
    corpus: Corpus
    console: Console
    tell: Callable[[str], None]  # notifies the tracking
    _seen: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """The sections of the recipe as plain values."""
        return self.run.recipe.as_dict()

    def look_again(self) -> None:
        """Forget the digests of files, which may have changed during a stage."""
        self._seen.clear()

    def _once(self, name: str, value: Callable[[], Any]) -> Any:
        if name not in self._seen:
            self._seen[name] = value()
        return self._seen[name]

    # Digests of inputs outside the run

    def sounds(self) -> dict[str, str]:
        """Digest of the file of each recording, by key; missing ones too."""
        recordings = self.corpus.recordings

        def read() -> dict[str, str]:
            paths = [r.path for r in recordings]
            found = self.run.book.contents.of_all(paths, self.console, "sound")
            return {r.recording: sha256 for r, sha256 in zip(recordings, found, strict=True)}

        found: dict[str, str] = self._once("sounds", read)
        return found

    def sound(self) -> str:
        """Digest of all recordings, in order."""
        return digest(list(self.sounds().items()))

    def labels(self) -> str:
        """Digest of the labels of recordings that have sound, with their ratings if these count."""
        sounds = self.sounds()
        weighed = self.run.recipe.loss.rating_weight
        rows = [
            (r.recording, r.primary_label, r.secondary_labels, r.rating if weighed else None)
            for r in self.corpus.recordings
            if sounds[r.recording] != ABSENT
        ]
        return digest(self.run.taxonomy.codes, rows)

    def places(self) -> str:
        """Digest of place, date and species of all recordings."""
        return digest(self.run.taxonomy.codes, [_place(r) for r in self.corpus.recordings])

    def met(self) -> StageParts:
        """Digest of recordists and background species, if the metadata model uses them."""
        if self.run.recipe.metadata.kind != "better":
            return {}
        return {
            "recordists": digest([(r.author, r.secondary_labels) for r in self.corpus.recordings])
        }

    def names(self) -> str:
        """Digest of the names of species."""
        return digest([asdict(species) for species in self.run.taxonomy])

    def soundscapes(self) -> str:
        """Digest of the labelled soundscapes: sound, labels, place and day."""

        def read() -> str:
            contents = self.run.book.contents
            return digest([_soundscape(s, contents.of(s.path)) for s in self.corpus.soundscapes])

        found: str = self._once("soundscapes", read)
        return found

    def corpus_tables(self) -> StageParts:
        """Digests of the tables and of the name of the corpus, which appears in reports."""
        return {"name of the corpus": digest(self.corpus.name), "tables": self.tables()}

    def tables(self) -> str:
        """Digest of everything in the tables that check-data counts and the report shows."""
        facts = [(*_place(r), r.secondary_labels, r.rating) for r in self.corpus.recordings]
        soundscapes = [_soundscape(s, "") for s in self.corpus.soundscapes]
        return digest(self.run.taxonomy.digest, facts, soundscapes, asdict(self.corpus.problems))

    def rasters(self) -> str:
        """Digest of the rasters given, else of those of the run's model; NONE without any."""
        if self.options.no_rasters:
            return NONE
        folder = self.options.rasters
        if folder is None:
            return str(self.run.book.kept("rasters") or NONE)
        found: str = self._once("rasters", lambda: self._files(folder, tuple(RASTERS)))
        return found

    def elevation(self) -> str:
        """Digest of the elevation behind the map of the folds, as given or as drawn earlier; NONE
        without any."""
        folder = self.options.rasters
        drawn = self.run.book.entry("folds")
        if folder is not None:
            found: str = self._once("elevation", lambda: self._files(folder, ("elevation",)))
            return found
        return (
            NONE if self.options.no_rasters or drawn is None else drawn.made_from.get("map", NONE)
        )

    def _files(self, folder: Path, stems: tuple[str, ...]) -> str:
        """Digest of the files of a folder with one of these stems, whatever their suffix: a layer
        may have metadata in a file beside it."""
        paths = [
            p
            for p in sorted(folder.iterdir())
            if p.name.split(".")[0] in stems and not passed_over(p.name)
        ]
        return digest([(p.name, self.run.book.contents.of(p)) for p in paths])

    def backgrounds(self) -> str:
        """Digest of the backgrounds given, else of those of the run; NONE if the recipe uses none.

        Raises CorpusError if those of the run are missing and were more than pink noise.
        """
        recipe = self.run.recipe
        book = self.run.book
        heads = recipe.transfer is not None
        if not heads and not wants_backgrounds(recipe):
            return NONE
        folder = self.options.nocall if heads or wants_folder(recipe) else None
        own = self.own_backgrounds()
        before = book.kept("backgrounds")
        pinked = before in (None, NONE, background_source(None, book.contents))
        if folder is not None or str(before).startswith(OWN) or (own and pinked):
            found: str = self._once(
                "backgrounds", lambda: background_source(folder, book.contents, own)
            )
            return found
        path = self.run.folder / BACKGROUNDS
        pink = background_source(None, book.contents)
        if heads:  # whose embeddings have what they need of the sound
            return pink if pinked else str(before)
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

    def background_sounds(self) -> tuple[list[Recording], int]:
        """Sounds without birds, of --nocall and of the corpus itself, and the number of those that
        are left out: a recording of the corpus is none, wherever its copy lies."""
        asked = background_recordings(self.options.nocall, self.corpus.backgrounds)
        birds = set(self.sounds().values()) - {ABSENT}
        of = self.run.book.contents.of
        kept = [r for r in asked if r.is_segment or of(r.path) not in birds]
        return kept, len(asked) - len(kept)

    def unused_by_heads(self) -> list[str]:
        """Options given that only networks of one's own need."""
        asked = self.options
        given = {
            "--weights": asked.weights,
            "--devices": asked.devices,
            "--cluster": asked.cluster,
            "--threads": asked.threads,
            "--device": None if asked.device in ("auto", "cpu") else asked.device,
        }
        return [option for option, value in given.items() if value is not None]

    def require_backgrounds(self) -> None:
        """Raise CorpusError if embeddings must be made again without the backgrounds that the run
        began with."""
        kept = self.run.book.kept("backgrounds")
        known = (None, background_source(None, self.run.book.contents))
        if self.options.nocall is None and kept not in known and not str(kept).startswith(OWN):
            raise CorpusError(
                f"{self.run.folder}: its embeddings must be made again, over the backgrounds that "
                "it began with; give their folder again: --nocall FOLDER"
            )

    def backbone(self) -> "Backbone":
        """The published model that the heads of this run are on."""
        from trainer.transfer.backbone import FOLDER, backbone_in

        return backbone_in(self.run.folder / FOLDER)

    def backbone_classes(self) -> dict[str, int]:
        """The classes of the published model that stand for species of the corpus, by code."""
        from trainer.transfer.embeddings import known_classes

        return known_classes(self.run.taxonomy, self.backbone().bundle.taxonomy)

    def own_backgrounds(self) -> tuple[Recording, ...]:
        """The sounds without species that the corpus has, if the recipe mixes such sounds."""
        recipe = self.run.recipe
        mixes = recipe.transfer is not None or wants_folder(recipe)
        return self.corpus.backgrounds if mixes else ()

    def weights(self) -> str:
        """Digest of the ImageNet weights given, else of those that the run began with."""
        folder = self.options.weights
        if folder is None:
            kept = self.run.book.kept("weights")
            return "timm" if kept in (None, NONE) else str(kept)
        names = sorted({member.architecture for member in self.run.recipe.members})
        return digest(
            [(name, self.run.book.contents.of(folder / f"{name}.safetensors")) for name in names]
        )

    def require_weights(self) -> None:
        """Raise ConfigError if the networks began with weights from a folder that is not given
        now."""
        if self.run.recipe.pretrained and self.options.weights is None and self.weights() != "timm":
            raise ConfigError(
                "networks must be trained, and this run began with other weights: add --weights "
                "FOLDER"
            )

    def labelled_rows(self) -> StageParts:
        """Digest of the soundscapes that choose epochs, if the recipe says so."""
        if self.run.recipe.keep != "soundscapes":
            return {}
        tune = self.run.recipe.tune
        return {
            "soundscapes": digest(
                self.soundscapes(), tune.padding[0], asdict(tune.threshold), front_end()
            )
        }

    def images(self) -> str:
        """Digest of the parameters of images of crops."""
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
