"""make_corpus: plans the whole corpus from a seed, makes the missing files, writes the tables.

Knows nothing of how birds sound or where they live; recordings.py and soundscapes.py plan that.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import Any

from edge.contract.folders import files_under, holds_nothing
from trainer.demo.fauna import SPECIES_MAX, Atlas, make_birds
from trainer.demo.layers import check_rasters, write_rasters
from trainer.demo.recordings import (
    COLUMNS,
    RecordingPlan,
    metadata_row,
    plan_recording,
    render_recording,
)
from trainer.demo.seeds import stream
from trainer.demo.soundscapes import (
    COLUMNS as LABEL_COLUMNS,
)
from trainer.demo.soundscapes import (
    NOCALL,
    SITE_COLUMNS,
    SOUNDSCAPE_S,
    SoundscapePlan,
    label_rows,
    plan_soundscapes,
    render_soundscape,
    site_rows,
)
from trainer.demo.vorbis import PART, encode, write_bytes
from trainer.demo.world import make_world
from trainer.files import make_folder
from trainer.workers import worker_pool

Progress = Callable[[str, int, int], None]
Plan = RecordingPlan | SoundscapePlan

RECORDINGS_MAX = 1_000
SOUNDSCAPES_MAX = 1_000
_VERSION = 1  # of the generator: increased if the same seed gives different sounds
_STATE = "corpus.json"
_README = "README.txt"
_BAD_DATES = ("2012-00-00", "0000-00-00", "2003-03-00", "1996-11-00")
_BROKEN = ("missing_audio", "unreadable_audio", "empty_audio")
# So few files are made faster here than in new processes, which first import everything.
_ALONE_MAX = 16


@dataclass(frozen=True)
class Parameters:
    species: int
    recordings: int  # per species
    soundscapes: int  # for training, and as many again for testing
    seed: int
    version: int = _VERSION


@dataclass(frozen=True)
class CorpusSummary:
    """The contents of a corpus. `recordings` are readable ones; rows with broken audio come in
    addition."""

    species: int
    recordings: int
    soundscapes: int
    test_soundscapes: int

    def __str__(self) -> str:
        return (
            f"{self.recordings} recordings of {self.species} species, {self.soundscapes} "
            f"soundscapes for training and {self.test_soundscapes} for testing, some files and "
            "dates damaged on purpose (README.txt)"
        )

    seconds: float  # of sound in all
    rows: int  # labelled rows of 5 s, train and test
    nocall_rows: int
    bad_dates: int
    missing_coordinates: int
    missing_audio: int
    unreadable_audio: int
    empty_audio: int

    @property
    def malformed(self) -> int:
        """Number of malformed rows of train_metadata.csv, which a trainer must count and skip."""
        audio = self.missing_audio + self.unreadable_audio + self.empty_audio
        return self.bad_dates + self.missing_coordinates + audio


def make_corpus(
    out: Path,
    rasters: Path,
    *,
    species: int = 8,
    recordings: int = 30,
    soundscapes: int = 6,
    seed: int = 1,
    progress: Progress | None = None,
) -> CorpusSummary:
    """Write a synthetic BirdCLEF-2021 corpus to `out` and its six rasters to `rasters`; resumes
    after a kill.

    `recordings` are per species, `soundscapes` (60 s each) are for training, with as many again for
    testing. `progress(stage, done, total)` is called in this process. Equal parameters give equal
    bytes on one machine. Raises ValueError for a number out of range, or if a folder contains
    anything else.
    """
    parameters = Parameters(species, recordings, soundscapes, seed)
    _check(parameters)
    _check_folder(out, parameters)
    report = progress or _silent
    make_folder(out)
    rasters_ready = check_rasters(rasters, seed)
    finished = _finished(out)
    if finished and rasters_ready:
        return finished
    world = make_world(seed)
    if not rasters_ready:
        report("rasters", 0, 1)
        write_rasters(rasters, world, seed)
        report("rasters", 1, 1)
    if finished:
        return finished
    write_bytes(out / _STATE, _json({"parameters": asdict(parameters), "complete": False}))
    birds = make_birds(seed, species)
    atlas = Atlas(world, birds)
    clips = [
        plan_recording(seed, atlas, birds, index, n)
        for index in range(species)
        for n in range(recordings)
    ]
    minutes = plan_soundscapes(seed, atlas, birds, soundscapes)
    _make_all(out, {"recordings": clips, "soundscapes": minutes}, report)
    return _write_tables(out, parameters, clips, minutes)


def _silent(_stage: str, _done: int, _total: int) -> None:
    pass


def _check(parameters: Parameters) -> None:
    limits = {
        "species": (2, SPECIES_MAX),
        "recordings": (1, RECORDINGS_MAX),
        "soundscapes": (1, SOUNDSCAPES_MAX),
        "seed": (0, 2**63 - 1),
    }
    for name, (low, high) in limits.items():
        value = getattr(parameters, name)
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: a demo corpus takes {low} to {high}")


def _check_folder(out: Path, parameters: Parameters) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a new folder")
    if holds_nothing(out):
        return
    state = _state(out)
    if state is None:
        raise ValueError(f"{out} holds files that are not a demo corpus: name a new folder")
    if state["parameters"] != asdict(parameters):
        found = ", ".join(f"{name} {value}" for name, value in state["parameters"].items())
        raise ValueError(
            f"{out} holds a demo corpus made with {found}: name a new folder or remove this one"
        )


def _state(out: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((out / _STATE).read_text(encoding="utf-8"))
        return state if isinstance(state.get("parameters"), dict) else None
    except (OSError, ValueError, AttributeError):
        return None


def _finished(out: Path) -> CorpusSummary | None:
    """The summary, if every file exists with its original size; files of another size are
    removed."""
    state = _state(out)
    if state is None or not state["complete"]:
        return None
    damaged = [out / path for path, size in state["files"].items() if _size(out / path) != size]
    for path in damaged:
        path.unlink(missing_ok=True)
    return None if damaged else CorpusSummary(**state["summary"])


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _make_all(out: Path, stages: dict[str, Sequence[Plan]], report: Progress) -> None:
    """Make the missing files, stage by stage, in parallel if that is faster."""
    waiting = {
        stage: [plan for plan in plans if not all(path.exists() for path in _outputs(out, plan))]
        for stage, plans in stages.items()
    }
    with _mapper(sum(map(len, waiting.values()))) as each:
        made = {stage: each(_make, repeat(out), plans) for stage, plans in waiting.items()}
        for stage, plans in stages.items():
            ready = len(plans) - len(waiting[stage])
            report(stage, ready, len(plans))
            for done, _ in enumerate(made[stage], start=ready + 1):
                report(stage, done, len(plans))


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Iterator[None]]]:
    """A map() over processes, or the plain one if few jobs or a single core make processes
    slower."""
    workers = min(os.cpu_count() or 1, jobs)
    if workers < 2 or jobs <= _ALONE_MAX:
        yield map
        return
    with worker_pool(workers) as pool:
        yield pool.map


def _outputs(out: Path, plan: Plan) -> list[Path]:
    """Files of a plan, the sound last: once it exists, all of them do."""
    sound = out / plan.path
    return [sound] if isinstance(plan, RecordingPlan) else [_truth_path(out, plan), sound]


def _truth_path(out: Path, plan: SoundscapePlan) -> Path:
    return out / "truth" / f"{plan.name}.json"


def _make(out: Path, plan: Plan) -> None:
    if isinstance(plan, RecordingPlan):
        samples = render_recording(plan)
    else:
        samples, songs, rows = render_soundscape(plan)
        truth = {
            "labels": label_rows(plan, rows),
            "rows": [asdict(r) for r in rows],
            "songs": [asdict(s) for s in songs],
        }
        write_bytes(_truth_path(out, plan), _json(truth))
    write_bytes(out / plan.path, encode(samples))


def _write_tables(
    out: Path, parameters: Parameters, clips: list[RecordingPlan], minutes: list[SoundscapePlan]
) -> CorpusSummary:
    rows, counts = _metadata(out, parameters, clips)
    write_bytes(out / "train_metadata.csv", _csv(COLUMNS, rows))
    write_bytes(out / "soundscape_sites.csv", _csv(SITE_COLUMNS, site_rows(minutes)))
    labels: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for plan in minutes:
        labels[plan.kind] += json.loads(_truth_path(out, plan).read_text(encoding="utf-8"))[
            "labels"
        ]
    for kind, kind_rows in labels.items():
        write_bytes(out / f"{kind}_soundscape_labels.csv", _csv(LABEL_COLUMNS, kind_rows))
    every = labels["train"] + labels["test"]
    summary = CorpusSummary(
        species=parameters.species,
        recordings=len(clips),
        soundscapes=parameters.soundscapes,
        test_soundscapes=parameters.soundscapes,
        seconds=round(sum(plan.duration_s for plan in clips) + SOUNDSCAPE_S * len(minutes), 1),
        rows=len(every),
        nocall_rows=sum(row["birds"] == NOCALL for row in every),
        **counts,
    )
    write_bytes(out / _README, _readme(parameters, summary).encode())
    for part in out.rglob(f"{PART}*"):  # left by a run that was killed
        part.unlink()
    files = [path for path in files_under(out) if path.name != _STATE]
    sizes = {path.relative_to(out).as_posix(): path.stat().st_size for path in files}
    state = {
        "parameters": asdict(parameters),
        "complete": True,
        "summary": asdict(summary),
        "files": sizes,
    }
    write_bytes(out / _STATE, _json(state))
    return summary


def _metadata(
    out: Path, parameters: Parameters, clips: list[RecordingPlan]
) -> tuple[list[dict[str, str]], dict[str, int]]:
    """The rows of train_metadata.csv, with a few faults like those of the real one, and the number
    of each fault."""
    rows = [metadata_row(plan) for plan in clips]
    bad_dates = max(1, round(0.025 * len(rows)))
    no_places = max(1, round(0.01 * len(rows)))
    rng = stream(parameters.seed, "faults", len(rows))
    picked = rng.permutation(len(rows))
    for number, index in enumerate(picked[:bad_dates]):
        rows[index]["date"] = _BAD_DATES[number % len(_BAD_DATES)]
    for index in picked[::-1][:no_places]:
        rows[index]["latitude"] = rows[index]["longitude"] = ""
    for number, fault in enumerate(_BROKEN):
        row = dict(rows[number % len(rows)])
        row["filename"] = f"XC99{number:05d}.ogg"
        row["url"] = row["url"].rsplit("/", 1)[0] + f"/XC99{number:05d}"
        path = out / "train_short_audio" / row["primary_label"] / row["filename"]
        if fault != "missing_audio":
            write_bytes(path, b"" if fault == "empty_audio" else b"OggS" + rng.bytes(4096))
        rows.append(row)
    rows.sort(key=lambda row: (row["primary_label"], row["filename"]))
    return rows, {
        "bad_dates": bad_dates,
        "missing_coordinates": no_places,
        **dict.fromkeys(_BROKEN, 1),
    }


def _readme(parameters: Parameters, summary: CorpusSummary) -> str:
    counts = "\n".join(
        f"  {field.name:<20}{getattr(summary, field.name)}" for field in fields(summary)
    )
    options = " ".join(
        f"--{name} {value}" for name, value in asdict(parameters).items() if name != "version"
    )
    return f"""\
A synthetic corpus in the layout of BirdCLEF 2021. No bird was recorded: songs, species, places,
dates and rasters are invented, from seed {parameters.seed} (generator {parameters.version}).

  python -m trainer demo-data OUT {options}

{counts}

The faults (bad dates, missing coordinates, missing, unreadable and empty audio) are meant:
a trainer must count and survive them. truth/ holds every song put into a soundscape and how long
it can be heard in each row: for judging labels, never for training.
Tune on train_soundscapes, judge on test_soundscapes.
"""


def _csv(columns: Sequence[str], rows: Iterable[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
