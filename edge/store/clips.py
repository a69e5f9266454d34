"""Which clips there are, for which detections, and which may go. A clip's file is not touched here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edge.contract.errors import StoreError
from edge.store.connection import Connection, now_text
from edge.types import ClipRow, StoredClip, utc_text

# Clips by how high they rank among those of a species, the best of several species in one clip counting.
_RANKED = """
    SELECT clip, min(rank) AS rank FROM (
        SELECT clip, row_number() OVER (PARTITION BY species ORDER BY max(score) DESC, min(start_utc), clip) AS rank
        FROM detections WHERE clip IS NOT NULL GROUP BY clip, species)
    GROUP BY clip"""
# Neither kept by hand nor looked at by a person.
_FREE = """
    c.kept = 0 AND NOT EXISTS (
        SELECT 1 FROM detections d JOIN reviews v ON v.detection = d.id WHERE d.clip = c.id)"""
# A clip's age counts from the later: recordings are replayed years later, a clock may have stood wrong.
_SINCE = "max(c.start_utc, c.created_utc)"
_COLUMNS = f"c.id, c.path, {_SINCE}, c.bytes"


class ClipTable(Connection):
    """Clips and what refers to them; edge.clips' Protocols, for the thread that writes clips or that removes them."""

    def add(self, clip: ClipRow, detections: Sequence[str], put: Callable[[], None]) -> None:
        """Note a clip and its detections, then `put` its file in place, then commit: never a row without a file.

        Raises StoreError if none of the detections is there (yet): a clip of nothing would only take space.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO clips (id, path, recording, start_utc, seconds, bytes, created_utc)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET path = excluded.path,"
                " start_utc = excluded.start_utc, seconds = excluded.seconds, bytes = excluded.bytes",
                (clip.id, clip.path, clip.recording_id, utc_text(clip.start), clip.seconds, clip.bytes, now_text()),
            )
            ids = [(clip.id, detection) for detection in detections]
            if self._db.conn.executemany("UPDATE detections SET clip = ? WHERE id = ?", ids).rowcount < 1:
                raise StoreError(f"{self.path}: the detections of this clip are not stored")
            put()

    def removable(self, per_species: int, limit: int) -> list[StoredClip]:
        """The oldest clips that are neither kept, nor reviewed, nor among the best of any of their species."""
        return self._clips(
            f"SELECT {_COLUMNS} FROM clips c WHERE {_FREE}"
            f" AND c.id NOT IN (SELECT clip FROM ({_RANKED}) WHERE rank <= ?) ORDER BY {_SINCE}, c.id LIMIT ?",
            (per_species, limit),
        )

    def best(self, per_species: int, limit: int) -> list[StoredClip]:
        """The best of each species that are neither kept nor reviewed, the lowest-ranked first."""
        return self._clips(
            f"SELECT {_COLUMNS} FROM clips c JOIN ({_RANKED}) r ON r.clip = c.id WHERE {_FREE} AND r.rank <= ?"
            f" ORDER BY r.rank DESC, {_SINCE}, c.id LIMIT ?",
            (per_species, limit),
        )

    def unused(self, limit: int) -> list[StoredClip]:
        """Clips that no detection refers to (its recording was analysed anew) and that nobody has kept."""
        return self._clips(
            f"SELECT {_COLUMNS} FROM clips c WHERE c.kept = 0 AND NOT EXISTS"
            f" (SELECT 1 FROM detections d WHERE d.clip = c.id) ORDER BY {_SINCE}, c.id LIMIT ?",
            (limit,),
        )

    def newest(self, limit: int) -> list[StoredClip]:
        """The newest clips."""
        return self._clips(f"SELECT {_COLUMNS} FROM clips c ORDER BY c.start_utc DESC LIMIT ?", (limit,))

    def protected(self, per_species: int) -> tuple[int, int]:
        """Clips, and their bytes, that are kept, reviewed or among the best of any of their species."""
        clips, size = self.rows(
            f"SELECT count(*), coalesce(sum(bytes), 0) FROM clips c WHERE NOT ({_FREE})"
            f" OR c.id IN (SELECT clip FROM ({_RANKED}) WHERE rank <= ?)",
            (per_species,),
        )[0]
        return int(clips), int(size)

    def count(self, since_utc: str = "") -> tuple[int, int, str | None]:
        """Clips saved since then, their bytes, and when the first of them was saved."""
        clips, size, first = self.rows(
            "SELECT count(*), coalesce(sum(bytes), 0), min(created_utc) FROM clips WHERE created_utc >= ?", (since_utc,)
        )[0]
        return int(clips), int(size), first

    def forget(self, clips: Sequence[str]) -> None:
        """These clips are no more; their detections stay. Their files go after this has returned."""
        with self._transaction():
            ids = [(clip,) for clip in clips]
            self._db.conn.executemany("UPDATE detections SET clip = NULL WHERE clip = ?", ids)
            self._db.conn.executemany("DELETE FROM clips WHERE id = ?", ids)

    @contextmanager
    def held(self) -> Iterator[list[StoredClip]]:
        """All clips; until the block ends no process adds one."""
        with self._transaction():
            yield self._clips(f"SELECT {_COLUMNS} FROM clips c", ())

    def _clips(self, sql: str, parameters: Sequence[object]) -> list[StoredClip]:
        found = self.rows(sql, parameters)
        return [StoredClip(str(clip), str(path), str(since), int(size)) for clip, path, since, size in found]
