"""ONNX Runtime on the CPU: the engine that every machine has."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edge.contract.audio import IMAGE, INPUT_SHAPES, Input
from edge.contract.blend import Scores
from edge.contract.bundle import PROBE_TOLERANCE
from edge.contract.errors import BundleError
from edge.engines.engine import Answer, arranged, as_answers, at_once, float_batch


def cores() -> int:
    """Number of processors that this process may use.

    Given explicitly, since ONNX Runtime otherwise pins its threads, which the service's sandbox
    refuses.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _share_scratch() -> None:
    """Let all sessions of this process share one memory pool; done once.

    Otherwise each keeps its largest batch: 3.4 GB for ten published members and 16 windows, 1.2 GB
    with one pool.
    """
    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT), None
    )


class OnnxEngine:
    """Runs the networks one after the other, each with all threads, in the same scratch memory.

    A network that serves several members runs once. In float32 a window's scores do not depend on
    the rest of the batch; with 8-bit convolutions those of a single window do, hence `pairs` (see
    OpenvinoEngine).
    """

    def __init__(
        self,
        members: Sequence[Path | Answer],
        threads: int = 0,
        name: str = "onnxruntime-cpu",
        tolerance: float = PROBE_TOLERANCE,
        *,
        pairs: bool = False,
        input_shape: tuple[int, ...] = INPUT_SHAPES[IMAGE],
    ) -> None:
        self.name = name
        self.tolerance = tolerance
        self._pairs = pairs
        self._shape = input_shape
        self._answers = as_answers(members)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin until the next run would cost some percent of a core, all day; within a
        # run they may spin.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        _share_scratch()
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._sessions: dict[Path, ort.InferenceSession] = {}
        for answer in self._answers:
            if answer.file not in self._sessions:
                self._sessions[answer.file] = self._session(answer.file, options)
            self._check_output(answer)

    def _check_output(self, answer: Answer) -> None:
        """Raise BundleError if the network lacks the output, or gives scores of other species than
        the bundle's."""
        outputs = {
            output.name: output.shape for output in self._sessions[answer.file].get_outputs()
        }
        if answer.output is not None and answer.output not in outputs:
            raise BundleError(
                f"{answer.file}: expected the output {answer.output}, found {', '.join(outputs)}"
            )
        name = self._output(answer)
        width = outputs[name][1] if len(outputs[name]) == 2 else None  # a name or None: any number
        wrong = len(outputs[name]) > 2 or (isinstance(width, int) and width != answer.width)
        if answer.width is not None and wrong:
            raise BundleError(
                f"{answer.file}: output {name}: expected (batch, {answer.width}), found "
                f"{outputs[name]}"
            )

    def _session(self, path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            raise BundleError(
                f"{path}: ONNX Runtime cannot load it: {' '.join(str(error).split())}"
            ) from error
        if list(session.get_inputs()[0].shape[1:]) != list(self._shape):
            shape = ", ".join(map(str, self._shape))
            raise BundleError(
                f"{path}: input: expected (batch, {shape}), found {session.get_inputs()[0].shape}"
            )
        return session

    def scores(self, inputs: Input, members: Sequence[int] | None = None) -> Scores:
        """Sigmoid scores `(members, n, species)` float32 of windows in the networks' input format,
        of all members or of those given."""
        return np.concatenate(
            [self._scores(part, members) for part in at_once(inputs, self._shape)], axis=1
        )

    def _scores(self, inputs: Input, members: Sequence[int] | None) -> Scores:
        batch = float_batch(inputs, self._shape, self._pairs)
        chosen = self._answers if members is None else [self._answers[index] for index in members]
        requested: dict[Path, list[str]] = {}  # outputs by file
        for answer in chosen:
            requested.setdefault(answer.file, []).append(self._output(answer))
        given: dict[tuple[Path, str], Scores] = {}
        for path, names in requested.items():
            session = self._sessions[path]
            each = list(dict.fromkeys(names))
            for name, scores in zip(
                each, session.run(each, {session.get_inputs()[0].name: batch}), strict=True
            ):
                given[path, name] = scores[: len(inputs)]
        return arranged([given[answer.file, self._output(answer)] for answer in chosen], chosen)

    def _output(self, answer: Answer) -> str:
        name: str = answer.output or self._sessions[answer.file].get_outputs()[0].name
        return name

    def close(self) -> None:
        """Release the networks; the engine is not used again."""
        self._sessions.clear()
