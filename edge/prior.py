"""Place and day of year to species probabilities: one table per place, computed once by a child process.

    prior = prior_table(bundle, Place(10.1, -84.5), folder=state / "priors")
    prior[day_of_year - 1]        # (species,)

Two forms: `place`, our own model of place, season and rasters; `geo`, BirdNET's of place and week, whose outputs are no
distribution over species but chances of each to be there. The child (`python -m edge.prior`) loads grid and model, so
that the daemon never holds them. Knows no sound.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract.blend import Scores
from edge.contract.bundle import PRIOR, TAXONOMY, Bundle, read_bundle
from edge.contract.errors import BundleError, EngineError
from edge.contract.nearby import Nearby
from edge.contract.place import FeatureSpec, Grid, place_columns
from edge.contract.taxonomy import Taxonomy
from edge.types import Place

DAYS = 366
GEO_MODEL, GEO_FACTS = "geo.onnx", "geo.json"
_WEEKS = 48  # four in every month
_CHILD_TIMEOUT_S = 600
_ANOTHER_BUNDLE = 3  # the child's exit status
_DIGEST_BYTES = hashlib.sha256().digest_size


def compute_prior_table(folder: Path, taxonomy: Taxonomy, latitude: float, longitude: float) -> Scores:
    """Probabilities `(366, species)` at a place from a bundle's `prior/` folder; 0 for species the model never met, NaN
    for those beyond their geographic limit."""
    if (folder / GEO_MODEL).is_file():
        return _geo_table(folder, taxonomy, latitude, longitude)
    import onnxruntime as ort  # here, so that importing this module in the daemon stays free of it

    spec = FeatureSpec.read(folder / "features.json")
    days = np.arange(1, DAYS + 1, dtype=np.float32)
    here = np.ones_like(days)
    columns = place_columns(Grid.read(folder / "grid.npz"), here * latitude, here * longitude, days)
    try:
        session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        (found,) = session.run(["probabilities"], {session.get_inputs()[0].name: spec.encode(columns)})
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{folder / 'model.onnx'}: not a metadata model: {reason}") from error
    if found.shape != (DAYS, len(spec.classes)):
        raise BundleError(f"{folder / 'model.onnx'}: expected {(DAYS, len(spec.classes))}, found {found.shape}")
    table = np.zeros((DAYS, len(taxonomy)), np.float32)
    table[:, [taxonomy.index(code) for code in spec.classes]] = found
    nearby = Nearby.read(folder)
    return table if nearby is None else nearby.apply(table, columns["latitude"], columns["longitude"], days)


def geo_week(day_of_year: NDArray[np.float32]) -> NDArray[np.float32]:
    """The week that BirdNET's geo model is asked for on a day, 1 to 48, four in every month: fractional, so that the
    season has no steps; outside 1 to 48 the model would leave the season out."""
    return np.clip(_WEEKS * (day_of_year - 0.5) / DAYS + 0.5, 1, _WEEKS).astype(np.float32)


def _geo_table(folder: Path, taxonomy: Taxonomy, latitude: float, longitude: float) -> Scores:
    """Chances to be there, scaled so that the limit of BirdNET's own species lists (`floor`) says as much as chance, 1
    of all classes; classes that the model cannot place (`neutral`) say as much everywhere."""
    import onnxruntime as ort

    path = folder / GEO_FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf8"))
        floor, neutral = float(facts["floor"]), [taxonomy.index(code) for code in facts["neutral"]]
        if not 0 < floor < 1:
            raise ValueError(f"floor: expected a number between 0 and 1, found {floor!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not the facts of a geo model: {error!r}") from error
    days = np.arange(1, DAYS + 1, dtype=np.float32)
    places = np.stack([np.full(DAYS, latitude), np.full(DAYS, longitude), geo_week(days)], axis=1).astype(np.float32)
    try:
        session = ort.InferenceSession(str(folder / GEO_MODEL), providers=["CPUExecutionProvider"])
        (found,) = session.run(["probabilities"], {session.get_inputs()[0].name: places})
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{folder / GEO_MODEL}: not a geo model: {reason}") from error
    if found.shape != (DAYS, len(taxonomy)):
        raise BundleError(f"{folder / GEO_MODEL}: expected {(DAYS, len(taxonomy))}, found {found.shape}")
    table = np.asarray(found / np.float32(floor * len(taxonomy)), np.float32)
    table[:, neutral] = 1 / len(taxonomy)
    return table


def prior_table(bundle: Bundle, place: Place, folder: Path) -> Scores | None:
    """The table `(366, species)` of this bundle and place, made on first use and kept in `folder` if it can be.

    None if the bundle has no prior. Raises BundleError with the child's reason if it cannot be made, EngineError if the
    machine ended the child, or another bundle lies there now.
    """
    if not bundle.manifest.has_prior:
        return None
    path = folder / f"prior_{bundle.id[:16]}_{place.latitude:+.4f}_{place.longitude:+.4f}.npy"
    table = _kept(path, len(bundle.taxonomy))
    if table is None:
        content = _computed(bundle, place)
        table = _table(content, len(bundle.taxonomy))
        if table is None:
            raise BundleError(f"{bundle.folder / PRIOR}: the prior could not be computed: no table")
        _keep(path, content)
    return table


def _computed(bundle: Bundle, place: Place) -> bytes:
    """What the child says: the table in numpy's format."""
    folder = bundle.folder
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command, text = (
        [sys.executable, "-m", "edge.prior", str(folder)],
        f"{bundle.id} {place.latitude!r} {place.longitude!r}",
    )
    failed = f"{folder / PRIOR}: the prior could not be computed"
    try:
        done = subprocess.run(
            command, input=text.encode(), env=environment, capture_output=True, timeout=_CHILD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{failed} within {_CHILD_TIMEOUT_S} s: is the machine too busy?") from error
    if done.returncode < 0:
        raise EngineError(f"{failed}: ended by signal {-done.returncode}; was there too little memory?")
    if done.returncode == _ANOTHER_BUNDLE:
        raise EngineError(f"{folder}: no longer the bundle that was loaded; start again with what lies there now")
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1][:300]
        raise BundleError(f"{failed}: {reason}")
    return done.stdout


def _table(content: bytes, species: int) -> Scores | None:
    try:
        table: Scores = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.shape == (DAYS, species) and table.dtype == np.float32 else None


def _kept(path: Path, species: int) -> Scores | None:
    """The kept table, or None if it is missing or damaged: then it is made again."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    content, digest = kept[:-_DIGEST_BYTES], kept[-_DIGEST_BYTES:]
    return _table(content, species) if hashlib.sha256(content).digest() == digest else None


def _keep(path: Path, content: bytes) -> None:
    """The table with its sum behind it. On a full disk it is made anew at the next start instead."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".prior_*.npy.*"):
            left.unlink()
        part.write_bytes(content + hashlib.sha256(content).digest())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()


def _is_bundle(folder: Path, bundle_id: str) -> bool:
    try:
        return read_bundle(folder).id == bundle_id
    except BundleError:
        return False


def _child(folder: Path, bundle_id: str, latitude: float, longitude: float) -> None:
    if not _is_bundle(folder, bundle_id):  # its species may stand in another order
        sys.exit(_ANOTHER_BUNDLE)
    table = compute_prior_table(folder / PRIOR, Taxonomy.read_csv(folder / TAXONOMY), latitude, longitude)
    content = io.BytesIO()
    np.save(content, table)
    sys.stdout.buffer.write(content.getvalue())


if __name__ == "__main__":
    asked_id, *degrees = sys.stdin.read().split()
    _child(Path(sys.argv[1]), asked_id, *map(float, degrees))
