"""The outbox as the publisher sees it: what waits, what was acknowledged, what was set aside. Knows
no broker.

What it hands out is on the disk, and its number is noted beside the database, before anybody can
have seen it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from edge.store.connection import Connection, now_text
from edge.store.numbers import KEPT, Numbers
from edge.types import DetectionTime, QueuedMessage


class OutboxTable(Connection):
    """Messages in the order in which they were committed; edge.types.Outbox, for the publisher's
    own thread."""

    def __init__(self, path: Path, durable: bool = False) -> None:
        super().__init__(path, durable)
        self._numbers = Numbers(path)
        self._file = _inode(path)

    def is_named_file(self) -> bool:
        """Whether the open file is still the one of that name; True where that cannot be seen."""
        now = _inode(self.path)
        return None in (now, self._file) or now == self._file

    def waiting(self, after: int, limit: int) -> list[QueuedMessage]:
        """Messages not yet acknowledged, oldest first, with seq above `after`."""
        messages = self._waiting(after, limit)
        if messages:
            self._to_disk()
            self._note_numbers(messages[-1].seq)
        return messages

    def _to_disk(self) -> None:
        """Whoever committed them, and however: a power cut takes nothing back that is handed out.
        What can be read is in the log or, after that was written to the disk, in the file
        itself."""
        with self._errors():
            try:
                log = os.open(f"{self.path}-wal", os.O_RDONLY)
            except FileNotFoundError:
                return
            try:
                os.fsync(log)
            finally:
                os.close(log)

    def _note_numbers(self, seq: int) -> None:
        with self._errors():
            if self._numbers.given(seq):
                return
        with self._transaction():  # a file from before numbers were kept beside it
            self._db.execute("INSERT OR IGNORE INTO counters VALUES (?, 1)", (KEPT,))
        with self._errors():
            self._numbers.begin(seq)

    def _waiting(self, after: int, limit: int) -> list[QueuedMessage]:
        """With the times that their detections have now: what waited without network was stamped
        without it."""
        return [
            QueuedMessage(
                int(seq),
                str(topic),
                str(payload),
                str(created),
                None if None in lies else DetectionTime(*lies),
            )
            for seq, topic, payload, created, *lies in self.rows(
                "SELECT o.seq, o.topic, o.payload, o.created_utc, d.start_utc, d.end_utc, "
                "d.utc_offset_minutes"
                " FROM outbox o LEFT JOIN detections d ON d.id = o.id WHERE o.state = 'waiting' "
                "AND o.seq > ?"
                " ORDER BY o.seq LIMIT ?",
                (after, limit),
            )
        ]

    def counts(self) -> dict[str, int]:
        """created, sent, waiting, dropped and dead at one moment; the first is the sum of the
        others."""
        counted = {"created": 0, "sent": 0, "dropped": 0, "dead": 0}
        rows = self.rows(  # one statement sees one moment
            "SELECT substr(name, 10), value FROM counters WHERE name LIKE 'messages %'"
            " UNION ALL SELECT 'waiting', count(*) FROM outbox WHERE state = 'waiting'"
        )
        return counted | {str(name): int(value) for name, value in rows}

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """The broker has acknowledged these messages."""
        if not seqs:
            return
        with self._transaction():
            now = now_text()
            before = self._db.conn.total_changes
            self._db.conn.executemany(
                # The payload goes: its detection says the same, and a season of payloads is
                # hundreds of megabytes.
                "UPDATE outbox SET state = 'sent', sent_utc = ?, payload = '' WHERE seq = ? AND "
                "state = 'waiting'",
                [(now, seq) for seq in seqs],
            )
            self._count("messages sent", self._db.conn.total_changes - before)

    def refused(self, seq: int, reason: str, attempts_max: int) -> bool:
        """The broker said no to this message; True if it was that often that it is set aside for
        good."""
        with self._transaction():
            self._db.execute(
                "UPDATE outbox SET attempts = attempts + 1, reason = ? WHERE seq = ?", (reason, seq)
            )
            dead = self._db.execute(
                "UPDATE outbox SET state = 'dead' WHERE seq = ? AND state = 'waiting' AND attempts "
                ">= ?",
                (seq, attempts_max),
            ).rowcount
            self._count("messages dead", dead)
        return dead > 0

    def bound(self, waiting_max: int, after: int = 0) -> int:
        """Drop the oldest messages beyond `waiting_max`, but none up to seq `after`, which are on
        their way; their rows stay as dropped, without payload. Returns how many."""
        too_many = self.waiting_count() - waiting_max
        if too_many <= 0:
            return 0
        with self._transaction():
            dropped = self._db.execute(
                "UPDATE outbox SET state = 'dropped', payload = '', reason = 'too many waited' "
                "WHERE seq IN"
                " (SELECT seq FROM outbox WHERE state = 'waiting' AND seq > ? ORDER BY seq LIMIT "
                "?)",
                (after, too_many),
            ).rowcount
            self._count("messages dropped", dropped)
        return int(dropped)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
