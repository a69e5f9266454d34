"""Runs everything from scratch, as a user would: corpus, training, student, bundle, check, replay,
figures.

Each step is the real command in its own process and skips what is already done.
"""

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from edge.contract.errors import BirdstationError, UsageError
from edge.contract.folders import entries_of, holds_nothing
from trainer.files import make_folder

_SHIPPED = Path(__file__).parents[1] / "edge" / "demo"
_MARK = ".birdstation-demo-train"
# Contents of folders of versions that left no mark.
_MADE = (
    *("corpus", "rasters", "run", "bundle", "unlabelled", "source", "acoustic_only"),
    *("student", "cascade", "station.yaml", "station.db", "station.db-wal", "station.db-shm"),
    *("summary.json", "report.html"),
)
_SHIPPED_PER_KIND = 1
_SOUNDSCAPES = 10
# Soundscapes beyond those for testing, with which the first ones share their plans.
_UNLABELLED = 50
_SHIPPED_BYTES_MAX = 12_000_000


def run_demo_train(out: Path, *, publish: bool, console: Console) -> dict[str, Any]:
    """Fill `out` with corpus, rasters, run, bundle, station.yaml, station.db, report.html and
    summary.json.

    `publish` also replaces the shipped bundle and soundscapes, by a bundle of the best member of
    each kind and the test soundscapes.
    """
    start = time.perf_counter()
    _begin(out)
    corpus, rasters, run, bundle = (out / name for name in ("corpus", "rasters", "run", "bundle"))
    _demo_data(console, "corpus", corpus, rasters, _SOUNDSCAPES)
    fit = ("trainer", "fit-all", "--data", corpus, "--rasters", rasters)
    _step(console, "training", *fit, "--recipe", "demo", "--out", run)
    sound = _unlabelled_sound(console, out / "unlabelled")
    learn = ("trainer", "distil", "--run", run, "--data", corpus)
    _step(console, "student", *learn, "--sound", sound)
    if not _newer(bundle / "manifest.json", run / "student" / "student.json"):
        _step(console, "bundle", "export", "onnx", "--run", run, "--out", bundle)
    _step(console, "check", "export", "verify", bundle)
    source = _demo_source(out / "source", bundle, corpus)
    _step(console, "replay", "edge", "demo", "--source", source, "--out", out)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf8"))
    summary |= _compare(out, bundle, corpus, summary)
    shutil.copyfile(run / "report.html", out / "report.html")
    if publish:
        _publish(console, run, source)
    summary["seconds_total"] = round(time.perf_counter() - start, 1)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf8")
    console.print(_figures(summary))
    console.print(f"report {out / 'report.html'} · summary {out / 'summary.json'}", soft_wrap=True)
    return summary


def _begin(out: Path) -> None:
    """Mark the folder as ours. Raises UsageError if it contains other files, which might be
    replaced."""
    if not holds_nothing(out) and not (out / _MARK).is_file():
        names = [path.name for path in entries_of(out)] if out.is_dir() else ["a file"]
        others = [name for name in names if name not in _MADE and not name.startswith("prior_")]
        if others or not (out / "corpus" / "corpus.json").is_file():
            found = f"found {others[0]}" if others else "its corpus is not a demo's"
            raise UsageError(f"{out}: {found}; choose a new or empty folder for --out")
    make_folder(out)
    (out / _MARK).touch()


def _step(console: Console, name: str, *command: str | Path) -> None:
    console.rule(name)
    done = subprocess.run([sys.executable, "-m", *map(str, command)])
    if done.returncode:
        raise BirdstationError(
            f"{name}: python -m {' '.join(map(str, command))} ended with status {done.returncode}"
        )


def _demo_data(
    console: Console, name: str, corpus: Path, rasters: Path, soundscapes: int, *more: str
) -> None:
    places = (corpus, "--rasters", rasters)
    _step(console, name, "trainer", "demo-data", *places, "--soundscapes", str(soundscapes), *more)


def _unlabelled_sound(console: Console, folder: Path) -> Path:
    """A folder of unlabelled sound with the same birds on other days, like the archive of a
    station."""
    soundscapes = _SOUNDSCAPES + _UNLABELLED
    recordings = ("--recordings", "4")
    corpus = folder / "corpus"
    _demo_data(console, "unlabelled sound", corpus, folder / "rasters", soundscapes, *recordings)
    made = sorted((corpus / "test_soundscapes").glob("*.ogg"))
    _link(made[_SOUNDSCAPES:], folder / "sound")
    return folder / "sound"


def _link(files: Sequence[Path], folder: Path) -> None:
    """Link these files into a folder."""
    folder.mkdir(exist_ok=True)
    for path in files:
        if not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path.resolve())


def _newer(path: Path, than: Path) -> bool:
    return path.is_file() and path.stat().st_mtime_ns > than.stat().st_mtime_ns


def _demo_source(source: Path, bundle: Path, corpus: Path) -> Path:
    """Prepare the source of `edge demo`: bundle and soundscapes as links, labels, places of the
    sites."""
    source.mkdir(parents=True, exist_ok=True)
    for name, target in (("bundle", bundle), ("soundscapes", corpus / "test_soundscapes")):
        (source / name).unlink(missing_ok=True)
        (source / name).symlink_to(target.resolve(), target_is_directory=True)
    shutil.copyfile(corpus / "test_soundscape_labels.csv", source / "labels.csv")
    with (corpus / "soundscape_sites.csv").open(newline="", encoding="utf8") as file:
        places = {
            r["id"]: {"latitude": float(r["lat"]), "longitude": float(r["lon"])}
            for r in csv.DictReader(file)
        }
    (source / "sites.json").write_text(json.dumps(places, indent=1) + "\n", encoding="utf8")
    return source


def _compare(out: Path, bundle: Path, corpus: Path, blended: dict[str, Any]) -> dict[str, Any]:
    """F1 of the same replay without the prior (with the threshold for sound alone), with the
    student, and with a cascade."""
    sound = _replayed(out / "acoustic_only", {"detect": {"prior": "off"}}, bundle, corpus)
    found = {
        "f1_blended": blended["f1"],
        "f1_blended_interval": [blended["f1_low"], blended["f1_high"]],
        "f1_acoustic_only": sound["f1"],
        "f1_acoustic_only_interval": [sound["f1_low"], sound["f1_high"]],
    }
    sites = json.loads((out / "source" / "sites.json").read_text(encoding="utf8"))
    for members in ("student", "cascade"):
        replayed = _replayed(out / members, {"members": members, "sites": sites}, bundle, corpus)
        found[f"f1_{members}"] = replayed["f1"]
    return found


def _replayed(folder: Path, settings: dict[str, Any], bundle: Path, corpus: Path) -> dict[str, Any]:
    """The summary of a replay of the test soundscapes with these settings."""
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("station.db*"):
        stale.unlink()
    config = {"station": {"id": "demo"}, "bundle": str(bundle.resolve()), **settings}
    (folder / "station.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf8")
    command: Sequence[str] = (
        "-m",
        "edge",
        "replay",
        str(corpus / "test_soundscapes"),
        "--config",
        str(folder / "station.yaml"),
        "--labels",
        str(corpus / "test_soundscape_labels.csv"),
        "--json",
    )
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        raise BirdstationError(
            f"replay in {folder} ended with status {done.returncode}: {done.stderr[-300:]}"
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _publish(console: Console, run: Path, source: Path) -> None:
    """Replace the data that ships with edge: a small bundle of this run, the test soundscapes,
    their labels and places."""
    for name in ("bundle", "soundscapes"):
        shutil.rmtree(_SHIPPED / name, ignore_errors=True)
    small = _SHIPPED / "bundle"
    _step(
        console,
        "publish",
        "export",
        "onnx",
        "--run",
        run,
        "--out",
        small,
        "--per-kind",
        str(_SHIPPED_PER_KIND),
        "--no-report",
        "--no-half",
    )
    _step(console, "check", "export", "verify", small)
    shutil.copytree(source / "soundscapes", _SHIPPED / "soundscapes")
    for name in ("labels.csv", "sites.json"):
        shutil.copyfile(source / name, _SHIPPED / name)
    size = sum(p.stat().st_size for p in _SHIPPED.rglob("*") if p.is_file() and p.suffix != ".pyc")
    if size > _SHIPPED_BYTES_MAX:
        raise BirdstationError(
            f"{_SHIPPED}: {size / 1e6:.1f} MB; at most {_SHIPPED_BYTES_MAX / 1e6:.0f} may ship"
        )
    console.print(f"edge/demo: {size / 1e6:.1f} MB; commit it")


def _figures(summary: dict[str, Any]) -> Table:
    table = Table(
        title="Row-wise F1 on soundscapes that nothing was tuned on", title_justify="left"
    )
    for name in ("", "F1", "95 % interval over recordings"):
        table.add_column(name)
    for name, key in (("sound and place", "f1_blended"), ("sound alone", "f1_acoustic_only")):
        low, high = summary[f"{key}_interval"]
        table.add_row(name, f"{summary[key]:.3f}", f"{low:.3f} to {high:.3f}")
    for name, key in (("the student", "f1_student"), ("a cascade", "f1_cascade")):
        table.add_row(name, f"{summary[key]:.3f}", "")
    table.add_row("'no bird' throughout", f"{summary['f1_all_nocall']:.3f}", "")
    return table
