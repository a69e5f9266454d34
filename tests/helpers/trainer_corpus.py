"""A corpus of a few seconds for the trainer's tests: each species is a note, so that a tiny network
can tell them."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ
from tests.conftest import NOTE_HZ, hiss, note, write_sound
from trainer.corpus.recordings import COLUMNS, METADATA
from trainer.corpus.soundscapes import LABELS, SITES

CODES = tuple(NOTE_HZ)[:2]


def row(code: str, name: str, **cells: str) -> dict[str, str]:
    """A row of train_metadata.csv with all 14 columns."""
    usual = {
        "primary_label": code,
        "secondary_labels": "[]",
        "type": "['song']",
        "latitude": "48.1",
        "longitude": "11.5",
        "scientific_name": f"Avis {code}",
        "common_name": code.title(),
        "author": "A. Nyone",
        "date": "2019-05-04",
        "filename": name,
        "license": "",
        "rating": "4.0",
        "time": "06:30",
        "url": "",
    }
    return usual | cells


def song(code: str, seconds: float, seed: int) -> NDArray[np.float32]:
    """Bursts of the species' note over hiss."""
    sound = hiss(seconds, 0.002, seed)
    tone = note(code, seconds, 0.3)
    gate = (np.arange(len(sound)) // (RATE_HZ // 4)) % 2 == seed % 2
    return (sound + tone * gate).astype(np.float32)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else list(COLUMNS))
        writer.writeheader()
        writer.writerows(rows)


def make_corpus(
    data: Path, recordings: int = 4, seconds: float = 8.0, soundscape: bool = False
) -> Path:
    """Two species, `recordings` each, spread over the year; optionally one labelled soundscape of
    15 s."""
    rows = []
    for index in range(recordings):
        for number, code in enumerate(CODES):
            name = f"XC{index}{number}.ogg"
            day = f"2019-{1 + 3 * (index % 4):02d}-04"
            rows.append(
                row(
                    code,
                    name,
                    date=day,
                    latitude=f"{40 + index}.0",
                    longitude=f"{-90 + 7 * index}.0",
                )
            )
            write_sound(
                data / "train_short_audio" / code / name, song(code, seconds, 10 * index + number)
            )
    write_table(data / METADATA, rows)
    if soundscape:
        sound = np.concatenate([song(CODES[0], 5, 1), hiss(5, 0.002, 2), song(CODES[1], 5, 3)])
        write_sound(data / "train_soundscapes" / "7_ABC_20190504.ogg", sound)
        birds = (CODES[0], "nocall", CODES[1])
        labels = [
            {
                "row_id": f"7_ABC_{5 * i + 5}",
                "site": "ABC",
                "audio_id": "7",
                "seconds": str(5 * i + 5),
                "birds": heard,
            }
            for i, heard in enumerate(birds)
        ]
        write_table(data / LABELS, labels)
        write_table(
            data / SITES,
            [
                {
                    "id": "ABC",
                    "place_name": "A",
                    "country": "B",
                    "lat": "48.0",
                    "lon": "11.0",
                    "geog": "",
                }
            ],
        )
    return data
