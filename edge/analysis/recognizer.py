"""Windows to scores: members, their mean, the student before them, a window's neighbours, the blend
with the prior.

What is verified here is what the station runs.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.config import Members, RuntimeSettings
from edge.contract.audio import Input, Window, mel_image
from edge.contract.blend import (
    Blend,
    Scores,
    acoustic_scores,
    blend_scores,
    neighbour_step,
    smooth_neighbours,
)
from edge.contract.bundle import Bundle, BundleMember, Probe
from edge.contract.errors import BundleError, ConfigError, EngineError
from edge.engines.engine import Engine, answers_of
from edge.engines.odd import OddScores
from edge.engines.onnx import OnnxEngine
from edge.engines.tensorrt import open_tensorrt
from edge.engines.tuned import Use, open_tuned
from edge.types import DecidedBy, WindowScores

log = logging.getLogger(__name__)

_GREY_TOLERANCE = 1
_GREY_SHARE = 0.999  # share of pixels that must be within one grey level


OpenWindowRule = Callable[
    [Scores], NDArray[np.bool_]
]  # the student's acoustic scores (windows, species) to (windows,)


def networks_of(bundle: Bundle, members: Members) -> tuple[BundleMember, ...]:
    """The networks of the bundle that `members` asks, the student last. Raises ConfigError if it
    has no student."""
    manifest = bundle.manifest
    if members == "bag":
        return manifest.members
    if manifest.student is None:
        raise ConfigError(
            f"members: found {members}, but the bundle {bundle.folder} has no student; set "
            f"members: bag, or give it "
            "one (python -m trainer distil)"
        )
    return manifest.networks if members == "cascade" else (manifest.student.member,)


class Recognizer:
    """A bundle on an engine: ONNX Runtime, or what `best_recognizer` found better. Several threads
    may ask it at once.

    recognizer = best_recognizer(bundle, config.runtime, config.engines_folder, config.members)
    recognizer.check_probe()
    scores = recognizer.recognise(inputs, prior)

    Only the networks that `members` asks are loaded; a given `engine` runs these, in the order of
    `networks`. Raises ConfigError if the bundle has no student and one is asked.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 0,
        engine: Engine | None = None,
        members: Members = "bag",
    ) -> None:
        self.bundle = bundle
        self.members = members
        self.networks = networks_of(bundle, members)
        self.degraded: str | None = (
            None  # why it is not the best engine that this machine could have
        )
        self._threads = threads
        self.engine: Engine = engine or self._onnx()
        self._kinds = (
            [] if members == "student" else [member.kind for member in bundle.manifest.members]
        )
        self._bag = tuple(range(len(self._kinds)))
        self._known = bundle.known(bundle.manifest.members)
        self._each_knows = bundle.known(self.networks)
        self._few = tuple(sorted(self._kinds.index(kind) for kind in set(self._kinds)))
        self._lock = threading.Lock()
        self._odd = OddScores("the networks", "the others decide, where there are any")
        # windows of sound so far, and those of them that the bag decided
        self._asked = 0
        self._opened = 0

    def _onnx(self) -> OnnxEngine:
        answers = answers_of(self.bundle, self.networks)
        return OnnxEngine(answers, self._threads, input_shape=self.bundle.input_shape)

    @property
    def bag_share(self) -> float | None:
        """Share of the windows of sound so far that the bag decided; None: there were none yet."""
        return self._opened / self._asked if self._asked else None

    @property
    def trouble(self) -> str | None:
        """What is wrong with what the networks say: for some of the last windows one of them gave
        no number."""
        return self._odd.trouble

    def degrade(self, reason: str) -> None:
        """Go on with ONNX Runtime, for good."""
        log.warning("going on with ONNX Runtime: %s", reason)
        self.engine.close()
        self.engine = self._onnx()
        self.degraded = reason

    def recognise(
        self,
        inputs: Input,
        prior: Scores | None,
        few: bool = False,
        undecided: OpenWindowRule | None = None,
    ) -> WindowScores:
        """What the networks take of windows (grey images `(n, 128, 281)` or samples `(n, 160000)`)
        and prior `(n, species)`, `(species,)` or None to scores, each window alone; in a stretch of
        sound a NeighbourSmoother decides on them.

        In a cascade the student answers first, and the bag the windows that `undecided` says are
        left open; without it (a probe) the bag answers and decides all. `few`, in a hurry: only the
        first member of each kind, in a cascade the student alone.
        """
        members = np.full(
            (len(self.networks), len(inputs), len(self.bundle.taxonomy)), np.nan, np.float32
        )
        acoustic = np.empty(members.shape[1:], np.float32)
        opened = np.ones(len(inputs), np.bool_)
        if self.members != "bag":
            student = [len(self.networks) - 1]
            members[-1] = self._ask(inputs, student)[0]
            unsaid = self._without_number(members[-1:], student)
            acoustic[:] = np.where(unsaid[0, :, None], np.float32(0), members[-1])
            opened = self._open(acoustic, few, undecided)
            if self.members == "cascade":
                opened |= unsaid[0]  # the bag decides what the student cannot
            self._odd.add(self._whys(unsaid, student))
        if opened.any():
            which = self._few if few else self._bag
            windows = np.flatnonzero(opened)
            answers = self._ask(inputs[windows], which)
            acoustic[windows] = self._acoustic(answers, which)
            members[np.array(which)[:, None], windows] = answers
        if undecided is not None:
            self._count(opened)
        decided_by: tuple[DecidedBy, ...] = tuple("bag" if its else "student" for its in opened)
        return WindowScores(
            members, acoustic, blend_scores(acoustic, prior, self.bundle.manifest.blend), decided_by
        )

    def _acoustic(self, answers: Scores, which: Sequence[int]) -> Scores:
        """The acoustic score of what these members answer. A member that gives no number for a
        window, of a species that it knows, has no say in it; where none gives one nothing is heard,
        which `trouble` says."""
        known = None if self._known is None else self._known[list(which)]
        kinds = [self._kinds[index] for index in which]
        blend = self.bundle.manifest.blend
        acoustic = acoustic_scores(answers, kinds, blend, known)
        odd = self._without_number(answers, which)
        self._odd.add(self._whys(odd, which))
        if odd.any():
            answers[~np.isfinite(answers)] = np.nan  # as of a species that it does not know
        for window in np.flatnonzero(odd.any(axis=0)):
            left = np.flatnonzero(~odd[:, window])
            acoustic[window] = 0.0
            if len(left):
                theirs = None if known is None else known[left]
                rest = answers[left, window : window + 1]
                acoustic[window] = acoustic_scores(rest, [kinds[at] for at in left], blend, theirs)[
                    0
                ]
        return acoustic

    def _without_number(self, answers: Scores, which: Sequence[int]) -> NDArray[np.bool_]:
        """Where a network gave no number for a species that it knows, `(which, windows)`."""
        wrong = ~np.isfinite(answers)
        if self._each_knows is not None:
            wrong &= self._each_knows[list(which)][:, None]
        return np.asarray(wrong.any(axis=2))

    def _whys(self, odd: NDArray[np.bool_], which: Sequence[int]) -> list[str]:
        """Of each window: which network gave no number, "" if all did."""
        names = [self.networks[index].name for index in which]
        if not odd.any():
            return [""] * odd.shape[1]
        return [
            "" if not window.any() else f"{names[int(np.argmax(window))]} gave no number"
            for window in odd.T
        ]

    def _open(
        self, student: Scores, few: bool, undecided: OpenWindowRule | None
    ) -> NDArray[np.bool_]:
        """Which windows the bag answers, after the student."""
        if self.members == "student" or few:
            return np.zeros(len(student), np.bool_)
        return np.ones(len(student), np.bool_) if undecided is None else undecided(student)

    def _count(self, opened: NDArray[np.bool_]) -> None:
        with self._lock:
            self._asked += len(opened)
            self._opened += int(np.count_nonzero(opened))

    def _ask(self, inputs: Input, which: Sequence[int]) -> Scores:
        """Scores `(which, n, species)` of these of the networks."""
        engine = self.engine
        try:
            scores = engine.scores(inputs, which)
            if not isinstance(engine, OnnxEngine) and self._without_number(scores, which).any():
                raise EngineError(f"{engine.name} gave no number for a window")
            return scores
        except EngineError as error:  # the GPU fell out: the station hears on
            with self._lock:
                if self.engine is engine:  # of several threads the first that saw it
                    self.degrade(str(error))
            return self.engine.scores(inputs, which)

    def check_probe(self) -> float:
        """Run the bundle's probe; return the largest difference of a score.

        Raises BundleError if the images or any score differ by more than an honest rounding on
        another machine.
        """
        probe = self.bundle.probe()
        folder = self.bundle.folder
        if len(probe.images):
            apart = np.abs(mel_image(probe.samples()).astype(np.int16) - probe.images)
            if np.mean(apart <= _GREY_TOLERANCE) < _GREY_SHARE:
                raise BundleError(
                    f"{folder}: this machine computes other images than the bundle was made with"
                )
        found = self.recognise(probe.inputs, probe.prior if probe.prior.size else None)
        expected = self._expected(probe)
        differences = [(found.members - expected)[~np.isnan(expected)]]
        differences += [] if self.members == "student" else [found.blended - probe.blended]
        worst = max(float(np.max(np.abs(d))) for d in differences)
        if not worst <= self.engine.tolerance:  # also true for NaN
            raise BundleError(
                f"{folder}: probe failed on {self.engine.name}: scores differ by {worst:.2g}"
            )
        return worst

    def _expected(self, probe: Probe) -> Scores:
        """What the loaded networks must give, `(networks, clips, species)`."""
        student = [] if self.members == "bag" else [probe.student_scores[None]]
        return np.concatenate([probe.member_scores[: len(self._bag)], *student])


def best_recognizer(
    bundle: Bundle,
    settings: RuntimeSettings,
    engines: Path,
    members: Members = "bag",
    use: Use = "live",
) -> Recognizer:
    """The bundle on the best engine that the settings allow and that passes the probe here:
    TensorRT, else what was tuned for this use, else ONNX Runtime; `degraded` says why it is not a
    better one. `engines` is the folder that `python -m export trt` wrote, if it did; beside it lies
    what `python -m export tune` found. Raises BundleError, and ConfigError if `members` asks for a
    student that the bundle does not have."""
    networks = networks_of(bundle, members)
    engine: Engine | None = None
    reason: str | None = None
    if settings.engine != "onnx":
        try:
            engine = open_tensorrt(bundle, engines, networks)
        except EngineError as error:
            reason = str(error)
        if engine is None and settings.engine == "tensorrt":
            reason = (
                reason
                or f"runtime.engine is tensorrt, but {engines} has no engines; run python -m "
                f"export trt"
            )
    if engine is None and settings.engine == "auto":
        try:
            engine = open_tuned(bundle, engines.parent, networks, members, use, settings.threads)
        except EngineError as error:
            log.warning("what was tuned is left alone: %s", error)
    recognizer = Recognizer(bundle, settings.threads, engine, members)
    recognizer.degraded = reason
    if reason:
        log.warning("going on with %s: %s", recognizer.engine.name, reason)
    if engine is not None:
        try:
            recognizer.check_probe()
        except BundleError as error:
            recognizer.degrade(str(error))
    return recognizer


WindowDecisions = tuple[list[Window], WindowScores]  # windows and what counts for them


class NeighbourSmoother:
    """Decides on the windows of one unbroken stretch of sound, in their order, as soon as their
    later neighbours are known. How the stretch is cut into pushes changes nothing. Without
    smoothing every window is decided at once.

    smoother = NeighbourSmoother(bundle.manifest.blend, hop_samples, prior)
    for windows in batches:
        decided = smoother.push(windows, recognizer.recognise(inputs_of(windows), None))
    decided = smoother.close()
    """

    def __init__(self, blend: Blend, hop_samples: int, prior: Scores | None) -> None:
        self._blend = blend
        self._prior = prior
        self._step = neighbour_step(hop_samples) if blend.smoothing else 0
        self._windows: list[Window] = []  # not yet decided; at most `step` between two pushes
        self._members: list[Scores] = []  # (networks, species) of each of these
        self._decided_by: list[DecidedBy] = []
        self._acoustic: list[
            Scores
        ] = []  # (species,) of each of these, and of the `step` before them

    def push(self, windows: list[Window], scores: WindowScores) -> WindowDecisions | None:
        """Take the next windows and the scores that each has alone; return those that are now
        decided, if any."""
        self._windows += windows
        self._members += list(np.moveaxis(scores.members, 1, 0))
        self._decided_by += scores.decided_by
        self._acoustic += list(scores.acoustic)
        return self._decide(len(self._windows) - self._step)

    def close(self) -> WindowDecisions | None:
        """The stretch ends here: return its last windows, if any are left."""
        return self._decide(len(self._windows))

    def _decide(self, count: int) -> WindowDecisions | None:
        """The first `count` windows of those that wait. Members' scores stay those of the window
        alone."""
        if count <= 0:
            return None
        earlier = len(self._acoustic) - len(self._windows)
        smoothed = smooth_neighbours(np.stack(self._acoustic), self._blend, self._step)[
            earlier : earlier + count
        ]
        members = np.stack(self._members[:count], axis=1)
        windows = self._windows[:count]
        self._windows = self._windows[count:]
        decided_by = tuple(self._decided_by[:count])
        self._decided_by = self._decided_by[count:]
        self._members, self._acoustic = (
            self._members[count:],
            self._acoustic[max(0, earlier + count - self._step) :],
        )
        return windows, WindowScores(
            members, smoothed, blend_scores(smoothed, self._prior, self._blend), decided_by
        )
