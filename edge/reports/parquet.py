"""Results of a replay as Parquet files, for R, pandas and tables too large for one machine."""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge.contract.bundle import Licence
from edge.contract.errors import ConfigError, StoreError, UsageError
from edge.store.record import Store

TABLES = ("recordings", "detections", "effort", "gaps")
_ROWS = 50_000  # per write, so that memory does not grow with the record
_TYPES = {"TEXT": "string", "INTEGER": "int64", "REAL": "float64"}


def check_parquet(folder: Path) -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet and make the folder; called before a long replay, so that
    a mistake shows at once. Raises ConfigError without pyarrow, UsageError if the folder cannot be
    made."""
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise ConfigError(
            "--parquet: pyarrow is missing; type pip install '.[parquet]' in the checkout"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--parquet {folder}: {error.strerror or error}") from error
    return arrow, parquet


def write_parquet(
    store: Store, bundle_id: str, recordings: Sequence[str], folder: Path
) -> list[str]:
    """Write recordings, detections, effort and gaps of these recordings, one file per table, whole
    or not at all.

    Columns are those of the database, and the path under which a recording was analysed. Returns
    the names of the files. Raises as `check_parquet` does, and StoreError if a file cannot be
    written.
    """
    arrow, parquet = check_parquet(folder)
    licence = _licence(store, bundle_id)
    try:
        for table in TABLES:
            info = store.rows(f"PRAGMA table_info({table})")
            columns = [(str(name), _TYPES[str(kind)]) for _, name, kind, *_ in info]
            columns += [] if table == "recordings" else [("path", "string")]
            schema = arrow.schema(
                [(name, getattr(arrow, kind)()) for name, kind in columns], licence
            )
            part = folder / f".{table}.parquet.part"
            with parquet.ParquetWriter(part, schema) as writer:
                for rows in _pieces(store, table, bundle_id, recordings):
                    values = zip(schema, zip(*rows, strict=True), strict=True)
                    arrays = [arrow.array(list(column), field.type) for field, column in values]
                    writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            part.replace(folder / f"{table}.parquet")
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}") from error
    return [f"{table}.parquet" for table in TABLES]


def _licence(store: Store, bundle_id: str) -> dict[str, str] | None:
    """Metadata of a file: the licence of the networks that made it; None: they have none."""
    (manifest,) = store.rows("SELECT manifest FROM bundles WHERE id = ?", (bundle_id,))[0]
    licence = json.loads(manifest).get("licence")
    return None if not licence else {"licence": str(Licence(**licence))}


def _pieces(
    store: Store, table: str, bundle_id: str, recordings: Sequence[str]
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of the table for these recordings, in batches."""
    sql = f"SELECT t.*, r.path FROM {table} t JOIN recordings r ON r.id = t.recording"
    if table == "recordings":
        sql = "SELECT r.* FROM recordings r"
    of_bundle = " AND t.bundle = ?" if table == "detections" else ""
    more = (bundle_id,) if of_bundle else ()
    rows: list[tuple[Any, ...]] = []
    for recording in recordings:
        rows += store.rows(f"{sql} WHERE r.id = ?{of_bundle}", (recording, *more))
        if len(rows) >= _ROWS:
            yield rows
            rows = []
    if rows:
        yield rows
