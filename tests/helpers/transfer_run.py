"""A small corpus of notes and a finished run of heads on a tiny backbone: two species that it
knows, one under another code, and one that it does not know."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from edge.contract.audio import RATE_HZ, Samples
from tests.conftest import hiss, write_sound
from tests.helpers.trainer_corpus import row, write_table
from tests.helpers.waveform_bundle import HZ, make_waveform_bundle
from trainer.corpus.recordings import METADATA
from trainer.pipeline.stages import STAGES, Options, run_stages
from trainer.recipe import find_recipe
from trainer.run import Run

# The corpus's codes, the pitch of each and its scientific name.
BIRDS = {
    "lowtoo": (HZ["lowtoo"], "Tonus profundus"),
    "middle": (HZ["midtoo"], "Tonus medius"),  # in the backbone's taxonomy: midtoo
    "newtoo": (HZ["engine"], "Tonus novus"),  # the backbone has a class at that pitch, not for it
}


_NOWHERE = {"latitude": "", "longitude": "", "date": ""}


def song(code: str, seconds: float, seed: int) -> Samples:
    """Bursts of the species' note over hiss."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch, _ = BIRDS[code]
    gate = (np.arange(len(time_s)) // (RATE_HZ // 4)) % 2 == seed % 2
    tone = 0.3 * np.sin(2 * np.pi * pitch * time_s) * gate
    return (hiss(seconds, 0.002, seed) + tone).astype(np.float32)


def transfer_corpus(
    data: Path,
    recordings: int = 4,
    codes: Sequence[str] = tuple(BIRDS),
    where: Callable[[str, int], dict[str, str]] = lambda *_: _NOWHERE,
) -> Path:
    """A corpus in BirdCLEF's layout. `where` gives place and date of a recording, by its species
    and number; by default there are none."""
    rows = []
    for number, code in enumerate(codes):
        for index in range(recordings):
            name = f"XC{number}{index}.ogg"
            names = {"scientific_name": BIRDS[code][1], "common_name": code.title()}
            rows.append(row(code, name, **where(code, index), **names))
            sound = song(code, 7.0 + index, 10 * index + number)
            write_sound(data / "train_short_audio" / code / name, sound)
    write_table(data / METADATA, rows)
    return data


def quiet_sounds(folder: Path, count: int = 4) -> Path:
    """Sounds without birds."""
    for number in range(count):
        path = folder / f"wind{number}.ogg"
        if not path.exists():  # written again, an Ogg file has other bytes
            write_sound(path, hiss(6, 0.02, 100 + number))
    return folder


def transfer_recipe(path: Path, epochs: int = 30) -> Path:
    """The recipe transfer with fewer epochs."""
    recipe = find_recipe("transfer")
    assert recipe.transfer is not None
    small = replace(recipe, transfer=replace(recipe.transfer, epochs=epochs, width=32))
    path.write_text(small.as_yaml(), encoding="utf8")
    return path


def fit_transfer(folder: Path, data: Path, jobs: int = 1, backbone: Path | None = None) -> Run:
    """A finished run in `folder`/run, with backbone, backgrounds and recipe beside it."""
    bundle = backbone or folder / "backbone"
    if not bundle.exists():
        make_waveform_bundle(bundle)
    options = Options(
        data,
        folder / "run",
        str(transfer_recipe(folder / "recipe.yaml")),
        None,
        None,
        jobs,
        "cpu",
        nocall=quiet_sounds(folder / "quiet"),
        backbone=bundle,
        new=("newtoo",) if (data / "train_short_audio/newtoo").exists() else (),
    )
    return run_stages(options, STAGES, Console(quiet=True))
