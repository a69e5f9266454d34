"""A clean-up of clips with nothing to do, in a record of years: seconds of CPU.

    python -m tests.bench.cleanup
    [--detections 1000000] [--folder DIR]     (1.3 GB there for a million)

The record is made by SQL, without sound or files; each detection in ten shares its clip with nine
others.
"""

import argparse
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from edge.clips.disk_reserve import Reserve
from edge.clips.retention import DiskBytes, Retention
from edge.config import RetentionSettings
from edge.store.clips import ClipTable

_SPECIES = 300
_ROUNDS = 5
_UTC = "strftime('%Y-%m-%dT%H:%M:%fZ', 1600000000 + 72 * {}, 'unixepoch')"
_FILL = f"""
    CREATE TEMP TABLE n AS WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n
    WHERE i < ? - 1)
    SELECT i FROM n;
    INSERT INTO bundles VALUES ('b', '', '');
    INSERT INTO species SELECT 's' || i, '', '' FROM n WHERE i < {_SPECIES};
    INSERT INTO recordings (id, station, path, bytes, mtime_ns, state, analysis)
    VALUES ('r', 'porch', 'r', 0, 0, 'analysed', '');
    INSERT INTO clips (id, path, recording, start_utc, seconds, bytes, created_utc)
    SELECT 'clip' || (i / 10), 'x/' || i || '.flac', 'r', {_UTC.format("i")}, 11, 200000,
    {_UTC.format("i")}
    FROM n WHERE i % 10 = 0;
    INSERT INTO detections (id, recording, bundle, species, start_utc, end_utc, offset_s, score,
    acoustic, threshold,
                            rule, member_low, member_high, members, clip)
    SELECT 'detection' || i, 'r', 'b', 's' || (i * 7919 % {_SPECIES}), {_UTC.format("i")},
    {_UTC.format("i")}, i,
           (i * 104729 % 100000) / 1e5, 0.8, 0.5, 'bundle', 0.7, 0.9, '[0.7, 0.9]',
           'clip' || (i / 10) FROM n"""


def fill(table: ClipTable, detections: int) -> None:
    """So many detections, a tenth as many clips."""
    with table.bulk() as db:
        for sql in _FILL.split(";"):
            db.execute(sql, (detections,) if "?" in sql else ())


def main() -> None:
    """Make the record, clean up, say what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detections", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        ClipTable(Path(name) / "station.db") as table,
    ):
        fill(table, options.detections)
        settings = RetentionSettings(days=36_500)
        keeper = Retention(
            table,
            Path(name),
            Reserve(Path(name)),
            settings,
            lambda _: DiskBytes(10**12, 9 * 10**11),
        )
        keeper._missing_clips = list  # type: ignore[method-assign]  # its files were never made
        took = []
        for _ in range(_ROUNDS):
            at = time.process_time()
            keeper.tidy(datetime.now(timezone.utc))
            took.append(time.process_time() - at)
        print(
            f"{options.detections} detections: {min(took):.3f} to {max(took):.3f} s CPU for a "
            "clean-up"
        )


if __name__ == "__main__":
    main()
