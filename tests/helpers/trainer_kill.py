"""A training that is killed before every file that it puts in place, once each; started by
tests/trainer/test_kill.py.

    python -m tests.helpers.trainer_kill CORPUS RUN RECIPE RASTERS

Everything is imported once, then every start is a fork: seconds for what would take minutes.
Members are trained in the process itself.
"""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

KILLS_MAX = 200


def main(data: Path, out: Path, recipe: Path, rasters: Path) -> None:
    """Print the files, in the order of the kills; end when a start was not killed any more."""
    # here: the workers of a stage import this file again
    stages = importlib.import_module("trainer.pipeline.stages")
    load_stages()
    asked = stages.Options(data, out, str(recipe), rasters, None, 1, "cpu")
    struck: set[str] = set()
    for _ in range(KILLS_MAX):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            _train(asked, struck, writer)
        os.close(writer)
        with os.fdopen(reader, encoding="utf8") as told:
            name = told.read()
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        print(name)
        struck.add(name)
    sys.exit(f"killed {KILLS_MAX} times and still not finished")


def load_stages() -> None:
    """What stages load when they are done: before a fork, so that not each fork does."""
    for name in (
        "place.metadata",
        "report.foldmap",
        "report.report",
        "training.fit",
        "tuning.bag",
        "tuning.tune",
    ):
        importlib.import_module(f"trainer.{name}")


def _train(asked: Any, struck: set[str], writer: int) -> None:
    """In the fork: train until a file that was not struck yet is about to be put in place."""
    for method in ("replace", "rename"):
        setattr(Path, method, _deadly(getattr(Path, method), asked.out, struck, writer))
    stages, fit, member = (
        importlib.import_module(f"trainer.{name}")
        for name in ("pipeline.stages", "training.fit", "training.member")
    )
    fit._train_all = lambda _, tasks, *__: [member.fit_member(task) for task in tasks]  # type: ignore[attr-defined]
    stages.run_stages(
        asked, stages.STAGES, importlib.import_module("rich.console").Console(quiet=True)
    )
    os._exit(0)


def _deadly(method, folder: Path, struck: set[str], writer: int):  # type: ignore[no-untyped-def]
    def strike(self: Path, target: Path) -> Path:
        name = Path(target).resolve().relative_to(folder.resolve()).as_posix()
        if name not in struck:
            os.write(writer, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, target)

    return strike


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
