"""Checks of the microphone, by listening for a while, or of the folder of recordings. They judge
the quality of the sound, not its content."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge.capture.folder import FolderWatch
from edge.capture.meter import Level
from edge.capture.microphone import Trial, listen
from edge.capture.own_files import OwnFiles
from edge.capture.portaudio import InputDevice, PortAudio
from edge.capture.recording import open_recording
from edge.capture.start_time import start_of
from edge.check.verdict import CheckResult, CheckVerdict, Figures
from edge.config import Config, MicrophoneSettings
from edge.contract.audio import Samples
from edge.contract.errors import CaptureError, ConfigError, RecordingError

# share of the samples: more by a gain that is too high, less even by a songbird at one metre
CLIPPED_MAX = 1e-3
OFFSET_MAX = 0.01  # of full scale; more by a card that does not suit the microphone, or is broken
LEVEL_DBFS_MIN = -80.0  # a quiet night through any microphone is louder, an open input is not
LOST_MAX = 0.01  # share of the time
# crystals are within 100 ppm; through a sound server arrivals jitter by 3000 ppm in ten seconds
RATE_PPM_MAX = 10_000.0
_RATE_AFTER_S = 1.0
_RATE_OVER_S_MIN = 5.0
_SHOWN = 3
_READ = 20  # recordings whose headers are read

PLUG = (
    "Plug the microphone in and make sure that the station's user is in the group audio; `arecord "
    "-l` lists the cards that Linux sees."
)
UNREAD = (
    "If this is the card to use, give it a short name in plain letters (/etc/asound.conf) and set "
    "that as microphone.device; otherwise ignore this."
)


class Watch(PortAudio):
    """PortAudio that notes the device it opened, and time and size of each block of samples."""

    def __init__(self, sounddevice: Any = None) -> None:
        super().__init__(sounddevice)
        self.device: InputDevice | None = None
        self.rate_hz = 0
        self.arrivals: list[tuple[float, int]] = []

    def open(
        self,
        device: InputDevice,
        rate_hz: int,
        channel: int,
        write: Callable[[Samples, bool], None],
        end: Callable[[], None],
    ) -> Any:
        self.device = device
        self.rate_hz = rate_hz
        self.arrivals = []

        def counted(samples: Samples, lost: bool) -> None:
            self.arrivals.append((time.monotonic(), len(samples)))
            write(samples, lost)

        return super().open(device, rate_hz, channel, counted, end)

    def rate_ppm(self) -> float | None:
        """Deviation of the card from its nominal rate in ppm, positive: faster; None: too few
        samples to measure it."""
        if not self.arrivals:
            return None
        first_s = self.arrivals[0][0]
        at = np.array([s - first_s for s, _ in self.arrivals])
        count = np.cumsum([n for _, n in self.arrivals])
        settled = at >= _RATE_AFTER_S  # before that, buffered samples arrive
        if not settled.any() or at[-1] - _RATE_AFTER_S < _RATE_OVER_S_MIN:
            return None
        rate_hz = float(np.polyfit(at[settled], count[settled], 1)[0])
        return (rate_hz / self.rate_hz - 1) * 1e6


def check_microphone(
    settings: MicrophoneSettings, listen_s: float, sounddevice: Any = None
) -> list[CheckResult]:
    """The sound cards of this machine, and the sound of the one that the settings name.
    `sounddevice`: as for `PortAudio`."""
    if listen_s <= 0:
        return [CheckResult("microphone", "ok", "not listened to (--listen-s 0)")]
    watch = Watch(sounddevice)
    try:
        watch.rescan()
        cards = watch.inputs()
    except CaptureError as error:
        return [CheckResult("microphone", "bad", str(error), PLUG)]
    if not cards:
        found = "; ".join(["no sound card with an input", *watch.unread])
        return [CheckResult("microphone", "bad", found, UNREAD if watch.unread else PLUG)]
    listed = [
        f"{card.name!r} ({card.channels} channels, {card.rate_hz or '?'} Hz)" for card in cards
    ]
    found = "; ".join([*listed, *watch.unread])
    advice = UNREAD if watch.unread else ""
    trial = listen(settings, listen_s, portaudio=watch)
    verdict: CheckVerdict = "warning" if watch.unread else "ok"
    return [CheckResult("sound cards", verdict, found, advice), _judge(watch, trial, listen_s)]


def _judge(watch: Watch, trial: Trial, listen_s: float) -> CheckResult:
    """One row with the worst fault of the sound, and its figures."""
    level = trial.level
    if level is None:
        why = trial.gaps[-1].detail if trial.gaps else f"no sample arrived in {listen_s:g} s"
        advice = (
            "Check cable and microphone.device; if the station is running already, stop it for "
            "this check."
        )
        return CheckResult("microphone", "bad", why, advice)
    lost_s = sum(gap.seconds for gap in trial.gaps)
    ppm = watch.rate_ppm()
    name = watch.device.name if watch.device else "?"
    found = (
        f"{name!r} at {watch.rate_hz} Hz, {level.seconds:.0f} s heard: level "
        f"{level.level_dbfs:.1f} dBFS, peak {_dbfs(level.peak):.1f} dBFS, {level.clipped:.2%} "
        f"clipped, offset {level.offset:+.2%}, {lost_s:.2f} s lost"
        + ("" if ppm is None else f", {ppm / 1e4:+.1f} % off its rate")
    )
    verdict, advice = sound_verdict(level, lost_s / listen_s, ppm)
    figures: Figures = {
        "device": name,
        "rate_hz": watch.rate_hz,
        "heard_s": round(level.seconds, 2),
        "level_dbfs": _finite(level.level_dbfs),
        "peak_dbfs": _finite(_dbfs(level.peak)),
        "clipped": round(level.clipped, 6),
        "offset": round(level.offset, 6),
        "lost_s": round(lost_s, 3),
        "rate_ppm": None if ppm is None else round(ppm),
    }
    return CheckResult("microphone", verdict, found, advice, figures=figures)


def sound_verdict(level: Level, lost: float, ppm: float | None) -> tuple[CheckVerdict, str]:
    """Verdict on the sound by its worst fault, and advice. `lost`: share of the time; `ppm`:
    deviation from the nominal rate."""
    rules: tuple[tuple[bool, CheckVerdict, str], ...] = (
        (
            math.isinf(level.level_dbfs),
            "bad",
            "All samples are equal: change the microphone or its cable.",
        ),
        (
            level.clipped > CLIPPED_MAX,
            "bad",
            "Lower the gain (alsamixer, capture): loud sound is clipped.",
        ),
        (
            lost > LOST_MAX,
            "bad",
            "Samples are lost: use another USB port or a powered hub, stop other programs.",
        ),
        (
            level.level_dbfs < LEVEL_DBFS_MIN,
            "warning",
            "Is it plugged in and not muted? Raise the gain (alsamixer).",
        ),
        (
            abs(level.offset) > OFFSET_MAX,
            "warning",
            "There is a constant offset (DC): try another input or sound card.",
        ),
        (lost > 0, "warning", "Some samples were lost: listen again for longer (--listen-s 60)."),
        (
            abs(ppm or 0.0) > RATE_PPM_MAX,
            "warning",
            "The card does not run at its nominal rate: set microphone.rate_hz.",
        ),
    )
    return next(((verdict, advice) for holds, verdict, advice in rules if holds), ("ok", ""))


def _dbfs(peak: float) -> float:
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def check_folder(config: Config) -> list[CheckResult]:
    """Recordings that wait in the folder, and the start times of the oldest. Raises ConfigError if
    no folder is named."""
    folder = config.folder.path
    if folder is None:
        raise ConfigError("folder.path: missing; source: folder needs it")
    own = OwnFiles(config.state)
    watch = FolderWatch(folder, 0.0, config.zone, own=own)
    paths = watch.ready()
    if watch.problem:
        return [
            CheckResult(
                "folder",
                "bad",
                watch.problem,
                "Mount the disk, or let the station's user read the folder.",
            )
        ]
    known = []
    refused = []
    guessed = 0
    for path in paths[:_READ]:
        try:
            start = start_of(path, zone=config.zone, duration_s=open_recording(path).duration_s)
        except (RecordingError, OSError) as error:
            refused.append(str(error))
            continue
        guessed += start.source == "mtime"
        known.append(f"{path.name} {start.start_utc:%Y-%m-%d %H:%M:%S} UTC by {start.source}")
    waiting = watch.waiting()
    found = f"{folder}: {waiting.files} recordings" + (
        f"; first {'; '.join(known[:_SHOWN])}" if known else ""
    )
    if own.holds_state(folder):
        found += "; the station's own files in it (clips, copies, record) are ignored"
    figures = {"files": waiting.files, "refused": len(refused), "guessed": guessed}
    if refused:
        found += (
            f"; {len(refused)} of the first {len(paths[:_READ])} cannot be decoded: {refused[0]}"
        )
        return [
            CheckResult(
                "folder",
                "warning",
                found,
                "Copy these again, or remove them from the folder.",
                figures=figures,
            )
        ]
    if guessed:
        found += f"; {guessed} of the first {len(paths[:_READ])} have no time but the file's date"
        advice = (
            "Keep the recorder's file names (date and time) and copy with times (cp -p): copying "
            "changes the date."
        )
        return [CheckResult("folder", "warning", found, advice, figures=figures)]
    return [CheckResult("folder", "ok", found, figures=figures)]
