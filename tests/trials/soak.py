"""A day of forest through the daemon, faster than time: what grows, what it costs beside the
networks, how late it is.

    python -m tests.trials.soak --hours 24 [--real-time-s 120] [--bundle BUNDLE] \\
      [--seed N] [--folder DIR]
        [--out FILE.json] [--trace]

The daemon as it ships, with its bundle, SQLite on a real disk, a real broker and a subscriber in
another process. Only the sound card and the clocks are made up: synthetic forest, with gaps,
twenty-four full hours and a midnight, a SIGHUP every hour, clips that are saved and removed. Then
the same at the pace of time, which tells idle CPU and latency. Exits 1 if what was heard does not
add up or a message did not arrive.
"""

import argparse
import gc
import json
import multiprocessing
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import lfilter

import edge.daemon.station
from edge.analysis.stretch import BatchResult
from edge.config import DEMO_FOLDER
from edge.contract.audio import RATE_HZ
from edge.daemon.live_microphone import Live
from edge.daemon.station import Station
from edge.host.clock import Clock
from edge.host.machine import open_files, rss_mb
from edge.host.stopwatch import Stopwatch
from edge.types import Chunk, Gap
from tests.helpers.brokers import Broker, Listener, free_port
from tests.trials import above_zero

_CHUNK_S = 0.5  # as the microphone has them
_BEFORE_HOUR_S = 90.0  # the tape begins so long before a full hour
_WARM_H = 1.0
# samples; a sample is ten minutes, so an hour and half an hour
_RELOAD_EVERY = 6
_GAP_EVERY = 3
_GAPS: tuple[tuple[str, float], ...] = (
    ("overflow", 0.0005),
    ("unplugged", 0.03),
    ("stalled", 0.25),
)  # of a sample
_DRAIN_S = 60.0
_AHEAD_MAX = 20  # entries that wait to be stored
_TALK = "birdstation/v1/soak/detection"
_ROWS = ("recordings", "detections", "effort", "gaps", "clips", "outbox")


class Forest:
    """Sound without end that never repeats: wind of changing strength, and pieces of the
    demonstration's soundscapes at random places, some near, some far."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        files = sorted((DEMO_FOLDER / "soundscapes").glob("*.ogg"))
        self._scenes = [soundfile.read(path, dtype="float32")[0] for path in files]
        self._state = np.zeros(1, np.float32)
        self._wind = 0.001
        self._piece: NDArray[np.float32] = np.empty(0, np.float32)
        self._pause = 0

    def next(self, count: int) -> NDArray[np.float32]:
        """The next samples."""
        self._wind = float(np.clip(self._wind * np.exp(self._rng.normal(0, 0.05)), 0.0003, 0.005))
        noise = self._rng.standard_normal(count, np.float32) * np.float32(self._wind)
        sound, self._state = lfilter(
            np.float32([1.0]), np.float32([1.0, -0.9]), noise, zi=self._state
        )
        at = 0
        while at < count:
            if self._pause == 0 and len(self._piece) == 0:
                self._choose()
            step = min(self._pause, count - at)
            self._pause -= step
            at += step
            part = self._piece[: count - at] if self._pause == 0 else self._piece[:0]
            sound[at : at + len(part)] += part
            self._piece = self._piece[len(part) :]
            at += len(part)
        return np.clip(sound, -1, 1).astype(np.float32)

    def _choose(self) -> None:
        scene = self._scenes[self._rng.integers(len(self._scenes))]
        size = int(self._rng.uniform(4, 25) * RATE_HZ)
        start = int(self._rng.integers(len(scene) - size))
        fade = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / 3200).astype(
            np.float32
        )
        self._piece = scene[start : start + size] * fade * np.float32(self._rng.uniform(0.2, 1.0))
        self._pause = int(self._rng.exponential(8) * RATE_HZ)


class Tape:
    """Microphone's interface over a forest, and the two clocks of a world in which it is recorded:
    time goes on as sound is read, or, once `pace` is called, with the real one."""

    card = "a tape"
    trouble = None

    def __init__(self, seed: int, begin_s: float) -> None:
        self.forest = Forest(seed)
        # monotonic: up to here sound was read
        self.at_s = 1000.0
        self.begun_s = 1000.0
        self.apart_s = begin_s - self.at_s
        self.own_cpu_s = 0.0  # of making sound
        self.on_read: Any = lambda: None
        self._real_apart_s: float | None = None
        self._outage: Gap | None = None

    def pace(self) -> None:
        """From now on as fast as time."""
        self._real_apart_s = self.at_s - time.monotonic()

    def monotonic(self) -> float:
        """Seconds on the monotonic clock."""
        return self.at_s if self._real_apart_s is None else time.monotonic() + self._real_apart_s

    def wall(self) -> float:
        """Seconds since 1970."""
        return self.monotonic() + self.apart_s

    def be_silent(self, reason: Any, seconds: float) -> None:
        """Sound is missing from here on."""
        self._outage = Gap(self.at_s, seconds, reason, "in the script")

    # Microphone's interface

    @property
    def waiting_s(self) -> float:
        return (
            0.0 if self._real_apart_s is None else max(0.0, self.monotonic() - self.at_s - _CHUNK_S)
        )

    @property
    def silent(self) -> Gap | None:
        gap = self._outage
        return None if gap is None else Gap(gap.at_s, self.at_s - gap.at_s, gap.reason, gap.detail)

    def read(self, _timeout_s: float) -> Chunk | Gap | None:
        self.on_read()
        if self._outage:
            return self._read_silence(self._outage)
        began = time.thread_time()
        chunk = Chunk(self.at_s, self.forest.next(round(_CHUNK_S * RATE_HZ)))
        self.own_cpu_s += time.thread_time() - began
        if self._real_apart_s is not None:
            time.sleep(max(0.0, self.at_s + _CHUNK_S - self.monotonic()))
        self.at_s += _CHUNK_S
        return chunk

    def _read_silence(self, gap: Gap) -> Gap | None:
        end_s = gap.at_s + gap.seconds
        self.at_s = min(end_s, self.at_s + _CHUNK_S)
        if self.at_s < end_s:
            return None
        self._outage = None
        return gap

    def reanchor(self) -> float:
        return 0.0

    def close(self) -> Gap | None:
        return None


class CpuWatch(Stopwatch):
    """CPU seconds in images and networks: of all threads, and of the daemon's loop alone."""

    def __init__(self) -> None:
        super().__init__()
        self.process_s = self.loop_s = 0.0

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        process = time.process_time()
        loop = time.thread_time()
        with super().__call__(step):
            yield
        self.process_s += time.process_time() - process
        self.loop_s += time.thread_time() - loop


def subscriber(port: int, path: str, ready: Event, stop: Event) -> None:
    """In another process: writes down when each detection came."""
    with Listener(port, _TALK) as listener, Path(path).open("w") as file:
        listener.client.on_message = lambda _c, _d, m: file.write(
            f"{time.time()!r} {json.loads(m.payload)['id']}\n"
        )
        ready.set()
        stop.wait()
        time.sleep(0.5)
        listener.client.on_message = None


@dataclass
class Latency:
    """Of what was committed at the pace of time: by id, when its window ended, was heard and was
    stored (Unix)."""

    # end to heard, heard to committed
    windows: list[tuple[float, float]] = field(default_factory=list)
    # id -> end of its window, real clock
    detections: dict[str, float] = field(default_factory=dict)


class Soak:
    """One daemon, watched from within.

    soak = Soak(folder, seed=1, sample_s=600, trace=False)
    figures = soak.run(hours=24, real_time_s=120)
    """

    def __init__(
        self, folder: Path, seed: int, sample_s: float, trace: bool, bundle: Path | None = None
    ) -> None:
        self.bundle = bundle  # None: the one that ships
        self.folder = folder
        self._sample_s = sample_s
        self._trace = trace
        begin_s = (time.time() // 3600 + 1) * 3600 - _BEFORE_HOUR_S
        self.tape = Tape(seed, begin_s)
        self.samples: list[dict[str, float]] = []
        self.latency = Latency()
        self._watch = CpuWatch()
        self._end_s = self._pace_until = 0.0
        self._paced_from: dict[str, float] = {}
        self.figures: dict[str, Any] = {}

    def run(self, hours: float, real_time_s: float) -> dict[str, Any]:
        """So many hours as fast as they go, then so many seconds at the pace of time."""
        self._end_s = self.tape.at_s + hours * 3600
        self._real_time_s = real_time_s
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        stop = context.Event()
        heard = self.folder / "heard.txt"
        with Broker(self.folder, free_port(), "max_queued_messages 0") as broker:
            child = context.Process(
                target=subscriber, args=(broker.port, str(heard), ready, stop), daemon=True
            )
            child.start()
            assert ready.wait(60)
            began = time.monotonic()
            self._station = station = Station(
                self._settings(broker.port), clock=Clock(self.tape.wall, self.tape.monotonic)
            )
            before = signal.signal(signal.SIGHUP, station.reload)
            self.tape.on_read = self._look
            with _microphone(self.tape):
                station.run()
            signal.signal(signal.SIGHUP, before)
            self.figures["seconds"] = round(time.monotonic() - began, 1)
            stop.set()
            child.join(30)
        received = [line.split() for line in heard.read_text().splitlines()]
        return self._judged({found: float(at) for at, found in reversed(received)})

    def _settings(self, port: int) -> Path:
        path = self.folder / "station.yaml"
        path.write_text(
            "station: {id: soak, latitude: 49.0208, longitude: -1.1965, timezone: "
            f"Europe/Paris}}\nstate: {self.folder / 'state'}\nhealth: {{folder: "
            f"{self.folder / 'health'}}}\n"
            # fuller than that from the start: all but the best clips go
            f"retention: {{disk_share: 0.01}}\nmqtt: {{host: 127.0.0.1, port: {port}}}\n"
            + (f"bundle: {self.bundle.absolute()}\n" if self.bundle else "")
        )
        return path

    # From within the thread that hears, before every half second of sound

    def _look(self) -> None:
        tape = self.tape
        station = self._station
        if not self._pace_until and station.parts.ledger.waiting > _AHEAD_MAX:
            # faster than time it would hear ahead of what is stored
            assert station.parts.ledger.settled(_DRAIN_S)
        if self._pace_until:
            if time.monotonic() >= self._pace_until:
                self._pace_until = float("inf")
                self.figures["real time"] = self._idle(self._cpu())
                self._finish()
            return
        done = (tape.at_s - tape.begun_s) / self._sample_s
        if done >= len(self.samples) and tape.silent is None:
            self._sample()
            if len(self.samples) == 2 and self._trace:
                tracemalloc.start(12)
            if len(self.samples) % _RELOAD_EVERY == 0:
                signal.raise_signal(signal.SIGHUP)
            if len(self.samples) % _GAP_EVERY == 0:
                reason, share = _GAPS[len(self.samples) // _GAP_EVERY % len(_GAPS)]
                tape.be_silent(reason, share * self._sample_s)
        if tape.at_s >= self._end_s and tape.silent is None:
            self._sample()
            self.figures["x real time"] = round(
                (tape.at_s - tape.begun_s) / max(1e-9, self._elapsed())
            )
            if not self._real_time_s:
                self._finish()
                return
            assert station.parts.publisher
            station.parts.publisher.drain(_DRAIN_S)
            tape.pace()
            self._begin_real_time()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _finish(self) -> None:
        assert self._station.parts.publisher
        self.figures["all sent"] = self._station.parts.publisher.drain(_DRAIN_S)
        if self._trace:
            top = tracemalloc.take_snapshot().statistics("lineno")[:25]
            self.figures["traced"] = [str(line) for line in top]
        self._pace_until = float("inf")
        self._station.stop()

    def _sample(self) -> None:
        """What must not grow, and what may."""
        station = self._station
        tape = self.tape
        assert station.parts.ledger.settled(_DRAIN_S)
        if not self.samples:
            self._began = time.monotonic()
        assert station.parts.publisher
        database = station.config.database
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
            rows = {
                name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _ROWS
            }
        gc.collect()
        self.samples.append(
            {
                "hour": round((tape.at_s - tape.begun_s) / 3600, 3),
                "rss_mb": rss_mb() or 0.0,
                "blocks": sys.getallocatedblocks(),
                "files": open_files() or 0,
                "threads": threading.active_count(),
                "tasks": sum(1 for _ in Path("/proc/self/task").iterdir()),
                "db_mb": database.stat().st_size / 1e6,
                "wal_mb": _size(database.with_name("station.db-wal")) / 1e6,
                "clip_files": sum(1 for _ in station.config.clips_folder.rglob("*.flac")),
                "clips_saved": station.parts.clips.saved,
                "clips_failed": station.parts.clips.failed,
                "clip_sound_s": station.parts.clips.held_s,
                "ledger_waiting": station.parts.ledger.waiting,
                "in_flight": len(station.parts.publisher._feed.in_flight),
                "messages_waiting": station.parts.publisher.state().waiting,
                **rows,
            }
        )

    # At the pace of time

    def _begin_real_time(self) -> None:
        station = self._station
        station.parts.analyst.stopwatch = self._watch
        ledger = station.parts.ledger
        assert ledger.settled(_DRAIN_S)
        enter = ledger.found
        store = ledger.record.store()
        commit = store.add
        on_the_way = deque[tuple[float, BatchResult]]()

        def found(batch: BatchResult) -> None:
            on_the_way.append((self.tape.at_s + self.tape.apart_s, batch))
            enter(batch)

        def add(*arguments: Any, **more: Any) -> int:
            new = commit(*arguments, **more)
            heard_s, batch = on_the_way.popleft()
            end_s = batch.end.timestamp()
            self.latency.windows.append((heard_s - end_s, self.tape.wall() - heard_s))
            real = time.time() - self.tape.wall()
            self.latency.detections.update(
                {d.id: d.end.timestamp() + real for d in batch.detections}
            )
            return new

        ledger.found, store.add = found, add  # type: ignore[method-assign]
        self._paced_from, self._pace_until = self._cpu(), time.monotonic() + self._real_time_s

    def _cpu(self) -> dict[str, float]:
        """CPU seconds so far."""
        publisher = next(thread for thread in threading.enumerate() if thread.name == "publisher")
        return {
            "at": time.monotonic(),
            "process": time.process_time(),
            "loop": time.thread_time(),
            "publisher": int(
                Path(f"/proc/self/task/{publisher.native_id}/schedstat").read_text().split()[0]
            )
            / 1e9,
            "networks": self._watch.process_s,
            "networks_loop": self._watch.loop_s,
            "tape": self.tape.own_cpu_s,
        }

    def _idle(self, now: dict[str, float]) -> dict[str, Any]:
        """Percent of one core."""
        spent = {name: value - self._paced_from[name] for name, value in now.items()}
        percent = {name: 100 * value / spent["at"] for name, value in spent.items()}
        loop = percent["loop"] - percent["networks_loop"] - percent["tape"]
        beside = percent["process"] - percent["networks"] - percent["tape"]
        return {
            "seconds": spent["at"],
            "images and networks %": percent["networks"],
            "beside the model %": beside,
            "of it the loop %": loop,
            "of it the publisher %": percent["publisher"],
            "of it threads of the networks that still spin %": beside - loop - percent["publisher"],
        }

    # Afterwards

    def _judged(self, received: dict[str, float]) -> dict[str, Any]:
        with closing(sqlite3.connect(self._station.config.database)) as db:
            sums = (
                "SELECT (SELECT sum(analysed_s) FROM effort), (SELECT coalesce(sum(seconds), 0) "
                "FROM gaps)"
            )
            analysed, missing = db.execute(sums).fetchone()
            ids = {row[0] for row in db.execute("SELECT id FROM detections")}
            refusals = db.execute("SELECT count(*) FROM outbox WHERE state <> 'sent'").fetchone()[0]
        heard_s = self.tape.at_s - self.tape.begun_s
        figures = self.figures
        figures["hours"] = heard_s / 3600
        figures["analysed_s"] = analysed
        figures["missing_s"] = missing
        figures["detections"], figures["received"] = len(ids), len(received)
        figures["wrong"] = [
            line
            for wrong, line in (
                (
                    abs(analysed + missing - heard_s) > 0.01,
                    f"{heard_s} s of tape, {analysed} + {missing} s in the books",
                ),
                (
                    set(received) != ids,
                    f"{len(ids - set(received))} of {len(ids)} detections did not arrive",
                ),
                (refusals > 0, f"{refusals} messages are not sent"),
            )
            if wrong
        ]
        figures["per day"] = slopes(self.samples)
        figures["per day in the second half"] = slopes(self.samples, self.samples[-1]["hour"] / 2)
        rss = [sample["rss_mb"] for sample in self.samples]
        # The allocator's high-water mark is reached in hours, and from one sample to the next it
        # swings by more.
        figures["highest rss_mb by quarter"] = [
            float(part.max()) for part in np.array_split(rss, 4) if len(part)
        ]
        if self.latency.windows:
            subscriber_s = [
                received[i] - end for i, end in self.latency.detections.items() if i in received
            ]
            figures["latency"] = {
                "windows": len(self.latency.windows),
                "detections": len(subscriber_s),
                "end of window to its context heard s": _spread(
                    [a for a, _ in self.latency.windows]
                ),
                "heard to committed s": _spread([b for _, b in self.latency.windows]),
                "end of window to committed s": _spread([a + b for a, b in self.latency.windows]),
                "end of window to subscriber s": _spread(subscriber_s),
            }
        figures["samples"] = self.samples
        return figures


@contextmanager
def _microphone(tape: Tape) -> Iterator[None]:
    """The daemon opens this tape for a sound card."""
    real = edge.daemon.station.Live

    class TapeLive(Live):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, open_microphone=lambda _settings: tape)  # type: ignore[arg-type,return-value]

    edge.daemon.station.Live = TapeLive  # type: ignore[misc]
    try:
        yield
    finally:
        edge.daemon.station.Live = real  # type: ignore[misc]


def slopes(samples: list[dict[str, float]], warm_h: float = _WARM_H) -> dict[str, float]:
    """Least squares over what comes after `warm_h`: growth of each figure in 24 hours; nothing if
    too little does."""
    late = [sample for sample in samples if sample["hour"] >= warm_h]
    if len(late) < 3:
        return {}
    days = np.array([sample["hour"] for sample in late]) / 24
    return {
        name: float(np.polyfit(days, [s[name] for s in late], 1)[0])
        for name in late[0]
        if name != "hour"
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    median, late = np.percentile(values, (50, 99))
    return {"median": round(float(median), 3), "p99": round(float(late), 3)}


def main() -> None:
    """Run it and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=above_zero, default=24.0)
    parser.add_argument("--real-time-s", type=float, default=0.0)
    parser.add_argument("--sample-s", type=above_zero, default=600.0)
    parser.add_argument("--bundle", type=Path, help="another one than ships, e.g. an adopted one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--trace",
        action="store_true",
        help="what Python allocates, with tracemalloc; slower, larger",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder, arguments.seed, arguments.sample_s, arguments.trace, arguments.bundle)
        figures = soak.run(arguments.hours, arguments.real_time_s)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    samples = figures.pop("samples")
    for sample in samples[:: max(1, len(samples) // 12)] + samples[-1:]:
        print(" ".join(f"{name}={value:g}" for name, value in sample.items()))
    print(json.dumps(figures, indent=1))
    sys.exit(1 if figures["wrong"] else 0)


if __name__ == "__main__":
    main()
