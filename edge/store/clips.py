"""Table of clips: which exist, for which detections, and which may be removed. Does not touch the
files of clips."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice

from edge.contract.errors import StoreError
from edge.store.connection import Connection, now_text
from edge.store.effort import moment_of
from edge.types import ClipRow, StoredClip, utc_text

# neither kept by a person nor reviewed
_FREE = """
    c.kept = 0 AND NOT EXISTS (
        SELECT 1 FROM detections d JOIN reviews v ON v.detection = d.id WHERE d.clip = c.id)"""
_SPECIES = """
    WITH RECURSIVE each (code) AS (
        SELECT min(species) FROM detections WHERE clip IS NOT NULL
        UNION ALL
        SELECT (SELECT min(species) FROM detections WHERE clip IS NOT NULL AND species > code)
        FROM each
        WHERE code IS NOT NULL)
    SELECT code FROM each WHERE code IS NOT NULL"""
_NEVER = "9999"  # later than any time
_PIECE = 1_000  # clips per query
# a clip's age counts from the later of both: recordings may be replayed years later, and a clock
# may have been wrong
_SINCE = "max(c.start_utc, c.created_utc)"
_TAKEN_MAX = 20  # files removed per transaction, which blocks other writers
_COLUMNS = f"c.id, c.path, {_SINCE}, c.bytes"


class ClipTable(Connection):
    """Clips and the rows that refer to them; implements the protocols of edge.clips for the thread
    that writes or removes clips."""

    def add(
        self,
        clip: ClipRow,
        detections: Sequence[str],
        put: Callable[[], None],
        undo: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Store a clip and link its detections, then `put` its file in place, then commit, so that
        there is never a row without a file. If the commit fails, `undo` removes the file while no
        other process can store it. The file of a kept or reviewed clip is not replaced, since it is
        the same sound. Returns the clip's previous path if it was another one; that file must be
        removed.

        Raises StoreError if none of the detections is stored (yet), as the clip would be useless.
        """
        with self._transaction():
            try:
                before = self._note(clip, detections, put)
                self._db.conn.commit()
            except BaseException:
                if self._db.conn.in_transaction:  # otherwise another process may have stored it
                    undo()
                raise
        return before

    def _note(
        self, clip: ClipRow, detections: Sequence[str], put: Callable[[], None]
    ) -> str | None:
        protected = self._is_protected(clip.id)
        was = self.rows("SELECT path FROM clips WHERE id = ? AND path <> ?", (clip.id, clip.path))
        if not protected:
            self._db.execute(  # its file under the old name is to be removed
                "INSERT OR IGNORE INTO clips_going SELECT path FROM clips WHERE id = ? AND path <> "
                "?",
                (clip.id, clip.path),
            )
            self._db.execute("DELETE FROM clips_going WHERE path = ?", (clip.path,))
            self._db.execute(
                "INSERT INTO clips (id, path, recording, start_utc, seconds, bytes, created_utc) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET path = excluded.path, "
                "start_utc = excluded.start_utc, seconds = excluded.seconds, bytes = "
                "excluded.bytes",
                (
                    clip.id,
                    clip.path,
                    clip.recording_id,
                    self._start(clip),
                    clip.seconds,
                    clip.bytes,
                    now_text(),
                ),
            )
        ids = [(clip.id, detection) for detection in detections]
        if (
            self._db.conn.executemany("UPDATE detections SET clip = ? WHERE id = ?", ids).rowcount
            < 1
        ):
            raise StoreError(f"{self.path}: the detections of this clip are not stored")
        self._db.execute(
            "UPDATE clips SET kept = 1 WHERE id = ? AND EXISTS (SELECT 1 FROM detections d JOIN "
            "reviews v ON v.detection = d.id WHERE d.clip = clips.id)",
            (clip.id,),
        )
        if not protected:
            put()
        return None if protected or not was else str(was[0][0])

    def _start(self, clip: ClipRow) -> str:
        """Start of a clip. For live sound it follows from the record's start of the stretch, since
        the clock may have been corrected after the clip was cut."""
        rows = self.rows(
            "SELECT start_utc FROM recordings WHERE id = ? AND run IS NOT NULL",
            (clip.recording_id,),
        )
        if not rows or clip.offset_s is None:
            return utc_text(clip.start)
        return utc_text(moment_of(rows[0][0]) + timedelta(seconds=clip.offset_s))

    def _is_protected(self, clip: str) -> bool:
        """True if the clip exists and a person has kept or reviewed it."""
        return bool(self.rows(f"SELECT 1 FROM clips c WHERE id = ? AND NOT ({_FREE})", (clip,)))

    def removable(self, per_species: int, limit: int, before_utc: str = "") -> list[StoredClip]:
        """The oldest clips that are neither kept, nor reviewed, nor among the best of any of their
        species; with `before_utc` only older ones."""
        before = before_utc or _NEVER
        if not self.rows(f"SELECT 1 FROM clips c WHERE {_SINCE} < ? LIMIT 1", (before,)):
            return []
        staying = self._ranks(per_species).keys() | self._reviewed()
        return list(
            islice((clip for clip in self._oldest(before) if clip.id not in staying), limit)
        )

    def _oldest(self, before: str) -> Iterator[StoredClip]:
        """Clips that are not kept, oldest first, read in pieces so that the first ones come
        quickly."""
        since = ""
        last = ""
        while True:
            piece = self._clips(
                f"SELECT {_COLUMNS} FROM clips c WHERE c.kept = 0 AND {_SINCE} < ? AND ({_SINCE} > "
                f"? OR ({_SINCE} = ? AND c.id > ?)) AND {_SINCE} >= ? ORDER BY {_SINCE}, c.id "
                "LIMIT ?",
                (before, since, since, last, since, _PIECE),
            )
            yield from piece
            if len(piece) < _PIECE:
                return
            since = piece[-1].since_utc
            last = piece[-1].id

    def best(self, per_species: int, limit: int) -> list[StoredClip]:
        """The best clips of each species that are neither kept nor reviewed, the lowest-ranked
        first."""
        ranks = self._ranks(per_species)
        clips = list(self._named(ranks.keys() - self._reviewed(), "AND c.kept = 0"))
        return sorted(clips, key=lambda clip: (-ranks[clip.id], clip.since_utc, clip.id))[:limit]

    def _ranks(self, per_species: int) -> dict[str, int]:
        """Ranks of the best clips of each species, by clip; a clip with several species gets its
        best rank. Reads only the best detections, one species at a time."""
        ranks: dict[str, int] = {}
        for (species,) in self.rows(_SPECIES) if per_species > 0 else ():
            best: dict[str, int] = {}
            with self._errors():
                reading = self._db.execute(
                    "SELECT clip FROM detections WHERE species = ? AND clip IS NOT NULL ORDER BY "
                    "score DESC, clip",
                    (species,),
                )
                for (clip,) in reading:
                    best.setdefault(clip, len(best) + 1)
                    if len(best) == per_species:
                        break
                reading.close()
            for clip, rank in best.items():
                ranks[clip] = min(rank, ranks.get(clip, rank))
        return ranks

    def _reviewed(self) -> set[str]:
        rows = self.rows(
            "SELECT DISTINCT d.clip FROM reviews v JOIN detections d ON d.id = v.detection"
        )
        return {str(clip) for (clip,) in rows if clip is not None}

    def _named(self, clips: Collection[str], condition: str = "") -> Iterator[StoredClip]:
        """Those of the given clips that exist."""
        left = sorted(clips)
        for at in range(0, len(left), _PIECE):
            piece = left[at : at + _PIECE]
            marks = ", ".join("?" for _ in piece)
            yield from self._clips(
                f"SELECT {_COLUMNS} FROM clips c WHERE c.id IN ({marks}) {condition}", piece
            )

    def unused(self, limit: int) -> list[StoredClip]:
        """Clips without a detection (their recording was analysed again) that nobody has kept."""
        return self._clips(
            f"SELECT {_COLUMNS} FROM clips c WHERE c.kept = 0 AND NOT EXISTS (SELECT 1 FROM "
            f"detections d WHERE d.clip = c.id) ORDER BY {_SINCE}, c.id LIMIT ?",
            (limit,),
        )

    def newest(self, limit: int) -> list[StoredClip]:
        """The newest clips."""
        return self._clips(
            f"SELECT {_COLUMNS} FROM clips c ORDER BY c.start_utc DESC LIMIT ?", (limit,)
        )

    def protected(self, per_species: int) -> tuple[int, int]:
        """Number and bytes of the clips that are kept, reviewed or among the best of any of their
        species."""
        kept = {str(clip) for (clip,) in self.rows("SELECT id FROM clips WHERE kept = 1")}
        sizes = [
            clip.bytes
            for clip in self._named(kept | self._reviewed() | self._ranks(per_species).keys())
        ]
        return len(sizes), sum(sizes)

    def count(self, since_utc: str = "") -> tuple[int, int, str | None]:
        """Number and bytes of the clips saved since then, and the time when the first of them was
        saved."""
        clips, size, first = self.rows(
            "SELECT count(*), coalesce(sum(bytes), 0), min(created_utc) FROM clips WHERE "
            "created_utc >= ?",
            (since_utc,),
        )[0]
        return int(clips), int(size), first

    def forget(self, clips: Sequence[str], spare_kept: bool = False) -> list[str]:
        """Delete the rows of these clips; with `spare_kept` not of those that somebody has kept or
        reviewed meanwhile. Detections stay. The caller removes the files afterwards, or the next
        start does. Returns the deleted clips."""
        deleted = []
        with self._transaction():
            for clip in clips:
                if spare_kept and self._is_protected(clip):
                    continue
                self._db.execute(
                    "INSERT OR IGNORE INTO clips_going SELECT path FROM clips WHERE id = ?", (clip,)
                )
                self._db.execute("UPDATE detections SET clip = NULL WHERE clip = ?", (clip,))
                self._db.execute("DELETE FROM clips WHERE id = ?", (clip,))
                deleted.append(clip)
        return deleted

    def going(self) -> set[str]:
        """Paths of files to be removed, whose clips have no row any more."""
        return {str(path) for (path,) in self.rows("SELECT path FROM clips_going")}

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None:
        """Remove the files of clips without a row, those at `paths` or all, with `remove`, which
        returns True if the file is gone. A file whose clip was stored again meanwhile stays; none
        can be stored during the removal."""
        left = sorted(self.going() if paths is None else paths)
        for at in range(0, len(left), _TAKEN_MAX):
            with self._transaction():
                for path in left[at : at + _TAKEN_MAX]:
                    is_going = self.rows("SELECT 1 FROM clips_going WHERE path = ?", (path,))
                    if is_going and remove(path):
                        self._db.execute("DELETE FROM clips_going WHERE path = ?", (path,))

    @contextmanager
    def held(self) -> Iterator[list[StoredClip]]:
        """All clips; no process can add one until the block ends."""
        with self._transaction():
            yield self._clips(f"SELECT {_COLUMNS} FROM clips c", ())

    def _clips(self, sql: str, parameters: Sequence[object]) -> list[StoredClip]:
        rows = self.rows(sql, parameters)
        return [
            StoredClip(str(clip), str(path), str(since), int(size))
            for clip, path, since, size in rows
        ]
