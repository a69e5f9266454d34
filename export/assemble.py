"""A finished Run to a Bundle: members as ONNX, taxonomy, prior, probe, report, sums. Written whole or not at all."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from edge.contract.audio import Image, mel_image
from edge.contract.blend import Scores, acoustic_scores, blend_scores
from edge.contract.bundle import MANIFEST, PRIOR, PROBE, TAXONOMY, Bundle, BundleMember, Manifest, Probe, seal_bundle
from edge.contract.errors import ConfigError
from edge.contract.nearby import FILE as NEARBY
from edge.contract.place import NUMERIC, FeatureSpec
from edge.engines.onnx import OnnxEngine
from edge.prior import compute_prior_table
from export.half import to_half
from export.parity import parity
from export.probe_clips import probe_clips
from export.to_onnx import to_onnx, torch_scores
from trainer.run import MemberInfo, Run

_PRIOR_FILES = ("model.onnx", "features.json", "grid.npz")
_PROBE_DAY = 135  # mid May


def assemble(
    run: Run,
    out: Path,
    *,
    per_kind: int | None = None,
    report: bool = True,
    half: bool = True,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Bundle:
    """Export a run to `out`. `per_kind` keeps only that many members of each kind, the best by their fold's F1;
    `report` takes the run's report along; `half` writes each member in half precision too, where that keeps parity.

    Raises ConfigError if `out` holds something that is not a bundle, CorpusError if the run is not finished.
    """
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise ConfigError(f"{out}: is not empty and not a bundle; choose another folder")
    members = _chosen(run.bag(), per_kind)
    work = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / "members").mkdir(parents=True)
        run.taxonomy.write_csv(work / TAXONOMY)
        if report and (run.folder / "report.html").is_file():
            shutil.copyfile(run.folder / "report.html", work / "report.html")
        has_prior = _copy_prior(run, work)
        member_scores = _write_members(run, work, members, progress)
        halved = _halve_members(work, members, member_scores) if half else {}
        _write_probe(run, work, members, member_scores, has_prior)
        bundle = seal_bundle(work, _manifest(run, members, halved, has_prior, per_kind))
        shutil.rmtree(out, ignore_errors=True)
        work.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Bundle(out, bundle.manifest, bundle.taxonomy)


def _chosen(members: list[MemberInfo], per_kind: int | None) -> list[MemberInfo]:
    kept = []
    for kind in dict.fromkeys(member.kind for member in members):
        kept += sorted((m for m in members if m.kind == kind), key=lambda m: (-m.valid_f1, m.name))[:per_kind]
    return kept


def _write_members(
    run: Run, work: Path, members: list[MemberInfo], progress: Callable[[str, int, int], None]
) -> Scores:
    """Write the ONNX files; return what torch makes of the probe's images, `(members, clips, species)`."""
    images = torch.from_numpy(_probe_images())
    scores = []
    for count, member in enumerate(members):
        progress(member.name, count, len(members))
        network = run.load_network(member.name)
        to_onnx(network, work / "members" / f"{member.name}.onnx")
        scores.append(torch_scores(network, images).numpy())
    return np.stack(scores)


def _halve_members(work: Path, members: list[MemberInfo], member_scores: Scores) -> dict[str, str]:
    """Write the ONNX files in half precision; member -> its file, where it computes what torch does."""
    kept = {}
    for member, reference in zip(members, member_scores, strict=True):
        file = f"members/{member.name}.fp16.onnx"
        if not to_half(work / "members" / f"{member.name}.onnx", work / file):
            continue
        scores = OnnxEngine([work / file]).scores(_probe_images())[0]
        if parity(scores, reference).holds("fp16"):
            kept[member.name] = file
        else:
            (work / file).unlink()
    return kept


def _probe_images() -> Image:
    return mel_image(probe_clips().astype(np.float32) / 32768.0)


def _write_probe(run: Run, work: Path, members: list[MemberInfo], member_scores: Scores, has_prior: bool) -> None:
    """The probe: torch's scores are what every engine must give."""
    blend = run.tuning().blend
    acoustic = acoustic_scores(member_scores, [m.kind for m in members], blend)
    prior, latitude, longitude = None, 0.0, 0.0
    if has_prior:
        latitude, longitude = _typical_place(FeatureSpec.read(work / PRIOR / "features.json"))
        prior = compute_prior_table(work / PRIOR, run.taxonomy, latitude, longitude)[_PROBE_DAY - 1]
    Probe(
        clips=probe_clips(),
        images=_probe_images(),
        member_scores=member_scores,
        latitude=latitude,
        longitude=longitude,
        day_of_year=_PROBE_DAY,
        prior=np.empty(0, np.float32) if prior is None else prior,
        blended=blend_scores(acoustic, prior, blend),
    ).write(work / PROBE)


def _copy_prior(run: Run, work: Path) -> bool:
    """Copy the metadata model, if the run has one."""
    source = run.metadata()
    if source is None:
        return False
    (work / PRIOR).mkdir(exist_ok=True)
    for name in _PRIOR_FILES:
        shutil.copyfile(source / name, work / PRIOR / name)
    if (source / NEARBY).is_file():  # of the better kind, and of geographic limits
        shutil.copyfile(source / NEARBY, work / PRIOR / NEARBY)
    return True


def _typical_place(spec: FeatureSpec) -> tuple[float, float]:
    mean = dict(zip(NUMERIC, spec.mean, strict=True))
    return round(mean["latitude"], 3), round(mean["longitude"], 3)


def _manifest(
    run: Run, members: list[MemberInfo], halved: Mapping[str, str], has_prior: bool, per_kind: int | None
) -> Manifest:
    tuning = run.tuning()
    return Manifest(
        members=tuple(
            BundleMember(m.name, f"members/{m.name}.onnx", m.kind, m.architecture, m.fold, m.seed, halved.get(m.name))
            for m in members
        ),
        blend=tuning.blend,
        thresholds=tuning.thresholds,
        padding=tuning.padding,
        taxonomy_digest=run.taxonomy.digest,
        has_prior=has_prior,
        training={**run.provenance(), "members_of_bag": len(run.bag()), "per_kind": per_kind},
    )
