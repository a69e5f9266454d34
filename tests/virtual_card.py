"""A station at a virtual sound card: does it hear live what a replay of the recording hears, and what do bad days do?

    python -m tests.virtual_card [--minutes 10] [--scene same|unplugged|slow]

PulseAudio with a null sink is the card: the demo's soundscapes are played into it in real time, the daemon listens
through sounddevice, parec records beside it. Wants pulseaudio, pulseaudio-utils and libasound2-plugins. Prints the
figures, exits 1 if anything is wrong and then keeps its folder.
"""

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import soundfile
import soxr
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.signal import correlate

from edge.contract.audio import MEL_BANDS, RATE_HZ, Samples
from edge.contract.bundle import seal_bundle
from edge.contract.bundle import read_bundle as read
from edge.demo.run import free_port
from tests.brokers import Broker, Listener, until

CARD_HZ = 48_000
WINDOW_S = 5.0
PROJECT = Path(__file__).parents[1]
BUNDLE, SOUNDSCAPES = PROJECT / "edge/demo/bundle", PROJECT / "edge/demo/soundscapes"
DETECTIONS = "birdstation/v1/forest/detection"
PROGRAMS = ("pulseaudio", "pactl", "paplay", "parec")
_START_S_MAX = 120.0
_POLL_S = 0.02
_PULSE_MS = 50
_HAIR = 0.02  # a score so near to its threshold may fall on either side when the windows lie elsewhere
_CHAIN = 100  # matrix products by which the speed of this machine is taken

Pcm = NDArray[np.int16]


# The card, and what is played into it


class Card:
    """A sound server of its own, with one card that gives what is played into it.

    with Card(folder) as card:
        card.play(wav); card.unplug(); card.plug()
    """

    def __init__(self, folder: Path) -> None:
        self._run, self._home, self._log = folder / "run", folder / "home", folder / "pulse.log"
        self._run.mkdir(mode=0o700)
        (self._home / ".config/pulse").mkdir(parents=True)
        (self._home / ".config/pulse/client.conf").write_text("autospawn = no\n")
        self.environment = os.environ | {"XDG_RUNTIME_DIR": str(self._run), "HOME": str(self._home)}
        self._server: subprocess.Popen[bytes] | None = None
        self._player: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Card":
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    def plug(self) -> None:
        """Returns when the card is there, and the default one."""
        sink = f"module-null-sink sink_name=forest rate={CARD_HZ} channels=1"
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", f"--log-target=file:{self._log}"]
        self._server = self.started([*command, "-L", "module-native-protocol-unix", "-L", sink])
        assert until(lambda: self._control("set-default-source", "forest.monitor")), self._log.read_text()
        assert self._control("set-default-sink", "forest")

    def unplug(self) -> None:
        """SIGKILL to the server: the card is gone in the middle of its sound."""
        for process in (self._server, self._player):
            if process:
                process.kill()
                process.wait()

    def play(self, sound: Path) -> None:
        """From its beginning; a card into which nothing is played gives zeros."""
        self._player = self.started(["paplay", str(sound)])

    def started(self, command: list[str], **more: Any) -> "subprocess.Popen[bytes]":
        """A program that sees this card and no other."""
        return subprocess.Popen(command, env=self.environment, **({"stderr": subprocess.DEVNULL} | more))

    def _control(self, *arguments: str) -> bool:
        with self.started(["pactl", *arguments]) as process:
            return process.wait(timeout=20) == 0


class Recording:
    """What the card gives, recorded by parec from entering on, in 16 bit as the null sink has it."""

    def __init__(self, card: Card) -> None:
        command = ["parec", "--raw", "--format=s16le", f"--rate={CARD_HZ}", "--channels=1", "-d", "forest.monitor"]
        self._process = card.started([*command, f"--latency-msec={_PULSE_MS}"], stdout=subprocess.PIPE)
        self._blocks: list[bytes] = []
        self.start = float("inf")  # UTC of the first sample as Unix time, by the least delayed arrival
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Recording":
        self._thread.start()
        assert until(lambda: self._blocks), "parec gives nothing"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        size = 0
        while block := os.read(self._process.stdout.fileno(), 1 << 16):
            size += len(block)
            self._blocks.append(block)
            self.start = min(self.start, time.time() - size / 2 / CARD_HZ)

    def samples(self) -> Pcm:
        """All so far."""
        sound = b"".join(self._blocks)
        return np.frombuffer(sound[: len(sound) // 2 * 2], np.int16)


def forest(path: Path, seconds: float) -> Path:
    """The demo's soundscapes one after the other, over a faint hiss so that no second is digital silence."""
    files, rng = sorted(SOUNDSCAPES.glob("*.ogg")), np.random.default_rng(1)
    with soundfile.SoundFile(path, "w", CARD_HZ, 1, "PCM_16") as wav:
        for n in range(round(seconds / 60 + 0.5)):
            sound, rate_hz = soundfile.read(files[n % len(files)], dtype="float32")
            sound = soxr.resample(sound, rate_hz, CARD_HZ)
            wav.write(0.9 * sound + 0.001 * rng.standard_normal(len(sound)).astype(np.float32))
    return path


# The daemon, and what can be seen of it from outside


@dataclass
class Watched:
    """What happened while the daemon was there; times are Unix times."""

    ended: float = 0.0  # asked to stop
    gone: float = 0.0
    status: int = -1
    cpu_share: float = 0.0  # of one core, from its first committed window on
    rss_mb: float = 0.0
    commit_s: list[float] = field(default_factory=list)  # of every window: from its end to its row


class Daemon:
    """`python -m edge run` as a process of its own, in `folder`."""

    def __init__(self, card: Card, folder: Path, bundle: Path, *lines: str, buffer_s: float = 60) -> None:
        folder.mkdir()
        self.config, self.database, self._health = (
            folder / "station.yaml",
            folder / "station.db",
            folder / "health.json",
        )
        microphone = f"{{device: pulse, rate_hz: {CARD_HZ}, buffer_s: {buffer_s:g}}}"
        settings = ["station: {id: forest}", f"bundle: {bundle}", f"microphone: {microphone}", *lines]
        self.config.write_text("\n".join([*settings, "health: {interval_s: 1}"]) + "\n")
        self.log = folder / "log.txt"
        self._card, self.seen = card, Watched()
        self._watch, self._leave = threading.Thread(target=self._watch_commits), threading.Event()

    def __enter__(self) -> "Daemon":
        command = [sys.executable, "-m", "edge", "run", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = self._card.started(command, stderr=log, cwd=PROJECT)
        try:
            assert until(lambda: self.process.poll() is None and self.rows(_UNTIL), _START_S_MAX), self.log.read_text()
        except BaseException:
            self.process.kill()
            raise
        self._heard_at, self._cpu = time.time(), self._cpu_s()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        seen = self.seen
        seen.cpu_share = (self._cpu_s() - self._cpu) / (time.time() - self._heard_at)
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        seen.rss_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
        self._leave.set()
        self._watch.join()
        seen.ended = time.time()
        self.process.send_signal(signal.SIGTERM)
        try:
            seen.status = self.process.wait(timeout=120)
        finally:
            self.process.kill()
            seen.gone = time.time()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Of its database, as anyone else reads it; nothing while there is none."""
        try:
            with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as db:
                return db.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def health(self) -> dict[str, Any]:
        """health.json as it is now."""
        found: dict[str, Any] = json.loads(self._health.read_text())
        return found

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _watch_commits(self) -> None:
        """A commit is seen 20 ms after it at the latest."""
        last, before = 0, 0.0
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as db:
            while not self._leave.wait(_POLL_S):
                version = db.execute("PRAGMA data_version").fetchone()[0]
                if version == last:
                    continue
                (start, analysed_s), now, last = db.execute(_UNTIL).fetchone(), time.time(), version
                end = unix(start) + analysed_s
                if end > before:
                    self.seen.commit_s += [now - end] if before else []
                    before = end


# Up to where the newest stretch is analysed; no row while there is none.
_UNTIL = """SELECT r.start_utc, sum(e.analysed_s) FROM recordings r JOIN effort e ON e.recording = r.id
    WHERE r.rowid = (SELECT max(recordings.rowid) FROM recordings JOIN effort ON recording = id) GROUP BY r.id"""
_BOOKS = """SELECT r.start_utc, sum(e.analysed_s), 'analysed' FROM recordings r JOIN effort e ON e.recording = r.id
    GROUP BY r.id UNION ALL SELECT start_utc, seconds, reason FROM gaps ORDER BY 1"""
_HEARD = """SELECT d.recording, d.offset_s, d.species, d.start_utc, d.score, d.threshold FROM detections d
    ORDER BY d.start_utc, d.species"""


def unix(utc: str) -> float:
    """Of a time as the record has it."""
    return datetime.strptime(utc, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


def books(daemon: Daemon) -> tuple[list[str], list[str]]:
    """Figures of effort and gaps, and what is wrong with them: they add up to the time that the daemon was there, to
    one window, and each begins where the one before ended."""
    rows, seen = [(unix(start), float(s), why) for start, s, why in daemon.rows(_BOOKS)], daemon.seen
    began, told = rows[0][0], sum(s for _, s, _ in rows)
    apart = [after[0] - (row[0] + row[1]) for row, after in zip(rows, rows[1:], strict=False)]
    worst = max(map(abs, apart), default=0.0)
    gaps: dict[str, list[float]] = {}
    for _, seconds, why in rows:
        gaps.setdefault(why, []).append(seconds)
    kinds = ", ".join(f"{why} {sum(s):.2f} s in {len(s)}" for why, s in gaps.items())
    line = (
        f"books: {kinds}; together {told:.2f} s of {seen.ended - began:.2f} s until it was asked to stop, "
        f"{seen.gone - began:.2f} s until it was gone; rows abut to {worst * 1000:.0f} ms"
    )
    adds_up = seen.ended - began - WINDOW_S <= told <= seen.gone - began + WINDOW_S
    wrong = [] if adds_up else ["effort and gaps do not add up to the time that the daemon was there"]
    wrong += [] if worst < 0.1 else [f"a row does not begin where the one before ended: {worst:.3f} s apart"]
    wrong += [] if seen.status == 0 else [f"exit status {seen.status}"]
    text = daemon.log.read_text()
    return [line], wrong + (["a traceback in its log"] if "Traceback" in text else [])


# The same sound, live and replayed


@dataclass(frozen=True)
class Heard:
    """One detection."""

    recording: str
    offset_s: float
    species: str
    time: float
    score: float
    threshold: float


def heard(database: Path) -> list[Heard]:
    """All detections, by time."""
    with closing(sqlite3.connect(database)) as db:
        return [Heard(r, o, species, unix(at), s, t) for r, o, species, at, s, t in db.execute(_HEARD)]


def replayed(folder: Path, bundle: Path, sounds: dict[str, Pcm]) -> list[Heard]:
    """Detections of `edge replay` of these recordings, each named by its time; `recording` is the name."""
    for name, sound in sounds.items():
        (folder / "in").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "in" / name, sound, CARD_HZ, "PCM_16")
    config = folder / "station.yaml"
    config.write_text(f"station: {{id: forest}}\nbundle: {bundle}\n")
    command = [sys.executable, "-m", "edge", "replay", str(folder / "in"), "--config", str(config)]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with closing(sqlite3.connect(folder / "station.db")) as db:
        names = dict(db.execute("SELECT id, path FROM recordings").fetchall())
    return [replace(h, recording=names[h.recording]) for h in heard(folder / "station.db")]


def name_of(at: float, prefix: str = "") -> str:
    """A recorder's file name for a recording that begins in this second."""
    return f"{prefix}{datetime.fromtimestamp(at, timezone.utc):%Y%m%d_%H%M%S}.wav"


def stretches(daemon: Daemon, recording: Pcm, recording_start: float) -> dict[str, tuple[int, int, float]]:
    """Recording id -> first sample and end in `recording` of every stretch that lies in it whole and of which there is
    a clip, and its start by the daemon's clock. The clip is what the daemon heard: where it fits the recording best,
    to the sample."""
    found = {}
    sql = """SELECT r.id, r.start_utc, r.audio_s, c.start_utc, c.path FROM recordings r JOIN clips c ON c.recording = r.id
        GROUP BY r.id HAVING min(c.start_utc)"""
    for recording_id, start, audio_s, clip_start, path in daemon.rows(sql):
        clip, _ = soundfile.read(daemon.database.parent / "clips" / path, dtype="float32")
        into = round((unix(clip_start) - unix(start)) * RATE_HZ)
        guess = round((unix(clip_start) - recording_start) * CARD_HZ)
        first = _position(clip, recording, guess) - into * CARD_HZ // RATE_HZ
        end = first + round(audio_s * CARD_HZ)
        if first >= 0 and end <= len(recording):
            found[recording_id] = (first, end, unix(start))
    return found


def _position(clip: Samples, recording: Pcm, guess: int) -> int:
    """Sample of `recording` (48 kHz) at which `clip` (32 kHz) begins, within a second of `guess`."""
    begin = max(0, guess - CARD_HZ)
    around = recording[begin : guess + CARD_HZ + len(clip) * CARD_HZ // RATE_HZ + 3].astype(np.float32) / 32768
    best = (-np.inf, 0)
    for phase in range(3):  # three samples at 48 kHz are two at 32 kHz
        sound = soxr.resample(around[phase:], CARD_HZ, RATE_HZ)
        score = correlate(sound, clip, "valid", "fft")
        at = int(np.argmax(score))
        best = max(best, (float(score[at]), begin + phase + at * CARD_HZ // RATE_HZ))
    return best[1]


def compared(live: list[Heard], replay: list[Heard], keys: dict[str, str]) -> tuple[str, list[str]]:
    """Figures and faults where live and replay had the same windows. `keys`: live recording id -> replayed name."""
    ours = {(keys[h.recording], round(h.offset_s, 3), h.species): h for h in live if h.recording in keys}
    theirs = {(h.recording, round(h.offset_s, 3), h.species): h for h in replay}
    both = ours.keys() & theirs.keys()
    apart = max((abs(ours[k].score - theirs[k].score) for k in both), default=0.0)
    alone = [(ours | theirs)[k] for k in ours.keys() ^ theirs.keys()]
    line = f"live {len(ours)} of {len(live)}, replay {len(theirs)}, same {len(both)}; scores at most {apart:.2g} apart"
    return line, [f"only one of both: {_said(h)}" for h in alone] + ([] if both else ["nothing to compare"])


def _said(h: Heard) -> str:
    return f"{h.species} at {h.offset_s:g} s, {h.score - h.threshold:+.4f} from the threshold"


def alike(live: list[Heard], replay: list[Heard]) -> tuple[list[str], list[str]]:
    """Figures and faults where windows lie elsewhere: every detection has one of its species within a window, or is so
    near its threshold that where its window lay decided."""

    def alone(some: list[Heard], others: list[Heard]) -> list[Heard]:
        return [h for h in some if not any(o.species == h.species and abs(o.time - h.time) <= WINDOW_S for o in others)]

    one, other = alone(live, replay), alone(replay, live)
    lines = [f"live {len(live)}, replay {len(replay)}; without a partner {len(one)} and {len(other)}"]
    lines += [f"  only {who}: {_said(h)}" for who, some in (("live", one), ("replay", other)) for h in some]
    return lines, [f"not the same: {_said(h)}" for h in one + other if abs(h.score - h.threshold) > _HAIR]


# Slow inference


def slow_bundle(folder: Path, window_s: float) -> Path:
    """The shipped bundle with each member twice, and so much work that no score depends on in each network that a
    window takes all four about `window_s` on one core as busy as it is now."""
    shutil.copytree(BUNDLE, folder)
    bundle = read(folder)
    products = max(1, round(_CHAIN * window_s / 4 / _chain_s(folder)))
    members = []
    for member in bundle.manifest.members:
        network = _with_products(onnx.load(folder / member.file), products)
        for copy in ("", "-again"):
            file = member.file.replace(".onnx", f"{copy}.onnx")
            onnx.save(network, folder / file)
            members.append(replace(member, name=member.name + copy, file=file))
    probe = bundle.probe()
    replace(probe, member_scores=np.repeat(probe.member_scores, 2, axis=0)).write(folder / "probe.npz")
    seal_bundle(folder, replace(bundle.manifest, members=tuple(members)))
    return folder


def _with_products(network: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Before its first layer the image is multiplied so often by one, a matrix of 281 x 281."""
    slow = onnx.ModelProto()
    slow.CopyFrom(network)
    graph, name = slow.graph, slow.graph.input[0].name
    names = [name, *(f"slow{n}" for n in range(count))]
    for node in graph.node:
        node.input[:] = [names[-1] if i == name else i for i in node.input]
    chain = [helper.make_node("MatMul", [a, "one"], [b]) for a, b in zip(names, names[1:], strict=False)]
    nodes = [*chain, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.eye(281, dtype=np.float32), "one"))
    return slow


def _chain_s(bundle: Path) -> float:
    """Seconds of `_CHAIN` products and one network on one core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    network = _with_products(onnx.load(next(bundle.glob("members/*.onnx"))), _CHAIN)
    session = ort.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = {session.get_inputs()[0].name: np.zeros((1, 1, MEL_BANDS, 281), np.float32)}
    began = time.perf_counter()
    for _ in range(20):
        session.run(None, image)
    return (time.perf_counter() - began) / 20


# Scenes: each returns its figures, and what is wrong

Scene = tuple[list[str], list[str]]


def same(folder: Path, seconds: float, bundle: Path = BUNDLE, sound: Path | None = None) -> Scene:
    """Live, and a replay of the recording: cut where the live stretches begin, and as a recorder would have cut it."""
    with ExitStack() as stack:
        card = stack.enter_context(Card(folder))
        broker = stack.enter_context(Broker(folder, free_port()))
        card.play(sound or forest(folder / "forest.wav", seconds + _START_S_MAX))
        recording = stack.enter_context(Recording(card))
        listener = stack.enter_context(Listener(broker.port, DETECTIONS))
        mqtt = f"mqtt: {{host: 127.0.0.1, port: {broker.port}}}"
        with Daemon(card, folder / "live", bundle, mqtt) as daemon:
            time.sleep(seconds)
        until(lambda: len(listener.messages) >= len(heard(daemon.database)), 20)
        samples, started = recording.samples(), recording.start
    lines, wrong = books(daemon)
    live, cuts = heard(daemon.database), stretches(daemon, samples, started)
    early = [(started + first / CARD_HZ - start) * 1000 for first, _, start in cuts.values()]
    lines.append(
        f"{len(cuts)} stretches found in the recording; its clock and the daemon's {np.round(early, 1)} ms apart"
    )
    names = {key: name_of(start, f"{first}_") for key, (first, _, start) in cuts.items()}
    sounds = {names[key]: samples[first:end] for key, (first, end, _) in cuts.items()}
    line, faults = compared(live, replayed(folder / "cut", bundle, sounds), names)
    lines.append(f"windows at the same places: {line}")
    skip = round((np.ceil(started) - started) * CARD_HZ)  # a file name knows full seconds
    own = replayed(folder / "whole", bundle, {name_of(np.ceil(started)): samples[skip:]})
    began, told = (unix(t) for t in daemon.rows("SELECT min(start_utc), max(start_utc) FROM detections")[0])
    more, faults_too = alike(live, [h for h in own if began - WINDOW_S / 2 <= h.time <= told + WINDOW_S / 2])
    lines += ["windows at other places: " + more[0], *more[1:], *latency(daemon, listener)]
    missing = {m["id"] for m in map(json.loads, listener.payloads(DETECTIONS))} ^ ids(daemon)
    return lines, [
        *wrong,
        *faults,
        *faults_too,
        *([f"messages: {len(missing)} are not the record's"] if missing else []),
    ]


def ids(daemon: Daemon) -> set[str]:
    """Of all detections."""
    return {str(row[0]) for row in daemon.rows("SELECT id FROM detections")}


def latency(daemon: Daemon, listener: Listener) -> list[str]:
    """From a window's end to its row and to its message, and what the daemon takes of the machine."""
    apart = time.time() - time.monotonic()  # paho stamps arrivals by the monotonic clock
    told = [m.timestamp + apart - unix(json.loads(m.payload)["end"]) for m in list(listener.messages)]
    seen = daemon.seen
    lines = [f"from a window's end to its row: {_percentiles(seen.commit_s)}"]
    lines.append(f"from a detection's end to its message: {_percentiles(told)}")
    load = os.getloadavg()[1]
    return [
        *lines,
        f"{seen.cpu_share:.1%} of a core, {seen.rss_mb:.0f} MiB (load {load:.1f} on {os.cpu_count()} cores)",
    ]


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    middle, late = np.percentile(seconds, [50, 99])
    return f"{len(seconds)}: median {middle:.2f} s, 99 % within {late:.2f} s, least {min(seconds):.2f} s"


def unplugged(folder: Path, seconds: float, bundle: Path = BUNDLE, sound: Path | None = None) -> Scene:
    """The server is killed in the middle and comes back; it stays away until health has said so, and for `seconds`."""
    with ExitStack() as stack:
        card = stack.enter_context(Card(folder))
        sound = sound or forest(folder / "forest.wav", 300)
        card.play(sound)
        with Daemon(card, folder / "live", bundle) as daemon:
            time.sleep(min(seconds, 20))
            before = daemon.health()["state"]
            card.unplug()
            gone = time.time()
            failing = until(lambda: daemon.health()["state"] == "failing", seconds + 10) and time.time() - gone
            meanwhile = daemon.health()
            time.sleep(max(0.0, gone + seconds - time.time()))
            card.plug()
            card.play(sound)
            back = time.time()
            hears = until(lambda: daemon.health()["hearing"], 90) and time.time() - back
            detects = until(lambda: heard(daemon.database)[-1].time > back, 60) and time.time() - back
            after = daemon.health()
    lines, wrong = books(daemon)
    lines.append(f"health: {before}; {failing:.1f} s after the kill {meanwhile['state']}: {meanwhile['problems'][:1]}")
    lines.append(f"{hears:.1f} s after it was back it heard, {detects:.1f} s after it the first detection was stored")
    lines.append(f"health then: {after['state']} {after['problems']}")
    rows = daemon.rows("SELECT start_utc, seconds, reason, detail FROM gaps WHERE reason <> 'off' ORDER BY start_utc")
    lines += [
        f"gap: {unix(start) - gone:+.2f} s from the kill, {s:.2f} s, {why}: {what}" for start, s, why, what in rows
    ]
    if [why for _, _, why, _ in rows] != ["unplugged"]:
        wrong.append("one gap, unplugged, was wanted")
    states = (before, meanwhile["state"])
    wrong += [] if states == ("ok", "failing") and failing else [f"health said {states}"]
    return lines, wrong + ([] if hears and detects and after["state"] != "failing" else ["it did not recover"])


def slow(folder: Path, seconds: float, window_s: float) -> Scene:
    """A bundle that takes `window_s` for a window where 2.5 s are to be had, 5 s without overlap."""
    bundle = slow_bundle(folder / "bundle", window_s)
    with ExitStack() as stack:
        card = stack.enter_context(Card(folder))
        card.play(forest(folder / "forest.wav", seconds + _START_S_MAX))
        with Daemon(card, folder / "live", bundle, "runtime: {threads: 1}", buffer_s=10) as daemon:
            time.sleep(seconds)
            said = daemon.health()
    lines, wrong = books(daemon)
    efforts = dict(daemon.rows("SELECT shed, sum(analysed_s) FROM effort GROUP BY shed"))
    counts = dict(daemon.rows("SELECT shed, count(*) FROM detections GROUP BY shed"))
    lines.append(f"a window takes {window_s:g} s; seconds analysed by step {efforts}, detections by step {counts}")
    lines.append(f"health in the end: {said['state']}, step {said['shed']}, {said['problems'][:1]}")
    steps = max(efforts) > 0 and any(counts.get(step, 0) for step in (1, 2))
    return lines, wrong + ([] if steps else ["no step of the ladder in the rows"])


def overloaded(folder: Path, seconds: float) -> Scene:
    """Too slow even for two members without overlap: sound is lost, and the record says which."""
    lines, wrong = slow(folder, seconds, 16.0)
    return lines, wrong + ([] if "overload" in lines[0] else ["no gap of overload in the rows"])


def main() -> None:
    """Play the scenes and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of listening in the scene 'same'")
    parser.add_argument("--scene", choices=["same", "unplugged", "slow", "all"], default="all")
    arguments = parser.parse_args()
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        sys.exit(f"{', '.join(missing)} missing: apt-get install pulseaudio pulseaudio-utils libasound2-plugins")
    scenes = {
        "same": lambda folder: same(folder, arguments.minutes * 60),
        "unplugged": lambda folder: unplugged(folder, 30),
        "slow": lambda folder: slow(folder, 90, 3.2),
        "slow, overloaded": lambda folder: overloaded(folder, 90),
    }
    failed = False
    for name, scene in scenes.items():
        if arguments.scene not in ("all", name.split(",")[0]):
            continue
        folder = Path(tempfile.mkdtemp(prefix="card-"))
        lines, wrong = scene(folder)
        print(
            f"{name}:", *(f"  {line}" for line in lines), *(f"  WRONG {line}" for line in wrong), sep="\n", flush=True
        )
        if wrong:
            failed = True
            print(f"everything is in {folder}")
        else:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
