"""Folds blocked by place and season: neighbouring recordings of one season are never in two folds.

Knows recordings, no sound. As published (2021): three dense areas (North America, South America,
Europe) are divided into grid cells, separately for each quarter of the year; such a block goes to
one fold as a whole; all other recordings are split at random; each quarter keeps 80/20. Recordings
of one author are not kept together otherwise, also as published. A corpus with fewer blocks than
folds, for example of one site in one season, is split by recording instead.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from edge.contract.errors import CorpusError
from trainer.corpus.sound import Recording
from trainer.files import read_csv, write_csv
from trainer.recipe import FoldRecipe

# South, north, west, east in degrees: areas in which the corpus is dense enough for a grid.
REGIONS = {
    "north_america": (15.0, 72.0, -170.0, -50.0),
    "south_america": (-56.0, 15.0, -93.0, -34.0),
    "europe": (35.0, 72.0, -12.0, 45.0),
}
ELSEWHERE = "elsewhere"
NO_DATE = "none"
MONTHS = {
    "1": "January to March",
    "2": "April to June",
    "3": "July to September",
    "4": "October to December",
}
BY_RECORDING = (
    "the recordings come from too few places and seasons to keep one apart for each fold, so the "
    "folds are split by recording: sound of one place and day is trained on and validated on, and "
    "scores on unseen crops are higher than they would be at another place"
)
HEADER = ("recording", "filename", "fold", "region", "block", "quarter")
TABLE_HEADER = HEADER[1:]  # of the table for readers and other programs
_SLACK = 0.02  # allowed deviation of a fold's share of a quarter
_BLOCKS_MIN = 5  # a species with so many blocks is in the training part of every fold


@dataclass(frozen=True)
class FoldRow:
    """A recording with its fold and the reason for it: `block` is empty if the fold is random."""

    recording: str
    filename: str
    fold: int
    region: str
    block: str
    quarter: str  # "1" to "4", or "none"
    source: str = ""  # the file, where several recordings are segments of it; in no table


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


def corner(block: str, cell_deg: float) -> tuple[float, float]:
    """(south, west) of a block's cell in degrees."""
    region, row, column, _ = block.split("-")
    south, _, west, _ = REGIONS[region]
    return south + int(row) * cell_deg, west + int(column) * cell_deg


def fill_folds(
    recordings: Sequence[Recording],
    recipe: FoldRecipe,
    seed: int,
    same: Sequence[Sequence[str]] = (),
    heard: Container[str] | None = None,
) -> list[FoldRow]:
    """Make folds by `make_folds`, or by recording if that leaves a fold without any recording in
    `heard` (keys of readable recordings; None: all).

    Raises CorpusError if there are fewer of those than folds.
    """
    fit = {r.recording for r in recordings if heard is None or r.recording in heard}

    def fills(placed: Sequence[FoldRow]) -> bool:
        return len({p.fold for p in placed if p.recording in fit}) == recipe.count

    placed = make_folds(recordings, recipe, seed, same)
    if not fills(placed):
        free = [replace(r, date=None, latitude=None, longitude=None) for r in recordings]
        spread = make_folds(free, recipe, seed, same)
        where = (locate(r, recipe.cell_deg) for r in recordings)
        placed = [
            replace(p, region=at[0], quarter=at[2]) for p, at in zip(spread, where, strict=True)
        ]
    if not fills(placed):
        different = _different(recordings, fit, same)
        raise CorpusError(
            f"expected at least {recipe.count} different recordings with sound, one for each fold; "
            f"found {different}; add recordings, or choose a recipe with a smaller folds.count "
            "(python -m trainer recipe NAME prints one)"
        )
    return placed


def _different(
    recordings: Sequence[Recording], fit: set[str], same: Sequence[Sequence[str]]
) -> int:
    """The number of different sounds, each a file, among recordings."""
    file_of = {r.recording: r.source for r in recordings}
    alike = {file_of[key]: min(file_of[k] for k in group) for group in same for key in group}
    return len({alike.get(file_of[key], file_of[key]) for key in fit})


def split_by_recording(
    recordings: Iterable[Recording], placed: Iterable[FoldRow], cell_deg: float
) -> bool:
    """True if no place and season is kept together in a fold although recordings have them."""
    return not any(p.block for p in placed) and any(locate(r, cell_deg)[1] for r in recordings)


def make_folds(
    recordings: Sequence[Recording],
    recipe: FoldRecipe,
    seed: int,
    same: Sequence[Sequence[str]] = (),
) -> list[FoldRow]:
    """A fold for every recording, in the order given; the same seed always gives the same folds.

    Within a quarter the largest blocks go first, each to the fold in which its species are rarest
    among those with room; then single recordings, in random order, fill every fold to its share,
    each where its species is rarest. Finally, a species with five blocks or more that are all in
    one fold gives a block to another: otherwise the networks of one fold would never train on it.
    Recordings of the `same` sound, and segments of one file, follow the largest of their blocks
    into its fold; segments without a block are one of their own.
    """
    where = [locate(r, recipe.cell_deg) for r in recordings]
    files = _files_of_several(recordings)
    fold = np.full(len(recordings), -1)
    balance = _Balance([r.primary_label for r in recordings], recipe.count)
    by_quarter: dict[str, list[int]] = defaultdict(list)
    for i in np.random.default_rng(seed).permutation(len(recordings)):
        by_quarter[where[i][2]].append(int(i))
    for quarter in sorted(by_quarter):
        members = by_quarter[quarter]
        blocks: dict[str, list[int]] = defaultdict(list)
        for i in members:
            blocks[where[i][1] or files[i]].append(i)
        singles = blocks.pop("", [])
        room = balance.room(len(members))
        # Leaves room for single recordings in every fold.
        room_of_blocks = [free - len(singles) / recipe.count for free in room]
        for block in sorted(blocks.values(), key=len, reverse=True):
            chosen = balance.choose(block, room_of_blocks)
            fold[block] = chosen
            room_of_blocks[chosen] -= len(block)
            room[chosen] -= len(block)
        for single in singles:
            chosen = balance.choose([single], room)
            fold[single] = chosen
            room[chosen] -= 1
    placed = [
        FoldRow(r.recording, r.path.name, int(fold[i]), *where[i], files[i])
        for i, r in enumerate(recordings)
    ]
    spread = _spread(placed, [r.primary_label for r in recordings], recipe.count)
    return _together(spread, [*same, *_segments(recordings)])


def _files_of_several(recordings: Sequence[Recording]) -> list[str]:
    """The file of each recording that is one of several segments of it; empty for others."""
    sizes = Counter(r.source for r in recordings)
    return [r.source if sizes[r.source] > 1 else "" for r in recordings]


def _segments(recordings: Sequence[Recording]) -> list[list[str]]:
    """Groups of segments of one file, as keys, which are in several blocks where a table gives them
    several places or days."""
    groups: dict[str, list[str]] = defaultdict(list)
    for r, source in zip(recordings, _files_of_several(recordings), strict=True):
        groups[source].append(r.recording)
    return [group for source, group in groups.items() if source]


def _together(placed: list[FoldRow], same: Sequence[Sequence[str]]) -> list[FoldRow]:
    """The folds after moving blocks that share a sound, directly or through others, into one
    fold."""
    unit_of = {p.recording: _unit(p) for p in placed}
    size = Counter(unit_of.values())
    fold = {_unit(p): p.fold for p in placed}
    linked: dict[str, set[str]] = {}
    for group in same:
        units = {unit_of[name] for name in group if name in unit_of}
        units = units.union(*(linked.get(unit, ()) for unit in units))
        linked |= dict.fromkeys(units, units)
    for units in linked.values():
        largest = max(sorted(units), key=lambda unit: size[unit])
        fold |= dict.fromkeys(units, fold[largest])
    return [replace(p, fold=fold[_unit(p)]) for p in placed]


def _spread(placed: list[FoldRow], labels: Sequence[str], count: int) -> list[FoldRow]:
    """The folds after moving one block of each species with many blocks that are all in one fold.

    Each move takes the block and fold that keep the shares of the quarter most even. No move puts
    another species into one fold completely, so the process ends; if every move would, the species
    stays (and `absent` names it).
    """
    fold = {_unit(p): p.fold for p in placed}
    size = Counter(map(_unit, placed))
    quarter = {_unit(p): p.quarter for p in placed}
    units_of: dict[str, set[str]] = defaultdict(set)
    species_in: dict[str, set[str]] = defaultdict(set)
    load: dict[tuple[str, int], int] = Counter((p.quarter, p.fold) for p in placed)
    for p, label in zip(placed, labels, strict=True):
        units_of[label].add(_unit(p))
        species_in[_unit(p)].add(label)

    def whole(label: str) -> bool:
        return len({fold[unit] for unit in units_of[label]}) == 1

    many = {label for label, units in units_of.items() if len(units) >= _BLOCKS_MIN}
    for label in sorted(many):
        if not whole(label):
            continue
        home = fold[min(units_of[label])]
        moves = [(unit, k) for unit in sorted(units_of[label]) for k in range(count) if k != home]
        moves.sort(
            key=lambda m: (
                size[m[0]] * (load[quarter[m[0]], m[1]] + size[m[0]] - load[quarter[m[0]], home])
            )
        )
        for unit, k in moves:
            fold[unit] = k
            if not any(whole(other) for other in species_in[unit] & many):
                load[quarter[unit], home] -= size[unit]
                load[quarter[unit], k] += size[unit]
                break
            fold[unit] = home
    return [replace(p, fold=fold[_unit(p)]) for p in placed]


def _unit(placed: FoldRow) -> str:
    """The unit that goes to a fold as a whole: a block; without one a file, or a recording."""
    return placed.block or placed.source or placed.recording


class _Balance:
    """Number of recordings of each species in every fold so far."""

    def __init__(self, labels: list[str], folds: int) -> None:
        names, self._species = np.unique(labels, return_inverse=True)
        self._total = np.bincount(self._species, minlength=len(names))
        self._count = np.zeros((folds, len(names)))

    def room(self, recordings: int) -> list[float]:
        """Equal shares of a quarter's recordings; the remainder goes to the folds with fewest."""
        folds = len(self._count)
        share, odd = divmod(recordings, folds)
        emptiest = np.argsort(self._count.sum(axis=1), kind="stable")[:odd]
        return [share + (k in emptiest) for k in range(folds)]

    def choose(self, unit: list[int], room: Sequence[float]) -> int:
        """Choose the fold for recordings that stay together: one with room and the smallest share
        of their species; if none has room, the one with most."""
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


def shares(placed: Iterable[FoldRow], folds: int) -> dict[str, list[float]]:
    """Share of each fold within each quarter."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for p in placed:
        counts[p.quarter][p.fold] += 1
    return {q: [c[k] / c.total() for k in range(folds)] for q, c in sorted(counts.items())}


def off_balance(placed: Sequence[FoldRow], folds: int) -> list[str]:
    """A line for every quarter and fold whose share is off by more than 2 percentage points (and a
    whole recording), because blocks are too large for the corpus."""
    found = []
    sizes = Counter(p.quarter for p in placed)
    for quarter, row in shares(placed, folds).items():
        for k, share in enumerate(row):
            if abs(share - 1 / folds) > max(_SLACK, 1 / sizes[quarter]):
                when = (
                    f"recordings of {MONTHS[quarter]}"
                    if quarter in MONTHS
                    else "recordings without a date"
                )
                found.append(f"fold {k} has {share:.1%} of the {when}, expected {1 / folds:.0%}")
    return found


def absent(recordings: Sequence[Recording], placed: Sequence[FoldRow]) -> dict[str, int]:
    """Species with all recordings in one fold, whose networks therefore never train on them, and
    the number of their blocks (a recording without a block counts as one)."""
    folds = defaultdict(set)
    blocks = defaultdict(set)
    for recording, p in zip(recordings, placed, strict=True):
        folds[recording.primary_label].add(p.fold)
        blocks[recording.primary_label].add(p.block or recording.source)
    return {label: len(blocks[label]) for label in sorted(folds) if len(folds[label]) == 1}


def torn(placed: Sequence[FoldRow]) -> list[str]:
    """Blocks that are in more than one fold; there must be none."""
    folds = defaultdict(set)
    for p in placed:
        folds[p.block].add(p.fold)
    return sorted(block for block, found in folds.items() if block and len(found) > 1)


def check_folds(
    recordings: Sequence[Recording], placed: Sequence[FoldRow], recipe: FoldRecipe
) -> tuple[Table, list[str]]:
    """A table of the shares of every quarter and fold, and lines about properties of the folds."""
    folds = recipe.count
    blocks = {p.block for p in placed if p.block}
    blocked = sum(bool(p.block) for p in placed)
    table = Table("quarter", "recordings", *(f"fold {k}" for k in range(folds)))
    for quarter, row in shares(placed, folds).items():
        mine = sum(p.quarter == quarter for p in placed)
        table.add_row(quarter, f"{mine:,}", *(f"{share:.1%}" for share in row))
    held = f"{blocked:,} of them in {len(blocks):,} blocks of a place and season"
    lines = [f"{len(placed):,} recordings, {held}; {folds} folds"]
    lines.append(f"blocks in more than one fold: {len(torn(placed))}")
    unmet = absent(recordings, placed)
    names = (
        f": {', '.join(f'{label} ({count})' for label, count in unmet.items())}" if unmet else ""
    )
    species = len({recording.primary_label for recording in recordings})
    lines.append(f"species missing from a training part: {len(unmet)} of {species}{names}")
    if split_by_recording(recordings, placed, recipe.cell_deg):
        lines.append(f"[yellow]split by recording:[/yellow] {BY_RECORDING}")
    uneven = off_balance(placed, folds)
    lines += [f"[yellow]uneven:[/yellow] {line}" for line in uneven]
    if uneven:
        lines.append(
            "(recordings of one place and season stay in one fold; few places make uneven folds)"
        )
    return table, lines


def write_folds(path: Path, placed: Iterable[FoldRow], header: Sequence[str] = HEADER) -> None:
    """Write folds.csv, or with TABLE_HEADER the table without the keys of recordings."""
    write_csv(path, header, ([getattr(p, name) for name in header] for p in placed))


def read_folds(path: Path) -> list[FoldRow]:
    """Read folds.csv. Raises CorpusError naming the file."""
    rows = read_csv(path, HEADER)
    return [
        FoldRow(
            r["recording"], r["filename"], int(r["fold"]), r["region"], r["block"], r["quarter"]
        )
        for r in rows
    ]
