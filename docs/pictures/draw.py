"""Draw README's picture from a finished demonstration: python docs/pictures/draw.py build/demo
docs/pictures/demo.png

One recording as the station hears it: its spectrogram, and below it the detections in the record, a
window's 5 s each, as dark as their score, over the rows of 5 s in which the species truly sing
(labels.csv).
"""

import csv
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import soundfile
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from edge.config import DEMO_FOLDER
from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.bundle import read_bundle
from edge.reports.spectrogram import row_edges_hz, spectrogram

_RECORDING = "50000_NWH_20200418.ogg"  # the first: one species is heard there that does not sing
_TICKS_HZ = (500, 1000, 2000, 4000, 8000)
WINDOW_S = WINDOW_SAMPLES / RATE_HZ
Detection = tuple[str, str, float, float]  # code, name, seconds from the start, score
_COLOURS = 224  # of the PNG: less than half the bytes of all of them


def main(demo: Path, out: Path) -> None:
    """Raises FileNotFoundError where `demo` holds no station.db."""
    samples, rate_hz = soundfile.read(DEMO_FOLDER / "soundscapes" / _RECORDING, dtype="float32")
    assert rate_hz == RATE_HZ
    seconds = len(samples) / RATE_HZ
    names_of = {
        species.code: species.common_name
        for species in read_bundle(DEMO_FOLDER / "bundle").taxonomy
    }
    detections = _detections(demo / "station.db")
    sings = _sings(DEMO_FOLDER / "labels.csv", names_of)
    names = sorted({name for _, name, _, _ in detections} | {name for name, _ in sings})
    figure, (above, below) = plt.subplots(
        2,
        1,
        sharex=True,
        figsize=(9, 4.4),
        height_ratios=(3, 0.42 * len(names)),
        layout="constrained",
    )
    picture = spectrogram(samples)
    above.imshow(picture, aspect="auto", cmap="magma", extent=(0, seconds, len(picture), 0))
    edges = row_edges_hz()
    rows = [len(picture) - float(np.interp(hz, edges, range(len(edges)))) for hz in _TICKS_HZ]
    above.set_yticks(rows, [f"{hz / 1000:g} kHz" for hz in _TICKS_HZ])
    above.set_title(
        "One of the demo's synthetic minutes, and what the station heard in it",
        loc="left",
        fontsize=11,
    )
    _bars(below, names, detections, sings, seconds)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    with Image.open(out) as image:
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def _detections(database: Path) -> list[Detection]:
    """Of the recording."""
    with closing(
        sqlite3.connect(f"{database.resolve(strict=True).as_uri()}?mode=ro", uri=True)
    ) as db:
        query = (
            "SELECT species, common_name, offset_s, score FROM heard WHERE path = ? ORDER BY "
            "offset_s"
        )
        return [
            (code, name, float(at), float(score))
            for code, name, at, score in db.execute(query, (_RECORDING,))
        ]


def _sings(labels: Path, names: dict[str, str]) -> list[tuple[str, float]]:
    """Name and beginning, in seconds, of each labelled row of the recording in which a species
    sings."""
    found = []
    with labels.open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            recording, _, end_s = row["row_id"].rpartition("_")
            if _RECORDING.startswith(recording) and row["birds"] != "nocall":
                found += [(names[code], float(end_s) - WINDOW_S) for code in row["birds"].split()]
    return found


def _bars(
    axes: Axes,
    names: list[str],
    heard: list[Detection],
    sings: list[tuple[str, float]],
    seconds: float,
) -> None:
    for name, at in sings:
        axes.barh(names.index(name), WINDOW_S, left=at, height=0.84, color="#e4e8ec", linewidth=0)
    for _, name, at, score in sorted(
        heard, key=lambda detection: detection[-1]
    ):  # of two windows the surer shows
        axes.barh(
            names.index(name), WINDOW_S, left=at, height=0.34, color=plt.cm.YlGn(score), linewidth=0
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, seconds)
    axes.set_xlabel("seconds · grey: really sings there · green: detected, the darker the surer")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
