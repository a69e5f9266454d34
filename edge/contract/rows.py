"""The competition's rows of 5 s, and the window that answers for each: one rule for station and
trainer.

Knows no sound, no labels and no score.
"""

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES

ROW_S = WINDOW_SAMPLES // RATE_HZ
# Sound behind the last complete row that is too short to begin another: decoders differ by an
# encoder's padding, and minutes of 60.02 s must not get rows that have no label.
REMAINDER_SAMPLES = RATE_HZ // 10


def rows_of(samples: int) -> list[int]:
    """The rows of a recording of `samples` samples at 32 kHz, by the second at which each ends.

    50.0 s have ten rows, as do 49.98 s and 50.02 s. The last one begun counts, and any sound at all
    has one.
    """
    whole, rest = divmod(samples, WINDOW_SAMPLES)
    started = rest > REMAINDER_SAMPLES or (rest > 0 and whole == 0)
    return [ROW_S * (row + 1) for row in range(whole + started)]


def window_of_row(end_s: int, samples: int) -> int | None:
    """First sample of the window that answers for the row ending at `end_s`, in a recording of
    `samples` samples.

    A complete row is a window. The last, shorter row is answered by the last window, which ends
    with the sound, if at least half of that lies in this row: otherwise that window represents the
    row before, which has one of its own. None: nothing is heard in the row.
    """
    first = end_s * RATE_HZ - WINDOW_SAMPLES
    if first < 0:
        return None
    if first + WINDOW_SAMPLES <= samples:
        return first
    last = max(0, samples - WINDOW_SAMPLES)
    return (
        last if end_s in rows_of(samples)[-1:] and 2 * (samples - first) >= samples - last else None
    )
