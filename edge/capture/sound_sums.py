"""Short checksums of a recording's sound, which show that a file has the same sound as another, or
the beginning of it, in whatever container and with whatever tags.

They are taken while the sound is decoded. Knows no file.
"""

import zlib

import numpy as np

from edge.contract.audio import RATE_HZ, Samples

_DIGITS = 8  # of each sum
_SILENT = "0" * _DIGITS  # of one constant value: equal silence proves nothing
_LOOKED_AT = 1024  # samples of each second that enter the checksum one by one
_FINE_S = 10  # this long each second has its checksum; then each block of the decoder


class SoundSums:
    """Checksums of the blocks of one recording as the decoder gives them.

    sums = SoundSums()
    for block in decoder:
        sums.add(block)
    sums.text
    """

    def __init__(self) -> None:
        self._sums: list[str] = []
        self._frames = 0

    def add(self, block: Samples) -> None:
        """Add the next block."""
        step = RATE_HZ if self._frames < _FINE_S * RATE_HZ else max(1, len(block))
        for at in range(0, len(block), step):
            self._sums.append(_sum(block[at : at + step]))
        self._frames += len(block)

    def miss(self, seconds: float) -> None:
        """Add a gap."""
        self._sums.append(format(zlib.crc32(f"{seconds:.2f}".encode()), f"0{_DIGITS}x"))

    @property
    def text(self) -> str:
        """All checksums, as one text."""
        return "".join(self._sums)


def is_within(text: str, seconds: float, other: str, other_s: float) -> bool:
    """True if the sound with checksums `text` is the other's sound, or its beginning.

    The last checksum of the shorter one covers less sound and is not compared. Silence alone proves
    nothing.
    """
    compared = text if seconds == other_s else text[:-_DIGITS]
    if (
        seconds > other_s
        or not other.startswith(compared)
        or (seconds == other_s and text != other)
    ):
        return False
    return any(compared[at : at + _DIGITS] != _SILENT for at in range(0, len(compared), _DIGITS))


def _sum(samples: Samples) -> str:
    """Checksum of the first samples of each second, and of one parity over all samples, which shows
    any single changed sample.

    A checksum of every byte would cost a tenth of what the small network does.
    """
    looked_at = np.concatenate(
        [samples[at : at + _LOOKED_AT] for at in range(0, len(samples), RATE_HZ)]
    )
    pairs = np.ascontiguousarray(samples[: len(samples) // 2 * 2]).view(np.uint64)
    parity = int(np.bitwise_xor.reduce(pairs, initial=np.uint64(0)))
    if looked_at.min() == looked_at.max() and parity in (0, *map(int, pairs[:1])):
        return _SILENT
    content = looked_at.tobytes() + samples[-1:].tobytes() + parity.to_bytes(8, "little")
    return format(zlib.crc32(content) or 1, f"0{_DIGITS}x")
