"""How well the station hears people: speech of many voices mixed over field sound, and what alarms
where nobody speaks.

python -m tests.trials.speech FOLDER... [--mixes 240] [--out OUT]

FOLDER: recordings in which nobody speaks, e.g. ../shared/data/station_day; a file will do. Voices
are espeak-ng's (apt-get install espeak-ng): 8 languages, 3 timbres. Each utterance (3 to 4 s) lies
at a random place in ten seconds of the folder's sound, so loud that its mean power is 10, 0 and -10
dB above that of the sound under it. Found: of the windows (5 s, every 2.5 s) that hold a whole
utterance, those that are said to hold speech. Open: spoken seconds that lie in no private span, so
that a clip might hold them. Alarms are counted in windows every 5 s, with Clopper and Pearson's
upper bound of 95 %; with --out each is written as picture and sound: look and listen before you
call any of them false.
"""

import argparse
import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy import stats

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, Samples
from edge.contract.errors import BirdstationError, RecordingError
from edge.speech.listener import FRAME_SAMPLES, Listener
from edge.types import Gap
from tests.trials import counted

LEVELS_DB = (10, 0, -10)
FOUND_MIN = {10: 0.99, 0: 0.99, -10: 0.67}
ALARMS_MAX = 0.011  # of a folder's windows
TIMBRES = ("m3", "f2", "klatt3")
SENTENCES = {
    "de": "Wollen wir noch hinter der alten Scheune nachsehen, bevor es dunkel wird?",
    "en-gb": "Shall we have a look behind the old barn before it gets dark?",
    "es": "Vamos a mirar detrás del viejo granero antes de que se haga de noche.",
    "fr-fr": "On pourrait aller voir derrière la vieille grange avant que la nuit tombe.",
    "it": "Andiamo a guardare dietro il vecchio fienile prima che faccia buio.",
    "pl": "Zajrzyjmy za starą stodołę, zanim zrobi się ciemno.",
    "pt": "Vamos olhar atrás do velho celeiro antes que fique escuro.",
    "ru": "Давай посмотрим за старым сараем, пока ещё не стемнело.",
}
Span = tuple[int, int]
_SCENE = 10 * RATE_HZ
_HOPS = {"2.5": WINDOW_SAMPLES // 2, "5": WINDOW_SAMPLES}


def voices() -> dict[str, Samples]:
    """Each language's sentence in each timbre, without silence at its ends. Raises SystemExit
    without espeak-ng."""
    if shutil.which("espeak-ng") is None:
        raise SystemExit("error: espeak-ng is wanted: apt-get install espeak-ng")
    spoken = {}
    for language, sentence in SENTENCES.items():
        for timbre in TIMBRES:
            name = f"{language}+{timbre}"
            command = ["espeak-ng", "-v", name, "--stdout", sentence]
            sound, rate = soundfile.read(
                io.BytesIO(subprocess.check_output(command)), dtype="float32"
            )
            sound = soxr.resample(sound, rate, RATE_HZ)
            loud = np.flatnonzero(np.abs(sound) > np.abs(sound).max() / 50)
            spoken[name] = sound[loud[0] : loud[-1] + 1]
    return spoken


def recordings(folder: Path) -> Iterator[tuple[Path, Samples]]:
    """The sound of each file that can be decoded."""
    for path in (
        [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    ):
        try:
            with Decoder(path) as decoder:
                parts = [part for part in decoder if not isinstance(part, Gap)]
        except RecordingError:
            continue
        if parts:
            yield path, np.concatenate(parts)


def spoken_windows(sound: Samples, hop: int) -> dict[int, int]:
    """Starts of the windows that hold speech, and where it began."""
    listener = Listener()
    listener.push(sound)
    last = max(0, len(sound) - WINDOW_SAMPLES)
    starts = [*range(0, last, hop), last]
    told = {
        start: listener.spoken(start, min(start + WINDOW_SAMPLES, len(sound))) for start in starts
    }
    return {start: began for start, began in told.items() if began is not None}


@dataclass
class Tally:
    """What one folder came to."""

    windows: int = 0
    alarms: list[tuple[Path, int]] = field(default_factory=list)
    whole: dict[int, list[bool]] = field(default_factory=lambda: {level: [] for level in LEVELS_DB})
    spoken: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LEVELS_DB, 0))
    open: dict[tuple[int, str], int] = field(
        default_factory=lambda: {(level, hop): 0 for level in LEVELS_DB for hop in _HOPS}
    )
    missed: list[str] = field(default_factory=list)

    def count_alarms(self, path: Path, sound: Samples) -> None:
        """In the windows of a recording in which nobody speaks."""
        self.windows += max(1, -(-len(sound) // WINDOW_SAMPLES))
        self.alarms += [(path, start) for start in spoken_windows(sound, WINDOW_SAMPLES)]

    def mix(self, path: Path, scene: Samples, voice: str, utterance: Samples, at: int) -> None:
        """An utterance at each level over ten seconds of sound."""
        utterance = utterance[: _SCENE - at]
        until = at + len(utterance)
        under = np.mean(np.square(scene[at:until]))
        own = np.mean(np.square(utterance))
        for level in LEVELS_DB:
            sound = scene.copy()
            sound[at:until] += utterance * np.sqrt((under + 1e-12) / own * 10 ** (level / 10))
            sound /= max(1.0, float(np.abs(sound).max()))
            self.spoken[level] += len(utterance)
            for name, hop in _HOPS.items():
                told = spoken_windows(sound, hop)
                self.open[level, name] += _left_open((at, until), told)
                if name == "2.5":
                    whole = [
                        start
                        for start in range(0, _SCENE // 2 + 1, hop)
                        if _holds(start, at, until)
                    ]
                    self.whole[level] += [start in told for start in whole]
                    self.missed += [
                        f"{level} dB {voice} over {path.name}"
                        for start in whole
                        if start not in told
                    ]


def _holds(start: int, at: int, until: int) -> bool:
    return start <= at and until <= start + WINDOW_SAMPLES


def _left_open(speech: Span, told: dict[int, int]) -> int:
    """Samples of speech outside of what is private."""
    private = np.zeros(_SCENE, bool)
    for start, began in told.items():
        private[min(start, began) : start + WINDOW_SAMPLES] = True
    return int((~private[slice(*speech)]).sum())


def bound(alarms: int, windows: int) -> float:
    """Upper bound of a share at 95 %, one-sided (Clopper and Pearson, 1934); of none in N nearly 3
    / N."""
    return float(stats.beta.ppf(0.95, alarms + 1, windows - alarms)) if alarms < windows else 1.0


def examine(folder: Path, spoken: dict[str, Samples], mixes: int) -> tuple[Tally, float, float]:
    """A folder's tally, and of its sound alone the seconds heard and the CPU seconds spent on
    hearing them."""
    tally = Tally()
    heard_s = 0.0
    cpu_s = 0.0
    scenes = []
    for path, sound in recordings(folder):
        begun = time.process_time()
        tally.count_alarms(path, sound)
        cpu_s += time.process_time() - begun
        heard_s += len(sound) / RATE_HZ
        scenes += [
            (path, sound[at : at + _SCENE]) for at in range(0, len(sound) - _SCENE + 1, _SCENE)
        ]
    random = np.random.default_rng(17)
    names = list(spoken)
    for number in range(mixes if scenes else 0):
        path, scene = scenes[int(random.integers(len(scenes)))]
        voice = names[number % len(names)]
        at = int(random.integers(_SCENE - len(spoken[voice])))
        tally.mix(path, scene, voice, spoken[voice], at)
    return tally, heard_s, cpu_s


def draw(out: Path, number: int, path: Path, start: int) -> None:
    """An alarm as sound and as a spectrogram to 8 kHz, with the frames over the limit below it."""
    import matplotlib.pyplot as plt

    sound = next(sound for _, sound in recordings(path))
    first = max(0, start - RATE_HZ)
    stop = start + WINDOW_SAMPLES
    stem = f"{number:03d}_{path.stem}_{start / RATE_HZ:.1f}s"
    soundfile.write(out / f"{stem}.wav", sound[first:stop], RATE_HZ)
    figure, axes = plt.subplots(figsize=(14, 7))
    shown = sound[first:stop] + 1e-7 * np.random.default_rng(0).standard_normal(
        len(sound[first:stop])
    )
    axes.specgram(shown, NFFT=1024, Fs=RATE_HZ, noverlap=896, cmap="magma", scale="dB")
    axes.set(
        ylim=(0, 8000), title=f"{path.name}, from {first / RATE_HZ:.1f} s", xlabel="s", ylabel="Hz"
    )
    for begin, end in speech_runs(sound, stop):
        axes.axvspan((begin - first) / RATE_HZ, (end - first) / RATE_HZ, 0, 0.03, color="cyan")
    axes.set_xlim(0, len(shown) / RATE_HZ)
    figure.savefig(out / f"{stem}.png", dpi=70)
    plt.close(figure)


def speech_runs(sound: Samples, until: int) -> list[Span]:
    """Runs of speech, as windows of a hop of a frame tell them."""
    listener = Listener()
    runs = dict[int, int]()
    listener.push(sound[:until])
    for stop in range(FRAME_SAMPLES, min(until, len(sound)) + 1, FRAME_SAMPLES):
        begin = listener.spoken(stop - FRAME_SAMPLES, stop)
        if begin is not None:
            runs[begin] = stop
    return list(runs.items())


def report(folder: Path, tally: Tally) -> bool:
    """Print what a folder came to; whether it is as good as it should be."""
    alarms = len(tally.alarms)
    good = True
    if tally.windows:
        share = alarms / tally.windows
        most = bound(alarms, tally.windows)
        good &= share <= ALARMS_MAX
        print(
            f"{folder.name}: alarms in {alarms} of {tally.windows} windows ({share:.2%}, at most "
            f"{most:.2%})"
        )
    for level, found in tally.whole.items():
        if found:
            share = sum(found) / len(found)
            good &= share >= FOUND_MIN[level]
            left = ", ".join(
                f"{tally.open[level, hop] / tally.spoken[level]:.1%} at hop {hop} s"
                for hop in _HOPS
            )
            print(
                f"  {level:+d} dB: found in {share:.1%} of {len(found)} windows; of the spoken "
                f"sound open {left}"
            )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument(
        "--mixes", type=counted, default=240, help="utterances for each folder, at three levels"
    )
    parser.add_argument(
        "--out", type=Path, help="for pictures and sound of alarms, and lists of what is missed"
    )
    arguments = parser.parse_args()
    absent = [str(folder) for folder in arguments.folders if not folder.exists()]
    if absent:
        parser.error(f"{', '.join(absent)}: no such file or folder")
    good = True
    heard_s = 0.0
    cpu_s = 0.0
    number = 0
    spoken = voices()
    for folder in arguments.folders:
        tally, heard, cpu = examine(folder, spoken, arguments.mixes)
        good &= report(folder, tally)
        heard_s = heard_s + heard
        cpu_s = cpu_s + cpu
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / f"missed-{folder.name}.txt").write_text("\n".join(tally.missed) + "\n")
            for path, start in tally.alarms:
                draw(arguments.out, number, path, start)
                number += 1
    hour_s = cpu_s / max(heard_s, 1e-9) * 3600
    print(f"{hour_s:.2f} CPU-s for an hour of sound, one thread ({heard_s / 60:.0f} minutes heard)")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BirdstationError as error:
        sys.exit(f"error: {error}")
