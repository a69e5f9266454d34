"""ONNX Runtime on the CPU: the engine that every machine has."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.contract.audio import IMAGE_SHAPE, Image
from edge.contract.blend import Scores
from edge.contract.bundle import PROBE_TOLERANCE
from edge.contract.errors import BundleError


def cores() -> int:
    """Processors that this process may use. Said outright, since ONNX Runtime pins its threads otherwise, which the
    service's sandbox refuses."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def float_batch(images: Image, pairs: bool) -> NDArray[np.float32]:
    """Grey images `(n, 128, 281)` uint8 as what the networks take, `(n, 1, 128, 281)` float32, converted once for all
    of them; with `pairs` a lone image goes in twice."""
    return (np.repeat(images, 2, axis=0) if pairs and len(images) == 1 else images)[:, None].astype(np.float32)


@cache
def _share_scratch() -> None:
    """Let all sessions of this process calculate in one pool of memory, once. Each keeps its largest batch otherwise:
    3.4 GB for ten published members and 16 windows, 1.2 GB with one pool."""
    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT), None)


class OnnxEngine:
    """Runs the members one after the other, each with all threads, in the same scratch memory. In float32 an image's
    scores do not depend on what else is in the batch; with 8-bit convolutions those of a lone image do, hence `pairs`
    (see OpenvinoEngine)."""

    def __init__(
        self,
        members: Sequence[Path],
        threads: int = 0,
        name: str = "onnxruntime-cpu",
        tolerance: float = PROBE_TOLERANCE,
        *,
        pairs: bool = False,
    ) -> None:
        self.name, self.tolerance, self._pairs = name, tolerance, pairs
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait actively for the next run cost some percent of a core, all day; within a run they may.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        _share_scratch()
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._sessions = []
        for path in members:
            try:
                session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime's errors have no common base but Exception
                raise BundleError(f"{path}: ONNX Runtime cannot load it: {' '.join(str(error).split())}") from error
            if list(session.get_inputs()[0].shape[1:]) != [1, *IMAGE_SHAPE]:
                raise BundleError(f"{path}: takes {session.get_inputs()[0].shape}; (batch, 1, 128, 281) is wanted")
            self._sessions.append((session, session.get_inputs()[0].name))

    def scores(self, images: Image, members: Sequence[int] | None = None) -> Scores:
        """Grey images `(n, 128, 281)` uint8 to sigmoid scores `(members, n, species)` float32; of all members, or of
        these."""
        batch = float_batch(images, self._pairs)
        chosen = self._sessions if members is None else [self._sessions[index] for index in members]
        return np.stack([session.run(None, {name: batch})[0][: len(images)] for session, name in chosen])

    def close(self) -> None:
        """Give back the networks; the engine is not used again."""
        self._sessions.clear()
