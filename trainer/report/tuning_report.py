"""Sections of the report on thresholds and blend. Reads tune.json and sweep.json; makes no
choices."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.files import read_json
from trainer.report import figures, page
from trainer.report.page import Cell, Html, Section, Share
from trainer.run import Run, Tuning


def thresholds_section(run: Run, tuning: Tuning) -> Section:
    """The section on thresholds: F1 by threshold with its interval, the choice, the published blend
    for comparison, and other rules."""
    scores = tuning.scores
    cut = tuning.thresholds
    curves = read_json(run.folder / "sweep.json")
    chosen = {"blended": cut.blended, "acoustic": cut.acoustic}
    on_rows = scores["basis"] != "out_of_fold_crops"
    baseline = scores["blended"]["f1_all_nocall"] if on_rows else None
    drawing = page.picture(figures.threshold_curves(curves, chosen, baseline), "F1 by threshold")
    if not on_rows:
        text = (
            f"There are no labelled soundscapes, so thresholds were taken from {scores['rows']:,} "
            f"out-of-fold crops of {scores['recordings']:,} recordings by F1 over all species and "
            "crops. In the field most windows contain no bird: expect these thresholds to be too "
            "low there."
        )
        return Section("threshold", "Threshold", (page.paragraph(text), drawing))
    parts = [page.paragraph(_rows_text(scores)), drawing, _rows_table(scores, chosen)]
    parts += _rules(scores)
    if scores["blended"]["f1"] <= scores["blended"]["f1_all_nocall"]:
        parts.append(
            page.paragraph("No threshold is better than saying 'no bird' throughout.", missing=True)
        )
    if scores["unreadable"]:
        parts.append(
            page.details(
                f"{len(scores['unreadable'])} unreadable soundscapes",
                "\n".join(scores["unreadable"]),
            )
        )
    return Section("threshold", "Threshold", tuple(parts))


def _rows_text(scores: Mapping[str, Any]) -> str:
    """The paragraph on thresholds that were chosen on rows of soundscapes."""
    mixed = scores["basis"] == "mixtures"
    of = (
        "groups of recordings and backgrounds, mixed at random, that the heads were not trained on"
        if mixed
        else "soundscapes"
    )
    over = "groups" if mixed else "soundscapes"
    text = (
        f"F1 of each 5-s row, averaged over {scores['rows']:,} rows of {scores['recordings']:,} "
        f"{of}; the band is a 95 % bootstrap interval over {over}. The dashed line is "
        "the score of saying 'no bird' throughout. The threshold is the centre of the plateau "
        "around the smoothed peak; the published one is the peak itself."
    )
    if scores["threshold_by"] == "species":
        text += (
            " The left curve is that of one threshold for all species; the table has the chosen "
            "ones."
        )
    without = scores["rows_without_prior"]
    if without:
        text += (
            f" {without:,} rows of soundscapes without a known place or date count in the right "
            "figure only."
        )
    return text


def _rows_table(scores: Mapping[str, Any], chosen: dict[str, float]) -> Html:
    """F1 and its interval at the thresholds `chosen`, with the published blend beside them."""
    names = {
        "blended": "with place and season",
        "acoustic": "by sound alone",
        "published": _as_published(scores["published"]),
    }
    header = [
        "",
        "threshold",
        "F1",
        "low",
        "high",
        "rows with birds",
        "rows without",
        "'no bird' throughout",
    ]
    keys = ("f1", "f1_low", "f1_high", "f1_call_rows", "f1_nocall_rows", "f1_all_nocall")
    shown = chosen | {"published": scores["published"]["threshold"]}
    rows: list[list[Cell]] = [
        [label, f"{shown[name]:g}", *(scores[name][key] for key in keys)]
        for name, label in names.items()
    ]
    return page.table(header, rows)


def _as_published(published: Mapping[str, Any]) -> str:
    return (
        f"as published ({published['rule']} {published['prior_weight']:g}, {published['padding']})"
    )


_RULES = {
    "global": "one for all species",
    "species": "one per species",
    "quantile": "as many rows without calls as labelled",
}


def _rules(scores: Mapping[str, Any]) -> list[Html]:
    """A paragraph and a table that compare the rules for thresholds."""
    text = (
        "Rules for the threshold of the blended score. F1 elsewhere: on each soundscape when blend "
        "and thresholds are chosen on the others, with its 95 % interval; only a rule that is "
        "better there is worth using. A species with at least 5 labelled rows in two soundscapes "
        "gets the threshold of the best F1 while the others keep theirs, shrunk towards the global "
        "one the fewer rows it has."
    )
    header = [
        "threshold",
        "taken",
        "for all",
        "species with their own",
        "F1 on these rows",
        "F1 elsewhere",
        "low",
        "high",
    ]
    rows: list[list[Cell]] = []
    for rule, label in _RULES.items():
        found = scores["rules"][rule]
        held = found["held_out"] or {}
        taken = "yes" if rule == scores["threshold_by"] else ""
        figures = [found["f1"], *(held.get(key) for key in ("f1", "f1_low", "f1_high"))]
        rows.append([label, taken, f"{found['threshold']:g}", found["own"], *figures])
    return [page.paragraph(text), page.table(header, rows, numbers_from=2)]


def search_section(run: Run, tuning: Tuning) -> Section:
    """The section on the search: all paddings and blends tried, and the chosen one."""
    found = read_json(run.folder / "sweep.json")
    blend = tuning.blend
    if not found["search"]:
        text = (
            "Not searched: without labelled soundscapes, paddings and blends cannot be compared. "
            f"Used: padding {tuning.padding}, blend {blend.rule} with weight "
            f"{blend.prior_weight:g} of place and season."
        )
        return Section("blend", "Blend search", (page.paragraph(text, missing=True),))
    smoothed = (
        f"{blend.smoothing:g} of each neighbouring window"
        if blend.smoothing
        else "each window alone"
    )
    weighed = f", kinds weighted {_weights(blend.kind_weights)}" if blend.kind_weights else ""
    text = (
        f"Chosen: padding {tuning.padding}, blend {blend.rule} with weight {blend.prior_weight:g} "
        f"of place and season, {smoothed}{weighed}. Candidates are compared by the peak of their "
        "smoothed curves, so that no lucky threshold decides. The first one within a standard "
        "error of the best is chosen, in the order of the recipe with that of the optimiser last: "
        "with few soundscapes the best of many is mostly luck."
    )
    parts = [
        page.paragraph(text),
        page.picture(figures.search_map(found["search"]), "F1 by padding and blend"),
    ]
    ranked = sorted(found["search"], key=lambda row: -row["peak"])
    if found["optimum"]:
        parts.append(
            page.picture(
                figures.optimiser_trace(found["optimiser"], ranked[0]["peak"]), "optimiser"
            )
        )
        ranked = [found["optimum"], *ranked]
    parts.append(_search_table(ranked, found["optimum"]))
    return Section("blend", "Blend search", tuple(parts))


def _search_table(ranked: Sequence[Mapping[str, Any]], optimum: object) -> Html:
    """A table with a row for each candidate, in this order; `optimum` is that of the optimiser."""
    header = [
        "padding",
        "rule",
        "from",
        "taken",
        "prior",
        "neighbours",
        "kinds",
        "threshold",
        "F1 there",
        "smoothed peak",
    ]
    rows: list[list[Cell]] = []
    for row in ranked:
        names = [row["padding"], row["rule"], "optimiser" if row is optimum else "list"]
        weights = [
            f"{row['prior_weight']:g}",
            f"{row['smoothing']:g}",
            _weights(row["kind_weights"]) or "equal",
        ]
        taken = "yes" if row["taken"] else ""
        rows.append(
            [*names, taken, *weights, f"{row['threshold']:g}", row["f1"], Share(row["peak"])]
        )
    return page.table(header, rows, numbers_from=4)


def _weights(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {weight:g}" for kind, weight in weights.items())
