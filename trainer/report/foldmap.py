"""Table and map of the folds: a panel per quarter, with blocks as tinted cells.

Knows no Run; folds.py makes the folds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from rich.console import Console

from edge.contract.errors import CorpusError, UsageError
from edge.prior.place import Values
from trainer.corpus.duplicates import same_sound
from trainer.corpus.folds import (
    MONTHS,
    REGIONS,
    TABLE_HEADER,
    FoldRow,
    check_folds,
    corner,
    fill_folds,
    shares,
    write_folds,
)
from trainer.corpus.recordings import Corpus, Recording
from trainer.files import check_replaceable, replacing
from trainer.place.rasters import Rasters
from trainer.recipe import Recipe
from trainer.report.figures import draw_ground

_INK = "#22302b"
_SOFT = "#6b7a74"
_GRID = "#e6ebe8"
_TEN = (
    "#1b7f5c",
    "#d9822b",
    "#3b6fb6",
    "#b5475d",
    "#7a5fb0",
    "#5b8c2a",
    "#2a9d9d",
    "#8a6d3b",
    "#444c49",
    "#c9a227",
)
_STYLE = {
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}
_CLOSE_DEG = 60  # minimum extent of a map


def folds_table(
    data: Path,
    out: Path,
    recipe: Recipe,
    console: Console,
    place: tuple[float, float] | None = None,
) -> None:
    """Write the folds of a corpus as a CSV table, with the map beside it as PNG, without a run.
    Raises CorpusError; UsageError if the map would replace a picture without such a table beside
    it."""
    picture = out.with_suffix(".png")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; --out is the CSV to write, or the folder of a run")
    check_replaceable(out, TABLE_HEADER)
    if picture.exists() and not out.exists():
        raise UsageError(
            f"{picture}: already exists, without {out.name}; choose another name for --out"
        )
    placed = assign_folds(Corpus.read(data, place=place), recipe, picture, console)
    write_folds(out, placed, TABLE_HEADER)
    console.print(f"{out}, {picture}", highlight=False)


def assign_folds(
    corpus: Corpus, recipe: Recipe, picture: Path, console: Console, rasters: Path | None = None
) -> list[FoldRow]:
    """Make the folds, draw them (over the land of `rasters`, if given) and print their
    properties."""
    same = same_sound(corpus.recordings)
    heard = {r.recording for r in corpus.recordings if r.path.is_file()}
    try:
        placed = fill_folds(corpus.recordings, recipe.folds, recipe.seed, same, heard or None)
    except CorpusError as error:
        raise CorpusError(f"{corpus.data}: {error}") from None
    ground = None if rasters is None else Rasters.open(rasters).elevation()
    draw_folds(
        picture, corpus.recordings, placed, recipe.folds.count, recipe.folds.cell_deg, ground
    )
    table, lines = check_folds(corpus.recordings, placed, recipe.folds)
    if same:
        lines.append(
            f"recordings that are the same sound as another: {sum(map(len, same))}, kept in one "
            "fold"
        )
    segments = sum(r.is_segment for r in corpus.recordings)
    if segments:
        files = len({r.source for r in corpus.recordings if r.is_segment})
        lines.append(f"segments: {segments} of {files} files, those of a file kept in one fold")
    console.print(table, *lines, sep="\n", highlight=False)
    return placed


def draw_folds(
    path: Path,
    recordings: Sequence[Recording],
    placed: Sequence[FoldRow],
    folds: int,
    cell_deg: float,
    ground: Values | None = None,
) -> None:
    """Draw a panel per quarter of the year as PNG: recordings as dots and blocks as cells in the
    colour of their fold, outlines of the gridded regions, shares of the folds above, over `ground`
    (a global grid of elevation)."""
    with rc_context(_STYLE):  # type: ignore[arg-type]  # matplotlib types its keys one by one
        where = [(r, p) for r, p in zip(recordings, placed, strict=True) if r.latitude is not None]
        west_to_east, south_to_north = _extent([r for r, _ in where])
        flatness = (south_to_north[1] - south_to_north[0]) / (west_to_east[1] - west_to_east[0])
        figure = Figure(
            figsize=(13, 12.2 * min(flatness, 1.2) + 1.9), layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        share = shares(placed, folds)
        for panel, quarter in zip(figure.subplots(2, 2).flat, "1234", strict=True):
            mine = [(r, p) for r, p in where if p.quarter == quarter]
            if ground is not None:
                draw_ground(panel, ground)
            panel.set(xlim=west_to_east, ylim=south_to_north, aspect="equal", facecolor="#fbfcfb")
            panel.set_xlabel("longitude, °", fontsize=7)
            panel.set_ylabel("latitude, °", fontsize=7)
            title = f"{MONTHS[quarter]}: {len(mine):,} recordings with a place"
            panel.set_title(title, loc="left", weight="bold", size=9.5)
            _draw_quarter(panel, mine, cell_deg)
            _draw_shares(panel, share.get(quarter, []))
        dots = [
            Line2D([], [], marker="o", ls="", ms=6, color=_colour(k), label=f"fold {k}")
            for k in range(folds)
        ]
        outline = Line2D([], [], color=_SOFT, lw=0.8, ls=(0, (4, 3)), label="gridded region")
        figure.legend(
            handles=[*dots, outline], loc="outside lower center", ncols=folds + 1, frameon=False
        )
        blocks = len({p.block for p in placed if p.block})
        headline = (
            f"{len(placed):,} recordings in {folds} folds; {blocks:,} blocks of {cell_deg:g}° and "
            "a quarter whole"
        )
        figure.suptitle(headline, x=0.01, ha="left", weight="bold", size=12)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")


def _colour(fold: int) -> str:
    return _TEN[fold % len(_TEN)]


def _extent(recordings: Sequence[Recording]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(west, east) and (south, north) of a map of all recordings, with a margin and a minimum
    extent."""
    if not recordings:
        return (-180.0, 180.0), (-60.0, 80.0)
    sides = []
    for values, limit in (
        ([r.longitude for r in recordings], 180.0),
        ([r.latitude for r in recordings], 90.0),
    ):
        low = float(np.min(np.array(values, float)))
        high = float(np.max(np.array(values, float)))
        air = max(4.0, (_CLOSE_DEG / 2 - (high - low)) / 2)
        sides.append((max(-limit, low - air), min(limit, high + air)))
    return sides[0], sides[1]


def _draw_quarter(panel: Axes, mine: Sequence[tuple[Recording, FoldRow]], cell_deg: float) -> None:
    fold_of = {p.block: p.fold for _, p in mine if p.block}
    cells = [Rectangle(corner(block, cell_deg)[::-1], cell_deg, cell_deg) for block in fold_of]
    colours = [_colour(fold) for fold in fold_of.values()]
    panel.add_collection(
        PatchCollection(cells, facecolor=colours, alpha=0.28, linewidth=0, zorder=2)
    )
    panel.add_collection(
        PatchCollection(cells, facecolor="none", edgecolor=colours, linewidth=0.6, zorder=3)
    )
    x, y = ([getattr(r, name) for r, _ in mine] for name in ("longitude", "latitude"))
    dots = [_colour(p.fold) for _, p in mine]
    panel.scatter(x, y, c=dots, s=3, alpha=0.7, linewidths=0, zorder=4, rasterized=True)
    for south, north, west, east in REGIONS.values():
        outline = Rectangle(
            (west, south), east - west, north - south, fill=False, ec=_SOFT, lw=0.8, ls=(0, (4, 3))
        )
        panel.add_patch(outline)
    panel.grid(color=_GRID, lw=0.6, zorder=0)
    panel.tick_params(labelsize=7, length=0)
    panel.spines[:].set_visible(False)


def _draw_shares(panel: Axes, row: Sequence[float]) -> None:
    """A bar beside the title, divided by the shares of the folds."""
    left = 0.0
    bar = panel.inset_axes((0.68, 1.02, 0.32, 0.025))
    for k, share in enumerate(row):
        bar.barh(0, share, left=left, color=_colour(k), height=1.0)
        label = f"{share:.1%}" if len(row) <= 6 else ""
        bar.text(left + share / 2, 0.65, label, ha="center", va="bottom", size=6, color=_INK)
        left += share
    bar.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    bar.axis("off")
