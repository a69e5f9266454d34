"""report.html: all measurements of a run, as one page that works offline. Reads a Run; makes no
choices."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.prior.place import Grid
from trainer.corpus.folds import BY_RECORDING, FoldRow, read_folds, shares, split_by_recording
from trainer.corpus.recordings import Corpus
from trainer.files import read_csv, read_json, replacing
from trainer.report import figures, page
from trainer.report.page import Cell, Html, Section, Share, number
from trainer.report.tuning_report import search_section, thresholds_section
from trainer.run import Run, Tuning
from trainer.tuning.cautions import cautions
from trainer.tuning.out_of_fold import CropScore, confusions, crop_table, score_crops

_FEATURES = {
    "bio1": "mean temperature",
    "bio12": "rain in a year",
    "bio15": "variation of rain over the year",
}
# Lines of the table of confusions; species that fit into a matrix.
_CONFUSED_MAX = 15
_DRAWN_MAX = 40
_HISTORY = ("epoch", "train_loss", "valid_loss", "valid_f1")


def write_report(run: Run, corpus: Corpus) -> Path:
    """Write RUN/report.html from the results of the other stages. Raises CorpusError if one of them
    is missing."""
    facts = read_json(run.folder / "run.json")
    tuning = run.tuning()
    placed = read_folds(run.folder / "folds.csv")
    table = crop_table(run, corpus, run.bag())
    crops = score_crops(table, run.taxonomy.codes)
    sections = [
        thresholds_section(run, tuning),
        search_section(run, tuning),
        _species(run, corpus, crops, tuning.thresholds.species),
        _confusions(run, confusions(table, len(run.taxonomy))),
        _learning(run),
        _metadata(run),
        _folds(run, corpus, placed),
        _problems(run),
        _timings(run),
    ]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items()))
    text = page.page(
        title=f"Training report: {facts['data']}",
        subtitle=f"Recipe {run.recipe.name} · begun {_when(facts['created'])} · written {now}",
        cautions=cautions(run),
        cards=_cards(run, corpus, tuning, crops),
        sections=sections,
        footer=f"birdstation trainer · {versions}",
    )
    path = run.folder / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf8")
    return path


def _when(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _cards(run: Run, corpus: Corpus, tuning: Tuning, crops: CropScore) -> list[Html]:
    scores = tuning.scores
    bag = run.bag()
    on_rows = scores["basis"] != "out_of_fold_crops"
    cards = []
    if on_rows:
        f1 = scores["blended"]
        held = scores["held_out"]
        span = f"{number(f1['f1_low'])} to {number(f1['f1_high'])} (95 %)"
        nothing = number(f1["f1_all_nocall"])
        cards.append(
            page.card(
                "Row-wise F1 on soundscapes"
                if scores["basis"] == "soundscapes"
                else "Row-wise F1 on unseen mixtures",
                number(f1["f1"]),
                f"{span}; 'no bird' throughout: {nothing}",
            )
        )
        if held:
            note = (
                f"choice made on the other soundscapes; {number(held['f1_low'])} to "
                f"{number(held['f1_high'])}"
            )
            cards.append(page.card("F1 to expect elsewhere", number(held["f1"]), note))
    cards.append(
        page.card(
            "Balanced accuracy, unseen crops",
            number(crops.balanced_accuracy),
            f"mean average precision {number(crops.mean_average_precision)}, {crops.crops:,} crops",
        )
    )
    model = run.metadata()
    if model:
        valid = read_json(model / "metrics.json")
        cards.append(
            page.card(
                "Accuracy by place and day",
                number(valid["validation"]["top1"]),
                f"commonest species alone: {number(valid['baseline_majority']['top1'])}",
            )
        )
    kinds = Counter(member.kind for member in bag)
    cards.append(
        page.card(
            "Networks in use", str(len(bag)), ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        )
    )
    cards.append(
        page.card("Species", str(len(run.taxonomy)), f"{len(corpus.recordings):,} recordings")
    )
    return cards


def _species(run: Run, corpus: Corpus, crops: CropScore, own: Mapping[str, float]) -> Section:
    recordings = Counter(r.primary_label for r in corpus.recordings)
    rows = Counter(
        code for s in corpus.soundscapes for labels in s.labels.values() for code in labels
    )
    header = [
        "species",
        "scientific name",
        "code",
        "recordings",
        "crops",
        "recall",
        "average precision",
        "rows heard",
    ]
    lines: list[list[Cell]] = []
    for species, score in zip(run.taxonomy, crops.species, strict=True):
        names = [species.common_name or species.code, species.scientific_name, species.code]
        shares = [Share(score.recall), Share(score.average_precision)]
        lines.append([*names, recordings[species.code], score.crops, *shares, rows[species.code]])
        if own:
            lines[-1].append(f"{own[species.code]:g}" if species.code in own else None)
    text = (
        "Over crops that the members were not trained on, all networks together, as on the "
        "station. Recall: share of the crops of a species in which it has the highest score. "
        "Species in the background are ignored. Rows heard: labelled soundscape rows with it."
    )
    if own:
        header.append("threshold")
        text += " Threshold: its own, if there are enough of those rows."
    return Section(
        "species", "Species", (page.paragraph(text), page.table(header, lines, numbers_from=3))
    )


def _confusions(run: Run, counts: NDArray[np.int64]) -> Section:
    """The section on confusions between species."""
    names = [species.common_name or species.code for species in run.taxonomy]
    total = counts.sum(axis=1)
    wrong = [(int(counts[i, j]), i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    rows: list[list[Cell]] = [
        [names[i], names[j], count, Share(count / total[i])]
        for count, i, j in sorted(wrong, key=_by_count)
    ]
    text = (
        "Crops that the members were not trained on, by their species and by the one with the "
        "highest score, as shares of the crops of a species."
    )
    parts = [page.paragraph(text)]
    if 0 < len(names) <= _DRAWN_MAX:
        parts.append(page.picture(figures.confusion_matrix(counts, names), "confusion matrix"))
    if rows:
        parts.append(
            page.table(["species", "taken for", "crops", "of its crops"], rows[:_CONFUSED_MAX], 2)
        )
    else:
        parts.append(page.paragraph("No species was taken for another."))
    return Section("confusions", "Confusions", tuple(parts))


def _by_count(found: tuple[int, int, int]) -> tuple[int, int, int]:
    count, species, other = found
    return -count, species, other


def _learning(run: Run) -> Section:
    histories = {}
    kinds = {}
    rows: list[list[Cell]] = []
    bag = {member.name for member in run.bag()}
    for member in run.members():
        path = run.member_folder(member.name) / "history.csv"
        lines = read_csv(path, _HISTORY)
        histories[member.name] = {
            key: np.array([float(line[key]) for line in lines]) for key in _HISTORY
        }
        kinds[member.name] = member.kind
        chosen = "yes" if member.name in bag else ""
        size = f"{member.parameters / 1e6:.2f}"
        shown = [member.name, member.architecture, f"{member.kept_epoch} of {member.epochs}", size]
        rows.append([*shown, Share(member.valid_f1), f"{member.seconds:.0f}", chosen])
    if not histories:
        return Section(
            "learning", "Learning curves", (page.paragraph("No finished member.", missing=True),)
        )
    header = [
        "member",
        "architecture",
        "kept epoch",
        "million weights",
        "F1, unseen fold",
        "seconds",
        "in use",
    ]
    drawing = page.picture(figures.learning_curves(histories, kinds), "learning curves")
    return Section(
        "learning", "Learning curves", (drawing, page.table(header, rows, numbers_from=2))
    )


def _metadata(run: Run) -> Section:
    title = "Place and day"
    folder = run.metadata()
    if folder is None:
        path = run.folder / "metadata" / "absent.json"
        reason = (
            str(read_json(path).get("reason"))
            if path.is_file()
            else "the stage fit-metadata has not run"
        )
        return Section(
            "metadata",
            title,
            (page.paragraph(f"There is no metadata model: {reason}.", missing=True),),
        )
    found = read_json(folder / "metrics.json")
    features = read_csv(folder / "importances.csv", ("feature", "importance"))
    names = [_FEATURES.get(line["feature"], line["feature"].replace("_", " ")) for line in features]
    labels = {
        "top1": "accuracy",
        "top5": "among the five most probable",
        "log_loss": "log-loss",
        "f1_macro": "F1, mean over species",
        "f1_weighted": "F1, weighted by recordings",
        "f1_micro": "F1, over all recordings",
    }
    rows = [
        [label, found["validation"][key], found["baseline_majority"][key]]
        for key, label in labels.items()
    ]
    counts = found["rows"]
    better = found.get("kind") == "better"
    what, size = ("Neighbours and networks", "epochs") if better else ("CatBoost", "trees kept")
    text = (
        f"{what} on the climate, cover, place and day of {counts['used']:,} recordings of "
        f"{found['species']} species; left out: {counts['without_place']:,} without a place, "
        f"{counts['without_date']:,} with a place but no date. {counts['validation']:,} random "
        f"recordings are for validation; {found['iterations']} {size}. The ONNX file differs from "
        f"the model itself by at most {found['onnx_difference']:.1g}."
    )
    if found.get("limit_km"):
        text += (
            f" Species that nobody recorded within {found['limit_km']:g} km of a place are never "
            "reported there."
        )
    drawn = "Share in the mixture, %" if better else "Importance, %"
    drawing = figures.bars(names, [float(line["importance"]) for line in features], drawn)
    right = page.table(["validation", "model", "frequencies alone"], rows)
    return Section(
        "metadata",
        title,
        (page.paragraph(text), page.pair(page.picture(drawing, "importances"), right)),
    )


def _folds(run: Run, corpus: Corpus, placed: list[FoldRow]) -> Section:
    where = {r.recording: (r.latitude, r.longitude) for r in corpus.recordings}
    mapped = [(p, *where[p.recording]) for p in placed if p.recording in where]
    known = [(p, lat, lon) for p, lat, lon in mapped if lat is not None and lon is not None]
    parts: list[Html] = []
    alone = split_by_recording(corpus.recordings, placed, run.recipe.folds.cell_deg)
    if alone:
        parts.append(page.paragraph(f"Beware: {BY_RECORDING}.", missing=True))
    if known:
        text = f"{len(known):,} of {len(placed):,} recordings have a place."
        if not alone:
            text += (
                " In the dense areas, a block of the map in a quarter of the year goes to one fold "
                "as a whole; elsewhere folds are random."
            )
        drawing = figures.fold_map(
            np.array([lat for _, lat, _ in known], np.float64),
            np.array([lon for _, _, lon in known], np.float64),
            np.array([p.fold for p, _, _ in known], np.int64),
            [p.quarter for p, _, _ in known],
            _ground(run),
        )
        parts += [page.paragraph(text), page.picture(drawing, "map of the folds")]
    else:
        parts.append(
            page.paragraph("No recording has a place, so the folds are random.", missing=True)
        )
    count = run.recipe.folds.count
    header = ["quarter", "recordings", *(f"fold {k}" for k in range(count))]
    total = Counter(p.quarter for p in placed)
    rows: list[list[Cell]] = [
        [
            "no date" if quarter == "none" else quarter,
            total[quarter],
            *(f"{share:.1%}" for share in row),
        ]
        for quarter, row in shares(placed, count).items()
    ]
    return Section("folds", "Folds", (*parts, page.table(header, rows)))


def _ground(run: Run) -> Any:
    """The elevation as a backdrop, if there is the grid of a metadata model."""
    folder = run.metadata()
    return None if folder is None else Grid.read(folder / "grid.npz").layers["elevation"]


def _problems(run: Run) -> Section:
    title = "Corpus"
    path = run.folder / "check.json"
    if not path.is_file():
        return Section(
            "corpus", title, (page.paragraph("The stage check-data has not run.", missing=True),)
        )
    found = read_json(path)
    counts = page.table(
        ["what", "count"], ([k.replace("_", " "), v] for k, v in found["counts"].items())
    )
    if not found["problems"]:
        return Section("corpus", title, (counts, page.paragraph("It has no malformed entries.")))
    examples = found["examples"]
    rows = [
        [kind, n, ", ".join(examples.get(kind, [])[:2])]
        for kind, n in sorted(found["problems"].items())
    ]
    cells = [[kind, example, n] for kind, n, example in rows]
    problems = page.table(["problem", "for example", "count"], cells, numbers_from=2)
    text = "Contents of the corpus, and malformed entries, which were counted and skipped."
    if found.get("note"):
        text += f" This is {found['note']}."
    return Section("corpus", title, (page.paragraph(text), page.pair(problems, counts)))


def _timings(run: Run) -> Section:
    seconds = run.book.seconds()
    longest = max(seconds.values(), default=0.0) or 1.0
    rows: list[list[Cell]] = [
        [name, f"{value:,.1f}", f"{value / longest:.0%}"] for name, value in seconds.items()
    ]
    parts = (
        page.paragraph(
            "Seconds of wall-clock time of each stage in its last run; a resumed stage counts from "
            "its resumption."
        ),
        page.table(["stage", "seconds", "of the longest"], rows),
        page.details("The recipe in full", run.recipe.as_yaml()),
    )
    return Section("timings", "Timings and recipe", parts)
