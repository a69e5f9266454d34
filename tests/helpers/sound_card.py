"""A sound card without hardware, in real time: PulseAudio with a null sink, of which the monitor is
the microphone.

Wants pulseaudio, pulseaudio-utils and libasound2-plugins. Knows no station.
"""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tests.helpers.brokers import until

CARD_HZ = 48_000
PROGRAMS = ("pulseaudio", "pactl", "paplay", "parec")
PACKAGES = "pulseaudio pulseaudio-utils libasound2-plugins"
_SOUNDSCAPES = Path(__file__).parents[2] / "edge/demo/soundscapes"
_PULSE_MS = 50

Pcm = NDArray[np.int16]


def missing_programs() -> str:
    """What to install, or nothing."""
    return (
        ""
        if all(map(shutil.which, PROGRAMS))
        else f"the virtual sound card wants: apt-get install {PACKAGES}"
    )


class Card:
    """A sound server of its own, with one card that gives what is played into it.

    with Card(folder) as card:
        card.play(wav); card.unplug(); card.plug()
    """

    def __init__(self, folder: Path) -> None:
        self._run = folder / "run"
        self._home = folder / "home"
        self._log = folder / "pulse.log"
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
        command = [
            "pulseaudio",
            "-n",
            "--daemonize=no",
            "--exit-idle-time=-1",
            f"--log-target=file:{self._log}",
        ]
        self._server = self.started([*command, "-L", "module-native-protocol-unix", "-L", sink])
        assert until(lambda: self._control("set-default-source", "forest.monitor")), (
            self._log.read_text()
        )
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
        return subprocess.Popen(
            command, env=self.environment, **({"stderr": subprocess.DEVNULL} | more)
        )

    def _control(self, *arguments: str) -> bool:
        with self.started(["pactl", *arguments]) as process:
            return process.wait(timeout=20) == 0


class Recording:
    """What the card gives, recorded by parec from entering on, in 16 bit as the null sink has
    it."""

    def __init__(self, card: Card) -> None:
        command = [
            "parec",
            "--raw",
            "--format=s16le",
            f"--rate={CARD_HZ}",
            "--channels=1",
            "-d",
            "forest.monitor",
        ]
        self._process = card.started(
            [*command, f"--latency-msec={_PULSE_MS}"], stdout=subprocess.PIPE
        )
        self._blocks: list[bytes] = []
        # UTC of the first sample as Unix time, by the least delayed arrival
        self.start = float("inf")
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Recording":
        self._thread.start()
        assert until(lambda: self._blocks), "parec gives nothing"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

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
    """The demo's soundscapes one after the other, over a faint hiss so that no second is digital
    silence."""
    files = sorted(_SOUNDSCAPES.glob("*.ogg"))
    rng = np.random.default_rng(1)
    with soundfile.SoundFile(path, "w", CARD_HZ, 1, "PCM_16") as wav:
        for n in range(round(seconds / 60 + 0.5)):
            sound, rate_hz = soundfile.read(files[n % len(files)], dtype="float32")
            sound = soxr.resample(sound, rate_hz, CARD_HZ)
            wav.write(0.9 * sound + 0.001 * rng.standard_normal(len(sound)).astype(np.float32))
    return path
