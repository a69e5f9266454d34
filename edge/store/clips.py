"""Which clips there are, for which detections, and which may go. A clip's file is not touched here."""

from collections.abc import Callable, Collection, Iterator, Sequence
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
_TAKEN_MAX = 20  # files that go while nobody else can write: moments on a slow card
_COLUMNS = f"c.id, c.path, {_SINCE}, c.bytes"


class ClipTable(Connection):
    """Clips and what refers to them; edge.clips' Protocols, for the thread that writes clips or that removes them."""

    def add(
        self,
        clip: ClipRow,
        detections: Sequence[str],
        put: Callable[[], None],
        undo: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Note a clip and its detections, then `put` its file in place, then commit: never a row without a file. If it
        cannot be committed, `undo` takes the file away, as long as no other process can note it. What a person has kept
        or reviewed is not put in place anew: it is the same sound. Returns the path it had before, if that was another:
        that file is to go.

        Raises StoreError if none of the detections is there (yet): a clip of nothing would only take space.
        """
        with self._transaction():
            try:
                before = self._note(clip, detections, put)
                self._db.conn.commit()
            except BaseException:
                if self._db.conn.in_transaction:  # else somebody else may have noted it since
                    undo()
                raise
        return before

    def _note(self, clip: ClipRow, detections: Sequence[str], put: Callable[[], None]) -> str | None:
        protected = self._is_protected(clip.id)
        was = self.rows("SELECT path FROM clips WHERE id = ? AND path <> ?", (clip.id, clip.path))
        if not protected:
            self._db.execute(  # under its old name it goes
                "INSERT OR IGNORE INTO clips_going SELECT path FROM clips WHERE id = ? AND path <> ?",
                (clip.id, clip.path),
            )
            self._db.execute("DELETE FROM clips_going WHERE path = ?", (clip.path,))
            self._db.execute(
                "INSERT INTO clips (id, path, recording, start_utc, seconds, bytes, created_utc)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET path = excluded.path,"
                " start_utc = excluded.start_utc, seconds = excluded.seconds, bytes = excluded.bytes",
                (clip.id, clip.path, clip.recording_id, utc_text(clip.start), clip.seconds, clip.bytes, now_text()),
            )
        ids = [(clip.id, detection) for detection in detections]
        if self._db.conn.executemany("UPDATE detections SET clip = ? WHERE id = ?", ids).rowcount < 1:
            raise StoreError(f"{self.path}: the detections of this clip are not stored")
        self._db.execute(
            "UPDATE clips SET kept = 1 WHERE id = ? AND EXISTS"
            " (SELECT 1 FROM detections d JOIN reviews v ON v.detection = d.id WHERE d.clip = clips.id)",
            (clip.id,),
        )
        if not protected:
            put()
        return None if protected or not was else str(was[0][0])

    def _is_protected(self, clip: str) -> bool:
        """Whether there is such a clip, and a person has kept or reviewed it."""
        return bool(self.rows(f"SELECT 1 FROM clips c WHERE id = ? AND NOT ({_FREE})", (clip,)))

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

    def forget(self, clips: Sequence[str], spare_kept: bool = False) -> list[str]:
        """These clips are no more, but with `spare_kept` for those that somebody has kept or reviewed meanwhile; their
        detections stay. Their files go after this has returned, or at the next start. Returns which these are."""
        gone = []
        with self._transaction():
            for clip in clips:
                if spare_kept and self._is_protected(clip):
                    continue
                self._db.execute("INSERT OR IGNORE INTO clips_going SELECT path FROM clips WHERE id = ?", (clip,))
                self._db.execute("UPDATE detections SET clip = NULL WHERE clip = ?", (clip,))
                self._db.execute("DELETE FROM clips WHERE id = ?", (clip,))
                gone.append(clip)
        return gone

    def going(self) -> set[str]:
        """Paths of clips without a row whose files are to go."""
        return {str(path) for (path,) in self.rows("SELECT path FROM clips_going")}

    def take_away(self, remove: Callable[[str], bool], paths: Collection[str] | None = None) -> None:
        """`remove` the files of clips without a row, those at `paths` or all; it says whether one is gone. What is
        noted again meanwhile stays: none can be noted while its file goes."""
        left = sorted(self.going() if paths is None else paths)
        for at in range(0, len(left), _TAKEN_MAX):
            with self._transaction():
                for path in left[at : at + _TAKEN_MAX]:
                    is_going = self.rows("SELECT 1 FROM clips_going WHERE path = ?", (path,))
                    if is_going and remove(path):
                        self._db.execute("DELETE FROM clips_going WHERE path = ?", (path,))

    @contextmanager
    def held(self) -> Iterator[list[StoredClip]]:
        """All clips; until the block ends no process adds one."""
        with self._transaction():
            yield self._clips(f"SELECT {_COLUMNS} FROM clips c", ())

    def _clips(self, sql: str, parameters: Sequence[object]) -> list[StoredClip]:
        found = self.rows(sql, parameters)
        return [StoredClip(str(clip), str(path), str(since), int(size)) for clip, path, since, size in found]
