"""Fit-alls that die by SIGKILL before the nth file that they put in place; `Killer` starts this as
a program.

Everything is imported once and nothing computed, then every start is a fork.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.helpers.trainer_kill import load_stages
from tests.helpers.trainer_walk import fit_all, here
from trainer.pipeline.stages import Options

_PATHS = ("data", "out", "rasters")


class Killer:
    """The program, for as long as it is needed."""

    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._program: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", __name__], **pipes
        )  # type: ignore[call-overload]

    def __call__(self, options: Options, nth: int) -> bool:
        """Whether it was killed; else it was done, or refused, before so many files."""
        asked = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(options).items()
        }
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps([asked, nth]) + "\n")
        self._program.stdin.flush()
        return self._program.stdout.readline() == "killed\n"

    def close(self) -> None:
        self._program.communicate()


def _train(options: Options, nth: int) -> None:
    left = [nth]

    def deadly(method: Any) -> Any:
        def strike(self: Path, target: Path) -> Path:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            moved: Path = method(self, target)
            return moved

        return strike

    for name in ("replace", "rename"):
        setattr(Path, name, deadly(getattr(Path, name)))
    fit_all(options)
    os._exit(0)


def main() -> None:
    """Answer each line of `[options, nth]` with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    load_stages()
    with here():
        for line in sys.stdin:
            asked, nth = json.loads(line)
            paths = {key: Path(asked[key]) for key in _PATHS if asked[key] is not None}
            child = os.fork()
            if not child:
                _train(Options(**asked | paths), nth)
            _, status = os.waitpid(child, 0)
            print("killed" if os.WIFSIGNALED(status) else "ended", file=answers, flush=True)


if __name__ == "__main__":
    main()
