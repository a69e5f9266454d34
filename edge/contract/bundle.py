"""The Bundle: a self-describing folder that carries a model from the trainer to any station.

manifest.json taxonomy.csv[, names.csv] members/{*.onnx, *.fp16.onnx[, *.int8.onnx, *.scale.npy,
student.onnx]} prior/{model.onnx, features.json, grid.npz[, nearby.npz]}, or prior/{geo.onnx,
geo.json} probe.npz SHA256SUMS [LICENCE.txt]

Writing seals it with sums and an id; reading refuses another schema, another front-end, a missing,
foreign or changed file, naming it. Knows no ONNX runtime: that the members give the probe's scores
is the recognizer's to prove. Schema 1, which knew our own networks alone, reads on.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.contract.arrays import ArraysError, read_array, read_arrays
from edge.contract.audio import (
    CROP_SAMPLES,
    IMAGE,
    IMAGE_SHAPE,
    INPUT_SHAPES,
    WAVEFORM,
    WINDOW_SAMPLES,
    FrontEnd,
    Input,
    Padding,
    front_end,
)
from edge.contract.blend import Blend, KnownSpecies, Scores
from edge.contract.errors import BundleError
from edge.contract.folders import passed_over
from edge.contract.strict import Range, SchemaError, parse
from edge.contract.taxonomy import Taxonomy, read_names
from edge.contract.text import lines_of

SCHEMA = 2
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
TAXONOMY = "taxonomy.csv"
PROBE = "probe.npz"
PRIOR = "prior"
NAMES = "names.csv"
LICENCE = "LICENCE.txt"
PriorForm = Literal[
    "place", "geo"
]  # our own model of place, season and rasters; BirdNET's of place and week
PROBE_TOLERANCE = (
    1e-3  # largest difference of a score that still is the same model on another machine
)
HALF_TOLERANCE = 0.02  # the same in half precision; a threshold's step is 0.01 to 0.05


@dataclass(frozen=True)
class BundleMember:
    """One network: where it lies and where it came from."""

    name: str
    file: str  # relative to the bundle
    kind: str  # members of a kind are averaged first
    architecture: str
    fold: int | None = None  # None: nothing of ours was left out
    seed: int | None = None
    half: str | None = (
        None  # the same network in half precision, strongly typed; relative to the bundle
    )
    int8: str | None = (
        None  # the same with 8-bit convolutions (Q/DQ), where the bag then decides as it did
    )
    output: str | None = (
        # of the network, that holds its scores; None: the first. One network may serve several
        None
    )
    embedding: str | None = None  # the output that holds the network's embedding, if it gives one
    species: tuple[str, ...] | None = (
        None  # codes in the order of its output, None: those of the taxonomy
    )
    scale: str | None = (
        None  # slopes and offsets of its log-odds (npy, (2, its species)); relative to the bundle
    )


@dataclass(frozen=True)
class Student:
    """One small network that answers as the whole bag does, and how far its answers can be trusted.

    It was distilled to the bag's acoustic score, so the bag's blend and thresholds are its own. In
    a cascade it answers first, and the bag answers the windows that it leaves open
    (edge.contract.blend.open_windows).
    """

    member: BundleMember
    # logits under the threshold, and above it, within which the student leaves a species open
    below: float
    above: float
    agreement: float  # share of windows held out in which the cascade decides as the bag does
    opened: float  # share of these windows that it leaves open

    def __post_init__(self) -> None:
        if not (self.below >= 0 and self.above >= 0):
            raise ValueError("below and above must not be negative")


@dataclass(frozen=True)
class Thresholds:
    """Scores from which a species counts as heard: blended, per species where set, and without a
    prior."""

    blended: Annotated[float, Range(0, 1)]
    acoustic: Annotated[float, Range(0, 1)]
    species: Mapping[str, Annotated[float, Range(0, 1)]] = field(default_factory=dict)


@dataclass(frozen=True)
class Licence:
    """On what terms the networks may be used, and who accepted them; the text is LICENCE.txt."""

    spdx: str
    holder: str
    attribution: str  # the line that whoever shows results owes
    terms: str  # where they are, or the terms in a line
    accepted: str  # when and how

    def __str__(self) -> str:
        return f"{self.spdx}, {self.holder}; {self.attribution}"


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says. `training` is provenance for people and tools; nothing here depends
    on it."""

    members: tuple[BundleMember, ...]
    blend: Blend
    thresholds: Thresholds
    padding: Padding
    taxonomy_digest: str
    prior: PriorForm | None
    training: Mapping[str, Any]
    student: Student | None = None
    licence: Licence | None = None  # None: made from a run of one's own
    id: str = ""  # digest of contents, set when sealed
    front_end: Mapping[str, Any] = field(default_factory=lambda: named_front_end(IMAGE))
    schema: int = SCHEMA

    @property
    def has_prior(self) -> bool:
        """Whether place and day weigh in."""
        return self.prior is not None

    @property
    def front(self) -> FrontEnd:
        """What the networks take of a window."""
        name: FrontEnd = self.front_end["name"]
        return name

    @property
    def networks(self) -> tuple[BundleMember, ...]:
        """The members, then the student's network if there is one."""
        return self.members if self.student is None else (*self.members, self.student.member)


def named_front_end(name: FrontEnd) -> dict[str, Any]:
    """A front end as the manifest records it: its name and constants."""
    return {"name": name, **front_end(name)}


def _no_images() -> NDArray[np.uint8]:
    return np.empty((0, *IMAGE_SHAPE), np.uint8)


def _no_scores() -> NDArray[np.float32]:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Probe:
    """Short clips and the scores they must give: how a bundle is known to compute right on a
    device."""

    clips: NDArray[np.int16]  # (clips, 224000), of networks that take the waveform (clips, 160000)
    images: NDArray[np.uint8]  # (clips, 128, 281); none where the networks take the waveform
    member_scores: NDArray[
        np.float32
    ]  # (members, clips, species); NaN: the member does not know it
    latitude: float
    longitude: float
    day_of_year: int
    prior: NDArray[np.float32]  # (species,); empty without a prior
    blended: NDArray[np.float32]  # (clips, species), each clip alone
    student_scores: NDArray[np.float32] = field(
        default_factory=_no_scores
    )  # (clips, species); (0, 0) without one

    @classmethod
    def of_waveform(cls, clips: NDArray[np.int16], **rest: Any) -> "Probe":
        """A probe of networks that take the waveform."""
        return cls(clips=clips, images=_no_images(), **rest)

    @property
    def front(self) -> FrontEnd:
        """What the networks that it is for take."""
        return IMAGE if len(self.images) else WAVEFORM

    @property
    def inputs(self) -> Input:
        """What the networks take of the clips, one window each."""
        return self.images if len(self.images) else self.samples()

    def samples(self) -> NDArray[np.float32]:
        """The clips as float32 in [-1, 1]."""
        return self.clips.astype(np.float32) / 32768.0

    def write(self, path: Path) -> None:
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(self).items()}
        np.savez_compressed(path, **arrays)

    @classmethod
    def read(cls, path: Path) -> "Probe":
        try:
            file = read_arrays(path)
            names = set(cls.__dataclass_fields__) - (
                {"student_scores"} - set(file)
            )  # older ones know no student
            raw: dict[str, Any] = {name: file[name] for name in names}
        except (ArraysError, KeyError) as error:
            raise BundleError(f"{path}: not a probe: {error}") from error
        clips = len(raw["clips"])
        ours = raw["clips"].shape == (clips, CROP_SAMPLES) and raw["images"].shape == (
            clips,
            *IMAGE_SHAPE,
        )
        theirs = raw["clips"].shape == (clips, WINDOW_SAMPLES) and raw["images"].shape == (
            0,
            *IMAGE_SHAPE,
        )
        if not clips or not (ours or theirs):
            raise BundleError(
                f"{path}: clips and images do not fit: {raw['clips'].shape}, {raw['images'].shape}"
            )
        raw |= {"latitude": float(raw["latitude"]), "longitude": float(raw["longitude"])}
        raw["day_of_year"] = int(raw["day_of_year"])
        if not 1 <= raw["day_of_year"] <= 366:
            raise BundleError(f"{path}: day_of_year: expected 1 to 366, found {raw['day_of_year']}")
        return cls(**raw)


@dataclass(frozen=True)
class Bundle:
    """A bundle that has been read and whose sums hold."""

    folder: Path
    manifest: Manifest
    taxonomy: Taxonomy

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def licence(self) -> str | None:
        """On what terms the networks may be used, whose they are, what to say of them; None: made
        by oneself."""
        return None if self.manifest.licence is None else str(self.manifest.licence)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What a network takes of one window, float32."""
        return INPUT_SHAPES[self.manifest.front]

    def known(self, members: Sequence[BundleMember]) -> KnownSpecies | None:
        """Which species each of these knows, `(members, species)`; None: all know all."""
        if all(member.species is None for member in members):
            return None
        known = np.zeros((len(members), len(self.taxonomy)), np.bool_)
        for row, member in zip(known, members, strict=True):
            row[self.indices(member)] = True
        return known

    def indices(self, member: BundleMember) -> slice | list[int]:
        """Where its species stand in the taxonomy, in the order of its output."""
        return (
            slice(None)
            if member.species is None
            else [self.taxonomy.index(code) for code in member.species]
        )

    def scale(self, member: BundleMember) -> Scores | None:
        """Slopes and offsets of its log-odds `(2, its species)`, if it has any. Raises
        BundleError."""
        if member.scale is None:
            return None
        path = self.folder / member.scale
        wanted = (2, len(self.taxonomy) if member.species is None else len(member.species))
        try:
            scale: Scores = read_array(path)
        except ArraysError as error:
            raise BundleError(f"{path}: not readable: {error}") from error
        if scale.shape != wanted or scale.dtype != np.float32 or not np.isfinite(scale).all():
            raise BundleError(
                f"{path}: expected {wanted} finite float32, found {scale.shape} {scale.dtype}"
            )
        return scale

    def probe(self) -> Probe:
        """Raises BundleError if it is none, or another bundle's."""
        probe = Probe.read(self.folder / PROBE)
        if probe.front != self.manifest.front:
            raise BundleError(f"{self.folder / PROBE}: made for another front-end")
        if probe.member_scores.shape[::2] != (len(self.manifest.members), len(self.taxonomy)):
            raise BundleError(f"{self.folder / PROBE}: made for other members or species")
        students = (
            (0, 0) if self.manifest.student is None else (len(probe.clips), len(self.taxonomy))
        )
        if probe.student_scores.shape != students:
            raise BundleError(f"{self.folder / PROBE}: made for another student, or for none")
        return probe


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    """What is sealed, or is to be: what a Mac or a file manager leaves in the folder is no part of
    the bundle."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    names = (p.as_posix() for p in paths if not any(map(passed_over, p.parts)))
    return sorted(name for name in names if name not in (MANIFEST, SUMS))


def _content_id(manifest: Mapping[str, Any], sums: Mapping[str, str]) -> str:
    content = {"manifest": {k: v for k, v in manifest.items() if k != "id"}, "sums": dict(sums)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal_bundle(folder: Path, manifest: Manifest) -> Bundle:
    """Write manifest.json and SHA256SUMS over what lies in `folder`, then read it back as a station
    would."""
    sums = {name: file_sha256(folder / name) for name in _files(folder)}
    raw = json.loads(json.dumps(asdict(manifest)))
    raw["id"] = _content_id(raw, sums)
    (folder / MANIFEST).write_text(
        json.dumps(raw, indent=1, sort_keys=True) + "\n", encoding="utf8"
    )
    sums[MANIFEST] = file_sha256(folder / MANIFEST)
    (folder / SUMS).write_text(
        "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf8"
    )
    return read_bundle(folder)


def read_bundle(folder: Path, language: str | None = None) -> Bundle:
    """Read and check a bundle; common names in a language of its names.csv, None: as they are.
    Raises BundleError naming the file that is missing, damaged, foreign or too new, or lacks the
    language."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder}: no bundle here ({MANIFEST} is missing); python -m export onnx makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable: {error}") from error
    found = raw.get("schema") if isinstance(raw, dict) else None
    if found not in (1, SCHEMA) or isinstance(found, bool):
        raise BundleError(
            f"{path}: schema {found!r}; this version reads 1 to {SCHEMA}; export the bundle again"
        )
    sums = _check_sums(folder)
    manifest = _parse(path, raw if found == SCHEMA else _from_schema_1(path, raw))
    if raw.get("id") != _content_id(raw, {k: v for k, v in sums.items() if k != MANIFEST}):
        raise BundleError(f"{path}: the id does not match the contents")
    name = manifest.front_end.get("name")
    if name not in INPUT_SHAPES or dict(manifest.front_end) != named_front_end(name):
        raise BundleError(f"{path}: made for another front-end; found {dict(manifest.front_end)}")
    taxonomy = Taxonomy.read_csv(folder / TAXONOMY)
    if taxonomy.digest != manifest.taxonomy_digest:
        raise BundleError(f"{folder / TAXONOMY}: not the species that the members were trained on")
    if manifest.licence is not None and LICENCE not in sums:
        raise BundleError(f"{folder / LICENCE}: missing: the manifest names a licence")
    _check_species(path, manifest, taxonomy)
    if language is None:
        return Bundle(folder, manifest, taxonomy)
    if not (folder / NAMES).is_file():
        raise BundleError(
            f"{folder / NAMES}: not there: the names are in one language; leave station.language "
            f"out"
        )
    return Bundle(folder, manifest, taxonomy.named(read_names(folder / NAMES, language)))


def _from_schema_1(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as schema 2 would say it."""
    known = {name: value for name, value in raw.items() if name not in ("has_prior", "front_end")}
    has_prior = raw.get("has_prior")
    front = raw.get("front_end")
    if not isinstance(has_prior, bool) or not isinstance(front, dict):
        raise BundleError(f"{path}: has_prior and front_end: expected true or false, and constants")
    prior = "place" if has_prior else None
    return {**known, "schema": SCHEMA, "prior": prior, "front_end": {"name": IMAGE, **front}}


def _check_species(path: Path, manifest: Manifest, taxonomy: Taxonomy) -> None:
    """Members name species of the bundle, each once, and no species is without a member."""
    heard: set[str] = set()
    if unknown := [code for code in manifest.thresholds.species if code not in taxonomy]:
        raise BundleError(f"{path}: thresholds: species: {unknown[0]!r} is not in {TAXONOMY}")
    for member in manifest.networks:
        codes = taxonomy.codes if member.species is None else member.species
        unknown = [code for code in codes if code not in taxonomy]
        if unknown or len(set(codes)) != len(codes) or not codes:
            problem = (
                f"{unknown[0]!r} is not in {TAXONOMY}" if unknown else "expected each species once"
            )
            raise BundleError(f"{path}: member {member.name}: species: {problem}")
        heard |= set(codes) if member in manifest.members else set()
    if len(heard) != len(taxonomy):
        lost = next(code for code in taxonomy.codes if code not in heard)
        raise BundleError(f"{path}: no member knows the species {lost!r}")


def _check_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    try:
        lines = lines_of(path.read_text(encoding="utf8"))
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable: {error}") from error
    present = {*_files(folder), MANIFEST}
    for name in sorted(present | set(sums)):
        if name not in present:
            raise BundleError(f"{folder / name}: listed in {SUMS} but missing")
        if name not in sums:
            raise BundleError(
                f"{folder / name}: not listed in {SUMS}; remove it or export the bundle again"
            )
        if file_sha256(folder / name) != sums[name]:
            raise BundleError(f"{folder / name}: damaged (its SHA-256 is not the one in {SUMS})")
    return sums


def _parse(path: Path, raw: Mapping[str, Any]) -> Manifest:
    try:
        manifest: Manifest = parse(Manifest, raw)
    except SchemaError as error:
        raise BundleError(f"{path}: {error}") from error
    if not manifest.members:
        raise BundleError(f"{path}: no members")
    for member in manifest.networks:
        for name in (member.file, member.half, member.int8, member.scale):
            file = PurePosixPath(name or member.file)
            if file.is_absolute() or ".." in file.parts or not (path.parent / file).is_file():
                raise BundleError(f"{path}: member {member.name}: no file {name} in the bundle")
    return manifest
