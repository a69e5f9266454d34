"""Figures of the report, as bytes: PNG for maps, SVG for lines. Knows numbers only, no Run and no
HTML."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

INK = "#22302b"
SOFT = "#6b7a74"
LINE = "#d9dfdc"
COLOURS = ("#1b7f5c", "#d9822b", "#3b6fb6", "#b5475d", "#7a5fb0", "#5b8c2a", "#2a9d9d", "#8a6d3b")
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "path",  # looks the same on a machine without the font
    "svg.hashsalt": "birdstation",  # the same numbers give the same bytes
}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bytes(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    figure.savefig(buffer, format=kind, dpi=120, metadata=metadata, facecolor="white")
    return buffer.getvalue()


def fold_map(
    latitude: NDArray[np.floating],
    longitude: NDArray[np.floating],
    fold: NDArray[np.integer],
    quarter: Sequence[str],
    ground: NDArray[np.floating] | None,
) -> bytes:
    """Maps of places `(n,)` coloured by fold, one for each quarter of the year, as PNG.

    `ground` is a global grid from 90°N, 180°W such as the elevation; NaN and 0 are drawn as water.
    """
    quarters = [q for q in ("1", "2", "3", "4", "none") if q in quarter]
    with rc_context(_STYLE):
        figure = _figure(10.5, 2.9 * ((len(quarters) + 1) // 2))
        axes = figure.subplots((len(quarters) + 1) // 2, 2, squeeze=False).ravel()
        extent = _extent(latitude, longitude)
        for panel, name in zip(axes, quarters, strict=False):
            mine = np.array([q == name for q in quarter])
            if ground is not None:
                draw_ground(panel, ground)
            colours = [COLOURS[k % len(COLOURS)] for k in fold[mine]]
            size = float(np.clip(4000 / max(len(fold), 1), 2, 16))
            panel.scatter(
                longitude[mine],
                latitude[mine],
                c=colours,
                s=size,
                linewidths=0.2,
                edgecolors="white",
            )
            panel.set(xlim=extent[:2], ylim=extent[2:], aspect="auto")
            panel.set_title("no date" if name == "none" else f"quarter {name}: {_MONTHS[name]}")
            panel.tick_params(labelsize=7)
            panel.set_xlabel("longitude, °", fontsize=7)
            panel.set_ylabel("latitude, °", fontsize=7)
        for panel in axes[len(quarters) :]:
            panel.axis("off")
        handles = [
            _dot(COLOURS[k % len(COLOURS)], f"fold {k}")
            for k in range(int(fold.max(initial=0)) + 1)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
        return _bytes(figure, "png")


_MONTHS = {
    "1": "January to March",
    "2": "April to June",
    "3": "July to September",
    "4": "October to December",
}


def _dot(colour: str, label: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", color=colour, label=label, markersize=5)


def _extent(
    latitude: NDArray[np.floating], longitude: NDArray[np.floating]
) -> tuple[float, float, float, float]:
    """West, east, south and north, with a margin within the globe."""
    west = max(-180.0, float(longitude.min()) - 8)
    east = min(180.0, float(longitude.max()) + 8)
    south = max(-90.0, float(latitude.min()) - 5)
    north = min(90.0, float(latitude.max()) + 5)
    return west, east, south, north


def draw_ground(panel: Axes, ground: NDArray[np.floating]) -> None:
    """Draw land and water behind a map; `ground` as in `fold_map`."""
    height = np.asarray(ground, np.float32)[::2, ::2]
    water = np.isnan(height) | (height == 0)
    shade = np.sqrt(np.clip(np.nan_to_num(height), 0, 4500) / 4500)[..., None]
    low, high, sea = (
        np.array(c, np.float32)
        for c in ((0.91, 0.92, 0.88), (0.70, 0.67, 0.60), (0.96, 0.98, 0.99))
    )
    picture = np.where(water[..., None], sea, low + (high - low) * shade)
    panel.imshow(
        picture, extent=(-180, 180, -90, 90), interpolation="bilinear", aspect="auto", zorder=0
    )
    panel.grid(False)


def learning_curves(
    histories: Mapping[str, Mapping[str, NDArray[np.floating]]], kinds: Mapping[str, str]
) -> bytes:
    """Loss and F1 by epoch of every member, coloured by kind, as SVG. Columns as in history.csv."""
    names = sorted(set(kinds.values()))
    with rc_context(_STYLE):
        figure = _figure(10.5, 3.3)
        losses, scores = figure.subplots(1, 2)
        for member, history in histories.items():
            colour = COLOURS[names.index(kinds[member]) % len(COLOURS)]
            losses.plot(history["epoch"], history["train_loss"], color=colour, lw=0.9, ls=":")
            losses.plot(history["epoch"], history["valid_loss"], color=colour, lw=1.2, alpha=0.85)
            scores.plot(history["epoch"], history["valid_f1"], color=colour, lw=1.2, alpha=0.85)
        losses.set(title="Loss: training dotted, validation solid", xlabel="epoch", yscale="log")
        scores.set(title="F1 of validation crops at 0.5", xlabel="epoch", ylim=(0, 1))
        lines = [
            Line2D([], [], color=COLOURS[i % len(COLOURS)], label=name)
            for i, name in enumerate(names)
        ]
        scores.legend(handles=lines, loc="lower right")
        for panel in (losses, scores):
            panel.xaxis.get_major_locator().set_params(integer=True)
        return _bytes(figure, "svg")


def confusion_matrix(counts: NDArray[np.integer], names: Sequence[str]) -> bytes:
    """Shares of the crops of each species by the species predicted, from counts `(species,
    species)`, as SVG."""
    rows = np.flatnonzero(counts.sum(axis=1))
    shares = counts[rows] / counts[rows].sum(axis=1, keepdims=True)
    with rc_context(_STYLE):
        figure = _figure(2.5 + 0.4 * len(names), 2.0 + 0.32 * len(rows))
        panel = figure.subplots()
        panel.imshow(shares, cmap="YlGn", vmin=0.0, vmax=1.0, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            if share:
                dark = "white" if share > 0.6 else INK
                panel.text(j, i, f"{share:.0%}", ha="center", va="center", fontsize=6, color=dark)
        panel.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        panel.set_yticks(range(len(rows)), [names[int(i)] for i in rows], fontsize=7)
        panel.set(ylabel="species", xlabel="taken for")
        panel.grid(False)
        panel.tick_params(length=0)
        return _bytes(figure, "svg")


def bars(names: Sequence[str], values: Sequence[float], title: str) -> bytes:
    """Horizontal bars, the first on top, as SVG."""
    with rc_context(_STYLE):
        figure = _figure(5.2, 0.6 + 0.28 * len(names))
        panel = figure.subplots()
        drawn = panel.barh(names, values, color=COLOURS[0], height=0.7)
        panel.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8, color=SOFT)
        panel.invert_yaxis()
        panel.set_title(title)
        panel.grid(axis="y", visible=False)
        panel.margins(x=0.12)
        return _bytes(figure, "svg")


def threshold_curves(
    curves: Mapping[str, Any], chosen: Mapping[str, float], baseline: float | None
) -> bytes:
    """F1 by threshold, with its interval if there is one, for blended and acoustic scores side by
    side, as SVG."""
    titles = {"blended": "With place and season", "acoustic": "By sound alone"}
    with rc_context(_STYLE):
        figure = _figure(10.5, 3.5)
        for panel, (name, title) in zip(
            figure.subplots(1, 2, sharey=True), titles.items(), strict=True
        ):
            curve = {key: np.array(values, np.float64) for key, values in curves[name].items()}
            x = curve["threshold"]
            if "low" in curve:
                panel.fill_between(
                    x, curve["low"], curve["high"], color=COLOURS[0], alpha=0.15, lw=0, label="95 %"
                )
            panel.plot(x, curve["f1"], color=COLOURS[0], lw=2, label="F1")
            for i, (key, label) in enumerate(
                (("call_rows", "rows with birds"), ("nocall_rows", "rows without"))
            ):
                if key in curve:
                    panel.plot(x, curve[key], color=COLOURS[1 + i], lw=1, label=label)
            if baseline is not None:
                panel.axhline(baseline, color=SOFT, lw=1, ls="--", label="'no bird' throughout")
            panel.axvline(chosen[name], color=INK, lw=1)
            panel.annotate(
                f" {chosen[name]:g}",
                (chosen[name], 0.03),
                xycoords=("data", "axes fraction"),
                fontsize=9,
            )
            panel.set(title=title, xlabel="threshold", ylim=(0, 1.02))
        figure.axes[0].set_ylabel("F1")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
        return _bytes(figure, "svg")


def search_map(search: Sequence[Mapping[str, Any]]) -> bytes:
    """Smoothed peak of F1 for every padding, weight of neighbours and blend, with a frame around
    the chosen one, as SVG."""
    ways = list(dict.fromkeys((row["padding"], row["smoothing"]) for row in search))
    blends = list(dict.fromkeys((row["rule"], row["prior_weight"]) for row in search))
    table = np.full((len(ways), len(blends)), np.nan)
    taken = None
    for row in search:
        at = (
            ways.index((row["padding"], row["smoothing"])),
            blends.index((row["rule"], row["prior_weight"])),
        )
        table[at] = row["peak"]
        taken = at if row["taken"] else taken
    smoothed = any(weight for _, weight in ways)
    names = [f"{padding}, {weight:g}" if smoothed else padding for padding, weight in ways]
    with rc_context(_STYLE):
        figure = _figure(max(5.5, 2.0 + 0.85 * len(blends)), 1.3 + 0.42 * len(ways))
        panel = figure.subplots()
        span = float(np.nanmax(table) - np.nanmin(table)) or 1.0
        panel.imshow(
            table,
            cmap="YlGn",
            vmin=np.nanmin(table) - 0.2 * span,
            vmax=np.nanmax(table) + 0.6 * span,
        )
        panel.set_aspect("auto")
        for (i, j), value in np.ndenumerate(table):
            panel.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=8)
        if taken:
            panel.add_patch(_frame(taken[1], taken[0]))
        panel.set_xticks(range(len(blends)), [f"{rule}\n{weight:g}" for rule, weight in blends])
        panel.set_yticks(range(len(ways)), names)
        panel.grid(False)
        panel.tick_params(length=0)
        panel.set_title(
            "Peak of row-wise F1 by blend (rule, weight of place and season)", loc="left"
        )
        panel.set_ylabel("padding, neighbours" if smoothed else "padding")
        return _bytes(figure, "svg")


def optimiser_trace(peaks: Sequence[float], listed: float) -> bytes:
    """The best smoothed peak so far by evaluation, and the best of the recipe's list, as SVG."""
    with rc_context(_STYLE):
        figure = _figure(10.5, 2.4)
        panel = figure.subplots()
        panel.step(
            np.arange(1, len(peaks) + 1),
            peaks,
            where="post",
            color=COLOURS[0],
            lw=2,
            label="optimiser, best so far",
        )
        panel.axhline(listed, color=SOFT, lw=1, ls="--", label="best of the list")
        panel.set(
            title="The optimiser",
            xlabel="evaluation",
            ylabel="peak of F1",
            xlim=(1, max(2, len(peaks))),
        )
        panel.legend(loc="lower right", fontsize=8)
        return _bytes(figure, "svg")


def spectrogram(power: NDArray[np.floating], seconds: float, khz: float) -> bytes:
    """A picture of powers `(frequencies, times)` in dB from 0 to `khz`, as PNG; the upper 60 dB."""
    with rc_context(_STYLE):
        figure = _figure(3.4, 1.7)
        panel = figure.subplots()
        top = float(power.max())
        panel.imshow(
            power,
            cmap="magma",
            vmin=top - 60,
            vmax=top,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, khz),
        )
        panel.grid(False)
        panel.set_xlabel("s", fontsize=7)
        panel.set_ylabel("kHz", fontsize=7)
        panel.tick_params(labelsize=7)
        return _bytes(figure, "png")


def hours_and_months(hours: Sequence[int], months: Sequence[int]) -> bytes:
    """Counts by hour of the day (0 to 23) and by month (1 to 12), side by side, as SVG."""
    with rc_context(_STYLE):
        figure = _figure(7.5, 1.6)
        by_hour, by_month = figure.subplots(1, 2)
        by_hour.bar(range(24), np.bincount(hours, minlength=24), color=COLOURS[0])
        by_hour.set(xlabel="hour of the day", ylabel="clips", xlim=(-0.6, 23.6))
        by_month.bar(range(1, 13), np.bincount(months, minlength=13)[1:], color=COLOURS[2])
        by_month.set(xlabel="month", xlim=(0.4, 12.6))
        for panel in (by_hour, by_month):
            panel.yaxis.get_major_locator().set_params(integer=True)
            panel.tick_params(labelsize=7)
        return _bytes(figure, "svg")


def _frame(column: int, row: int) -> Rectangle:
    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, lw=2)
