"""What was heard, as sums short enough to be kept: whether a file has the sound of another, or its
beginning, whatever container, tags or header stand around it. Taken while the sound passes by;
knows no file."""

import zlib

import numpy as np

from edge.contract.audio import RATE_HZ, Samples

_DIGITS = 8  # of each sum
_SILENT = "0" * _DIGITS  # always the same number: equal silence is no proof
_LOOKED_AT = 1024  # samples of each second
_FINE_S = 10  # so long each second has its sum; then each block of the decoder


class SoundSums:
    """Sums of the blocks of one recording as the decoder gives them.

    sums = SoundSums()
    for block in decoder: sums.add(block)
    sums.text
    """

    def __init__(self) -> None:
        self._sums: list[str] = []
        self._frames = 0

    def add(self, block: Samples) -> None:
        """The next block."""
        step = RATE_HZ if self._frames < _FINE_S * RATE_HZ else max(1, len(block))
        for at in range(0, len(block), step):
            self._sums.append(_sum(block[at : at + step]))
        self._frames += len(block)

    def miss(self, seconds: float) -> None:
        """A gap."""
        self._sums.append(format(zlib.crc32(f"{seconds:.2f}".encode()), f"0{_DIGITS}x"))

    @property
    def text(self) -> str:
        """All of them."""
        return "".join(self._sums)


def is_within(text: str, seconds: float, other: str, other_s: float) -> bool:
    """Whether the sound of these sums is the other's, or its beginning. The last sum of what is
    shorter is of less sound, and says nothing."""
    told = text if seconds == other_s else text[:-_DIGITS]
    if seconds > other_s or not other.startswith(told) or (seconds == other_s and text != other):
        return False
    return any(told[at : at + _DIGITS] != _SILENT for at in range(0, len(told), _DIGITS))


def _sum(samples: Samples) -> str:
    """The beginning of each second as it is, all else as one parity, in which a single changed
    sample shows: a checksum of everything would cost a tenth of what the small network does."""
    looked_at = np.concatenate(
        [samples[at : at + _LOOKED_AT] for at in range(0, len(samples), RATE_HZ)]
    )
    pairs = np.ascontiguousarray(samples[: len(samples) // 2 * 2]).view(np.uint64)
    parity = int(np.bitwise_xor.reduce(pairs, initial=np.uint64(0)))
    if looked_at.min() == looked_at.max() and parity in (
        0,
        *map(int, pairs[:1]),
    ):  # the same number, ever again
        return _SILENT
    told = looked_at.tobytes() + samples[-1:].tobytes() + parity.to_bytes(8, "little")
    return format(zlib.crc32(told) or 1, f"0{_DIGITS}x")
