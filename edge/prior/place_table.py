"""Species probabilities by place and day of year: one table per place, computed once by a child
process.

    prior = prior_table(bundle, Place(10.1, -84.5), folder=state / "priors")
    prior[day_of_year - 1]        # (species,)

Recorders that are carried about write another place into every recording. All places in a cell of
CELL_DEG share the table of its centre (`table_place`): half a cell away the blended scores of
BirdNET differ by 0.0085 at most, and 3 of 100,000 decisions; the demonstration's do not differ.
Cells lie within those of the grid.

There are two forms: `place`, our own model of place, season and rasters; `geo`, BirdNET's of place
and week, whose outputs are not a distribution over species but the chance of each to be present.
The child (`python -m edge.prior.place_table`) loads grid and model, so that the daemon never holds
them. Knows no sound.
"""

import ctypes
import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.config import Config
from edge.contract.blend import Scores
from edge.contract.bundle import PRIOR, TAXONOMY, Bundle, read_bundle
from edge.contract.errors import BundleError, EngineError
from edge.contract.taxonomy import Taxonomy
from edge.contract.text import printable
from edge.prior.nearby import FILE as NEARBY
from edge.prior.nearby import Nearby
from edge.prior.place import FeatureSpec, Grid, place_columns
from edge.types import Place

DAYS = 366
GEO_MODEL = "geo.onnx"
GEO_FACTS = "geo.json"
CELL_DEG = 0.05  # 5 km
NEARBY_CELL_DEG = 0.01  # if recordings within a kilometre count
_DIGITS = 6  # of a degree: 0.1 m
# Limits of the tables in the folder; one of 6,522 species has 9.5 MB.
_KEPT_MAX = 256
_KEPT_BYTES_MAX = 256_000_000
_WEEKS = 48  # four in every month
_CHILD_TIMEOUT_S = 600
# Exit status of the child.
_ANOTHER_BUNDLE = 3
_WRONG_BUNDLE = 4
_PR_SET_PDEATHSIG = 1  # prctl(2)
_DIGEST_BYTES = hashlib.sha256().digest_size


def compute_prior_table(
    folder: Path, taxonomy: Taxonomy, latitude: float, longitude: float
) -> Scores:
    """Probabilities `(366, species)` at a place from a bundle's `prior/` folder.

    They are 0 for species unknown to the model, NaN for those beyond their geographic limit.
    """
    if (folder / GEO_MODEL).is_file():
        return _geo_table(folder, taxonomy, latitude, longitude)
    import onnxruntime as ort  # here, so that importing this module in the daemon stays free of it

    spec = FeatureSpec.read(folder / "features.json")
    days = np.arange(1, DAYS + 1, dtype=np.float32)
    here = np.ones_like(days)
    columns = place_columns(Grid.read(folder / "grid.npz"), here * latitude, here * longitude, days)
    try:
        session = ort.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(
            ["probabilities"], {session.get_inputs()[0].name: spec.encode(columns)}
        )
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{folder / 'model.onnx'}: not a metadata model: {reason}") from error
    if found.shape != (DAYS, len(spec.classes)):
        raise BundleError(
            f"{folder / 'model.onnx'}: expected {(DAYS, len(spec.classes))}, found {found.shape}"
        )
    _check_numbers(folder / "model.onnx", found)
    table = np.zeros((DAYS, len(taxonomy)), np.float32)
    table[:, [taxonomy.index(code) for code in spec.classes]] = found
    nearby = Nearby.read(folder)
    return (
        table
        if nearby is None
        else nearby.apply(table, columns["latitude"], columns["longitude"], days)
    )


def _check_numbers(path: Path, found: Scores) -> None:
    """Check that the model's values are finite and not negative: NaN would mean a geographic limit.
    Raises BundleError."""
    wrong = ~(found >= 0) | np.isinf(found)
    if wrong.any():
        raise BundleError(
            f"{path}: expected probabilities of 0 or more, found {found[wrong][0]:g} at this place"
        )


def geo_week(day_of_year: NDArray[np.float32]) -> NDArray[np.float32]:
    """The week of a day for BirdNET's geo model, 1 to 48, four in every month.

    Weeks are fractional, so that the season has no steps; outside 1 to 48 the model would ignore
    the season.
    """
    return np.clip(_WEEKS * (day_of_year - 0.5) / DAYS + 0.5, 1, _WEEKS).astype(np.float32)


def _geo_table(folder: Path, taxonomy: Taxonomy, latitude: float, longitude: float) -> Scores:
    """Chances of presence, scaled so that the limit of BirdNET's own species lists (`floor`) equals
    chance, 1 of all classes.

    Classes that the model cannot place (`neutral`) get this value everywhere.
    """
    import onnxruntime as ort

    path = folder / GEO_FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf8"))
        floor = float(facts["floor"])
        neutral = [taxonomy.index(code) for code in facts["neutral"]]
        if not 0 < floor < 1:
            raise ValueError(f"floor: expected a number between 0 and 1, found {floor!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not the facts of a geo model: {error!r}") from error
    days = np.arange(1, DAYS + 1, dtype=np.float32)
    places = np.stack(
        [np.full(DAYS, latitude), np.full(DAYS, longitude), geo_week(days)], axis=1
    ).astype(np.float32)
    try:
        session = ort.InferenceSession(str(folder / GEO_MODEL), providers=["CPUExecutionProvider"])
        (found,) = session.run(["probabilities"], {session.get_inputs()[0].name: places})
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{folder / GEO_MODEL}: not a geo model: {reason}") from error
    if found.shape != (DAYS, len(taxonomy)):
        raise BundleError(
            f"{folder / GEO_MODEL}: expected {(DAYS, len(taxonomy))}, found {found.shape}"
        )
    _check_numbers(folder / GEO_MODEL, found)
    table = np.asarray(found / np.float32(floor * len(taxonomy)), np.float32)
    table[:, neutral] = 1 / len(taxonomy)
    return table


def table_place(bundle: Bundle, config: Config, place: Place) -> Place:
    """The place whose table is used: a place from the settings has its own, one from a recording
    that of its cell."""
    station = config.station
    sites = config.sites.values()
    settled = {
        (station.latitude, station.longitude),
        *((site.latitude, site.longitude) for site in sites),
    }
    return place if (place.latitude, place.longitude) in settled else cell_of(bundle, place)


def cell_of(bundle: Bundle, place: Place) -> Place:
    """The centre of the cell that contains a place, for which the cell's table is made; the same
    for every place in it."""
    nearby = (bundle.folder / PRIOR / NEARBY).is_file()
    step = round((NEARBY_CELL_DEG if nearby else CELL_DEG) * 1e6)

    def middle(degrees: float, low: float, high: float) -> float:
        cells = round((high - low) * 1e6) // step
        cell = round((degrees - low) * 1e6) // step
        millionths = min(max(cell, 0), cells - 1) * step + step // 2
        return round(low + millionths / 1e6, _DIGITS)

    return Place(middle(place.latitude, -90.0, 90.0), middle(place.longitude, -180.0, 180.0))


def prior_table(bundle: Bundle, place: Place, folder: Path) -> Scores | None:
    """The table `(366, species)` of this bundle and place, made on first use and kept in `folder`
    if possible.

    None if the bundle has no prior. Raises BundleError with the child's reason if the bundle's
    prior is wrong, EngineError if this machine could not make it, or if the folder now has another
    bundle.
    """
    if not bundle.manifest.has_prior:
        return None
    place = Place(round(place.latitude, _DIGITS), round(place.longitude, _DIGITS))
    path = folder / f"prior_{bundle.id[:16]}_{place.latitude:+.6f}_{place.longitude:+.6f}.npy"
    table = _kept(path, len(bundle.taxonomy))
    if table is None:
        content = _computed(bundle, place)
        table = _table(content, len(bundle.taxonomy))
        if table is None:
            raise EngineError(f"{bundle.folder / PRIOR}: the prior could not be computed: no table")
        _keep(path, content)
    return table


def _computed(bundle: Bundle, place: Place) -> bytes:
    """The child's output: the table in numpy's format."""
    folder = bundle.folder
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "edge.prior.place_table", str(folder)]
    text = f"{bundle.id} {place.latitude!r} {place.longitude!r}"
    failed = f"{folder / PRIOR}: the prior could not be computed"
    try:
        done = subprocess.run(
            command,
            input=text.encode(),
            env=environment,
            capture_output=True,
            timeout=_CHILD_TIMEOUT_S,
        )
    except OSError as error:  # no memory or no files for a process
        raise EngineError(f"{failed}: {printable(str(error))}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"{failed} within {_CHILD_TIMEOUT_S} s: is the machine too busy?"
        ) from error
    if done.returncode < 0:
        raise EngineError(
            f"{failed}: ended by signal {-done.returncode}; was there too little memory?"
        )
    if done.returncode == _ANOTHER_BUNDLE:
        raise EngineError(
            f"{folder}: no longer the bundle that was loaded; start again to load the present one"
        )
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1][
            :300
        ]
        kind = BundleError if done.returncode == _WRONG_BUNDLE else EngineError
        raise kind(f"{failed}: {printable(reason)}")
    return done.stdout


def _table(content: bytes, species: int) -> Scores | None:
    try:
        table: Scores = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.shape == (DAYS, species) and table.dtype == np.float32 else None


def _kept(path: Path, species: int) -> Scores | None:
    """The stored table, or None if it is missing or damaged: then it is made again."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):
        os.utime(path)  # marks it as recently used
    content = kept[:-_DIGEST_BYTES]
    digest = kept[-_DIGEST_BYTES:]
    return _table(content, species) if hashlib.sha256(content).digest() == digest else None


def _keep(path: Path, content: bytes) -> None:
    """Store the table followed by its checksum. If the disk is full, it is made again at the next
    start instead."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".prior_*.npy.*"):
            left.unlink()
        part.write_bytes(content + hashlib.sha256(content).digest())
        part.replace(path)
        _clear(path.parent)
    except OSError:
        with suppress(OSError):
            part.unlink()


def _clear(folder: Path) -> None:
    """Delete the least recently used tables beyond the limits; a deleted table is made again when
    needed."""
    tables = []
    for table in folder.glob("prior_*.npy"):
        with suppress(OSError):  # another process cleared it
            state = table.stat()
            tables.append((state.st_mtime_ns, state.st_size, table))
    total = 0
    for count, (_, size, table) in enumerate(sorted(tables, reverse=True)):
        total += size
        if count and (count >= _KEPT_MAX or total > _KEPT_BYTES_MAX):
            with suppress(OSError):
                table.unlink()


def _is_bundle(folder: Path, bundle_id: str) -> bool:
    try:
        return read_bundle(folder).id == bundle_id
    except BundleError:
        return False


def _is_of_the_machine(error: BaseException | None) -> bool:
    """True if existing files could not be read, or memory was short, so that the bundle is not at
    fault."""
    while error is not None:
        if isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
        ):
            return True
        error = error.__cause__
    return False


def _child(folder: Path, bundle_id: str, latitude: float, longitude: float) -> None:
    if not _is_bundle(folder, bundle_id):  # its species may have another order
        sys.exit(_ANOTHER_BUNDLE)
    try:
        table = compute_prior_table(
            folder / PRIOR, Taxonomy.read_csv(folder / TAXONOMY), latitude, longitude
        )
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1 if _is_of_the_machine(error) else _WRONG_BUNDLE)
    content = io.BytesIO()
    np.save(content, table)
    sys.stdout.buffer.write(content.getvalue())


def _end_with_parent() -> None:
    """End this process when its parent ends, since nobody waits for the table then. Linux only."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    asked_id, *degrees = sys.stdin.read().split()
    _child(Path(sys.argv[1]), asked_id, *map(float, degrees))
