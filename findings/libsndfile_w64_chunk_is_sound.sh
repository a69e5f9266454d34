#!/usr/bin/env bash
# libsndfile 1.2.2 (soundfile 0.14.0): what stands behind the sound of a Wave64 file is read as sound.
#
# A Wave64 file is a list of chunks, each with its size; others may follow the one called `data`. libsndfile takes all
# bytes from the beginning of `data` to the end of the file for sound, whatever size the chunk says. A summary list or
# a marker list behind a recording becomes a crackle at its end, and the recording is longer than it was. In the same
# sound as WAV with a LIST chunk behind it, libsndfile stops where `data` says.
#
# Seen with Python 3.11 on Debian 12: 64,000 frames were written, `data` says 128,000 bytes; with a chunk of 48 bytes
# behind them soundfile finds 64,024 frames, and the last 24 are the bytes of that chunk. The WAV has 64,000.
#
# Ends with 0 if it is still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import struct
import uuid
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ, FRAMES = 32_000, 64_000
SUMMARY_LIST = uuid.UUID("925f94bc-525a-11d2-86dc-00c04f8edb8a").bytes_le  # one of the chunks that the format has
print("libsndfile", soundfile.__libsndfile_version__)
sound = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(FRAMES) / RATE_HZ)

soundfile.write("plain.w64", sound, RATE_HZ, subtype="PCM_16")
plain = Path("plain.w64").read_bytes()
text = b"a note of the recorder!\0"
chunk = SUMMARY_LIST + struct.pack("<Q", 24 + len(text)) + text
assert len(plain) % 8 == len(chunk) % 8 == 0, "chunks begin on multiples of eight bytes"
at = plain.index(b"data")
said = struct.unpack("<Q", plain[at + 16 : at + 24])[0] - 24
whole = plain[:16] + struct.pack("<Q", len(plain) + len(chunk)) + plain[24:] + chunk
Path("noted.w64").write_bytes(whole)

soundfile.write("plain.wav", sound, RATE_HZ, subtype="PCM_16")
wav = Path("plain.wav").read_bytes()
listed = b"LIST" + struct.pack("<I", 4 + 8 + len(text)) + b"INFOICMT" + struct.pack("<I", len(text)) + text
Path("noted.wav").write_bytes(wav[:4] + struct.pack("<I", len(wav) + len(listed) - 8) + wav[8:] + listed)

read, _ = soundfile.read("noted.w64", dtype="int16")
frames = {name: soundfile.info(name).frames for name in ("plain.w64", "noted.w64", "plain.wav", "noted.wav")}
print("data says", said // 2, "frames; soundfile finds", frames)
print("the last frames as bytes:", read[FRAMES:].tobytes())
assert said == 2 * FRAMES
assert frames == {"plain.w64": 64_000, "noted.w64": 64_024, "plain.wav": 64_000, "noted.wav": 64_000}, "no longer so"
assert read[FRAMES:].tobytes() == chunk, "no longer so"
PY
