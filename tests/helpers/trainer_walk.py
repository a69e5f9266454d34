"""A walk: fit-all again and again on a run whose ground changes, each time compared with a run made
from scratch.

`here` trains within this process; `fit_all` says which stages were made and which networks trained;
`picture` is what two runs must have in common, byte for byte, but for times and versions.
"""

import csv
import dataclasses
import hashlib
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
import yaml
from rich.console import Console

from edge.contract.errors import BirdstationError
from tests.helpers.trainer_ground import Ground
from trainer import file_digests as contents
from trainer.corpus import backgrounds, check, spectrograms
from trainer.files import read_json
from trainer.pipeline import stages
from trainer.pipeline.stages import STAGES, Options
from trainer.report import figures
from trainer.run import Run
from trainer.training import calls, fit, member

# of their moment, or compared below
_TIMED = ("report.html", "stages.json", "run.json", ".contents", ".lock")
# of file times; in place of the seconds of FAT, so that what is remembered of files is put to the
# proof
_TICK_S = 0.05
_DPI = 15


@dataclass(frozen=True)
class Told:
    """What came of a fit-all."""

    made: tuple[str, ...] = ()  # stages
    trained: tuple[str, ...] = ()  # networks
    said: str = ""
    refused: str = ""  # the one line, if it could not


@dataclass
class _Counts:
    made: list[str] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)


_counts = _Counts()


@contextmanager
def here() -> Iterator[None]:
    """Everything in this process, networks too: seconds for what would take minutes; pictures of
    few dots."""

    @contextmanager
    def one_thread(_jobs: int) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(1) as pool:
            yield pool

    def train(_run: Run, tasks: list[member.MemberTask], *_: object) -> None:
        for task in tasks:
            _counts.trained.append(task.name)
            member.fit_member(task)

    def counted(stage: stages.Stage) -> stages.Stage:
        def do(*given: Any) -> None:
            _counts.made.append(stage.name)
            stage.do(*given)

        return dataclasses.replace(stage, do=do)

    save = matplotlib.figure.Figure.savefig

    def small(self: Any, *given: Any, **more: Any) -> None:
        save(self, *given, **more | {"dpi": _DPI})

    with pytest.MonkeyPatch.context() as patch:
        for module in (spectrograms, check, backgrounds, calls):
            patch.setattr(module, "worker_pool", one_thread)
        patch.setattr(fit, "_train_all", train)
        patch.setattr(
            stages, "_STAGE", {name: counted(stage) for name, stage in stages._STAGE.items()}
        )
        patch.setattr(matplotlib.figure.Figure, "savefig", small)
        drawing = b'<?xml version="1.0"?><svg/>'  # in the report, which is not compared
        patch.setattr(figures, "_bytes", lambda *_: drawing)
        patch.setattr(contents, "_YOUNG_S", _TICK_S)
        yield


def fit_all(options: Options, names: tuple[str, ...] = STAGES) -> Told:
    """Do the stages. What is no refusal of one line is raised."""
    _counts.made.clear()
    _counts.trained.clear()
    refused = ""
    said = io.StringIO()
    with redirect_stdout(said):
        try:
            stages.run_stages(options, names, Console(file=said, width=200))
        except BirdstationError as error:
            refused = str(error)
    if "\n" in refused:
        raise AssertionError(f"a refusal of several lines: {refused}")
    return Told(tuple(_counts.made), tuple(_counts.trained), said.getvalue(), refused)


def picture(run: Run) -> dict[str, str]:
    """All files of a run and what it says of itself, in digests, without times and versions of
    libraries."""
    found = {}
    wanted = {f"members/{name}" for name in run.wanted()}
    for path in sorted(p for p in run.folder.rglob("*") if p.is_file()):
        name = path.relative_to(run.folder).as_posix()
        orphan = (
            name.startswith("members/")
            and path.parent.relative_to(run.folder).as_posix() not in wanted
        )
        if name not in _TIMED and not orphan:
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()
    for part, said in _without_times(run.provenance()).items():
        found[f"provenance {part}"] = hashlib.sha256(repr(said).encode()).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    if path.name == "recipe.yaml":
        return repr(yaml.safe_load(path.read_text())).encode()
    if path.suffix == ".json":
        return repr(_without_times(read_json(path))).encode()
    if path.name == "history.csv":
        with path.open(newline="") as file:
            return repr([_without_times(row) for row in csv.DictReader(file)]).encode()
    return path.read_bytes()


def _without_times(value: Any) -> Any:
    """Without what took time, or was of a moment; in the order of keys."""
    if isinstance(value, dict):
        gone = ("seconds", "data_wait", "created", "versions", "history.csv")
        return {k: _without_times(v) for k, v in sorted(value.items()) if k not in gone}
    return [_without_times(item) for item in value] if isinstance(value, list | tuple) else value


class Scratch:
    """Runs from scratch, remembered by what they were made from."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str] | str] = {}
        self.made = 0

    def of(self, ground: Ground) -> dict[str, str] | str:
        """The picture of a run made of what lies here now, or the line that says why there is
        none."""
        state = ground.state()
        if state not in self._known:
            out = ground.home / "scratch" / "run"
            shutil.rmtree(out, ignore_errors=True)
            told = fit_all(ground.from_scratch(out))
            self._known[state] = told.refused or picture(Run.open(out))
            self.made += 1
        return self._known[state]


def apart(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of what two pictures do not have in common."""
    return sorted(name for name in {**one, **other} if one.get(name) != other.get(name))
