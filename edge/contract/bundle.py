"""The Bundle: a self-describing folder that carries a model from the trainer to any station.

    manifest.json
    taxonomy.csv[, names.csv]
    members/{*.onnx, *.fp16.onnx[, *.int8.onnx, *.scale.npy, student.onnx]}
    prior/{model.onnx, features.json, grid.npz[, nearby.npz]}, or prior/{geo.onnx, geo.json}
    probe.npz
    SHA256SUMS
    [LICENCE.txt]

Writing seals it with checksums and an id. Reading refuses another schema, another front end, and
missing, foreign or changed files, and names the file. Schema 1, which described only our own
networks, can still be read. Knows no ONNX runtime: the recognizer checks that the members give the
probe's scores.
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
from edge.contract.errors import BundleError, ConfigError
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
# Our own model of place, season and rasters; BirdNET's of place and week.
PriorForm = Literal["place", "geo"]
# Largest difference of scores of the same model on different machines.
PROBE_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.02  # the same in half precision; thresholds are chosen in steps of 0.01 to 0.05


@dataclass(frozen=True)
class BundleMember:
    """One network: its files and its origin."""

    name: str
    file: str  # relative to the bundle
    kind: str  # members of a kind are averaged first
    architecture: str
    fold: int | None = None  # fold left out in training; None: no fold of ours
    seed: int | None = None
    # the same network in half precision, strongly typed; relative to the bundle
    half: str | None = None
    # the same with 8-bit convolutions (Q/DQ), if the ensemble's decisions then stay the same
    int8: str | None = None
    # the network's output with its scores; None: the first. One network may serve several members
    output: str | None = None
    embedding: str | None = None  # the network's output with its embedding, if there is one
    # species codes in the order of its output; None: those of the taxonomy
    species: tuple[str, ...] | None = None
    # slopes and offsets of its log-odds (npy, (2, its species)); relative to the bundle
    scale: str | None = None


@dataclass(frozen=True)
class Student:
    """One small network that answers as the whole ensemble does, and the limits within which it is
    trusted.

    It was distilled to the ensemble's acoustic score, so that the ensemble's blend and thresholds
    apply to it. In a cascade it answers first, and the ensemble decides the windows that it leaves
    open (edge.contract.blend.open_windows).
    """

    member: BundleMember
    # logits below and above the threshold within which the student leaves a species open
    below: float
    above: float
    agreement: float  # fraction of held-out windows in which cascade and ensemble decide alike
    opened: float  # fraction of these windows that it leaves open

    def __post_init__(self) -> None:
        if not (self.below >= 0 and self.above >= 0):
            raise ValueError("below and above must not be negative")


@dataclass(frozen=True)
class Thresholds:
    """Scores from which a species counts as detected: blended, per species if set, and without a
    prior."""

    blended: Annotated[float, Range(0, 1)]
    acoustic: Annotated[float, Range(0, 1)]
    species: Mapping[str, Annotated[float, Range(0, 1)]] = field(default_factory=dict)


@dataclass(frozen=True)
class Licence:
    """Terms of use of the networks, and their acceptance; the text is in LICENCE.txt."""

    spdx: str
    holder: str
    attribution: str  # a line to be shown with results
    terms: str  # address of the terms, or the terms in a line
    accepted: str  # time and manner of acceptance

    def __str__(self) -> str:
        return f"{self.spdx}, {self.holder}; {self.attribution}"


@dataclass(frozen=True)
class Manifest:
    """Contents of manifest.json. `training` is provenance for people and tools; nothing here
    depends on it."""

    members: tuple[BundleMember, ...]
    blend: Blend
    thresholds: Thresholds
    padding: Padding
    taxonomy_digest: str
    prior: PriorForm | None
    training: Mapping[str, Any]
    student: Student | None = None
    licence: Licence | None = None  # None: trained by oneself
    id: str = ""  # digest of the contents, set on sealing
    front_end: Mapping[str, Any] = field(default_factory=lambda: named_front_end(IMAGE))
    schema: int = SCHEMA

    @property
    def has_prior(self) -> bool:
        """True if place and day affect the score."""
        return self.prior is not None

    @property
    def front(self) -> FrontEnd:
        """The front end of the networks."""
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
    """Short clips and the scores that they must give, which show that a device computes a bundle
    correctly."""

    clips: NDArray[np.int16]  # (clips, 224000); (clips, 160000) for networks that take the waveform
    # (clips, 128, 281); (0, 128, 281) for networks that take the waveform
    images: NDArray[np.uint8]
    # (members, clips, species); NaN: the member does not know the species
    member_scores: NDArray[np.float32]
    latitude: float
    longitude: float
    day_of_year: int
    prior: NDArray[np.float32]  # (species,); empty without a prior
    blended: NDArray[np.float32]  # (clips, species), without neighbours
    # (clips, species); (0, 0) without a student
    student_scores: NDArray[np.float32] = field(default_factory=_no_scores)

    @classmethod
    def of_waveform(cls, clips: NDArray[np.int16], **rest: Any) -> "Probe":
        """A probe of networks that take the waveform."""
        return cls(clips=clips, images=_no_images(), **rest)

    @property
    def front(self) -> FrontEnd:
        """The front end of the networks that it is for."""
        return IMAGE if len(self.images) else WAVEFORM

    @property
    def inputs(self) -> Input:
        """The networks' input for the clips, one window each."""
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
            # older probes have no student
            names = set(cls.__dataclass_fields__) - ({"student_scores"} - set(file))
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
                f"{path}: clips and images differ: {raw['clips'].shape}, {raw['images'].shape}"
            )
        raw |= {"latitude": float(raw["latitude"]), "longitude": float(raw["longitude"])}
        raw["day_of_year"] = int(raw["day_of_year"])
        if not 1 <= raw["day_of_year"] <= 366:
            raise BundleError(f"{path}: day_of_year: expected 1 to 366, found {raw['day_of_year']}")
        return cls(**raw)


@dataclass(frozen=True)
class Bundle:
    """A bundle that has been read and whose checksums match."""

    folder: Path
    manifest: Manifest
    taxonomy: Taxonomy

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def licence(self) -> str | None:
        """Terms of use, holder and attribution of the networks in one line; None for a model
        trained by oneself."""
        return None if self.manifest.licence is None else str(self.manifest.licence)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a network's input for one window, float32."""
        return INPUT_SHAPES[self.manifest.front]

    def known(self, members: Sequence[BundleMember]) -> KnownSpecies | None:
        """Mask `(members, species)` of the species that each member knows; None if all know all."""
        if all(member.species is None for member in members):
            return None
        known = np.zeros((len(members), len(self.taxonomy)), np.bool_)
        for row, member in zip(known, members, strict=True):
            row[self.indices(member)] = True
        return known

    def indices(self, member: BundleMember) -> slice | list[int]:
        """Positions of a member's species in the taxonomy, in the order of its output."""
        return (
            slice(None)
            if member.species is None
            else [self.taxonomy.index(code) for code in member.species]
        )

    def scale(self, member: BundleMember) -> Scores | None:
        """Slopes and offsets of a member's log-odds `(2, its species)`, or None. Raises
        BundleError."""
        if member.scale is None:
            return None
        path = self.folder / member.scale
        shape = (2, len(self.taxonomy) if member.species is None else len(member.species))
        try:
            scale: Scores = read_array(path)
        except ArraysError as error:
            raise BundleError(f"{path}: not readable: {error}") from error
        if scale.shape != shape or scale.dtype != np.float32 or not np.isfinite(scale).all():
            raise BundleError(
                f"{path}: expected {shape} finite float32, found {scale.shape} {scale.dtype}"
            )
        return scale

    def probe(self) -> Probe:
        """The probe. Raises BundleError if it is not one, or belongs to another bundle."""
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
    """Files that are sealed or to be sealed, without those that an operating system or file manager
    leaves in the folder."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    names = (p.as_posix() for p in paths if not any(map(passed_over, p.parts)))
    return sorted(name for name in names if name not in (MANIFEST, SUMS))


def _content_id(manifest: Mapping[str, Any], sums: Mapping[str, str]) -> str:
    content = {"manifest": {k: v for k, v in manifest.items() if k != "id"}, "sums": dict(sums)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal_bundle(folder: Path, manifest: Manifest) -> Bundle:
    """Write manifest.json and SHA256SUMS for the files in `folder`, then read the bundle back as a
    station would."""
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
    """Read and check a bundle; common names in a `language` of its names.csv, or None: as in the
    taxonomy.

    Raises BundleError naming the file that is missing, damaged, foreign or too new, or lacks the
    language.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder}: no bundle here ({MANIFEST} is missing); create one with python -m export "
            "onnx"
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
        raise ConfigError(
            f"station.language: expected no language, since {folder} has names in one only; found "
            f"{language!r}"
        )
    return Bundle(folder, manifest, taxonomy.named(read_names(folder / NAMES, language)))


def _from_schema_1(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of schema 1 in the form of schema 2."""
    known = {name: value for name, value in raw.items() if name not in ("has_prior", "front_end")}
    has_prior = raw.get("has_prior")
    front = raw.get("front_end")
    if not isinstance(has_prior, bool) or not isinstance(front, dict):
        raise BundleError(f"{path}: has_prior and front_end: expected true or false, and constants")
    prior = "place" if has_prior else None
    return {**known, "schema": SCHEMA, "prior": prior, "front_end": {"name": IMAGE, **front}}


def _check_species(path: Path, manifest: Manifest, taxonomy: Taxonomy) -> None:
    """Check that members name species of the bundle, each once, and that every species has a
    member."""
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
            raise BundleError(f"{folder / name}: damaged (its SHA-256 differs from {SUMS})")
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
