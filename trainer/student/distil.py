"""distil: trains a student from a finished run and any sound, and compares it with the bag. Parses
no arguments.

Finished parts are kept in student/ of the run: images of unlabelled sound, scores of the bag, a
checkpoint, then weights and student.json, which is written last.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES, front_end
from edge.contract.blend import Scores, acoustic_scores
from edge.contract.bundle import file_sha256
from edge.contract.errors import ConfigError
from edge.contract.metrics import interval
from trainer.corpus.backgrounds import FILE as BACKGROUNDS
from trainer.corpus.backgrounds import PINK_CROPS, make_backgrounds
from trainer.corpus.recordings import Corpus
from trainer.corpus.soundscape_windows import require_readable
from trainer.files import check_writable, clear_temporaries, digest, read_json, write_json
from trainer.networks.checkpoint import FILE as CHECKPOINT
from trainer.networks.model import check_architecture, find_weights
from trainer.networks.precision import choose_device
from trainer.pipeline.stages import alone
from trainer.run import Run
from trainer.student.cascade import AGREEMENT, Answers, Margins, Mask, judge_margins
from trainer.student.student import (
    FILE,
    FOLDER,
    VIEWS,
    StudentInfo,
    fit_student,
    forget_checkpoint,
    is_whole,
    judged_by,
    load_student,
    read_student,
    weights_of_bag,
)
from trainer.student.student_sound import StudentSound, gather_sound
from trainer.student.targets import EnsembleNetworks, Lessons, Views, ask_bag, sigmoid
from trainer.training.dataset import Ints
from trainer.tuning.ensemble import ImageEnsemble
from trainer.tuning.predict import thresholds_of
from trainer.tuning.soundscape_scores import ScoredRows, score_ensemble
from trainer.tuning.sweep import PassCounts, row_f1s
from trainer.workers import progress_bar

_KIND = "(student)"  # not a valid name of a kind of members
_HOP_S = WINDOW_SAMPLES / RATE_HZ  # about the distance of crops
_OPENED_MAX = 0.5  # share of the windows; above, a cascade saves little
_PART = 128  # crops at once, when scoring
_SOURCE = "source.json"  # inputs of the bag's scores


@dataclass(frozen=True)
class DistilOptions:
    """Options of distil."""

    run: Path
    sound: tuple[Path, ...]
    data: Path | None  # the corpus, whose labelled soundscapes evaluate the student
    weights: Path | None
    jobs: int
    device: str


def distil(options: DistilOptions, console: Console) -> StudentInfo:
    """Make or complete the student of a run. Raises CorpusError if the run is not finished,
    ConfigError for folders without sound."""
    if Run(options.run).recipe.transfer is not None:
        raise ConfigError(
            f"{options.run}: its heads are on a published model, which a student cannot imitate; "
            "distil needs a run of networks on images"
        )
    run = Run.open(options.run, images=True)
    with alone(run.folder):
        return _Distil(run, options, console).make()


class _Distil:
    """One student in the making."""

    def __init__(self, run: Run, options: DistilOptions, console: Console) -> None:
        self.run = run
        self.options = options
        self.console = console
        self.recipe = run.recipe.student
        self.folder = run.folder / FOLDER
        self.device = choose_device(options.device)
        self.corpus = None if options.data is None else Corpus.read(options.data)
        if self.corpus is not None and self.corpus.taxonomy.digest != run.taxonomy.digest:
            raise ConfigError(
                f"--data {options.data}: has other species than the run; give the corpus it was "
                "made from"
            )
        if self.corpus is not None:
            require_readable(self.corpus)
        check_architecture(self.recipe.architecture)
        self.pretrained: Path | bool = run.recipe.pretrained and (options.weights or True)
        if self.pretrained:
            find_weights(self.recipe.architecture, self.pretrained)
        clear_temporaries(self.folder)
        check_writable(self.folder)

    def make(self) -> StudentInfo:
        run = self.run
        recipe = self.recipe
        asked = self.options
        labelled = (
            {s.path.resolve() for s in self.corpus.soundscapes} if self.corpus else set[Path]()
        )
        sound, source = gather_sound(
            run.folder,
            self.folder,
            asked.sound,
            crops_max=recipe.crops_max,
            held_out=recipe.held_out,
            spared=labelled,
            jobs=asked.jobs,
            console=self.console,
        )
        tuning = run.tuning()
        asked_for = digest(
            source,
            asdict(recipe.augment),
            recipe.held_out,
            run.recipe.optimiser.batch,
            run.recipe.seed,
            self.device,
            front_end(),
            tuning.padding,
            dict(tuning.blend.kind_weights),
            run.folder / "bag.json",
            *weights_of_bag(run),
            run.folder / BACKGROUNDS,
        )
        inputs = digest(
            asked_for, asdict(recipe), asdict(run.recipe.optimiser), run.recipe.pretrained
        )
        there = self._existing(inputs)
        if (
            there
            and there.judged == judged_by(run)
            and (not labelled or "soundscapes" in there.figures)
        ):
            self.console.print("[dim]distil: done already[/dim]")
            return there
        lessons = self._lessons(sound)
        views = Views(lessons)
        learnt = self._learn(lessons, views, asked_for, inputs) if there is None else there
        info = self._judge(sound, views, learnt)
        write_json(self.folder / FILE, asdict(info))
        run.book.keep(FOLDER, file_sha256(self.folder / FILE))
        forget_checkpoint(self.folder)
        self.console.print(_table(info), *_warnings(info), sep="\n", highlight=False)
        return info

    def _existing(self, inputs: str) -> StudentInfo | None:
        """An undamaged student with these inputs, whether its margins are still valid or not; else
        None."""
        info = read_student(self.run, stale=True)
        return (
            info
            if info is not None and info.inputs == inputs and is_whole(self.run, info)
            else None
        )

    def _lessons(self, sound: StudentSound) -> Lessons:
        """The training data of the student; if the run has no backgrounds, pink noise is mixed
        in."""
        run = self.run
        augment = self.recipe.augment
        backgrounds = self.run.folder / BACKGROUNDS
        if augment.backgrounds and not backgrounds.is_file():
            backgrounds = self.folder / BACKGROUNDS
            make_backgrounds(
                backgrounds, None, digest(PINK_CROPS, front_end()), self.options.jobs, self.console
            )
        return Lessons(
            run.folder.resolve(),
            sound,
            run.tuning().padding,
            augment,
            backgrounds.resolve(),
            self.recipe.views,
            run.recipe.optimiser.batch,
            run.recipe.seed,
            self.device,
        )

    def _learn(self, lessons: Lessons, views: Views, asked_for: str, inputs: str) -> StudentInfo:
        """Score with the bag, then train; margins are not known yet. The scores are kept, so that
        another student can learn from them."""
        folder = self.folder
        recipe = self.recipe
        run = self.run
        source = folder / VIEWS / _SOURCE
        if not source.is_file() or read_json(source).get("asked_for") != asked_for:
            shutil.rmtree(folder / VIEWS, ignore_errors=True)
            write_json(source, {"asked_for": asked_for})
        sound = lessons.sound
        crops = f"{views.size * views.steps} crops, {int((~sound.held_out).sum())} recordings"
        self.console.print(
            f"{crops} ({sound.unlabelled} unlabelled) to learn from, {recipe.views} views of each"
        )
        ask_bag(
            lessons, folder / VIEWS, 1 if self.device == "cuda" else self.options.jobs, self.console
        )
        torch.set_num_threads(self._threads())
        with progress_bar(self.console) as progress:
            bar = progress.add_task("student", total=recipe.epochs, note="epochs")
            return fit_student(
                folder,
                recipe,
                run.recipe.optimiser,
                views,
                len(run.taxonomy),
                run.recipe.seed,
                self.pretrained,
                inputs,
                lambda done, loss: progress.update(
                    bar, completed=done, note=f"epochs, loss {loss:.4f}"
                ),
            )

    def _threads(self) -> int:
        """Number of threads of the student on the CPU. Results depend on it, so a resumed student
        keeps it, whatever --jobs is."""
        book = self.run.book
        asked = self.options.jobs
        if book.kept("student threads") is None or not (self.folder / CHECKPOINT).is_file():
            book.keep("student threads", asked)
        return int(book.kept("student threads"))

    def _judge(self, sound: StudentSound, views: Views, learnt: StudentInfo) -> StudentInfo:
        """Choose the margins on held-out recordings and evaluate them."""
        run = self.run
        bag = EnsembleNetworks(run, views.device)
        student = load_student(run, learnt).to(views.device)
        rows, recording = sound.rows(held_out=True)
        crops = self._answers_to_crops(views, bag, student, rows, recording)
        figures: dict[str, Any] = {"crops": _agreement_alone(crops)}
        answers = crops
        scored = None
        if self.corpus is not None and self.corpus.soundscapes:
            scored = self._score_soundscapes(bag, student.cpu())
            heard = self._answers_to_soundscapes(scored)
            figures["windows_of_soundscapes"] = _agreement_alone(heard)
            answers = crops.join(heard)
        found = judge_margins(answers)
        margins = found.margins
        figures["cascade"] = {
            "windows": len(answers),
            "agreement": found.agreement,
            "opened": found.opened,
        }
        if scored is not None:
            figures["soundscapes"] = _row_f1s(scored, self._answers_to_soundscapes(scored), margins)
        figures["sound"] = {
            "recordings": len(sound.first),
            "held_out": int(sound.held_out.sum()),
            "unlabelled": sound.unlabelled,
            "unreadable": sound.unreadable,
        }
        return replace(
            learnt,
            judged=judged_by(run),
            below=margins.below,
            above=margins.above,
            agreement=found.agreement,
            opened=found.opened,
            figures=_rounded(figures),
        )

    def _answers_to_crops(
        self, views: Views, bag: EnsembleNetworks, student: nn.Module, rows: Ints, recording: Ints
    ) -> Answers:
        taught = list[Scores]()
        heard = list[Scores]()
        for part in np.array_split(rows, math.ceil(len(rows) / _PART)):
            grey = views.plain(part)
            taught.append(bag.scores(grey))
            heard.append(sigmoid(student, grey))
        scores = np.concatenate(taught)
        nothing = np.full((len(rows), len(self.run.taxonomy)), np.nan, np.float32)
        own, alone = thresholds_of(self.run)
        blend = self.run.tuning().blend
        return Answers(scores, np.concatenate(heard), nothing, recording, own, alone, blend)

    def _score_soundscapes(self, bag: EnsembleNetworks, student: nn.Module) -> ScoredRows:
        assert self.corpus is not None
        networks = [network.cpu() for network in bag.networks]
        both = ImageEnsemble([*networks, student], [*bag.kinds, _KIND])
        padding = self.run.tuning().padding
        scored = score_ensemble(self.run, self.corpus, both, [padding], _HOP_S)
        for what, lines in (
            ("not readable", scored.unreadable),
            ("partly lost", scored.partly_lost),
        ):
            for line in lines:
                self.console.print(
                    f"distil: {what}: {line}", markup=False, highlight=False, soft_wrap=True
                )
        return scored

    def _answers_to_soundscapes(self, scored: ScoredRows) -> Answers:
        """Scores of bag and student for all windows except the silent one at the end."""
        tuning = self.run.tuning()
        means = scored.windows[self.run.tuning().padding][:, :-1]
        kinds = [kind for kind in scored.kinds if kind != _KIND]
        taught = acoustic_scores(
            means[[scored.kinds.index(kind) for kind in kinds]], kinds, tuning.blend
        )
        prior = np.full_like(taught, np.nan)
        there = scored.at >= 0
        prior[scored.at[there]] = scored.prior[there]
        own, alone = thresholds_of(self.run)
        stretch = scored.stretch[:-1]
        heard = means[scored.kinds.index(_KIND)]
        return Answers(taught, heard, prior, stretch, own, alone, tuning.blend)


def _agreement_alone(answers: Answers) -> dict[str, Any]:
    """Share of windows in which the student alone decides like the bag."""
    return {"windows": len(answers), "agreement": answers.agreement(np.zeros(len(answers), bool))}


def _row_f1s(scored: ScoredRows, answers: Answers, margins: Margins) -> dict[str, Any]:
    """Row-wise F1 of bag, student and cascade on labelled rows, on which the thresholds of the bag
    were tuned."""
    opened = answers.opened(margins.below, margins.above)
    decided = {
        "bag": answers.decided(answers.bag),
        "student": answers.decided(answers.student),
        "cascade": answers.cascade(opened),
    }
    f1s = {name: _f1(scored, found) for name, found in decided.items()}
    figures: dict[str, Any] = {"rows": len(scored.rows), "opened": float(opened.mean())}
    figures |= {f"f1_{name}": float(values.mean()) for name, values in f1s.items()}
    low, high = interval(f1s["student"] - f1s["bag"], scored.rows.recordings)
    return figures | {"student_less_bag_low": low, "student_less_bag_high": high}


def _f1(scored: ScoredRows, decided: Mask) -> NDArray[np.float64]:
    """F1 of each row `(rows,)`; nothing is reported in a row beyond the end of its sound."""
    passed = decided[scored.at] & (scored.at >= 0)[:, None]
    hits = (passed & scored.rows.truth).sum(axis=1, keepdims=True)
    f1: NDArray[np.float64] = row_f1s(
        scored.rows, PassCounts(passed.sum(axis=1, keepdims=True), hits)
    )[:, 0]
    return f1


def _rounded(figures: Any) -> Any:
    if isinstance(figures, Mapping):
        return {name: _rounded(value) for name, value in figures.items()}
    return round(figures, 5) if isinstance(figures, float) else figures


def _table(info: StudentInfo) -> Table:
    """A table of the student and its comparison with the bag."""
    table = Table(title="student", title_justify="left", show_header=False)
    judged = info.figures["cascade"]
    alone = info.figures["crops"]
    table.add_row("network", f"{info.architecture}, {info.parameters / 1e3:,.0f} thousand weights")
    table.add_row(
        "alone",
        f"decides like the bag in {alone['agreement']:.1%} of {alone['windows']} crops held out",
    )
    if rows := info.figures.get("soundscapes"):
        heard = info.figures["windows_of_soundscapes"]
        table.add_row(
            "", f"and in {heard['agreement']:.1%} of {heard['windows']} windows of soundscapes"
        )
        f1s = (
            f"bag {rows['f1_bag']:.3f}, student {rows['f1_student']:.3f}, cascade "
            f"{rows['f1_cascade']:.3f}"
        )
        table.add_row("row F1", f"{f1s}, on {rows['rows']} rows that tuned the bag's thresholds")
    table.add_row(
        "cascade",
        f"opens a window {info.below:g} logits below and {info.above:g} above a threshold: ",
    )
    where = f"{judged['windows']} windows held out, with margins chosen on other recordings"
    table.add_row(
        "", f"{judged['opened']:.1%} of {where}; {judged['agreement']:.1%} decided like the bag"
    )
    return table


def _warnings(info: StudentInfo) -> list[str]:
    told = []
    if info.agreement < AGREEMENT:
        told.append(
            f"[yellow]the cascade's agreement is below {AGREEMENT:.1%}[/yellow]: more --sound "
            "would help"
        )
    if info.opened > _OPENED_MAX:
        told.append(
            f"[yellow]more than {_OPENED_MAX:.0%} of windows go to the bag[/yellow]: more --sound "
            "would help"
        )
    return told
