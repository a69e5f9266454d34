"""The backbone: the network of an adopted bundle, from windows of sound to embeddings and scores.

A run keeps a copy of the bundle, so that later stages, predictions and the export need no other
folder. Knows no corpus.
"""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.contract.audio import WAVEFORM, WINDOW_SAMPLES, Samples
from edge.contract.bundle import MANIFEST, Bundle, BundleMember, read_bundle
from edge.contract.errors import BundleError, ConfigError, CorpusError
from trainer.files import cannot_write

FOLDER = "backbone"  # in a run
ADOPT = "python -m export adopt birdnet-v2.4 --out birdnet makes one"
# Windows in the network at once: BirdNET holds megabytes for each, and two stay in the cache of a
# CPU. Scores do not depend on the batch, to the last bit.
_AT_ONCE = 2


class BackboneOutput(NamedTuple):
    """What a backbone makes of windows."""

    embedding: NDArray[np.float32]  # (n, stretches, width)
    scores: NDArray[np.float32]  # (n, classes) of the bundle, after the sigmoid


class Backbone:
    """The network of a bundle on ONNX Runtime, with one thread: several processes may hear at the
    same time, and the same sound always gives the same bytes.

    backbone = Backbone.open(Path("birdnet"))
    heard = backbone.hear(windows)       # (n, 160000) float32 at 32 kHz
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.member = _member_of(bundle)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = bundle.folder / self.member.file
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            reason = " ".join(str(error).split())[:300]
            raise BundleError(f"{path}: ONNX Runtime cannot load it: {reason}") from error
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        outputs = [self.member.embedding, self.member.output or next(iter(shapes))]
        self._outputs = [name for name in outputs if name is not None]
        found = shapes.get(self._outputs[0]) or []
        # A network that hears the window as a whole has one stretch.
        sizes = found[1:] if len(found) == 3 else [1, *found[1:]]
        if len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
            raise BundleError(
                f"{path}: output {self._outputs[0]}: expected (n, stretches, width), found {found}"
            )
        self.stretches, self.width = int(sizes[0]), int(sizes[1])
        self.whole = len(found) == 2

    @classmethod
    def open(cls, folder: Path) -> "Backbone":
        """Open and check the bundle in a folder. Raises BundleError, or ConfigError if its network
        gives no embedding of the sound itself."""
        return cls(_bundle_in(folder))

    @property
    def id(self) -> str:
        """The bundle's id, for what is kept of its embeddings."""
        return self.bundle.id

    def hear(self, windows: Samples) -> BackboneOutput:
        """Embeddings and scores of windows `(n, 160000)`."""
        if windows.ndim != 2 or windows.shape[1] != WINDOW_SAMPLES:
            raise ValueError(f"expected windows (n, {WINDOW_SAMPLES}), found {windows.shape}")
        embedding = np.empty((len(windows), self.stretches, self.width), np.float32)
        scores = np.empty((len(windows), len(self.bundle.taxonomy)), np.float32)
        for at in range(0, len(windows), _AT_ONCE):
            part = np.ascontiguousarray(windows[at : at + _AT_ONCE], np.float32)
            rows = slice(at, at + len(part))
            name = self._session.get_inputs()[0].name
            found = self._session.run(self._outputs, {name: part})
            embedding[rows] = found[0].reshape(len(part), self.stretches, self.width)
            scores[rows] = found[1]
        return BackboneOutput(embedding, scores)

    def embed(self, windows: Samples) -> NDArray[np.float32]:
        """Embeddings `(n, stretches, width)` of windows `(n, 160000)`."""
        return self.hear(windows).embedding


def _bundle_in(folder: Path) -> Bundle:
    """The bundle in a folder. Raises BundleError, or ConfigError if there is none."""
    if not (folder / MANIFEST).is_file():
        raise ConfigError(
            f"--backbone {folder}: expected the folder of an adopted model, with {MANIFEST} in it; "
            f"{ADOPT}"
        )
    return read_bundle(folder)


def _member_of(bundle: Bundle) -> BundleMember:
    """The network whose embedding is used. Raises ConfigError if the bundle has none."""
    with_embedding = [m for m in bundle.manifest.members if m.embedding is not None]
    if bundle.manifest.front != WAVEFORM or not with_embedding:
        raise ConfigError(
            f"--backbone {bundle.folder}: expected the bundle of a published model, whose network "
            f"gives an embedding; found one that gives scores alone; {ADOPT}"
        )
    if "backbone" in bundle.manifest.training:
        raise ConfigError(
            f"--backbone {bundle.folder}: expected the bundle of a published model, found heads "
            "trained on one, which know the very recordings that they would be judged by; give "
            f"the model itself ({ADOPT})"
        )
    return with_embedding[0]


@cache
def backbone_in(folder: Path) -> Backbone:
    """The backbone in a folder, opened once in this process."""
    return Backbone.open(folder)


def check_backbone(run: Path, given: Path | None) -> None:
    """Raise ConfigError or BundleError, before a run begins, if there is no backbone to begin
    with."""
    if given is not None:
        _member_of(_bundle_in(given))
    elif not (run / FOLDER).is_dir():
        raise ConfigError(f"the recipe needs --backbone BUNDLE, an adopted model; {ADOPT}")


def keep_backbone(run: Path, given: Path | None) -> Path:
    """The copy of the backbone in a run, made if it is not there. Raises ConfigError if none is
    given and none is there, or if another one is given than the run began with; CorpusError if the
    copy is damaged."""
    kept = run / FOLDER
    if not kept.is_dir():
        check_backbone(run, given)
        assert given is not None
        _copy(given, kept)
    try:
        mine = read_bundle(kept)
    except BundleError as error:
        raise CorpusError(
            f"{error}; remove {kept} and run the same command again with --backbone BUNDLE"
        ) from error
    if given is not None and (theirs := read_bundle(given)).id != mine.id:
        raise ConfigError(
            f"--backbone {given}: the run {run} began with another one (id {mine.id[:12]}, found "
            f"{theirs.id[:12]}); leave it out, or choose a new --out"
        )
    return kept


def _copy(given: Path, kept: Path) -> None:
    """Copy a bundle whole or not at all."""
    temporary = kept.with_name(f".{FOLDER}-{os.getpid()}")
    try:
        for left in kept.parent.glob(f".{FOLDER}-*"):
            shutil.rmtree(left)
        shutil.copytree(given, temporary)
        temporary.rename(kept)
    except OSError as error:
        raise cannot_write(kept, error) from error
    except shutil.Error as error:
        raise ConfigError(f"--backbone {given}: cannot be copied: {error.args[0][0][2]}") from error
