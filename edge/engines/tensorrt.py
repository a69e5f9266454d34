"""TensorRT engines that `python -m export trt` compiled on this machine. Numpy in, numpy out; no
torch.

Uses only calls that TensorRT 10.3 (JetPack 6), 10.16 (JetPack 7) and 11.4 have in common. Compiles
nothing.
"""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.contract.audio import IMAGE, INPUT_SHAPES, Input
from edge.contract.blend import Scores
from edge.contract.bundle import HALF_TOLERANCE, PROBE_TOLERANCE, Bundle, BundleMember
from edge.contract.errors import EngineError
from edge.engines.cuda import Cuda
from edge.engines.device import import_tensorrt, this_device
from edge.engines.engine import Answer, answers_of, arranged, float_batch
from edge.engines.engine_record import engines_for, read_record

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class _Member:
    """A loaded engine."""

    engine: Any
    context: Any
    input: str  # name of its input
    scores: str  # name of its output
    width: int  # scores per window


def open_tensorrt(
    bundle: Bundle, folder: Path, networks: Sequence[BundleMember]
) -> "TensorrtEngine | None":
    """The engines of these networks in a folder, if they are for this machine; None if there are
    none.

    Raises EngineError with the reason, one line, if there are engines that cannot be used.
    """
    record = read_record(folder)
    if record is None:
        return None
    trt = import_tensorrt()
    cuda = Cuda()
    recorded = engines_for(record, bundle, networks, this_device(trt, cuda), folder)
    half = any(one.precision == "fp16" for one in recorded)
    return TensorrtEngine(
        trt,
        cuda,
        [folder / one.file for one in recorded],
        answers_of(bundle, networks),
        batch_max=min(one.batch_max for one in recorded),
        tolerance=HALF_TOLERANCE if half else PROBE_TOLERANCE,
        input_shape=bundle.input_shape,
    )


class TensorrtEngine:
    """Members in turn on one GPU, for one calling thread at a time.

    They share input, output and scratch memory, so that an ensemble needs little more than its
    weights and the largest member's activations.

    `files` have been checked: loading an engine executes its code. `answers` map their outputs to
    species. Raises EngineError if one cannot be loaded.
    """

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        files: Sequence[Path],
        answers: Sequence[Answer],
        *,
        batch_max: int,
        tolerance: float,
        input_shape: tuple[int, ...] = INPUT_SHAPES[IMAGE],
    ) -> None:
        self.name = f"tensorrt-{trt.__version__}"
        self.tolerance = tolerance
        self._trt = trt
        self._cuda = cuda
        self._batch_max = batch_max
        self._shape = input_shape
        self._answers = answers
        self._members: list[_Member] = []
        self._lock = threading.Lock()
        with ExitStack() as stack:
            self._stream = cuda.stream()
            stack.callback(cuda.end_stream, self._stream)
            self._runtime = _runtime(trt)
            engines = [self._load(path) for path in files]
            size = max(engine.device_memory_size_v2 for engine in engines)
            scratch = self._allocate(stack, size)
            widths = [answer.width for answer in answers]
            assert all(widths), "a bundle's networks say how many species they know"
            self._input = self._allocate(stack, batch_max * int(np.prod(input_shape)) * _FLOAT)
            self._scores = self._allocate(
                stack, batch_max * max(width or 0 for width in widths) * _FLOAT
            )
            stack.callback(self._forget)
            made = zip(engines, files, widths, strict=True)
            self._members = [self._member(e, p, scratch, size, width or 0) for e, p, width in made]
            self._resources = stack.pop_all()

    def _allocate(self, stack: ExitStack, size: int) -> int:
        address = self._cuda.allocate(size)
        stack.callback(self._cuda.free, address)
        return address

    def _load(self, path: Path) -> Any:
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path}: not readable: {error}") from error
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:  # TensorRT prints the reason to stderr, and does not raise
            raise EngineError(f"{path}: {self.name} cannot load it; run python -m export trt again")
        return engine

    def _member(self, engine: Any, path: Path, scratch: int, size: int, width: int) -> _Member:
        """A context for the engine, with memory and addresses set. The engine must have a bundle
        member's input and output."""
        trt = self._trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        expected = [(-1, *self._shape), (-1, width)]
        if [shapes[name] for name in inputs + outputs] != expected:
            raise EngineError(
                f"{path}: input and output: expected {expected[0]} and {expected[1]}, found "
                f"{shapes}"
            )
        if any(engine.get_tensor_dtype(name) != trt.float32 for name in names):
            raise EngineError(f"{path}: input and output: expected float32, found another type")
        context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise EngineError(f"{path}: TensorRT cannot create a context; is the memory full?")
        context.set_device_memory(scratch, size)
        addresses = ((inputs[0], self._input), (outputs[0], self._scores))
        if not all(context.set_tensor_address(name, address) for name, address in addresses):
            raise EngineError(f"{path}: TensorRT rejects the buffers")
        return _Member(engine, context, inputs[0], outputs[0], width)

    def scores(self, inputs: Input, members: Sequence[int] | None = None) -> Scores:
        """Sigmoid scores `(members, n, species)` float32 of windows in the networks' input format,
        of all members or of those given.

        Raises EngineError if the GPU fails, or if the engine is closed.
        """
        with self._lock:
            if self._runtime is None:
                raise EngineError(f"{self.name} is closed")
            return self._run_all(inputs, members)

    def _run_all(self, inputs: Input, members: Sequence[int] | None) -> Scores:
        chosen = range(len(self._members)) if members is None else members
        found = [
            np.empty((len(inputs), self._members[index].width), np.float32) for index in chosen
        ]
        for start in range(0, len(inputs), self._batch_max):
            batch = float_batch(inputs[start : start + self._batch_max], self._shape)
            self._cuda.upload(self._input, batch, self._stream)
            for index, scores in zip(chosen, found, strict=True):
                self._run(self._members[index], batch.shape, scores[start : start + len(batch)])
        return arranged(found, [self._answers[index] for index in chosen])

    def _run(self, member: _Member, shape: tuple[int, ...], found: Scores) -> None:
        context = member.context
        if not context.set_input_shape(member.input, shape):
            raise EngineError(f"TensorRT rejects a batch of {shape[0]}")
        if not context.execute_async_v3(int(self._stream)):
            raise EngineError("TensorRT failed to run the engine")
        self._cuda.download(found, self._scores, self._stream)
        self._cuda.wait(self._stream)

    def close(self) -> None:
        """Free the GPU's memory; the engine is not used again. Raises nothing: after a failure of
        the GPU the memory is lost anyway."""
        with self._lock:
            try:
                self._resources.close()
            except EngineError:
                self._forget()

    def _forget(self) -> None:
        """Release contexts and engines, in this order, before the memory that they use is freed."""
        self._members.clear()
        self._runtime = None


def _runtime(trt: Any) -> Any:
    try:
        return trt.Runtime(trt.Logger())
    except TypeError as error:  # raised by the bindings if there is no driver
        raise EngineError(f"TensorRT {trt.__version__} does not start: {error}") from error
