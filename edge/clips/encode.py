"""Samples to the bytes of a sound file with its GUANO text inside. Knows no disk.

In WAV the text is in GUANO's own RIFF chunk `guan`. FLAC and Ogg have no such place; there it is
the Vorbis comment `comment`, which players and taggers show without trouble.
"""

import io
import struct
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ

Pcm = NDArray[np.int16]  # (samples,)
_SUBTYPE = {"flac": "PCM_16", "wav": "PCM_16", "ogg": "VORBIS"}


def pcm(samples: NDArray[np.floating[Any]] | Pcm) -> Pcm:
    """Float samples in [-1, 1] as 16 bit; louder ones are clipped. 16-bit samples are returned
    unchanged."""
    if samples.dtype == np.int16:
        return samples.view(np.int16)
    whole: Pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return whole


def encode(samples: Pcm, guano: str, kind: Literal["flac", "wav", "ogg"]) -> bytes:
    """A complete sound file in memory, so that later only the disk can fail. Raises
    soundfile.SoundFileError."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE_HZ, 1, _SUBTYPE[kind], format=kind.upper()) as file:
        if kind != "wav":
            file.comment = guano
        # libsndfile's Vorbis writer crashes on one large write
        for start in range(0, len(samples), RATE_HZ):
            file.write(samples[start : start + RATE_HZ])
    return _with_guan(buffer.getvalue(), guano) if kind == "wav" else buffer.getvalue()


def _with_guan(wav: bytes, guano: str) -> bytes:
    text = guano.encode()
    text += b"\n" * (len(text) % 2)  # chunks have an even size
    whole = wav + struct.pack("<4sI", b"guan", len(text)) + text
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
