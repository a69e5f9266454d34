"""What the geo prior does when it is blended in, when it masks as other programs do, and when it is
left out.

    python -m tests.trials.geo_prior BUNDLE RECORDING LABELS.csv LATITUDE LONGITUDE DATE \\
      [--table METADATA.csv]
        [--litert PYTHON MODEL.tflite]

BUNDLE has a geo prior; RECORDING is labelled in rows of 5 s (`filename_seconds`, `birds`) and was
made at that place on that date. Row-wise F1 and species reported that no row has, at the bundle's
thresholds and over a range of them; a mask hides what the geo model expects with less than its
floor. --litert: the same of the published network on its own grid of 3 s, from the file at 48 kHz;
a row has what is heard in a stretch that shares half of it or more. METADATA (BirdCLEF's columns):
how many real recordings each rule would have hidden at their own place and day, for a species that
is plainly heard (acoustic score 0.5, 0.9).
"""

import argparse
import csv
import json
import subprocess
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.analysis.recognizer import Recognizer
from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, WindowCutter
from edge.contract.blend import Scores, blend_scores
from edge.contract.bundle import PRIOR, Bundle, read_bundle
from edge.contract.labels import RowLabels, read_labels
from edge.contract.metrics import NOCALL_ROW, score_rows
from edge.contract.program import run_program
from edge.prior.place_table import compute_prior_table, geo_week
from edge.types import Gap

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def acoustic_rows(bundle: Bundle, path: Path) -> Scores:
    """Acoustic scores `(rows, classes)` of a recording's windows of 5 s, side by side."""
    front = bundle.manifest.front
    cutter = WindowCutter(WINDOW_SAMPLES, bundle.manifest.padding, front=front)
    windows = []
    with Decoder(path) as decoder:
        for piece in decoder:
            assert not isinstance(piece, Gap), "a whole recording is wanted"
            windows += cutter.push(piece)
    recognizer = Recognizer(bundle)
    parts = [
        np.stack([w.input for w in windows[at : at + 16]]) for at in range(0, len(windows), 16)
    ]
    return np.concatenate([recognizer.recognise(part, None).acoustic for part in parts])


def own_grid(arguments: argparse.Namespace, rows: int) -> Scores:
    """LiteRT's scores on BirdNET's grid of 3 s, of each row those of its stretches, the highest."""
    with Decoder(arguments.recording, rate_hz=48_000) as decoder:
        sound = np.concatenate([piece.copy() for piece in decoder if not isinstance(piece, Gap)])
    stretches = sound[: len(sound) // 144_000 * 144_000].reshape(-1, 144_000)
    with tempfile.TemporaryDirectory() as name:
        np.save(f"{name}/in.npy", stretches)
        script = str(Path(__file__).with_name("contender.py"))
        (python, model) = arguments.litert
        subprocess.run(
            [python, script, "scores", model, f"{name}/in.npy", f"{name}/out.npy"], check=True
        )
        found = np.load(f"{name}/out.npy")
    scores = np.zeros((rows, found.shape[1]), np.float32)
    for row in range(rows):
        for index in range(len(found)):
            if min(3 * index + 3, 5 * row + 5) - max(3 * index, 5 * row) >= 1.5:
                scores[row] = np.maximum(scores[row], found[index])
    return scores


def figures(
    bundle: Bundle, scores: Scores, threshold: float, truth: RowLabels
) -> tuple[float, int, int]:
    """Row-wise F1, species reported that no row has, and how many rows these were reported in."""
    taxonomy = bundle.taxonomy
    birds = np.zeros(len(taxonomy), np.bool_)
    birds[taxonomy.of_kind(["bird"])] = True
    found = {}
    for row, end in truth.end_s.items():
        index = end * RATE_HZ // WINDOW_SAMPLES - 1
        heard = np.flatnonzero((scores[index] >= threshold) & birds) if index < len(scores) else []
        found[row] = frozenset(taxonomy.codes[i] for i in heard) or NOCALL_ROW
    there = set().union(*truth.truth.values())
    wrong = [code for labels in found.values() for code in labels - there - NOCALL_ROW]
    return score_rows(truth.truth, found, truth.recording).f1, len(set(wrong)), len(wrong)


def labelled(bundle: Bundle, arguments: argparse.Namespace) -> None:
    """The three rules on one labelled recording."""
    truth = read_labels(arguments.labels)
    acoustic = acoustic_rows(bundle, arguments.recording)
    table = compute_prior_table(
        bundle.folder / PRIOR, bundle.taxonomy, arguments.latitude, arguments.longitude
    )
    prior = table[arguments.date.timetuple().tm_yday - 1]
    floor = 1 / len(bundle.taxonomy)  # of a list says as much as chance
    masked = np.where(prior < floor, np.float32(0), acoustic)
    limits = bundle.manifest.thresholds
    rules = {
        "sound alone": (acoustic, limits.acoustic),
        "masked": (masked, limits.acoustic),
        "blended": (blend_scores(acoustic, prior, bundle.manifest.blend), limits.blended),
    }
    if arguments.litert:
        grid = own_grid(arguments, len(acoustic))
        rules["3-s grid, sound alone"] = grid, limits.acoustic
        rules["3-s grid, masked"] = np.where(prior < floor, np.float32(0), grid), limits.acoustic
        rules["3-s grid, blended"] = (
            blend_scores(grid, prior, bundle.manifest.blend),
            limits.blended,
        )
    empty = float(
        np.mean([len(found) == 0 or found == NOCALL_ROW for found in truth.truth.values()])
    )
    print(
        f"{len(truth.truth)} rows, {empty:.0%} of them nocall; {(prior >= floor).sum()} classes "
        "over the floor\n"
    )
    print(
        "| rule | threshold | row F1 | false species | rows with them | best of a range "
        "|\n|---|---|---|---|---|---|"
    )
    for name, (scores, limit) in rules.items():
        f1, species, rows = figures(bundle, scores, limit, truth)
        best, at = max((figures(bundle, scores, at, truth)[0], at) for at in THRESHOLDS)
        also = figures(bundle, scores, at, truth)[1]
        print(
            f"| {name} | {limit} | {f1:.3f} | {species} | {rows} | {best:.3f} at {at}, {also} "
            "false |"
        )


def hidden(bundle: Bundle, table: Path) -> None:
    """Real recordings whose species each rule would have hidden at their own place and day."""
    facts = json.loads((bundle.folder / PRIOR / "geo.json").read_text(encoding="utf8"))
    places, classes = _rows(bundle, table)
    session = ort.InferenceSession(
        str(bundle.folder / PRIOR / "geo.onnx"), providers=["CPUExecutionProvider"]
    )
    geo = np.empty(len(places), np.float32)
    for at in range(0, len(places), 512):
        some = slice(at, at + 512)
        (found,) = session.run(["probabilities"], {"place": places[some]})
        geo[some] = found[np.arange(len(found)), classes[some]]
    neutral = {bundle.taxonomy.index(code) for code in facts["neutral"]}
    free = np.array([index in neutral for index in classes])
    prior = np.where(free, 1.0, geo / facts["floor"]).astype(np.float32) / len(bundle.taxonomy)
    mask = geo < facts["floor"]
    print(f"\n{len(places)} recordings with place, date and a species that the bundle knows")
    print(f"hidden by the mask, however plainly heard: {mask.mean():.2%} ({mask.sum()})")
    for score in (0.5, 0.9):
        acoustic = np.full((1, len(places)), score, np.float32)
        whole = blend_scores(
            acoustic, prior * len(bundle.taxonomy) / len(places), bundle.manifest.blend
        )[0]
        gone = whole < bundle.manifest.thresholds.blended
        print(
            f"hidden when blended, at an acoustic score of {score}: {gone.mean():.2%} "
            f"({gone.sum()})"
        )


def _rows(bundle: Bundle, table: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Places with week `(n, 3)` and classes `(n,)` of the table's rows that have all that is
    needed."""
    names = {species.scientific_name: index for index, species in enumerate(bundle.taxonomy)}
    places = []
    classes = []
    with table.open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            index = (
                bundle.taxonomy.index(row["primary_label"])
                if row["primary_label"] in bundle.taxonomy
                else None
            )
            index = names.get(row["scientific_name"]) if index is None else index
            try:
                day = date.fromisoformat(row["date"]).timetuple().tm_yday
                place = float(row["latitude"]), float(row["longitude"])
            except ValueError:
                continue
            if index is not None:
                places.append((*place, float(geo_week(np.float32([day]))[0])))
                classes.append(index)
    return np.array(places, np.float32), np.array(classes)


def main() -> None:
    """One labelled recording, and a table if there is one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("latitude", type=float)
    parser.add_argument("longitude", type=float)
    parser.add_argument("date", type=date.fromisoformat)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--litert", nargs=2, metavar=("PYTHON", "MODEL"))
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    labelled(bundle, arguments)
    if arguments.table:
        hidden(bundle, arguments.table)


if __name__ == "__main__":
    run_program(main)
