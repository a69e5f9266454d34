"""Assembles a Bundle from a finished Run: members as ONNX, taxonomy, prior, probe, report,
checksums. Written atomically."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge.contract.audio import WAVEFORM, Image, mel_image
from edge.contract.blend import Scores, acoustic_scores, blend_scores
from edge.contract.bundle import (
    PRIOR,
    PROBE,
    TAXONOMY,
    Bundle,
    BundleMember,
    Manifest,
    Probe,
    Student,
    named_front_end,
    seal_bundle,
)
from edge.contract.errors import UsageError
from edge.engines.onnx import OnnxEngine
from edge.prior.nearby import FILE as NEARBY
from edge.prior.place import NUMERIC, FeatureSpec
from edge.prior.place_table import compute_prior_table
from export.half import to_half
from export.heads import copy_names_and_licence, write_members
from export.int8 import quantise_members, with_int8
from export.parity import parity
from export.place_bundle import bundle_place, check_out
from export.probe_clips import probe_clips, waveform_clips
from export.to_onnx import to_onnx, torch_scores
from trainer.corpus.spectrograms import Spectrograms
from trainer.networks.model import load_network
from trainer.run import MemberInfo, Run
from trainer.student.student import StudentInfo, load_student, read_student
from trainer.transfer.ensemble import TransferEnsemble

_PRIOR_FILES = ("model.onnx", "features.json", "grid.npz")
_PROBE_DAY = 135  # mid May
_STUDENT = "student"  # its name in the bundle
# Crops of the run for calibrating and for evaluating 8-bit networks, without overlap.
_CALIBRATION = 64
_WINDOWS = 400


def assemble(
    run: Run,
    out: Path,
    *,
    per_kind: int | None = None,
    report: bool = True,
    half: bool = True,
    int8: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Bundle:
    """Export a run to `out`, with its student if it has one. `per_kind` keeps only that many
    members of each kind, the best by F1 on their folds; `report` includes the run's report; `half`
    also writes each network in half precision if that keeps parity; `int8` also writes members in 8
    bits if the decisions of the bag stay the same.

    Raises UsageError if `out` contains anything but a bundle, CorpusError if the run is not
    finished or its student is for another bag.
    """
    if run.recipe.transfer is not None:
        return _assemble_heads(run, out, per_kind, report, int8)
    folder, _ = check_out(out)
    members = _chosen(run.bag(), per_kind)
    student = read_student(run)
    with bundle_place(out) as work:
        has_prior = _begin(run, work, report)
        member_scores = _write_members(run, work, members, progress)
        halved = _halve_members(work, [m.name for m in members], member_scores) if half else {}
        student_scores = _write_student(run, work, student) if student else None
        if half and student_scores is not None:
            halved |= _halve_members(work, [_STUDENT], student_scores[None])
        _write_probe(run, work, members, member_scores, student_scores, has_prior)
        run.require_unchanged()
        manifest = _manifest(run, members, student, halved, has_prior, per_kind)
        bundle = seal_bundle(work, _with_int8(run, work, manifest, progress) if int8 else manifest)
    return Bundle(folder, bundle.manifest, bundle.taxonomy)


def _assemble_heads(run: Run, out: Path, per_kind: int | None, report: bool, int8: bool) -> Bundle:
    """Export a run of heads on a published model: one network, in full precision."""
    if int8:
        raise UsageError(
            f"{run.folder}: heads on a published model have no 8-bit form; leave out --int8"
        )
    folder, _ = check_out(out)
    bag = _chosen(run.bag(), per_kind)
    ensemble = TransferEnsemble(run, bag)
    with bundle_place(out) as work:
        has_prior = _begin(run, work, report)
        members = write_members(ensemble, bag, run.taxonomy, work)
        licence = copy_names_and_licence(ensemble, run.taxonomy, work)
        clips = waveform_clips()
        scores = ensemble.scores(clips.astype(np.float32) / 32768.0)
        acoustic = acoustic_scores(scores, ensemble.kinds, run.tuning().blend, ensemble.known)
        Probe.of_waveform(
            clips, member_scores=scores, **_placed(run, work, acoustic, has_prior)
        ).write(work / PROBE)
        run.require_unchanged()
        backbone = ensemble.backbone.bundle
        also = {"backbone": {"id": backbone.id, **backbone.manifest.training}}
        manifest = _manifest_of(run, members, has_prior, per_kind, also)
        front_end = named_front_end(WAVEFORM)
        bundle = seal_bundle(work, replace(manifest, licence=licence, front_end=front_end))
    return Bundle(folder, bundle.manifest, bundle.taxonomy)


def _placed(run: Run, work: Path, acoustic: Scores, has_prior: bool) -> dict[str, Any]:
    """What a probe says of place and day, of the prior there, and of scores blended with it."""
    prior = None
    latitude = 0.0
    longitude = 0.0
    if has_prior:
        latitude, longitude = _typical_place(FeatureSpec.read(work / PRIOR / "features.json"))
        prior = compute_prior_table(work / PRIOR, run.taxonomy, latitude, longitude)[_PROBE_DAY - 1]
    return {
        "latitude": latitude,
        "longitude": longitude,
        "day_of_year": _PROBE_DAY,
        "prior": np.empty(0, np.float32) if prior is None else prior,
        "blended": blend_scores(acoustic, prior, run.tuning().blend),
    }


def _chosen(members: list[MemberInfo], per_kind: int | None) -> list[MemberInfo]:
    kept = []
    for kind in dict.fromkeys(member.kind for member in members):
        kept += sorted((m for m in members if m.kind == kind), key=lambda m: (-m.valid_f1, m.name))[
            :per_kind
        ]
    return kept


def _write_members(
    run: Run, work: Path, members: list[MemberInfo], progress: Callable[[str, int, int], None]
) -> Scores:
    """Write the ONNX files. Returns torch's scores for the images of the probe, `(members, clips,
    species)`."""
    images = torch.from_numpy(_probe_images())
    scores = []
    for count, member in enumerate(members):
        progress(member.name, count, len(members))
        network = load_network(run, member.name)
        to_onnx(network, work / "members" / f"{member.name}.onnx")
        scores.append(torch_scores(network, images).numpy())
    return np.stack(scores)


def _write_student(run: Run, work: Path, student: StudentInfo) -> Scores:
    """Write the ONNX file of the student. Returns torch's scores, `(clips, species)`."""
    network = load_student(run, student)
    to_onnx(network, work / "members" / f"{_STUDENT}.onnx")
    scores: Scores = torch_scores(network, torch.from_numpy(_probe_images())).numpy()
    return scores


def _halve_members(work: Path, members: list[str], member_scores: Scores) -> dict[str, str]:
    """Write the ONNX files in half precision. Returns the files by member, of those that keep
    parity with torch."""
    kept = {}
    for member, reference in zip(members, member_scores, strict=True):
        file = f"members/{member}.fp16.onnx"
        if not to_half(work / "members" / f"{member}.onnx", work / file):
            continue
        scores = OnnxEngine([work / file]).scores(_probe_images())[0]
        if parity(scores, reference).holds("fp16"):
            kept[member] = file
        else:
            (work / file).unlink()
    return kept


def _probe_images() -> Image:
    return mel_image(probe_clips().astype(np.float32) / 32768.0)


def _write_probe(
    run: Run,
    work: Path,
    members: list[MemberInfo],
    member_scores: Scores,
    student_scores: Scores | None,
    has_prior: bool,
) -> None:
    """Write the probe, with torch's scores, which every engine must reproduce."""
    blend = run.tuning().blend
    acoustic = acoustic_scores(member_scores, [m.kind for m in members], blend)
    Probe(
        clips=probe_clips(),
        images=_probe_images(),
        member_scores=member_scores,
        **_placed(run, work, acoustic, has_prior),
        student_scores=np.empty((0, 0), np.float32) if student_scores is None else student_scores,
    ).write(work / PROBE)


def _begin(run: Run, work: Path, report: bool) -> bool:
    """Write what a bundle has besides its networks. Returns True if it has a prior."""
    (work / "members").mkdir(parents=True)
    run.taxonomy.write_csv(work / TAXONOMY)
    if report and (run.folder / "report.html").is_file():
        shutil.copyfile(run.folder / "report.html", work / "report.html")
    return _copy_prior(run, work)


def _copy_prior(run: Run, work: Path) -> bool:
    """Copy the metadata model, if the run has one."""
    source = run.metadata()
    if source is None:
        return False
    (work / PRIOR).mkdir(exist_ok=True)
    for name in _PRIOR_FILES:
        shutil.copyfile(source / name, work / PRIOR / name)
    if (source / NEARBY).is_file():  # of the better kind, or of geographic limits
        shutil.copyfile(source / NEARBY, work / PRIOR / NEARBY)
    return True


def _typical_place(spec: FeatureSpec) -> tuple[float, float]:
    mean = dict(zip(NUMERIC, spec.mean, strict=True))
    return round(mean["latitude"], 3), round(mean["longitude"], 3)


def _manifest(
    run: Run,
    members: list[MemberInfo],
    student: StudentInfo | None,
    halved: Mapping[str, str],
    has_prior: bool,
    per_kind: int | None,
) -> Manifest:
    training = {}
    if student:
        taught_by = (
            f"all {len(run.bag())} members of the run's bag, of which this bundle has "
            f"{len(members)}"
        )
        training["student"] = {
            "taught_by": taught_by,
            "seconds": student.seconds,
            **student.figures,
        }
    networks = [
        BundleMember(
            m.name,
            f"members/{m.name}.onnx",
            m.kind,
            m.architecture,
            m.fold,
            m.seed,
            halved.get(m.name),
        )
        for m in members
    ]
    manifest = _manifest_of(run, networks, has_prior, per_kind, training)
    own = _student(student, run.recipe.seed, halved.get(_STUDENT)) if student else None
    return replace(manifest, student=own)


def _manifest_of(
    run: Run,
    networks: Sequence[BundleMember],
    has_prior: bool,
    per_kind: int | None,
    also: Mapping[str, Any],
) -> Manifest:
    """What the manifests of all bundles of runs say; `also` is added to the provenance."""
    tuning = run.tuning()
    training = {**run.provenance(), "members_of_bag": len(run.bag()), "per_kind": per_kind}
    return Manifest(
        members=tuple(networks),
        blend=tuning.blend,
        thresholds=tuning.thresholds,
        padding=tuning.padding,
        taxonomy_digest=run.taxonomy.digest,
        prior="place" if has_prior else None,
        training={**training, **also},
    )


def _with_int8(
    run: Run, work: Path, manifest: Manifest, progress: Callable[[str, int, int], None]
) -> Manifest:
    """Write members in 8 bits if the decisions of the bag stay the same. Returns the manifest with
    these members and their agreement."""
    spectrograms = Spectrograms(run.folder / "spectrograms")
    rows = np.concatenate([np.arange(e.first, e.first + e.count) for e in spectrograms.entries])
    rows = np.random.default_rng(run.recipe.seed).permutation(rows)[: _CALIBRATION + _WINDOWS]
    parts = np.split(rows, [min(_CALIBRATION, len(rows) // 2)])
    calibration, windows = (np.array(spectrograms.images[np.sort(part)]) for part in parts)
    found = quantise_members(work, manifest, run.taxonomy, calibration, windows, progress)
    figures: dict[str, object] = {"agreement": found.agreement, "windows": found.windows}
    figures["members"] = {
        name: {**asdict(apart), "kept": name in found.files} for name, apart in found.apart.items()
    }
    members = with_int8(manifest.members, found)
    return replace(manifest, members=members, training={**manifest.training, "int8": figures})


def _student(info: StudentInfo, seed: int, half: str | None) -> Student:
    member = BundleMember(
        _STUDENT, f"members/{_STUDENT}.onnx", _STUDENT, info.architecture, None, seed, half
    )
    return Student(member, info.below, info.above, info.agreement, info.opened)
