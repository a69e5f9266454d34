"""One way to compute scores, as a process that is told when to go: the other half of
tests.trials.birds_speed.

    PYTHON tests/trials/contender.py litert MODEL.tflite STRETCHES.npy
    PYTHON tests/trials/contender.py loop MODEL.tflite RECORDING
    PYTHON tests/trials/contender.py engine RUNTIME PRECISION BUNDLE WINDOWS.npy
    PYTHON tests/trials/contender.py speech WINDOWS.npy
    PYTHON tests/trials/contender.py scores MODEL.tflite STRETCHES.npy OUT.npy

Each line of stdin is a round; it answers with the CPU seconds that all its threads took. `litert`
and `loop` know nothing of birdstation, so that they run where LiteRT is installed. Everything with
one thread. `scores` writes LiteRT's sigmoid scores and ends.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

BATCH = 16  # windows at once, as a replay takes them


def litert(model: str, sound: str) -> Callable[[], object]:
    """LiteRT with its defaults (XNNPACK) on stretches `(n, 144000)` of 3 s at 48 kHz, one after the
    other."""
    stretches = np.load(sound)
    ask = _interpreter(model)
    return lambda: [ask(stretch) for stretch in stretches]


def _interpreter(model: str) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(model_path=model, num_threads=1)
    network.allocate_tensors()
    source = network.get_input_details()[0]["index"]
    target = network.get_output_details()[0]["index"]

    def ask(stretch: np.ndarray) -> np.ndarray:
        network.set_tensor(source, stretch[None])
        network.invoke()
        return network.get_tensor(target)[0]

    return ask


def loop(model: str, recording: str) -> Callable[[], object]:
    """The leanest loop that names birds: libsndfile, soxr, LiteRT every 3 s, names over 0.25."""
    import soundfile
    import soxr

    ask = _interpreter(model)

    def run() -> list[tuple[int, int]]:
        found = []
        with soundfile.SoundFile(recording) as file:
            resampler = soxr.ResampleStream(file.samplerate, 48_000, 1, "float32")
            rest = np.empty(0, np.float32)
            second = 0
            for block in file.blocks(file.samplerate * 3, dtype="float32"):
                rest = np.concatenate([rest, resampler.resample_chunk(block)])
                while len(rest) >= 144_000:
                    odds = ask(rest[:144_000])
                    found += [
                        (second, int(index))
                        for index in np.flatnonzero(1 / (1 + np.exp(-odds)) > 0.25)
                    ]
                    rest = rest[144_000:]
                    second = second + 3
        return found

    return run


def engine(runtime: str, precision: str, folder: str, sound: str) -> Callable[[], object]:
    """A bundle's networks on one of our runtimes, on windows `(n, 160000)` of 5 s at 32 kHz, batch
    by batch."""
    from pathlib import Path

    from edge.contract.bundle import read_bundle
    from edge.engines.tuning_record import open_cpu_engine

    bundle = read_bundle(Path(folder))
    windows = np.load(sound)
    ask = open_cpu_engine(bundle, bundle.manifest.members, runtime, precision, 1, "replay").scores  # type: ignore[arg-type]
    return lambda: [ask(windows[at : at + BATCH]) for at in range(0, len(windows), BATCH)]


def speech(sound: str) -> Callable[[], object]:
    """The speech detector on the windows, as one stretch of sound."""
    from edge.speech.listener import Listener

    windows = np.load(sound)

    def run() -> None:
        listener = Listener()
        for number, window in enumerate(windows):
            listener.push(window)
            listener.spoken(number * len(window), (number + 1) * len(window))

    return run


def main() -> None:
    """Load, run once that does not count, then as often as told."""
    if sys.argv[1] == "scores":
        model, sound, out = sys.argv[2:]
        ask = _interpreter(model)
        odds = np.stack([ask(stretch) for stretch in np.load(sound)])
        np.save(out, (1 / (1 + np.exp(-odds))).astype(np.float32))
        return
    makers: dict[str, Callable[..., Callable[[], object]]] = {
        "litert": litert,
        "loop": loop,
        "engine": engine,
        "speech": speech,
    }
    work = makers[sys.argv[1]](*sys.argv[2:])
    work()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.process_time()
        work()
        print(time.process_time() - begin, flush=True)


if __name__ == "__main__":
    main()
