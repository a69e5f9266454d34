"""Heads on a published model, judged on soundscapes mixed from recordings and backgrounds that they
have never heard: against the model alone, heads alone and by the number of recordings.

    python -m tests.trials.transfer BUNDLE RECORDINGS NOISE OUT [--seeds 3] [--curve]

BUNDLE is an adopted model, RECORDINGS a corpus in the layout of BirdCLEF, NOISE a folder of sounds
without birds, OUT a new folder. It takes about two minutes for a seed on two cores, and as much
again for each point of the curve.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.contract.audio import WAVEFORM, FrontEnd, Input
from edge.contract.blend import Blend, Scores
from edge.contract.metrics import RowScore, score_rows
from trainer.corpus.mix import MixOptions, mix_soundscapes
from trainer.corpus.recordings import METADATA, Corpus
from trainer.pipeline.stages import STAGES, Options, run_stages
from trainer.run import Run
from trainer.transfer.backbone import Backbone
from trainer.transfer.embeddings import known_classes
from trainer.tuning import sweep
from trainer.tuning.ensemble import open_ensemble
from trainer.tuning.soundscape_scores import ScoredRows, score_ensemble
from trainer.tuning.sweep import recording_of

# mix-soundscapes' defaults
_MIX = {"hold_out": 0.25, "soundscapes": 12, "minutes": 2, "snr_db": (-5.0, 15.0)}
_COUNTS = (1, 2, 4, 8)
_GRID = sweep.thresholds_of(0.05, 0.95, 0.01)
_KINDS = {"heads alone": {"own": 0.0}, "the model alone, scaled": {"head": 0.0}, "both": {}}


@dataclass(frozen=True)
class AsAdopted:
    """The published model's own scores of some of its classes, as they are."""

    backbone: Backbone
    classes: Sequence[int]
    front: FrontEnd = WAVEFORM
    kinds: tuple[str, ...] = ("own",)
    known: NDArray[np.bool_] | None = None

    def scores(self, inputs: Input) -> Scores:
        return self.backbone.hear(inputs).scores[None][..., list(self.classes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("bundle", "recordings", "noise", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--curve", action="store_true")
    asked = parser.parse_args()
    console = Console(width=110)
    for seed in range(1, asked.seeds + 1):
        mixed = asked.out / f"mix{seed}"
        options = MixOptions(seed=seed, **_MIX)
        mix_soundscapes(asked.recordings, asked.noise, mixed, options, lambda *_: None)
        counts = [None, *(_COUNTS if asked.curve else ())]
        for count in counts:
            show(asked.bundle, mixed, asked.out, seed, count, console)


def show(
    bundle: Path, mixed: Path, out: Path, seed: int, count: int | None, console: Console
) -> None:
    """Train on `count` recordings of each species, or on all, and print the table."""
    data = mixed if count is None else fewer(mixed, out / f"mix{seed}-{count}", count, seed)
    began = time.monotonic()
    run = fit(bundle, data, mixed / "nocall", out / f"run{seed}-{count or 'all'}")
    seconds = time.monotonic() - began
    title = f"seed {seed}, {count or 'all'} recordings of a species, {seconds:.0f} s"
    table = Table("", "row F1", "interval", "threshold", title=title, title_justify="left")
    for name, score, threshold in scores_of(run, mixed, out, seed):
        span = f"{score.f1_low:.3f} to {score.f1_high:.3f}"
        table.add_row(name, f"{score.f1:.3f}", span, threshold)
    nothing = score.f1_all_nocall
    table.add_row("saying 'no bird' throughout", f"{nothing:.3f}", "", "")
    console.print(table)


def fit(bundle: Path, data: Path, quiet: Path, out: Path) -> Run:
    options = Options(
        data, out, "transfer", None, None, 2, "cpu", nocall=quiet, backbone=bundle, no_rasters=True
    )
    return run_stages(options, STAGES, Console(quiet=True))


def fewer(mixed: Path, data: Path, count: int, seed: int) -> Path:
    """The corpus with at most `count` recordings of each species."""
    data.mkdir(parents=True, exist_ok=True)
    with (mixed / METADATA).open(newline="", encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    order = np.random.default_rng(seed).permutation(len(rows))
    kept: dict[str, list[int]] = {}
    for row in order:
        mine = kept.setdefault(rows[row]["primary_label"], [])
        if len(mine) < count:
            mine.append(int(row))
    with (data / METADATA).open("w", newline="", encoding="utf8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows[i] for i in sorted(i for mine in kept.values() for i in mine))
    for path in mixed.iterdir():
        link = data / path.name
        if path.name != METADATA and not link.exists():
            link.symlink_to(path.resolve())
    return data


def scores_of(run: Run, mixed: Path, out: Path, seed: int) -> list[tuple[str, RowScore, str]]:
    """Row F1 on the test soundscapes of each way, at the threshold that is best on the others."""
    corpora = [Corpus.read(mixed), Corpus.read(test_view(mixed, out / f"test{seed}"))]
    padding = run.recipe.tune.padding[0]
    hop_s = run.recipe.tune.hop_s

    def rows(ensemble: object) -> list[ScoredRows]:
        return [score_ensemble(run, c, ensemble, [padding], hop_s) for c in corpora]  # type: ignore[arg-type]

    backbone = Backbone.open(run.folder / "backbone")
    classes = list(known_classes(run.taxonomy, backbone.bundle.taxonomy).values())
    raw = rows(AsAdopted(backbone, classes))
    limits = backbone.bundle.manifest.thresholds
    found = []
    whole = SimpleNamespace(taxonomy=backbone.bundle.taxonomy, metadata=lambda: None)
    every = AsAdopted(backbone, range(len(whole.taxonomy)))
    opened = [score_ensemble(whole, c, every, [padding], hop_s) for c in corpora]  # type: ignore[arg-type]
    ways = {
        "the model as adopted, all its classes": (opened, Blend(prior_weight=0.0)),
        "the model, only the corpus's species": (raw, Blend(prior_weight=0.0)),
    }
    for threshold in (limits.acoustic, limits.blended):
        scores = opened[1].acoustic(padding, Blend(prior_weight=0.0))
        score = judge(whole, opened[1], scores, threshold)
        found.append((f"the model as adopted, at {threshold:g}", score, "its own"))
    both = rows(open_ensemble(run, run.bag()))
    for name, weights in _KINDS.items():
        ways[name] = (both, Blend(prior_weight=0.0, kind_weights=weights))
    for name, ((train, unseen), blend) in ways.items():
        mine = train.acoustic(padding, blend)
        f1s = sweep.row_f1s(train.rows, sweep.count(train.rows, mine, _GRID))
        best = float(_GRID[sweep.best_threshold(f1s.mean(axis=0))])
        of = whole if train is opened[0] else run
        score = judge(of, unseen, unseen.acoustic(padding, blend), best)
        found.append((name, score, f"{best:.2f}"))
    tuning = run.tuning()
    cut = tuning.thresholds
    own = np.array([cut.species.get(code, cut.blended) for code in run.taxonomy.codes], np.float32)
    score = judge(run, both[1], both[1].acoustic(padding, tuning.blend), own)
    found.append(("the run as it is exported", score, "by species"))
    return found


def judge(
    run: Run | SimpleNamespace, rows: ScoredRows, scores: Scores, threshold: float | Scores
) -> RowScore:
    heard = rows.rows.found(scores, threshold, run.taxonomy.codes)
    truth = dict(zip(rows.rows.ids, rows.rows.labels, strict=True))
    return score_rows(truth, heard, recording_of(rows.rows))


def test_view(mixed: Path, folder: Path) -> Path:
    """The corpus with its test soundscapes in the place of those for tuning."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        "test_soundscapes": "train_soundscapes",
        "test_soundscape_labels.csv": "train_soundscape_labels.csv",
        "train_short_audio": "train_short_audio",
        METADATA: METADATA,
    }
    for source, target in names.items():
        link = folder / target
        if not link.exists():
            link.symlink_to((mixed / source).resolve())
    return folder


if __name__ == "__main__":
    main()
