"""The outbox as the publisher sees it: what waits, what was acknowledged, what was set aside. Knows no broker."""

from collections.abc import Sequence

from edge.store.connection import Connection, now_text
from edge.types import Waiting


class OutboxTable(Connection):
    """Messages in the order in which they were committed; edge.types.Outbox, for the publisher's own thread."""

    def waiting(self, after: int, limit: int) -> list[Waiting]:
        """Messages not yet acknowledged, oldest first, with seq above `after`."""
        return [
            Waiting(int(seq), str(topic), str(payload), str(created))
            for seq, topic, payload, created in self.rows(
                "SELECT seq, topic, payload, created_utc FROM outbox WHERE state = 'waiting' AND seq > ?"
                " ORDER BY seq LIMIT ?",
                (after, limit),
            )
        ]

    def counts(self) -> dict[str, int]:
        """created, sent, waiting, dropped and dead at one moment; the first is the sum of the others."""
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
            now, before = now_text(), self._db.conn.total_changes
            self._db.conn.executemany(
                # The payload goes: its detection says the same, and a season of payloads is hundreds of megabytes.
                "UPDATE outbox SET state = 'sent', sent_utc = ?, payload = '' WHERE seq = ? AND state = 'waiting'",
                [(now, seq) for seq in seqs],
            )
            self._count("messages sent", self._db.conn.total_changes - before)

    def refused(self, seq: int, reason: str, attempts_max: int) -> bool:
        """The broker said no to this message; True if it was that often that it is set aside for good."""
        with self._transaction():
            self._db.execute("UPDATE outbox SET attempts = attempts + 1, reason = ? WHERE seq = ?", (reason, seq))
            dead = self._db.execute(
                "UPDATE outbox SET state = 'dead' WHERE seq = ? AND state = 'waiting' AND attempts >= ?",
                (seq, attempts_max),
            ).rowcount
            self._count("messages dead", dead)
        return dead > 0

    def bound(self, waiting_max: int, after: int = 0) -> int:
        """Drop the oldest messages beyond `waiting_max`, but none up to seq `after`, which are on their way; their rows
        stay as dropped, without payload. Returns how many."""
        too_many = self.waiting_count() - waiting_max
        if too_many <= 0:
            return 0
        with self._transaction():
            dropped = self._db.execute(
                "UPDATE outbox SET state = 'dropped', payload = '', reason = 'too many waited' WHERE seq IN"
                " (SELECT seq FROM outbox WHERE state = 'waiting' AND seq > ? ORDER BY seq LIMIT ?)",
                (after, too_many),
            ).rowcount
            self._count("messages dropped", dropped)
        return int(dropped)
