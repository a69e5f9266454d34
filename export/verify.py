"""Checks the integrity of a bundle, and parity of ONNX Runtime with torch. Needs no torch: the
probe contains its scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.analysis.recognizer import Recognizer
from edge.contract.blend import Scores
from edge.contract.bundle import PRIOR, Bundle, BundleMember, Probe, read_bundle
from edge.contract.errors import BundleError
from edge.engines.engine import answers_of
from edge.engines.onnx import OnnxEngine
from edge.prior.place_table import compute_prior_table
from export.parity import Parity, allowed, parity

PARITY = 1e-4  # largest |Δscore| between torch float32 and ONNX Runtime float32


@dataclass(frozen=True)
class Verification:
    """Largest differences found by the checks."""

    bundle_id: str
    members: dict[str, float]  # member -> max |Δscore|
    blended: float
    prior: float | None  # None: the bundle has none
    single_against_batch: float
    student: float | None  # max |Δscore| of the student, if there is one
    half: dict[str, Parity]  # member -> parity of its network in half precision
    # member -> parity of its network in 8 bits, which is evaluated by the decisions of the bag
    int8: dict[str, Parity]


def verify(folder: Path) -> Verification:
    """Check checksums, probe and parity. Raises BundleError naming the part that fails."""
    bundle = read_bundle(folder)
    recognizer = Recognizer(bundle)
    recognizer.check_probe()
    probe = bundle.probe()
    prior = probe.prior if probe.prior.size else None
    scores = recognizer.recognise(probe.inputs, prior)
    both = zip(bundle.manifest.members, scores.members, probe.member_scores, strict=True)
    members = {member.name: parity(found, reference).largest for member, found, reference in both}
    for name, difference in members.items():
        if not difference <= PARITY:
            raise BundleError(
                f"{folder}: member {name} differs from torch by {difference:.2g}; {PARITY:g} is "
                "allowed"
            )
    student = _check_student(bundle, probe)
    singles = np.concatenate(
        [recognizer.recognise(window[None], prior).blended for window in probe.inputs]
    )
    half = {}
    int8 = {}
    references = [*probe.member_scores, *([] if student is None else [probe.student_scores])]
    for member, reference in zip(bundle.manifest.networks, references, strict=True):
        if member.half:
            half[member.name] = parity(_scores(bundle, member, member.half, probe), reference)
            if not half[member.name].holds("fp16"):
                found = f"{half[member.name]}; {allowed('fp16')} is allowed"
                raise BundleError(
                    f"{folder / member.half}: half precision differs from torch by {found}"
                )
        if member.int8:
            int8[member.name] = parity(_scores(bundle, member, member.int8, probe), reference)
            if not int8[member.name].holds("int8"):  # not numbers
                raise BundleError(f"{folder / member.int8}: gives no scores")
    apart_prior = None
    if prior is not None:
        table = compute_prior_table(
            folder / PRIOR, bundle.taxonomy, probe.latitude, probe.longitude
        )
        here = table[probe.day_of_year - 1]
        apart_prior = float(
            np.max(np.abs(here - prior), initial=0.0, where=~(np.isnan(here) & np.isnan(prior)))
        )
        if not apart_prior <= PARITY:
            raise BundleError(f"{folder}: the prior differs from the probe's by {apart_prior:.2g}")
    return Verification(
        bundle_id=bundle.id,
        members=members,
        blended=float(np.abs(scores.blended - probe.blended).max()),
        prior=apart_prior,
        single_against_batch=float(np.abs(singles - scores.blended).max()),
        student=student,
        half=half,
        int8=int8,
    )


def _scores(bundle: Bundle, member: BundleMember, file: str, probe: Probe) -> Scores:
    """Scores of one file of a member for the probe, `(clips, species)`."""
    engine = OnnxEngine(answers_of(bundle, [member], [file]), input_shape=bundle.input_shape)
    scores: Scores = engine.scores(probe.inputs)[0]
    return scores


def _check_student(bundle: Bundle, probe: Probe) -> float | None:
    if bundle.manifest.student is None:
        return None
    member = bundle.manifest.student.member
    apart = parity(_scores(bundle, member, member.file, probe), probe.student_scores).largest
    if not apart <= PARITY:
        raise BundleError(
            f"{bundle.folder}: the student differs from torch by {apart:.2g}; {PARITY:g} is allowed"
        )
    return apart
