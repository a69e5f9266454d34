"""The outbox for the publisher: messages that wait, were acknowledged or were set aside. Knows no
broker.

Before a message is handed out, it is on the disk and its number is noted beside the database.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from edge.store.connection import Connection, now_text
from edge.store.message_numbers import KEPT, Numbers
from edge.types import DetectionTime, QueuedMessage


class OutboxTable(Connection):
    """Messages in the order in which they were committed; implements edge.types.Outbox for the
    publisher's thread."""

    def __init__(self, path: Path, durable: bool = False) -> None:
        super().__init__(path, durable)
        self._numbers = Numbers(path)
        self._file = _inode(path)

    def is_named_file(self) -> bool:
        """True if the open file still has its name, or if that cannot be determined."""
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
        """Force committed messages to the disk, however they were committed, so that a power cut
        undoes nothing that was sent. They are in the log or, after a checkpoint, in the file
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
        with self._transaction():  # the database has no number file yet
            self._db.execute("INSERT OR IGNORE INTO counters VALUES (?, 1)", (KEPT,))
        with self._errors():
            self._numbers.begin(seq)

    def _waiting(self, after: int, limit: int) -> list[QueuedMessage]:
        """Waiting messages with the present times of their detections, which may have been
        corrected since the messages were made."""
        return [
            QueuedMessage(
                int(seq),
                str(topic),
                str(payload),
                str(created),
                None if None in times else DetectionTime(*times),
            )
            for seq, topic, payload, created, *times in self.rows(
                "SELECT o.seq, o.topic, o.payload, o.created_utc, d.start_utc, d.end_utc, "
                "d.utc_offset_minutes FROM outbox o LEFT JOIN detections d ON d.id = o.id WHERE "
                "o.state = 'waiting' AND o.seq > ? ORDER BY o.seq LIMIT ?",
                (after, limit),
            )
        ]

    def counts(self) -> dict[str, int]:
        """Numbers of messages created, sent, waiting, dropped and dead at one moment; the first is
        the sum of the others."""
        counted = {"created": 0, "sent": 0, "dropped": 0, "dead": 0}
        rows = self.rows(  # one statement sees one moment
            "SELECT substr(name, 10), value FROM counters WHERE name LIKE 'messages %' UNION ALL "
            "SELECT 'waiting', count(*) FROM outbox WHERE state = 'waiting'"
        )
        return counted | {str(name): int(value) for name, value in rows}

    def mark_sent(self, seqs: Sequence[int]) -> None:
        """Note that the broker has acknowledged these messages."""
        if not seqs:
            return
        with self._transaction():
            now = now_text()
            before = self._db.conn.total_changes
            self._db.conn.executemany(
                # the payload is deleted: its detection has the same content, and the payloads of a
                # season take hundreds of megabytes
                "UPDATE outbox SET state = 'sent', sent_utc = ?, payload = '' WHERE seq = ? AND "
                "state = 'waiting'",
                [(now, seq) for seq in seqs],
            )
            self._count("messages sent", self._db.conn.total_changes - before)

    def refused(self, seq: int, reason: str, attempts_max: int) -> bool:
        """Note that the broker refused this message; True if it is now set aside for good, after
        `attempts_max` refusals."""
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
        """Drop the oldest messages beyond `waiting_max`, except those up to seq `after`, which are
        on their way; their rows stay as dropped, without payload. Returns the number dropped."""
        too_many = self.waiting_count() - waiting_max
        if too_many <= 0:
            return 0
        with self._transaction():
            dropped = self._db.execute(
                "UPDATE outbox SET state = 'dropped', payload = '', reason = 'too many waited' "
                "WHERE seq IN (SELECT seq FROM outbox WHERE state = 'waiting' AND seq > ? ORDER BY "
                "seq LIMIT ?)",
                (after, too_many),
            ).rowcount
            self._count("messages dropped", dropped)
        return int(dropped)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
