"""Does the station detect what `trainer predict` predicts? A run, the bundle exported from it, and
the same files.

    python -m tests.trials.predict_and_station RUN BUNDLE FOLDER

Every recording below FOLDER that both can decode, each distinct content once, at a hop of 5 s and
without place: a species in a row that only one of them has is a difference, unless its score lies
within 1e-4 of the threshold. Whole rows alone are compared. Ends with 1 if there is a difference.
"""

import argparse
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

from edge.capture.recording import find_recordings
from edge.config import load_config
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.bundle import file_sha256
from edge.contract.errors import RecordingError
from edge.contract.program import run_program
from edge.replay.archive import replay_folder
from trainer.run import Run
from trainer.tuning.predict import Predictor, thresholds_of

NEAR = 1e-4


def station_rows(
    bundle: Path, folder: Path, state: Path
) -> tuple[dict[str, dict[int, set[str]]], dict[str, str]]:
    """By the recording's name: species by first sample of their window; and why recordings were
    refused."""
    settings = state / "station.yaml"
    settings.write_text(
        f"station: {{id: trial}}\nbundle: {bundle.absolute()}\nwindows: {{hop_s: 5.0}}\ndetect: "
        "{prior: 'off'}\n"
    )
    config = load_config(settings)
    outcomes = replay_folder(config, folder).outcomes
    heard: dict[str, dict[int, set[str]]] = {o.path: {} for o in outcomes if o.state == "analysed"}
    with closing(sqlite3.connect(config.database)) as db:
        for path, offset_s, species in db.execute(
            "SELECT r.path, d.offset_s, d.species FROM detections d JOIN recordings r ON r.id = "
            "d.recording"
        ):
            heard[path].setdefault(round(offset_s * RATE_HZ), set()).add(species)
    return heard, {o.path: o.reason or "" for o in outcomes if o.state == "refused"}


def compare(run: Run, bundle: Path, source: Path, work: Path) -> Counter[str]:
    """What was compared and what was found; prints differences."""
    folder = work / "in"
    counts = Counter[str]()
    seen = set[str]()
    folder.mkdir()
    for number, path in enumerate(find_recordings(source)):
        digest = file_sha256(path)
        if digest not in seen:
            seen.add(digest)
            (folder / f"r{number:04d}{path.suffix}").symlink_to(path.absolute())
    station, refused = station_rows(bundle, folder, work)
    predictor = Predictor(run)
    thresholds = thresholds_of(run)[1]
    for path in sorted(folder.iterdir()):
        try:
            windows, scores = predictor.scores(path, None)
        except RecordingError as error:
            counts["refused by both" if path.name in refused else "refused by predict alone"] += 1
            if path.name not in refused:
                print(f"{path.resolve()}: {error}")
            continue
        if path.name in refused:
            counts["refused by the station alone"] += 1
            print(f"{path.resolve()}: {refused[path.name]}")
            continue
        counts["recordings"] += 1
        for window, row in zip(windows, scores, strict=True):
            if window.samples != WINDOW_SAMPLES or window.start % WINDOW_SAMPLES:
                continue
            counts["rows"] += 1
            mine = {predictor.codes[i] for i in np.flatnonzero(row >= thresholds)}
            theirs = station[path.name].get(window.start, set())
            counts["detections"] += len(theirs)
            for code in mine ^ theirs:
                index = predictor.codes.index(code)
                off = float(row[index] - thresholds[index])
                counts["near the threshold" if abs(off) <= NEAR else "differences"] += 1
                if abs(off) > NEAR:
                    print(
                        f"{path.resolve()} at {window.start / RATE_HZ:.1f} s: {code} {off:+.5f} "
                        "from its threshold"
                    )
    return counts


def main() -> None:
    """Compare, print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("run", "bundle", "folder"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        counts = compare(Run.open(arguments.run), arguments.bundle, arguments.folder, Path(work))
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    sys.exit(counts["differences"] > 0)


if __name__ == "__main__":
    run_program(main)
