"""A station at a virtual sound card: does it hear live what a replay of the recording hears, and
what do bad days do?

    python -m tests.trials.virtual_card --minutes 10 [--scene same|unplugged|slow]

The demo's soundscapes are played into the card in real time, the daemon listens through
sounddevice, parec records beside it. Prints the figures, exits 1 if anything is wrong and then
keeps its folder.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy.signal import correlate

from edge.contract.audio import RATE_HZ, Samples
from edge.daemon.health import SILENT_S_MAX
from tests.helpers.brokers import Broker, Listener, free_port, until
from tests.helpers.daemon import BOOKS, PROJECT, WINDOW_S, Daemon, Heard, books, heard, unix
from tests.helpers.slow_bundle import BUNDLE, slow_bundle
from tests.helpers.sound_card import CARD_HZ, Card, Pcm, Recording, forest, missing_programs
from tests.trials import above_zero

DETECTIONS = "birdstation/v1/forest/detection"
_ALONE_SHARE_MAX = (
    0.05  # where windows lie elsewhere, scores near a threshold fall on its other side
)
_SENT = "SELECT id FROM outbox WHERE state = 'sent'"
_SPARE_S = 600.0  # of sound, for the daemon's start and a slow end

# The same sound, live and replayed


def replayed(folder: Path, bundle: Path, sounds: dict[str, Pcm]) -> list[Heard]:
    """Detections of `edge replay` of these recordings, each named by its time; `recording` is the
    name."""
    for name, sound in sounds.items():
        (folder / "in").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "in" / name, sound, CARD_HZ, "PCM_16")
    config = folder / "station.yaml"
    config.write_text(f"station: {{id: forest}}\nbundle: {bundle}\n")
    command = [sys.executable, "-m", "edge", "replay", str(folder / "in"), "--config", str(config)]
    subprocess.run(
        command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with closing(sqlite3.connect(folder / "station.db")) as db:
        names = dict(db.execute("SELECT id, path FROM recordings").fetchall())
    return [replace(h, recording=names[h.recording]) for h in heard(folder / "station.db")]


def name_of(at: float, prefix: str = "") -> str:
    """A recorder's file name for a recording that begins in this second."""
    return f"{prefix}{datetime.fromtimestamp(at, timezone.utc):%Y%m%d_%H%M%S}.wav"


def stretches(
    daemon: Daemon, recording: Pcm, recording_start: float
) -> dict[str, tuple[int, int, float]]:
    """Recording id -> first sample and end in `recording` of every stretch that lies in it whole
    and of which there is a clip, and its start by the daemon's clock. The clip is what the daemon
    heard: where it fits the recording best, to the sample."""
    found = {}
    sql = """SELECT r.id, r.start_utc, r.audio_s, min(c.start_utc), c.path
        FROM recordings r JOIN clips c ON c.recording = r.id GROUP BY r.id"""
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
    """Sample of `recording` (48 kHz) at which `clip` (32 kHz) begins, within a second of
    `guess`."""
    begin = max(0, guess - CARD_HZ)
    around = (
        recording[begin : guess + CARD_HZ + len(clip) * CARD_HZ // RATE_HZ + 3].astype(np.float32)
        / 32768
    )
    best = (-np.inf, 0)
    for phase in range(3):  # three samples at 48 kHz are two at 32 kHz
        sound = soxr.resample(around[phase:], CARD_HZ, RATE_HZ)
        score = correlate(sound, clip, "valid", "fft")
        at = int(np.argmax(score))
        best = max(best, (float(score[at]), begin + phase + at * CARD_HZ // RATE_HZ))
    return best[1]


def compared(live: list[Heard], replay: list[Heard], keys: dict[str, str]) -> tuple[str, list[str]]:
    """Figures and faults where live and replay had the same windows. `keys`: live recording id ->
    replayed name."""
    ours = {
        (keys[h.recording], round(h.offset_s, 3), h.species): h for h in live if h.recording in keys
    }
    theirs = {(h.recording, round(h.offset_s, 3), h.species): h for h in replay}
    both = ours.keys() & theirs.keys()
    apart = max((abs(ours[k].score - theirs[k].score) for k in both), default=0.0)
    alone = [(ours | theirs)[k] for k in ours.keys() ^ theirs.keys()]
    line = (
        f"live {len(ours)} of {len(live)}, replay {len(theirs)}, same {len(both)}; scores at most "
        f"{apart:.2g} apart"
    )
    return line, [f"only one of both: {_said(h)}" for h in alone] + (
        [] if both else ["nothing to compare"]
    )


def _said(h: Heard) -> str:
    return f"{h.species} at {h.offset_s:g} s, {h.score - h.threshold:+.4f} from the threshold"


def alike(
    live: list[Heard], replay: list[Heard], began: float, ended: float
) -> tuple[list[str], list[str]]:
    """Figures and faults where windows lie elsewhere: detections have one of their species within a
    window, but for few scores near their threshold. What was replayed from before and after the
    live stretch is only a partner."""

    def alone(some: list[Heard], others: list[Heard]) -> list[Heard]:
        return [
            h
            for h in some
            if not any(o.species == h.species and abs(o.time - h.time) <= WINDOW_S for o in others)
        ]

    inside = [h for h in replay if began <= h.time and h.time + WINDOW_S <= ended]
    one = alone(live, replay)
    other = alone(inside, live)
    lines = [
        f"live {len(live)}, replay {len(inside)}; without a partner {len(one)} and {len(other)}"
    ]
    lines += [
        f"  only {who}: {_said(h)}"
        for who, some in (("live", one), ("replay", other))
        for h in some
    ]
    few = len(one) + len(other) <= _ALONE_SHARE_MAX * (len(live) + len(inside))
    return lines, [] if few else ["too many detections without a partner"]


# Scenes: each returns its figures, and what is wrong

Scene = tuple[list[str], list[str]]


def same(folder: Path, seconds: float, bundle: Path = BUNDLE, sound: Path | None = None) -> Scene:
    """Live, and a replay of the recording: cut where the live stretches begin, and as a recorder
    would have cut it."""
    with ExitStack() as stack:
        card = stack.enter_context(Card(folder))
        broker = stack.enter_context(Broker(folder, free_port()))
        card.play(sound or forest(folder / "forest.wav", seconds + _SPARE_S))
        recording = stack.enter_context(Recording(card))
        listener = stack.enter_context(Listener(broker.port, DETECTIONS))
        mqtt = f"mqtt: {{host: 127.0.0.1, port: {broker.port}}}"
        with Daemon(card, folder / "live", bundle, mqtt) as daemon:
            time.sleep(seconds)
        until(lambda: len(listener.messages) >= len(daemon.rows(_SENT)), 20)
        samples = recording.samples()
        started = recording.start
    scenes = (
        books(daemon),
        _cut_alike(daemon, folder / "cut", bundle, samples, started),
        _cut_otherwise(daemon, folder / "whole", bundle, samples, started),
        latency(daemon, listener),
    )
    return [line for lines, _ in scenes for line in lines], [
        line for _, wrong in scenes for line in wrong
    ]


def _cut_alike(daemon: Daemon, folder: Path, bundle: Path, samples: Pcm, started: float) -> Scene:
    """Replay the pieces of the recording that are the live stretches."""
    cuts = stretches(daemon, samples, started)
    names = {key: name_of(start, f"{first}_") for key, (first, _, start) in cuts.items()}
    sounds = {names[key]: samples[first:end] for key, (first, end, _) in cuts.items()}
    early = [
        round((started + first / CARD_HZ - start) * 1000, 1) for first, _, start in cuts.values()
    ]
    line, faults = compared(heard(daemon.database), replayed(folder, bundle, sounds), names)
    found = (
        f"stretches found in the recording: {len(cuts)}; its clock minus the daemon's {early} ms"
    )
    return [found, f"windows at the same places: {line}"], faults


def _cut_otherwise(
    daemon: Daemon, folder: Path, bundle: Path, samples: Pcm, started: float
) -> Scene:
    """Replay all of the recording from the first full second on: that is what a file name knows."""
    skip = round((np.ceil(started) - started) * CARD_HZ)
    found = replayed(folder, bundle, {name_of(np.ceil(started)): samples[skip:]})
    spans = [(unix(start), s) for start, s, why in daemon.rows(BOOKS) if why == "analysed"]
    began = spans[0][0]
    ended = spans[-1][0] + spans[-1][1]
    lines, faults = alike(heard(daemon.database), found, began, ended)
    return ["windows at other places: " + lines[0], *lines[1:]], faults


def latency(daemon: Daemon, listener: Listener) -> Scene:
    """From a window's end to its row and to its message, and what the daemon takes of the
    machine."""
    apart = time.time() - time.monotonic()  # paho stamps arrivals by the monotonic clock
    arrived = [(m.timestamp + apart, json.loads(m.payload)) for m in list(listener.messages)]
    told = [at - unix(message["end"]) for at, message in arrived]
    seen = daemon.seen
    wrong = {message["id"] for _, message in arrived} ^ {sent for (sent,) in daemon.rows(_SENT)}
    waiting = len(heard(daemon.database)) - len(daemon.rows(_SENT))
    lines = [
        f"from a window's end to its row: {_percentiles(seen.commit_s)}",
        f"from a detection's end to its message: {_percentiles(told)}; {waiting} wait for the next "
        "start",
        f"{seen.cpu_share:.1%} of a core, {seen.rss_mb:.0f} MiB; load {os.getloadavg()[1]:.1f}, "
        f"{os.cpu_count()} cores",
    ]
    return lines, [f"messages: {len(wrong)} are not the record's"] if wrong else []


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    middle, late = np.percentile(seconds, [50, 99])
    return (
        f"{len(seconds)}: median {middle:.2f} s, 99 % within {late:.2f} s, least "
        f"{min(seconds):.2f} s"
    )


def unplugged(
    folder: Path, away_s: float, bundle: Path = BUNDLE, sound: Path | None = None
) -> Scene:
    """The server is killed in the middle and comes back; when away for 30 s, not before health has
    said so."""
    with ExitStack() as stack:
        card = stack.enter_context(Card(folder))
        sound = sound or forest(folder / "forest.wav", _SPARE_S)
        card.play(sound)
        with Daemon(card, folder / "live", bundle) as daemon:
            time.sleep(5)
            said = [_said_of_sound(daemon)]
            card.unplug()
            gone = time.time()
            if away_s >= SILENT_S_MAX:
                until(lambda: _said_of_sound(daemon).startswith("failing"), away_s + 15)
                said.append(f"{time.time() - gone:.1f} s after the kill {_said_of_sound(daemon)}")
            time.sleep(max(0.0, gone + away_s - time.time()))
            card.plug()
            card.play(sound)
            back = time.time()
            hears = until(lambda: daemon.health()["hearing"], 90) and time.time() - back
            detects = (
                until(lambda: heard(daemon.database)[-1].time > back, 60) and time.time() - back
            )
            said.append(_said_of_sound(daemon))
    lines, wrong = books(daemon)
    lines.append(
        f"{hears:.1f} s after it was back it heard, {detects:.1f} s after it the first detection "
        "was stored"
    )
    lines.append(f"health: {'; '.join(said)}")
    rows = daemon.rows(
        "SELECT start_utc, seconds, reason, detail FROM gaps WHERE reason <> 'off' ORDER BY "
        "start_utc"
    )
    lines += [
        f"gap {unix(at) - gone:+.2f} s from the kill, {s:.2f} s, {why}: {what}"
        for at, s, why, what in rows
    ]
    # a busy machine may lose samples besides
    outages = [why for _, _, why, _ in rows if why != "overflow"]
    wrong += [] if outages == ["unplugged"] else [f"one gap, unplugged, was wanted, not {outages}"]
    wrong += [] if hears and detects else ["it did not recover"]
    told = ["failing" in what for what in said]
    return lines, wrong + (
        [] if not told[0] and not told[-1] and (len(told) < 3 or told[1]) else ["health was wrong"]
    )


def _said_of_sound(daemon: Daemon) -> str:
    """State and problems by health.json, but for this machine's clock, which nothing here
    changes."""
    health = daemon.health()
    problems = [line for line in health["problems"] if not line.startswith("The clock")]
    return f"{health['state'] if problems else 'ok'} {problems}"


def slow(folder: Path, seconds: float, window_s: float) -> Scene:
    """A bundle that takes `window_s` for a window where 2.5 s are to be had, 5 s without
    overlap."""
    bundle = slow_bundle(folder / "bundle", window_s)
    with ExitStack() as stack:
        card = stack.enter_context(Card(folder))
        card.play(forest(folder / "forest.wav", seconds + _SPARE_S))
        with Daemon(card, folder / "live", bundle, "runtime: {threads: 1}", buffer_s=10) as daemon:
            time.sleep(seconds)
            said = daemon.health()
    lines, wrong = books(daemon)
    efforts = dict(daemon.rows("SELECT shed, sum(analysed_s) FROM effort GROUP BY shed"))
    counts = dict(daemon.rows("SELECT shed, count(*) FROM detections GROUP BY shed"))
    lines.append(
        f"a window takes {window_s:g} s; seconds analysed by step {efforts}, detections by step "
        f"{counts}"
    )
    lines.append(f"health in the end: {said['state']}, step {said['shed']}, {said['problems'][:1]}")
    steps = max(efforts) > 0 and any(counts.get(step, 0) for step in (1, 2))
    return lines, wrong + ([] if steps else ["no step of the ladder in the rows"])


def overloaded(folder: Path, seconds: float) -> Scene:
    """Too slow even for two members without overlap, however busy the machine was when its speed
    was taken: sound is lost, and the record says which."""
    lines, wrong = slow(folder, seconds, 30.0)
    return lines, wrong + ([] if "overload" in lines[0] else ["no gap of overload in the rows"])


def main() -> None:
    """Play the scenes and say what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=above_zero, default=10, help="of listening in the scene 'same'"
    )
    parser.add_argument("--scene", choices=["same", "unplugged", "slow", "all"], default="all")
    arguments = parser.parse_args()
    if missing_programs():
        sys.exit(missing_programs())
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
            f"{name}:",
            *(f"  {line}" for line in lines),
            *(f"  WRONG {line}" for line in wrong),
            sep="\n",
            flush=True,
        )
        if wrong:
            failed = True
            print(f"everything is in {folder}")
        else:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
