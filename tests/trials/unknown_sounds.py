"""How well does a score tell a sound that the heads do not know from known birds and from noise?

    python -m tests.trials.unknown_sounds DATA NOISE BUNDLE [--station FOLDER] [--choices 84]
        [--kept embeddings.npz]

DATA is a corpus in BirdCLEF's layout of which the backbone (BUNDLE, adopted) knows every species;
NOISE has one folder per kind of noise; --station is a folder of unlabelled recordings, of which the
windows without any bird (by the backbone) count as noise of a place nobody trained on. Windows of
5 s in which the backbone hears a bird, also mixed over one noise of each kind at -5 to 15 dB. In
each choice three species are left out, heads (one against the rest) are trained on the other six:
60 % of their recordings, clean and mixed over three kinds of noise, and that noise as negatives.
Judged on the other recordings of all nine, clean and mixed over the other kinds: AUC of the
left-out species against the six, against noise of kinds never trained on, against other files of
the kinds trained on, and against the station; each species counts the same. `found`: left-out
windows above the 90th percentile of known birds and the 99th of noise of kinds trained on;
`alarms`: windows of new kinds and of the station above that. Means and standard deviations over the
choices. Kinds whose name contains Dog or Rooster are animals, and judged apart.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.folders import files_under
from edge.contract.program import run_program
from trainer.corpus.recordings import AUDIO, Corpus, read_sound
from trainer.transfer.backbone import Backbone

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
HEARD = 0.1  # of the backbone's best bird: something calls
BAND_HZ = 500.0  # levels are compared above it
TRAINED_KINDS = 3
TRAIN_SHARE = 0.6
STATION = "station"
ANIMALS = ("Dog", "Rooster")
SHRINKAGE = 0.1


@dataclass(frozen=True)
class Sounds:
    """Everything heard once by the backbone: embeddings (n, width), means over the stretches."""

    species: NDArray[np.str_]  # (n,) scientific names of windows that call
    recording: NDArray[np.str_]
    clean: Floats
    clean_scores: Floats  # (n, birds)
    mixed: Floats
    mixed_scores: Floats
    mixed_of: Ints  # index of the clean window
    mixed_kind: NDArray[np.str_]
    noise: Floats
    noise_scores: Floats
    noise_kind: NDArray[np.str_]
    birds: NDArray[np.str_]  # scientific names, the columns of scores


def windows_of(path: Path) -> Floats:
    """Windows `(n, 160000)` of the first minute, side by side; a short file is padded."""
    sound = read_sound(path, 60 * RATE_HZ)
    sound = np.pad(sound, (0, max(0, WINDOW_SAMPLES - len(sound))))
    count = len(sound) // WINDOW_SAMPLES
    return sound[: count * WINDOW_SAMPLES].reshape(count, WINDOW_SAMPLES)


def level(sound: Floats) -> float:
    """Root mean square above BAND_HZ."""
    hz = np.fft.rfftfreq(len(sound), 1 / RATE_HZ)
    return float(np.sqrt((np.abs(np.fft.rfft(sound)[hz > BAND_HZ]) ** 2).mean())) + 1e-9


def hear(backbone: Backbone, birds: NDArray[np.bool_], windows: Floats) -> tuple[Floats, Floats]:
    """Embeddings `(n, width)` and scores of birds `(n, birds)`."""
    embedded, scores = backbone.hear(windows)
    return embedded.mean(axis=1), scores[:, birds]


def listen(data: Path, noise: Path, bundle: Path, station: Path | None) -> Sounds:
    """Hear everything, which takes minutes."""
    backbone = Backbone.open(bundle)
    classes = list(backbone.bundle.taxonomy.species)
    birds = np.array([one.kind == "bird" for one in classes])
    random = np.random.default_rng(1)
    corpus = Corpus.read(data)
    names = {one.code: one.scientific_name for one in corpus.taxonomy.species}
    clean, species, recording = [], [], []
    for one in corpus.recordings:
        found = windows_of(one.path)
        clean += list(found)
        species += [names[one.primary_label]] * len(found)
        recording += [one.recording] * len(found)
    noises, kinds = [], []
    for path in files_under(noise):
        if path.suffix.lower() in AUDIO:
            noises.append(windows_of(path)[0])
            kinds.append(path.parent.name)
    for path in [] if station is None else files_under(station):
        if path.suffix.lower() in AUDIO:
            noises += list(windows_of(path))
            kinds += [STATION] * (len(noises) - len(kinds))
    embedded, scores = hear(backbone, birds, np.stack(clean))
    calling = np.flatnonzero(scores.max(axis=1) >= HEARD)
    noise_embedded, noise_scores = hear(backbone, birds, np.stack(noises))
    quiet = (noise_scores.max(axis=1) < HEARD) | (np.array(kinds) != STATION)
    noise_kind = np.array(kinds)
    over = [k for k in np.unique(noise_kind) if not any(name in k for name in ANIMALS)]
    mixes, of, mixed_kind = [], [], []
    for row, index in enumerate(calling):
        made = []
        for kind in over:
            background = noises[random.choice(np.flatnonzero((noise_kind == kind) & quiet))]
            gain = 10 ** (random.uniform(-5, 15) / 20) / level(clean[index])
            mix = clean[index] * gain + background / level(background)
            mix *= 0.05 / np.sqrt((mix**2).mean())
            made.append((mix / max(1.0, float(np.abs(mix).max()))).astype(np.float32))
        mixes.append(hear(backbone, birds, np.stack(made)))
        of += [row] * len(over)
        mixed_kind += over
    return Sounds(
        np.array(species)[calling],
        np.array(recording)[calling],
        embedded[calling],
        scores[calling],
        np.concatenate([one for one, _ in mixes]),
        np.concatenate([one for _, one in mixes]),
        np.array(of),
        np.array(mixed_kind),
        noise_embedded[quiet],
        noise_scores[quiet],
        noise_kind[quiet],
        np.array([one.scientific_name for one in classes])[birds],
    )


def unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


def fit(rows: Floats, labels: Floats, weights: Floats, strength: float) -> tuple[Floats, Floats]:
    """Logistic regressions, one per column of `labels` (0 or 1): slopes `(width, heads)` and
    offsets. `strength` is the inverse of the penalty."""
    width, heads = rows.shape[1], labels.shape[1]
    wide = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
    sign = (2 * labels - 1).astype(np.float32)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slopes = flat.reshape(width + 1, heads).astype(np.float32)
        odds = sign * (wide @ slopes)
        value = (weights * np.logaddexp(0, -odds)).sum()
        value += (slopes[:-1] ** 2).sum() / (2 * strength)
        gradient = wide.T @ (-sign * weights / (1 + np.exp(odds)))
        gradient[:-1] += slopes[:-1] / strength
        return float(value), gradient.ravel().astype(np.float64)

    begin = np.zeros((width + 1) * heads)
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    slopes = found.reshape(width + 1, heads).astype(np.float32)
    return slopes[:-1], slopes[-1]


class Scorer:
    """Scores of what was left out, from embeddings of known birds and of noise alone."""

    def __init__(self, birds: Floats, labels: Ints, noise: Floats, strength: float) -> None:
        self.birds = unit(birds)
        rows = np.concatenate([self.birds, unit(noise)])
        count = int(labels.max()) + 1
        group = np.concatenate([labels, np.full(len(noise), count)])
        heads = np.zeros((len(rows), count + 1), np.float32)
        heads[np.arange(len(labels)), labels] = 1
        heads[: len(labels), -1] = 1  # the last head: something calls
        share = (1 / np.bincount(group))[group][:, None]  # each species and noise count the same
        weights = np.where(
            heads > 0, share / (share * heads).sum(0), share / (share * (1 - heads)).sum(0)
        )
        weights = (weights / 2).astype(np.float32)
        self.slopes, self.offsets = fit(rows, heads, weights, strength)
        self.means = np.stack([self.birds[labels == k].mean(axis=0) for k in range(count)])
        self.within = _precision(self.birds - self.means[labels])
        self.middle = rows.mean(axis=0)
        self.overall = _precision(rows - self.middle)
        self.mean, self.spread = birds.mean(axis=0), birds.std(axis=0) + 1e-3
        self.standard = (birds - self.mean) / self.spread

    def scores(self, rows: Floats) -> dict[str, Floats]:
        """Scores `(n,)` of embeddings `(n, width)` by every method; more is less known."""
        units = unit(rows)
        odds = units @ self.slopes + self.offsets
        known, calls = odds[:, :-1], odds[:, -1]
        calling = -np.logaddexp(0, -calls)  # log P(something calls)
        other = -np.logaddexp(0, known).max(axis=1)  # log(1 - max P(species))
        similar = np.sort(units @ self.birds.T, axis=1)
        near = 1 - similar[:, -5:].mean(axis=1)
        standard = (rows - self.mean) / self.spread
        apart = (standard**2).sum(1)[:, None] + (self.standard**2).sum(1)
        apart = np.sort(apart - 2 * standard @ self.standard.T, axis=1)[:, :5]
        within = np.min([_squared(units - mean, self.within) for mean in self.means], axis=0)
        return {
            "1 - max P(species)": other,
            "energy, -logsumexp": -np.logaddexp.reduce(known, axis=1),
            "nearest neighbour, cosine": 1 - similar[:, -1],
            "five nearest, cosine": near,
            "five nearest, Euclid, standardised": np.sqrt(np.maximum(apart, 0)).mean(axis=1),
            "Mahalanobis, shared": within,
            "Mahalanobis, relative": within - _squared(units - self.middle, self.overall),
            "P(calls)": calls,
            "P(calls) x (1 - max P)": calling + other,
            "P(calls) x five nearest": calling + np.log(near + 1e-6),
            "P(calls) x Mahalanobis": calling + np.log(within + 1e-6),
            "P(calls) x (1 - max P) x five nearest": calling + other + np.log(near + 1e-6),
        }


def _precision(rows: Floats) -> Floats:
    """The inverse of the rows' covariance, shrunk towards a multiple of the identity."""
    covariance = rows.T @ rows / len(rows)
    width = len(covariance)
    mean = np.trace(covariance) / width
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * mean * np.eye(width)
    return np.linalg.inv(shrunk).astype(np.float32)


def _squared(rows: Floats, precision: Floats) -> Floats:
    return ((rows @ precision) * rows).sum(axis=1)


def auc(higher: Floats, lower: Floats) -> float:
    if not len(higher) or not len(lower):
        return float("nan")
    ranks = rankdata(np.concatenate([higher, lower]))[: len(higher)].sum()
    return float((ranks / len(higher) - (len(higher) + 1) / 2) / len(lower))


def held_in(sounds: Sounds, seed: int) -> NDArray[np.bool_]:
    """True for windows of recordings to train on: of each species its share, two at least, and
    one less than all at most."""
    random = np.random.default_rng(seed)
    chosen: set[str] = set()
    for name in np.unique(sounds.species):
        mine = np.unique(sounds.recording[sounds.species == name])
        count = min(max(2, round(TRAIN_SHARE * len(mine))), len(mine) - 1)
        chosen |= set(random.permutation(mine)[:count])
    return np.isin(sounds.recording, sorted(chosen))


@dataclass(frozen=True)
class Choice:
    """One choice of three species: what is trained on and what is judged."""

    unknown: tuple[str, ...]
    known: list[str]
    train: NDArray[np.bool_]  # clean windows to train on
    trained: list[str]  # kinds of noise
    new: list[str]

    @classmethod
    def draw(cls, sounds: Sounds, unknown: tuple[str, ...], seed: int) -> "Choice":
        """The parts of a choice, from its number."""
        known = [name for name in np.unique(sounds.species) if name not in unknown]
        kinds = [
            kind
            for kind in np.unique(sounds.noise_kind)
            if kind != STATION and not any(name in kind for name in ANIMALS)
        ]
        order = [str(kind) for kind in np.random.default_rng(1000 + seed).permutation(kinds)]
        train = held_in(sounds, seed)
        return cls(unknown, known, train, order[:TRAINED_KINDS], order[TRAINED_KINDS:])


def judge(
    sounds: Sounds, choice: Choice, seed: int, strength: float
) -> dict[str, dict[str, float]]:
    """Figures by part and method, and by what left-out species are told from."""
    mine = choice.train & np.isin(sounds.species, choice.known)
    mixed = np.isin(sounds.mixed_kind, choice.trained) & mine[sounds.mixed_of]
    labels = np.searchsorted(choice.known, sounds.species)
    half = np.random.default_rng(seed).random(len(sounds.noise)) < TRAIN_SHARE
    trained = np.isin(sounds.noise_kind, choice.trained)
    scorer = Scorer(
        np.concatenate([sounds.clean[mine], sounds.mixed[mixed]]),
        np.concatenate([labels[mine], labels[sounds.mixed_of[mixed]]]),
        sounds.noise[trained & half],
        strength,
    )
    outside = ~np.isin(sounds.birds, choice.known)
    hidden = outside & ~np.isin(sounds.birds, choice.unknown)

    def all_scores(rows: Floats, scores: Floats) -> dict[str, Floats]:
        return scorer.scores(rows) | {
            "backbone's best class outside the corpus": scores[:, outside].max(axis=1),
            "the same, classes of the left-out hidden": scores[:, hidden].max(axis=1),
        }

    places = {
        "new noise": np.isin(sounds.noise_kind, choice.new),
        "known noise": trained & ~half,
        **{k: sounds.noise_kind == k for k in np.unique(sounds.noise_kind) if _is_apart(str(k))},
    }
    noise = all_scores(sounds.noise, sounds.noise_scores)
    judged = np.isin(sounds.mixed_kind, [*choice.new, STATION]) & ~choice.train[sounds.mixed_of]
    clean = ~choice.train
    parts = {
        "clean": (sounds.species[clean], sounds.clean[clean], sounds.clean_scores[clean]),
        "mixed": (
            sounds.species[sounds.mixed_of[judged]],
            sounds.mixed[judged],
            sounds.mixed_scores[judged],
        ),
    }
    figures: dict[str, dict[str, float]] = {}
    for part, (species, rows, scores) in parts.items():
        for method, found in all_scores(rows, scores).items():
            apart = {place: noise[method][mask] for place, mask in places.items()}
            figures[f"{part}: {method}"] = _figures(found, species, choice, apart)
    return figures


def _is_apart(kind: str) -> bool:
    return kind == STATION or any(name in kind for name in ANIMALS)


def _figures(
    found: Floats, species: NDArray[np.str_], choice: Choice, noise: dict[str, Floats]
) -> dict[str, float]:
    unknown = [found[species == name] for name in choice.unknown]
    known = [found[species == name] for name in choice.known]
    limits = [np.quantile(one, 0.9) for one in known if len(one)]
    limit = max(float(np.mean(limits)), float(np.quantile(noise["known noise"], 0.99)))
    foreign = np.concatenate([noise["new noise"], noise.get(STATION, np.empty(0, np.float32))])
    return {
        "known birds": float(np.nanmean([auc(u, k) for u in unknown for k in known])),
        **{name: float(np.nanmean([auc(u, one) for u in unknown])) for name, one in noise.items()},
        "found": float(np.mean([(u > limit).mean() for u in unknown if len(u)])),
        "alarms": float((foreign > limit).mean()),
    }


def judged_choices(
    sounds: Sounds, choices: int, strength: float
) -> list[dict[str, dict[str, float]]]:
    """Figures of that many choices, drawn by lot; progress goes to standard error."""
    every = list(itertools.combinations(np.unique(sounds.species), 3))
    found = []
    for seed in np.random.default_rng(7).permutation(len(every))[:choices].tolist():
        found.append(judge(sounds, Choice.draw(sounds, every[seed], seed), seed, strength))
        print(f"choice {len(found)} of {choices}: {', '.join(every[seed])}", file=sys.stderr)
    return found


def show(judged: Sequence[dict[str, dict[str, float]]]) -> None:
    """Print the table, cells parted by bars."""
    columns = list(next(iter(judged[0].values())))
    print("method", *columns, sep=" | ")
    for method in judged[0]:
        values = np.array([[one[method][column] for column in columns] for one in judged])
        cells = zip(np.nanmean(values, axis=0), np.nanstd(values, axis=0), strict=True)
        print(method, *(f"{mean:.3f} ± {spread:.3f}" for mean, spread in cells), sep=" | ")


def load(arguments: argparse.Namespace) -> Sounds:
    """What the backbone heard: kept from the last time, or heard now."""
    kept: Path | None = arguments.kept
    if kept is not None and kept.is_file():
        with np.load(kept) as arrays:
            return Sounds(**{name: arrays[name] for name in arrays.files})
    sounds = listen(arguments.data, arguments.noise, arguments.bundle, arguments.station)
    if kept is not None:
        np.savez(kept, **sounds.__dict__)
    return sounds


def main() -> None:
    """Judge every choice, or the first ones of a shuffled list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("noise", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--station", type=Path)
    parser.add_argument("--choices", type=int, default=84)
    parser.add_argument("--strength", type=float, default=300.0)
    parser.add_argument("--kept", type=Path)
    arguments = parser.parse_args()
    sounds = load(arguments)
    names, counts = np.unique(sounds.species, return_counts=True)
    each = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
    print(f"windows: {each}; {len(sounds.mixed)} mixed, {len(sounds.noise)} of noise")
    show(judged_choices(sounds, arguments.choices, arguments.strength))


if __name__ == "__main__":
    run_program(main)
