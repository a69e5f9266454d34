"""Folds blocked by place and season: what is recorded side by side in one season is never in two folds.

Knows recordings, no sound. Published (2021): three dense areas (North America, South America, Europe) are gridded, each
quarter of the year on its own; a block goes whole to one fold; everywhere else is random; each quarter keeps 80/20.
Recordings of one author are kept together by nothing else: as published.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainer.corpus import Recording
from trainer.files import read_csv, replacing, write_csv
from trainer.recipe import FoldRecipe

# south, north, west, east in degrees: where the corpus is dense enough to be gridded
REGIONS = {
    "north_america": (15.0, 72.0, -170.0, -50.0),
    "south_america": (-56.0, 15.0, -93.0, -34.0),
    "europe": (35.0, 72.0, -12.0, 45.0),
}
ELSEWHERE = "elsewhere"
NO_DATE = "none"
HEADER = ("recording", "filename", "fold", "region", "block", "quarter")
_SLACK = 0.02  # a fold's share of a quarter may be off by so much


@dataclass(frozen=True)
class Placed:
    """A recording with its fold and why: `block` is empty where the fold is random."""

    recording: str
    filename: str
    fold: int
    region: str
    block: str
    quarter: str  # "1" to "4", or "none"


def locate(recording: Recording, cell_deg: float) -> tuple[str, str, str]:
    """(region, block, quarter) of a recording. Without a place or a date it belongs to no block."""
    quarter = NO_DATE if recording.quarter is None else str(recording.quarter)
    if recording.latitude is None or recording.longitude is None:
        return ELSEWHERE, "", quarter
    for region, (south, north, west, east) in REGIONS.items():
        if south <= recording.latitude < north and west <= recording.longitude < east:
            if quarter == NO_DATE:
                return region, "", quarter
            row = int((recording.latitude - south) / cell_deg)
            column = int((recording.longitude - west) / cell_deg)
            return region, f"{region}-{row}-{column}-q{quarter}", quarter
    return ELSEWHERE, "", quarter


def make_folds(recordings: Sequence[Recording], recipe: FoldRecipe, seed: int) -> list[Placed]:
    """A fold for every recording, in the order given; the same seed always gives the same folds.

    Within a quarter the largest blocks go first, each to the fold where its species are rarest among those with room;
    then single recordings, in random order, fill every fold to its share, each where its species is rarest.
    """
    where = [locate(r, recipe.cell_deg) for r in recordings]
    fold = np.full(len(recordings), -1)
    balance = _Balance([r.primary_label for r in recordings], recipe.count)
    by_quarter: dict[str, list[int]] = defaultdict(list)
    for i in np.random.default_rng(seed).permutation(len(recordings)):
        by_quarter[where[i][2]].append(int(i))
    for quarter in sorted(by_quarter):
        members = by_quarter[quarter]
        blocks: dict[str, list[int]] = defaultdict(list)
        for i in members:
            blocks[where[i][1]].append(i)
        singles = blocks.pop("", [])
        room = balance.room(len(members))
        room_of_blocks = [free - len(singles) / recipe.count for free in room]  # singles are to be found in every fold
        for block in sorted(blocks.values(), key=len, reverse=True):
            chosen = balance.choose(block, room_of_blocks)
            fold[block] = chosen
            room_of_blocks[chosen] -= len(block)
            room[chosen] -= len(block)
        for single in singles:
            chosen = balance.choose([single], room)
            fold[single] = chosen
            room[chosen] -= 1
    return [Placed(r.recording, r.path.name, int(fold[i]), *where[i]) for i, r in enumerate(recordings)]


class _Balance:
    """How many recordings of each species every fold has so far."""

    def __init__(self, labels: list[str], folds: int) -> None:
        names, self._species = np.unique(labels, return_inverse=True)
        self._total = np.bincount(self._species, minlength=len(names))
        self._count = np.zeros((folds, len(names)))

    def room(self, recordings: int) -> list[float]:
        """Equal shares of a quarter's recordings; the odd ones go to the folds that have fewest."""
        folds = len(self._count)
        share, odd = divmod(recordings, folds)
        emptiest = np.argsort(self._count.sum(axis=1), kind="stable")[:odd]
        return [share + (k in emptiest) for k in range(folds)]

    def choose(self, unit: list[int], room: Sequence[float]) -> int:
        """The fold for recordings that stay together: one with room and the smallest share of their species; where
        none has room, the one that has most."""
        species, amount = np.unique(self._species[unit], return_counts=True)
        share = (self._count[:, species] / self._total[species] * amount).sum(axis=1)
        free = np.array(room)
        fits = free >= len(unit)
        if fits.any():
            share = np.where(fits, share, np.inf)
            best = np.flatnonzero(share <= share.min() + 1e-9)
            chosen = int(best[np.argmax(free[best])])
        else:
            chosen = min(range(len(free)), key=lambda k: (-free[k], self._count[k].sum()))
        self._count[chosen, species] += amount
        return chosen


def shares(placed: Iterable[Placed], folds: int) -> dict[str, list[float]]:
    """Share of each fold within each quarter."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for p in placed:
        counts[p.quarter][p.fold] += 1
    return {q: [c[k] / c.total() for k in range(folds)] for q, c in sorted(counts.items())}


def off_balance(placed: Sequence[Placed], folds: int) -> list[str]:
    """One line for every quarter and fold that is more than 2 points (and a whole recording) off its share: blocks too
    large for the corpus."""
    found = []
    sizes = Counter(p.quarter for p in placed)
    for quarter, row in shares(placed, folds).items():
        for k, share in enumerate(row):
            if abs(share - 1 / folds) > max(_SLACK, 1 / sizes[quarter]):
                found.append(f"quarter {quarter}, fold {k}: {share:.1%} of the recordings, {1 / folds:.0%} wanted")
    return found


def write_folds(path: Path, placed: Iterable[Placed]) -> None:
    write_csv(path, HEADER, ([getattr(p, name) for name in HEADER] for p in placed))


def read_folds(path: Path) -> list[Placed]:
    """folds.csv as written. Raises CorpusError naming the file."""
    rows = read_csv(path, HEADER)
    return [Placed(r["recording"], r["filename"], int(r["fold"]), r["region"], r["block"], r["quarter"]) for r in rows]


def draw_folds(path: Path, recordings: Sequence[Recording], placed: Sequence[Placed], folds: int) -> None:
    """A map of the folds, one panel per quarter, and the table of shares, as PNG."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    *panels, below = figure.subplot_mosaic("AB;CD;EE", height_ratios=[3, 3, 1.2]).values()
    for panel, quarter in zip(panels, "1234", strict=True):
        chosen = [
            (r.longitude, r.latitude, p.fold)
            for r, p in zip(recordings, placed, strict=True)
            if p.quarter == quarter and r.latitude is not None
        ]
        x, y, colour = np.array(chosen, float).reshape(-1, 3).T
        panel.scatter(x, y, c=colour, s=2, cmap="tab10", vmin=-0.5, vmax=9.5, rasterized=True)
        for south, north, west, east in REGIONS.values():
            panel.plot([west, east, east, west, west], [south, south, north, north, south], color="0.6", lw=0.7)
        panel.set(title=f"quarter {quarter}: {len(chosen)} recordings with a place", xlim=(-180, 180), ylim=(-60, 80))
        panel.tick_params(labelsize=7)
    table = shares(placed, folds)
    below.axis("off")
    below.table(
        cellText=[[f"{share:.1%}" for share in row] for row in table.values()],
        rowLabels=[f"quarter {q}" for q in table],
        colLabels=[f"fold {k}" for k in range(folds)],
        loc="center",
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
