"""Which clips there are, for which detections, and which may go. A clip's file is not touched
here."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice

from edge.contract.errors import StoreError
from edge.store.connection import Connection, now_text
from edge.store.effort import moment_of
from edge.types import ClipRow, StoredClip, utc_text

# Neither kept by hand nor looked at by a person.
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
_NEVER = "9999"  # behind every time
_PIECE = 1_000  # clips that are looked at in one question
# A clip's age counts from the later: recordings are replayed years later, a clock may have stood
# wrong.
_SINCE = "max(c.start_utc, c.created_utc)"
_TAKEN_MAX = 20  # files that go while nobody else can write: moments on a slow card
_COLUMNS = f"c.id, c.path, {_SINCE}, c.bytes"


class ClipTable(Connection):
    """Clips and what refers to them; edge.clips' Protocols, for the thread that writes clips or
    that removes them."""

    def add(
        self,
        clip: ClipRow,
        detections: Sequence[str],
        put: Callable[[], None],
        undo: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Note a clip and its detections, then `put` its file in place, then commit: never a row
        without a file. If it cannot be committed, `undo` takes the file away, as long as no other
        process can note it. What a person has kept or reviewed is not put in place anew: it is the
        same sound. Returns the path it had before, if that was another: that file is to go.

        Raises StoreError if none of the detections is there (yet): a clip of nothing would only
        take space.
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

    def _note(
        self, clip: ClipRow, detections: Sequence[str], put: Callable[[], None]
    ) -> str | None:
        protected = self._is_protected(clip.id)
        was = self.rows("SELECT path FROM clips WHERE id = ? AND path <> ?", (clip.id, clip.path))
        if not protected:
            self._db.execute(  # under its old name it goes
                "INSERT OR IGNORE INTO clips_going SELECT path FROM clips WHERE id = ? AND path <> "
                "?",
                (clip.id, clip.path),
            )
            self._db.execute("DELETE FROM clips_going WHERE path = ?", (clip.path,))
            self._db.execute(
                "INSERT INTO clips (id, path, recording, start_utc, seconds, bytes, created_utc)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET path = excluded.path,"
                " start_utc = excluded.start_utc, seconds = excluded.seconds, bytes = "
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
            "UPDATE clips SET kept = 1 WHERE id = ? AND EXISTS"
            " (SELECT 1 FROM detections d JOIN reviews v ON v.detection = d.id WHERE d.clip = "
            "clips.id)",
            (clip.id,),
        )
        if not protected:
            put()
        return None if protected or not was else str(was[0][0])

    def _start(self, clip: ClipRow) -> str:
        """Of live sound by where the record has its stretch now: the clock may have been put right
        since it was cut."""
        rows = self.rows(
            "SELECT start_utc FROM recordings WHERE id = ? AND run IS NOT NULL",
            (clip.recording_id,),
        )
        if not rows or clip.offset_s is None:
            return utc_text(clip.start)
        return utc_text(moment_of(rows[0][0]) + timedelta(seconds=clip.offset_s))

    def _is_protected(self, clip: str) -> bool:
        """Whether there is such a clip, and a person has kept or reviewed it."""
        return bool(self.rows(f"SELECT 1 FROM clips c WHERE id = ? AND NOT ({_FREE})", (clip,)))

    def removable(self, per_species: int, limit: int, before_utc: str = "") -> list[StoredClip]:
        """The oldest clips that are neither kept, nor reviewed, nor among the best of any of their
        species; with `before_utc` those that are older."""
        before = before_utc or _NEVER
        if not self.rows(f"SELECT 1 FROM clips c WHERE {_SINCE} < ? LIMIT 1", (before,)):
            return []
        staying = self._ranks(per_species).keys() | self._reviewed()
        return list(
            islice((clip for clip in self._oldest(before) if clip.id not in staying), limit)
        )

    def _oldest(self, before: str) -> Iterator[StoredClip]:
        """Those that nobody keeps, piece by piece: nobody waits for the whole."""
        since = ""
        last = ""
        while True:
            piece = self._clips(
                f"SELECT {_COLUMNS} FROM clips c WHERE c.kept = 0 AND {_SINCE} < ? AND"
                f" ({_SINCE} > ? OR ({_SINCE} = ? AND c.id > ?)) AND {_SINCE} >= ? ORDER BY "
                f"{_SINCE}, c.id LIMIT ?",
                (before, since, since, last, since, _PIECE),
            )
            yield from piece
            if len(piece) < _PIECE:
                return
            since = piece[-1].since_utc
            last = piece[-1].id

    def best(self, per_species: int, limit: int) -> list[StoredClip]:
        """The best of each species that are neither kept nor reviewed, the lowest-ranked first."""
        ranks = self._ranks(per_species)
        there = list(self._named(ranks.keys() - self._reviewed(), "AND c.kept = 0"))
        return sorted(there, key=lambda clip: (-ranks[clip.id], clip.since_utc, clip.id))[:limit]

    def _ranks(self, per_species: int) -> dict[str, int]:
        """The best clips of each species, with their rank among them; of a clip with several
        species the best counts. Reads the best detections alone, one species at a time."""
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
        """Those of these that there are."""
        left = sorted(clips)
        for at in range(0, len(left), _PIECE):
            piece = left[at : at + _PIECE]
            marks = ", ".join("?" for _ in piece)
            yield from self._clips(
                f"SELECT {_COLUMNS} FROM clips c WHERE c.id IN ({marks}) {condition}", piece
            )

    def unused(self, limit: int) -> list[StoredClip]:
        """Clips that no detection refers to (its recording was analysed anew) and that nobody has
        kept."""
        return self._clips(
            f"SELECT {_COLUMNS} FROM clips c WHERE c.kept = 0 AND NOT EXISTS"
            f" (SELECT 1 FROM detections d WHERE d.clip = c.id) ORDER BY {_SINCE}, c.id LIMIT ?",
            (limit,),
        )

    def newest(self, limit: int) -> list[StoredClip]:
        """The newest clips."""
        return self._clips(
            f"SELECT {_COLUMNS} FROM clips c ORDER BY c.start_utc DESC LIMIT ?", (limit,)
        )

    def protected(self, per_species: int) -> tuple[int, int]:
        """Clips, and their bytes, that are kept, reviewed or among the best of any of their
        species."""
        kept = {str(clip) for (clip,) in self.rows("SELECT id FROM clips WHERE kept = 1")}
        sizes = [
            clip.bytes
            for clip in self._named(kept | self._reviewed() | self._ranks(per_species).keys())
        ]
        return len(sizes), sum(sizes)

    def count(self, since_utc: str = "") -> tuple[int, int, str | None]:
        """Clips saved since then, their bytes, and when the first of them was saved."""
        clips, size, first = self.rows(
            "SELECT count(*), coalesce(sum(bytes), 0), min(created_utc) FROM clips WHERE "
            "created_utc >= ?",
            (since_utc,),
        )[0]
        return int(clips), int(size), first

    def forget(self, clips: Sequence[str], spare_kept: bool = False) -> list[str]:
        """These clips are no more, but with `spare_kept` for those that somebody has kept or
        reviewed meanwhile; their detections stay. Their files go after this has returned, or at the
        next start. Returns which these are."""
        gone = []
        with self._transaction():
            for clip in clips:
                if spare_kept and self._is_protected(clip):
                    continue
                self._db.execute(
                    "INSERT OR IGNORE INTO clips_going SELECT path FROM clips WHERE id = ?", (clip,)
                )
                self._db.execute("UPDATE detections SET clip = NULL WHERE clip = ?", (clip,))
                self._db.execute("DELETE FROM clips WHERE id = ?", (clip,))
                gone.append(clip)
        return gone

    def going(self) -> set[str]:
        """Paths of clips without a row whose files are to go."""
        return {str(path) for (path,) in self.rows("SELECT path FROM clips_going")}

    def take_away(
        self, remove: Callable[[str], bool], paths: Collection[str] | None = None
    ) -> None:
        """`remove` the files of clips without a row, those at `paths` or all; it says whether one
        is gone. What is noted again meanwhile stays: none can be noted while its file goes."""
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
        return [
            StoredClip(str(clip), str(path), str(since), int(size))
            for clip, path, since, size in found
        ]
