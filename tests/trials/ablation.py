"""What each switch of a recipe is worth: one baseline, variants with one switch changed each,
several seeds of each.

python -m tests.trials.ablation --data MIXED --out OUT (MIXED: python -m trainer mix-soundscapes)
trains what is missing in OUT and writes OUT/ablation.md. It takes most of an hour, and its figures
are those of one small corpus.
"""

import argparse
import copy
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from scipy import stats

from edge.contract.audio import mel_images, training_crops
from edge.contract.blend import acoustic_scores
from edge.contract.errors import BirdstationError
from tests.trials import counted
from trainer import metrics
from trainer.book import STAGES, Book
from trainer.corpus.recordings import Corpus, read_sound
from trainer.corpus.soundscapes import SITES
from trainer.corpus.spectrograms import crops_max_samples
from trainer.files import read_json, write_json
from trainer.networks.model import load_network
from trainer.pipeline.stages import Options, run_stages
from trainer.recipe import Recipe, find_recipe, read_recipe
from trainer.run import Run
from trainer.tuning.bag import score_images
from trainer.tuning.predict import Predictor, predict
from trainer.tuning.score import score_predictions

Plain = dict[str, Any]
FIGURES = {
    "oof": "out of fold",
    "held_out": "held-out recordings",
    "row_f1": "row F1, test soundscapes",
    "call_f1": "rows with calls",
}


@dataclass(frozen=True)
class Switch:
    """A change to the baseline's recipe. `tune_only` leaves its networks as they are; `cannot` says
    why a corpus or recipe can tell nothing of it."""

    change: Callable[[Plain], None]
    note: str = ""
    tune_only: bool = False
    cannot: Callable[[Corpus, Plain], str] = lambda *_: ""


def _set(path: str, value: object) -> Callable[[Plain], None]:
    """A change of one key; `members.*` is every kind of member."""

    def change(recipe: Plain) -> None:
        *parents, last = path.split(".")
        places = [recipe]
        for part in parents:
            places = [
                inner for place in places for inner in (place if part == "*" else [place[part]])
            ]
        for place in places:
            place[last] = value

    return change


def _both(*changes: Callable[[Plain], None]) -> Callable[[Plain], None]:
    def change(recipe: Plain) -> None:
        for one in changes:
            one(recipe)

    return change


def _clips(recipe: Plain) -> None:
    """Six crops to a sample, and so many fewer samples that the networks see as many images as the
    baseline's."""
    before = recipe["sampling"]["crops_per_recording"]
    recipe["sampling"]["crops_per_recording"] = max(1, before // 6)
    for member in recipe["members"]:
        images = member["epochs"] * before
        member["clip_crops"] = 6
        member["epochs"] = max(2, round(images / (6 * recipe["sampling"]["crops_per_recording"])))


def _more_seeds(recipe: Plain) -> None:
    for member in recipe["members"]:
        member["seeds"] = [member["seeds"][0] + 1000 * i for i in range(2)]


def _no_ratings(corpus: Corpus, _: Plain) -> str:
    return (
        "every recording has the same rating"
        if len({r.rating for r in corpus.recordings}) == 1
        else ""
    )


def _no_secondary(corpus: Corpus, _: Plain) -> str:
    return (
        ""
        if any(r.secondary_labels for r in corpus.recordings)
        else "no recording has secondary labels"
    )


def _no_places(corpus: Corpus, _: Plain) -> str:
    return (
        "" if any(r.latitude is not None for r in corpus.recordings) else "no recording has a place"
    )


def _one_kind(_: Corpus, recipe: Plain) -> str:
    return (
        ""
        if len(recipe["members"]) > 1
        else "one kind and no prior: nothing to weigh (try --kinds 2)"
    )


SWITCHES = {
    "rating weight": Switch(_set("loss.rating_weight", True), cannot=_no_ratings),
    "pink 0.3": Switch(_set("members.*.augment.pink", 0.3), "besides the backgrounds"),
    "no backgrounds": Switch(
        _both(_set("members.*.augment.nocall", 0.0), _set("members.*.augment.empty", 0.0))
    ),
    "backgrounds mixed only": Switch(
        _set("members.*.augment.empty", 0.0), "none alone, without species"
    ),
    "backgrounds alone only": Switch(_set("members.*.augment.nocall", 0.0), "none behind a call"),
    **{
        f"normalise {n}": Switch(_set("members.*.normalise", n))
        for n in ("none", "bands", "standard", "imagenet")
    },
    "clips of 30 s": Switch(_clips, "as many images in all, so fewer steps"),
    "two seeds": Switch(_more_seeds, "twice the training; the better of two for each fold"),
    "keep best": Switch(
        _set("keep", "best"), "judged on the fold it is chosen on: out of fold flatters"
    ),
    "keep best, bootstrap 200": Switch(
        _both(_set("keep", "best"), _set("validation.bootstrap", 200)),
        "against keep best, not the baseline",
    ),
    "keep soundscapes": Switch(_set("keep", "soundscapes")),
    "secondary 0.6": Switch(_set("labels.secondary", 0.6), cannot=_no_secondary),
    "call probability": Switch(_set("labels.call_probability", True)),
    **{f"balance {b:g}": Switch(_set("sampling.balance", b)) for b in (0.0, 0.5, 1.0)},
    "limit 500 km": Switch(_set("metadata.limit_km", 500.0), cannot=_no_places),
    "metadata better": Switch(_set("metadata.kind", "better"), cannot=_no_places),
    **{
        f"thresholds {by}": Switch(_set("tune.threshold_by", by), tune_only=True)
        for by in ("global", "species")
    },
    "thresholds quantile": Switch(_set("tune.threshold_by", "quantile"), tune_only=True),
    "smoothing 0.2": Switch(_set("tune.smoothing", [0.2]), tune_only=True),
    "smoothing off": Switch(_set("tune.smoothing", [0.0]), tune_only=True),
    "optimise 200": Switch(
        _set("tune.optimise", 200), "weights of kinds and prior", True, _one_kind
    ),
}


def main() -> None:
    asked = _arguments()
    base = _baseline(asked)
    corpus = Corpus.read(asked.data)
    asked.out.mkdir(parents=True, exist_ok=True)
    switches = {"baseline": Switch(lambda _: None)}
    skipped = {}
    for name in asked.switches or SWITCHES:
        changed = copy.deepcopy(base)
        SWITCHES[name].change(changed)
        reason = "as the baseline" if changed == base else SWITCHES[name].cannot(corpus, base)
        if reason:
            skipped[name] = reason
        else:
            switches[name] = SWITCHES[name]
    done: dict[str, dict[int, Plain]] = {name: {} for name in switches}
    began = time.monotonic()
    number = 0
    # whole seeds first: an interrupted table is one of fewer seeds
    for seed in range(1, asked.seeds + 1):
        for name, switch in switches.items():
            number += 1
            told = f"[{number}/{asked.seeds * len(switches)}] {name}, seed {seed}"
            print(f"{told} ({(time.monotonic() - began) / 60:.0f} min)", flush=True)
            try:
                done[name][seed] = run_one(asked, base, name, switch, seed)
            except BirdstationError as error:
                skipped[name] = str(error)
                print(f"  not trained: {skipped[name]}", flush=True)
            (asked.out / "ablation.md").write_text(
                _markdown(asked, base, switches, skipped, done), encoding="utf8"
            )
    print(f"{asked.out / 'ablation.md'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="corpus with train and test soundscapes"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--nocall", type=Path, help="backgrounds to train against; by default DATA/nocall"
    )
    parser.add_argument(
        "--rasters", type=Path, help="for the metadata model; without them there is none"
    )
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=counted, default=3)
    parser.add_argument(
        "--switches", nargs="*", choices=list(SWITCHES), metavar="SWITCH", help=", ".join(SWITCHES)
    )
    parser.add_argument("--epochs", type=counted, default=16, help="of every kind")
    parser.add_argument("--folds", type=counted, default=2)
    parser.add_argument(
        "--kinds", type=counted, default=1, help="kinds of the recipe, from its first"
    )
    parser.add_argument("--jobs", type=counted, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    if asked.nocall is None and (asked.data / "nocall").is_dir():
        asked.nocall = asked.data / "nocall"
    return asked


def _baseline(asked: argparse.Namespace) -> Plain:
    recipe = find_recipe(asked.recipe).as_dict()
    recipe["members"] = recipe["members"][: asked.kinds]
    recipe["folds"]["count"] = asked.folds
    for member in recipe["members"]:
        member["epochs"] = asked.epochs
    return recipe


def run_one(asked: argparse.Namespace, base: Plain, name: str, switch: Switch, seed: int) -> Plain:
    """Figures of one variant and seed; trained and judged only if that was not done yet."""
    recipe = copy.deepcopy(base)
    recipe["name"] = f"ablation-{'-'.join(name.replace(',', '').split())}"
    recipe["seed"] = seed
    for member in recipe["members"]:
        member["seeds"] = [seed]
    switch.change(recipe)
    folder = asked.out / "runs" / f"{recipe['name'].removeprefix('ablation-')}-seed{seed}"
    file = asked.out / "recipes" / f"{folder.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf8")
    digest = find_recipe(str(file)).digest
    result = folder / "ablation.json"
    if result.is_file() and read_json(result).get("recipe") == digest:
        return read_json(result)
    begin = time.monotonic()
    _borrow(asked.out / "runs" / f"baseline-seed{seed}", folder, find_recipe(str(file)), switch)
    options = Options(
        asked.data, folder, str(file), asked.rasters, None, asked.jobs, "cpu", nocall=asked.nocall
    )
    with (folder / "log.txt").open("a", encoding="utf8") as log:
        run_stages(options, ("tune",) if switch.tune_only else STAGES, Console(file=log))
    found = judge(asked.data, folder) | {
        "recipe": digest,
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_json(result, found)
    return found


def _borrow(baseline: Path, folder: Path, recipe: Recipe, switch: Switch) -> None:
    """What the baseline has made and the switch does not touch: images and folds, or all but what
    is tuned. A run that was begun with other numbers is thrown away."""
    if (folder / "recipe.yaml").is_file() and read_recipe(
        folder / "recipe.yaml"
    ).digest == recipe.digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder == baseline:
        folder.mkdir(parents=True)
        return
    kept = (
        STAGES[: STAGES.index("tune")]
        if switch.tune_only
        else ("check-data", "folds", "spectrograms")
    )
    made = ["check.json", "folds.*", "spectrograms", "calls*", "backgrounds*", "stages.json"]
    made += (
        ["run.json", "taxonomy.csv", "members", "oof.json", "metadata", "bag.json"]
        if switch.tune_only
        else []
    )
    for pattern in made:
        for path in baseline.glob(pattern):
            target = folder / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)
    book = Book(folder)
    for name in book.entries().keys() - set(kept):
        book.begin(name)
    if switch.tune_only:
        (folder / "recipe.yaml").write_text(recipe.as_yaml(), encoding="utf8")


def judge(data: Path, folder: Path) -> Plain:
    """Figures of a finished run: windows of recordings that it left out, rows of soundscapes it was
    not tuned on."""
    run = Run.open(folder)
    found: Plain = {"oof": read_json(folder / "oof.json")["balanced_accuracy"], "held_out": None}
    if (data / "test_recordings").is_dir():
        found["held_out"] = held_out_accuracy(run, Corpus.read(data / "test_recordings"))
    submission = folder / "test.csv"
    sites = data / SITES
    places = sites if sites.is_file() else None
    predict(Predictor(run, "cpu"), data / "test_soundscapes", submission, places, lambda *_: None)
    scored = score_predictions(submission, data / "test_soundscape_labels.csv").as_dict()
    found |= {
        "row_f1": scored["f1"],
        "call_f1": scored["f1_call_rows"],
        "all_nocall": scored["f1_all_nocall"],
    }
    found["tuned_f1"] = run.tuning().scores.get("blended", {}).get("f1")
    return found


def held_out_accuracy(run: Run, corpus: Corpus) -> float:
    """Balanced accuracy over the crops of recordings that were never trained on, each by the bag's
    best species."""
    bag = run.bag()
    networks = [load_network(run, member.name) for member in bag]
    crops_max = run.recipe.spectrograms.crops_max
    found = []
    label = []
    for recording in corpus.recordings:
        if recording.primary_label not in run.taxonomy or not recording.path.is_file():
            continue
        images = mel_images(
            training_crops(read_sound(recording.path, crops_max_samples(crops_max)), crops_max)
        )[0]
        scores = acoustic_scores(
            score_images(networks, images), [m.kind for m in bag], run.tuning().blend
        )
        found.append(scores.argmax(axis=1))
        label += [run.taxonomy.index(recording.primary_label)] * len(scores)
    return round(
        metrics.balanced_accuracy(np.array(label), np.concatenate(found), len(run.taxonomy)), 4
    )


# the table


def _interval(values: Sequence[float]) -> str:
    """Mean and the half-width of its 95 % t interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = (
        stats.t.ppf(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    )
    return f"{mean:.3f} ± {half:.3f}"


def _difference(mine: Mapping[int, Plain], theirs: Mapping[int, Plain], figure: str) -> str:
    """Mean difference of the seeds that both have, with its 95 % t interval; in bold if that leaves
    out zero."""
    both = [s for s in mine if s in theirs and mine[s][figure] is not None]
    values = [mine[s][figure] - theirs[s][figure] for s in both]
    if not values:
        return ""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = (
        stats.t.ppf(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    )
    text = f"{mean:+.3f} ± {half:.3f}"
    return f"**{text}**" if abs(mean) > half else text


def _markdown(
    asked: argparse.Namespace,
    base: Plain,
    switches: Mapping[str, Switch],
    skipped: Mapping[str, str],
    done: Mapping[str, Mapping[int, Plain]],
) -> str:
    first = next((r for runs in done.values() for r in runs.values()), {})
    kinds = ", ".join(
        f"{m['kind']} ({m['architecture']}, normalise {m['normalise']})" for m in base["members"]
    )
    seconds = sum(r["seconds"] for runs in done.values() for r in runs.values())
    lines = [
        f"Baseline: recipe {asked.recipe} with {len(base['members'])} kind: {kinds}; "
        f"{asked.epochs} epochs, {asked.folds} folds, {asked.seeds} seeds, corpus "
        f"{asked.data.resolve().name}. A switch is changed alone, and compared seed by seed.",
        "Mean ± half of the 95 % t interval over seeds; bold: the interval of the difference "
        "excludes zero, as one switch in twenty does by chance. The interval does not cover other "
        f"corpora. {seconds / 60:.0f} minutes.",
        "",
        f"Windows: balanced accuracy. Soundscapes: row-wise F1; {first.get('all_nocall', 0):.3f} "
        "by reporting nothing.",
        "",
        "| switch | " + " | ".join(f"{title} | difference" for title in FIGURES.values()) + " | |",
        "|---" * (2 * len(FIGURES) + 2) + "|",
    ]
    for name, runs in done.items():
        if not runs or name in skipped:
            continue
        against = (
            "keep best" if name.startswith("keep best,") and done.get("keep best") else "baseline"
        )
        cells = []
        for figure in FIGURES:
            values = [r[figure] for r in runs.values() if r[figure] is not None]
            cells.append(_interval(values) if values else "")
            cells.append("" if name == "baseline" else _difference(runs, done[against], figure))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {switches[name].note} |")
    empty = " | " * (2 * len(FIGURES) - 1)
    lines += [f"| {name} | {empty} | not tried: {why} |" for name, why in skipped.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main()
    except BirdstationError as error:
        sys.exit(f"error: {error}")
