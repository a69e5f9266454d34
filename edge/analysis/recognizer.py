"""Windows to scores: the student, the members and their mean, smoothing with neighbouring windows,
the blend with the prior.

`python -m export verify` runs this same code, so what it verifies is what the station runs.
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
from edge.engines.invalid_scores import OddScores
from edge.engines.onnx import OnnxEngine
from edge.engines.tensorrt import open_tensorrt
from edge.engines.tuning_record import Use, open_tuned
from edge.types import DecidedBy, WindowScores

log = logging.getLogger(__name__)

_GREY_TOLERANCE = 1
_GREY_SHARE = 0.999  # share of pixels that must be within one grey level


# from the student's acoustic scores (windows, species) to the windows it leaves open (windows,)
OpenWindowRule = Callable[[Scores], NDArray[np.bool_]]


def networks_of(bundle: Bundle, members: Members) -> tuple[BundleMember, ...]:
    """The networks of the bundle that `members` asks for, the student last. Raises ConfigError if a
    student is asked for and the bundle has none."""
    manifest = bundle.manifest
    if members == "bag":
        return manifest.members
    if manifest.student is None:
        raise ConfigError(
            f"members: found {members}, but the bundle {bundle.folder} has no student; set "
            "members: bag, or give it one (python -m trainer distil)"
        )
    return manifest.networks if members == "cascade" else (manifest.student.member,)


class Recognizer:
    """A bundle on an engine: ONNX Runtime, or a faster one chosen by `best_recognizer`. Several
    threads may use it at once.

    recognizer = best_recognizer(bundle, config.runtime, config.engines_folder, config.members)
    recognizer.check_probe()
    scores = recognizer.recognise(inputs, prior)

    Only the networks that `members` asks for are loaded; a given `engine` must run them in the
    order of `networks`. Raises ConfigError if a student is asked for and the bundle has none.
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
        # the reason why a slower engine than this machine could run is in use
        self.degraded: str | None = None
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
        # windows of sound so far, and how many of them the bag decided
        self._asked = 0
        self._opened = 0

    def _onnx(self) -> OnnxEngine:
        answers = answers_of(self.bundle, self.networks)
        return OnnxEngine(answers, self._threads, input_shape=self.bundle.input_shape)

    @property
    def bag_share(self) -> float | None:
        """Share of the windows of sound so far that the bag decided; None before the first
        window."""
        return self._opened / self._asked if self._asked else None

    @property
    def trouble(self) -> str | None:
        """The trouble with the networks' answers, if any: for some of the last windows one of them
        gave no number."""
        return self._odd.trouble

    def degrade(self, reason: str) -> None:
        """Switch to ONNX Runtime for the rest of this process."""
        log.warning("continuing with ONNX Runtime: %s", reason)
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
        """Score windows, each by itself. `inputs` are grey images `(n, 128, 281)` or samples `(n,
        160000)`, `prior` is `(n, species)`, `(species,)` or None. In a stretch of sound a
        NeighbourSmoother then smooths the scores.

        In a cascade the student answers first, and the bag answers the windows that `undecided`
        marks as open; without `undecided` (a probe) the bag answers and decides all. `few` saves
        time under load: only the first member of each kind answers, in a cascade the student alone.
        """
        members = np.full(
            (len(self.networks), len(inputs), len(self.bundle.taxonomy)), np.nan, np.float32
        )
        acoustic = np.empty(members.shape[1:], np.float32)
        opened = np.ones(len(inputs), np.bool_)
        if self.members != "bag":
            student = [len(self.networks) - 1]
            members[-1] = self._ask(inputs, student)[0]
            no_number = self._without_number(members[-1:], student)
            acoustic[:] = np.where(no_number[0, :, None], np.float32(0), members[-1])
            opened = self._open(acoustic, few, undecided)
            if self.members == "cascade":
                opened |= no_number[0]  # the bag decides what the student cannot
            self._odd.add(self._reasons(no_number, student))
        if opened.any():
            which = self._few if few else self._bag
            windows = np.flatnonzero(opened)
            answers = self._ask(inputs[windows], which)
            acoustic[windows] = self._acoustic(answers, which)
            members[np.array(which)[:, None], windows] = answers
        if undecided is not None:
            self._count(opened)
        decided_by: tuple[DecidedBy, ...] = tuple(
            "bag" if by_bag else "student" for by_bag in opened
        )
        return WindowScores(
            members, acoustic, blend_scores(acoustic, prior, self.bundle.manifest.blend), decided_by
        )

    def _acoustic(self, answers: Scores, which: Sequence[int]) -> Scores:
        """Acoustic scores `(windows, species)` from these members' answers. A member that gives no
        number for a species that it knows is left out for that window. If no member is left, the
        scores are 0; `trouble` reports it. Sets other missing numbers in `answers` to NaN."""
        known = None if self._known is None else self._known[list(which)]
        kinds = [self._kinds[index] for index in which]
        blend = self.bundle.manifest.blend
        acoustic = acoustic_scores(answers, kinds, blend, known)
        odd = self._without_number(answers, which)
        self._odd.add(self._reasons(odd, which))
        if odd.any():
            answers[~np.isfinite(answers)] = np.nan  # like a species that the member does not know
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
        """True where a network gave no number for a species that it knows, `(which, windows)`."""
        wrong = ~np.isfinite(answers)
        if self._each_knows is not None:
            wrong &= self._each_knows[list(which)][:, None]
        return np.asarray(wrong.any(axis=2))

    def _reasons(self, odd: NDArray[np.bool_], which: Sequence[int]) -> list[str]:
        """For each window, the first network that gave no number, as text; "" if all gave one."""
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
        """True for the windows that the bag answers after the student, `(windows,)`."""
        if self.members == "student" or few:
            return np.zeros(len(student), np.bool_)
        return np.ones(len(student), np.bool_) if undecided is None else undecided(student)

    def _count(self, opened: NDArray[np.bool_]) -> None:
        with self._lock:
            self._asked += len(opened)
            self._opened += int(np.count_nonzero(opened))

    def _ask(self, inputs: Input, which: Sequence[int]) -> Scores:
        """Scores `(which, n, species)` of these networks. Falls back to ONNX Runtime if the engine
        fails."""
        engine = self.engine
        try:
            scores = engine.scores(inputs, which)
            if not isinstance(engine, OnnxEngine) and self._without_number(scores, which).any():
                raise EngineError(f"{engine.name} gave no number for a window")
            return scores
        except EngineError as error:  # the GPU failed: the station continues without it
            with self._lock:
                if self.engine is engine:  # only the first of several threads switches
                    self.degrade(str(error))
            return self.engine.scores(inputs, which)

    def check_probe(self) -> float:
        """Run the bundle's probe; return the largest difference between scores.

        Raises BundleError if images or scores differ by more than rounding on another machine
        explains.
        """
        probe = self.bundle.probe()
        folder = self.bundle.folder
        if len(probe.images):
            apart = np.abs(mel_image(probe.samples()).astype(np.int16) - probe.images)
            if np.mean(apart <= _GREY_TOLERANCE) < _GREY_SHARE:
                raise BundleError(
                    f"{folder}: this machine computes other images than those of the bundle's probe"
                )
        scores = self.recognise(probe.inputs, probe.prior if probe.prior.size else None)
        expected = self._expected(probe)
        differences = [(scores.members - expected)[~np.isnan(expected)]]
        differences += [] if self.members == "student" else [scores.blended - probe.blended]
        worst = max(float(np.max(np.abs(d))) for d in differences)
        if not worst <= self.engine.tolerance:  # also true for NaN
            raise BundleError(
                f"{folder}: probe failed on {self.engine.name}: scores differ by {worst:.2g}"
            )
        return worst

    def _expected(self, probe: Probe) -> Scores:
        """Scores that the loaded networks must give for the probe, `(networks, clips, species)`."""
        student = [] if self.members == "bag" else [probe.student_scores[None]]
        return np.concatenate([probe.member_scores[: len(self._bag)], *student])


def best_recognizer(
    bundle: Bundle,
    settings: RuntimeSettings,
    engines: Path,
    members: Members = "bag",
    use: Use = "live",
) -> Recognizer:
    """The bundle on the best engine that the settings allow and that passes the probe on this
    machine: TensorRT, else the runtime tuned for this use, else ONNX Runtime. `degraded` is the
    reason why a better engine is not used. `engines` is the folder that `python -m export trt`
    writes; the results of `python -m export tune` are in its parent folder. Raises BundleError, and
    ConfigError if `members` asks for a student that the bundle does not have."""
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
            log.warning("the tuned runtime is not used: %s", error)
    recognizer = Recognizer(bundle, settings.threads, engine, members)
    recognizer.degraded = reason
    if reason:
        log.warning("continuing with %s: %s", recognizer.engine.name, reason)
    if engine is not None:
        try:
            recognizer.check_probe()
        except BundleError as error:
            recognizer.degrade(str(error))
    return recognizer


WindowDecisions = tuple[list[Window], WindowScores]  # decided windows and their final scores


class NeighbourSmoother:
    """Smooths the scores of one unbroken stretch of sound, window by window, as soon as the later
    neighbours of a window are known. The result does not depend on how the stretch is divided into
    pushes. Without smoothing every window is decided at once.

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
        self._members: list[Scores] = []  # (networks, species) of each of these windows
        self._decided_by: list[DecidedBy] = []
        # (species,) of each of these windows, and of the `step` windows before them
        self._acoustic: list[Scores] = []

    def push(self, windows: list[Window], scores: WindowScores) -> WindowDecisions | None:
        """Take the next windows with their unsmoothed scores; return the windows that are now
        decided, if any."""
        self._windows += windows
        self._members += list(np.moveaxis(scores.members, 1, 0))
        self._decided_by += scores.decided_by
        self._acoustic += list(scores.acoustic)
        return self._decide(len(self._windows) - self._step)

    def close(self) -> WindowDecisions | None:
        """End the stretch; return its last windows, if any are left."""
        return self._decide(len(self._windows))

    def _decide(self, count: int) -> WindowDecisions | None:
        """The first `count` undecided windows with their smoothed scores. The members' scores are
        not smoothed."""
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
        self._members = self._members[count:]
        self._acoustic = self._acoustic[max(0, earlier + count - self._step) :]
        return windows, WindowScores(
            members, smoothed, blend_scores(smoothed, self._prior, self._blend), decided_by
        )
