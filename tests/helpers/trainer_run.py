"""A small corpus, rasters and a finished run, made by hand: what the trainer's later stages find
before them.

The networks are real (timm, safetensors) but untrained; out-of-fold scores are invented so that
they are mostly right.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import rasterio
import safetensors.torch
import soundfile
import torch
from rasterio.transform import Affine

from edge.contract.audio import RATE_HZ
from edge.contract.bundle import file_sha256
from edge.prior.place import RASTERS
from trainer.book import STAGES, stage_part
from trainer.corpus.folds import make_folds, write_folds
from trainer.corpus.recordings import Corpus
from trainer.corpus.spectrograms import INDEX
from trainer.files import write_csv, write_json
from trainer.networks.model import NetworkSpec, build_network
from trainer.pipeline.chain import CHAIN
from trainer.recipe import read_recipe
from trainer.run import HISTORY, SCORES, WEIGHTS, MemberInfo, Run, member_name

# tiny batches: threads that wait for each other on a busy machine take longer
torch.set_num_threads(1)

CODES = ("amered", "blujay", "comyel")
CROPS = 2  # of each recording
_HEADER = (
    "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,author,"
    "date,filename,license,rating,time,url"
)
_RECIPE = """
name: small
seed: 1
pretrained: false
keep: last
folds: {count: 2, cell_deg: 5.0}
spectrograms: {crops_max: 2}
labels: {primary: 0.995, secondary: 0.3, other: 0.0025}
sampling: {crops_per_recording: 1, balance: 0.5}
loss: {rating_weight: false}
members:
  - {kind: stripes, architecture: test_efficientnet, epochs: 2, seeds: [1, 2], stem_pool: 4,
     augment: {power: [0.5, 3.0], stripes: 0.8, mixup: 0.0}}
  - {kind: mixup, architecture: test_efficientnet, epochs: 2, seeds: [1], stem_pool: 4,
     augment: {power: [0.5, 3.0], stripes: 0.0, mixup: 0.5}}
optimiser: {name: adam, learning_rate: 2.0e-3, learning_rate_min: 1.0e-5, batch: 8}
metadata: {iterations: 20, depth: 4, learning_rate: auto, validation: 0.2}
bag: {per_fold_max: 2}
tune:
  padding: [context, zeros]
  hop_s: 5
  blend: [{rule: mean, prior_weight: [0.0, 0.14]}, {rule: logit, prior_weight: [0.5]}]
  threshold: {low: 0.05, high: 0.95, step: 0.05}
student:
  {architecture: test_efficientnet, epochs: 3, views: 2, learning_rate: 2.0e-3, stem_pool: 4,
   crops_max: 2,
   held_out: 0.2, augment: {power: [0.5, 2.0], stripes: 0.0, mixup: 0.5, pink: 0.3}}
"""


def write_raster(
    path: Path, value: Callable[[np.ndarray, np.ndarray], np.ndarray], **changes: object
) -> None:
    """A global GeoTIFF of `value(latitude, longitude)` at cell centres; `changes` are cell, west,
    north, rows, dtype, nodata, crs."""
    profile = {
        "cell": 1.0,
        "west": -180.0,
        "north": 90.0,
        "rows": 180,
        "dtype": "float32",
        "nodata": None,
    } | changes
    cell, west, north = (float(profile[key]) for key in ("cell", "west", "north"))  # type: ignore[arg-type]
    rows, columns = int(profile["rows"]), round(360 / cell)  # type: ignore[call-overload]
    latitude = north - cell * (np.arange(rows) + 0.5)[:, None]
    longitude = west + cell * (np.arange(columns) + 0.5)[None, :]
    values = np.broadcast_to(value(latitude, longitude), (rows, columns)).astype(
        str(profile["dtype"])
    )
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=rows,
        width=columns,
        count=1,
        dtype=values.dtype,
        crs=profile.get("crs", "EPSG:4326"),
        nodata=profile["nodata"],
        transform=Affine(cell, 0.0, west, 0.0, -cell, north),
    ) as raster:
        raster.write(values, 1)


def make_rasters(folder: Path) -> Path:
    """Six plain layers; the forest type is 3 in the west and 5 in the east."""
    folder.mkdir(parents=True)
    for name in RASTERS:
        write_raster(folder / f"{name}.tif", lambda lat, lon: 10 + lat / 10 + lon / 100)
    write_raster(
        folder / "forest_type.tif", lambda _, lon: np.where(lon < 0, 3, 5), dtype="uint8", nodata=0
    )
    return folder


def make_corpus(
    data: Path, *, recordings: int = 30, placed: bool = True, soundscapes: int = 2
) -> Corpus:
    """`recordings` of each species, each species in a land of its own, and soundscapes of 15 s;
    only those have sound."""
    (data / "train_short_audio").mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = [_HEADER]
    for s, code in enumerate(CODES):
        for i in range(recordings):
            latitude = 10 + random.normal()
            longitude = -100 + 40 * s + random.normal()
            place = f"{latitude:.3f},{longitude:.3f}" if placed else ","
            date = f"20{i % 20:02}-{1 + i % 12:02}-{1 + i % 28:02}" if i != 1 else "2012-00-00"
            other = f"\"['{CODES[(s + 1) % 3]}']\"" if i == 0 else "[]"
            names = f"Avis {code},{'<b>&amp; Red' if s == 0 else code.title()}"
            lines.append(f"{code},{other},['call'],{place},{names},me,{date},XC{s}{i:03}.ogg,,4,,")
    (data / "train_metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf8")
    if soundscapes:
        _make_soundscapes(data, soundscapes)
    return Corpus.read(data)


def _make_soundscapes(data: Path, count: int) -> None:
    (data / "train_soundscapes").mkdir()
    (data / "soundscape_sites.csv").write_text(
        "id,place_name,country,lat,lon\nSSW,Here,X,10,-100\n", encoding="utf8"
    )
    rows = ["row_id,site,audio_id,seconds,birds"]
    for n in range(count):
        noise = np.random.default_rng(n).normal(0, 0.05, 15 * RATE_HZ).astype(np.float32)
        soundfile.write(data / "train_soundscapes" / f"{n}_SSW_20190610.ogg", noise, RATE_HZ)
        for second, birds in ((5, "amered"), (10, "nocall"), (15, "blujay zzzbird")):
            rows.append(f"{n}_SSW_{second},SSW,{n},{second},{birds}")
    (data / "train_soundscape_labels.csv").write_text("\n".join(rows) + "\n", encoding="utf8")


def make_run(folder: Path, corpus: Corpus) -> Run:
    """A run with folds, spectrogram index and members, as the stages up to fit-cnn leave it."""
    folder.mkdir(parents=True)
    recipe = folder / "given.yaml"
    recipe.write_text(_RECIPE, encoding="utf8")
    run = Run.create(folder, read_recipe(recipe), corpus.name, corpus.taxonomy)
    placed = make_folds(corpus.recordings, run.recipe.folds, run.recipe.seed)
    write_folds(folder / "folds.csv", placed)
    index = [
        (r.recording, r.primary_label, CROPS * i, CROPS, "-", "-")
        for i, r in enumerate(corpus.recordings)
    ]
    write_csv(folder / "spectrograms" / "index.csv", INDEX, index)
    problems = {"counts": {"recordings": len(corpus.recordings)}, "corpus": corpus.name}
    found = {"problems": corpus.problems.counts, "examples": corpus.problems.examples}
    write_json(folder / "check.json", problems | found)
    fold = np.repeat([p.fold for p in placed], CROPS)
    label = np.repeat([corpus.taxonomy.index(r.primary_label) for r in corpus.recordings], CROPS)
    for number, kind in enumerate(run.recipe.members):
        for seed in kind.seeds:
            for k in range(run.recipe.folds.count):
                _make_member(
                    run,
                    kind.kind,
                    k,
                    seed,
                    np.flatnonzero(fold == k),
                    label,
                    0.5 + 0.1 * number + seed / 100,
                )
    write_json(folder / "oof.json", {})
    enter(run, "folds")
    return run


def enter(run: Run, *names: str) -> None:
    """Stages into the run's book, as if the trainer had just done them, in half a second each."""
    for stage in CHAIN:
        if stage.name in names:
            entries = {name: run.book.entry(name) for name in stage.needs}
            parts = {stage_part(name): entry.result for name, entry in entries.items() if entry}
            run.book.finish(stage.name, parts, stage.result(run), {"corpus": "corpus"}, 0.5)


def finish(run: Run) -> None:
    """All that a finished run has, into its book; what the tests' runs have no file of is empty."""
    (run.folder / "folds.png").touch()
    for name in ("skipped.csv", "cache.json", "images.npy", "ranges.npy"):
        (run.folder / "spectrograms" / name).touch()
    if not (run.folder / "metadata").exists():
        write_json(run.folder / "metadata" / "absent.json", {"reason": "no rasters were given"})
    enter(run, *STAGES[1:-1])


def _make_member(
    run: Run, kind: str, fold: int, seed: int, rows: np.ndarray, label: np.ndarray, f1: float
) -> None:
    name = member_name(kind, fold, seed)
    folder = run.member_folder(name)
    folder.mkdir(parents=True)
    torch.manual_seed(fold)
    network = build_network(NetworkSpec("test_efficientnet", len(run.taxonomy), stem_pool=4))
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    scores = np.random.default_rng(fold).uniform(0, 0.4, (len(rows), len(run.taxonomy)))
    scores[np.arange(len(rows)), label[rows]] += 0.5
    np.savez(folder / "oof.npz", rows=rows, scores=scores.astype(np.float16))
    history = [(1, 0.7, 0.6, 0.2, 1.0), (2, 0.5, 0.5, f1, 2.0)]
    write_csv(
        folder / "history.csv",
        ("epoch", "train_loss", "valid_loss", "valid_f1", "seconds"),
        history,
    )
    info = MemberInfo(
        name, kind, "test_efficientnet", fold, seed, len(run.taxonomy), 4, f1, 2, 2, 1000, 2.0, "-"
    )
    write_json(folder / "member.json", asdict(info))
    note_files(run, name)


def note_files(run: Run, name: str) -> None:
    """What lies in a member's folder, as its own."""
    folder = run.member_folder(name)
    files = {file: file_sha256(folder / file) for file in (WEIGHTS, SCORES, HISTORY)}
    write_json(folder / "member.json", asdict(replace(run.member(name), files=files)))
