#!/usr/bin/env bash
# libsndfile 1.2.2 (soundfile 0.14.0): of a chained Ogg file only the first stream is read, and nothing says so.
#
# Ogg files may be chained: the streams of several files one after the other are one valid file (RFC 3533), and the Vorbis
# specification names `cat` as the way to make one. Recorders that begin a stream anew, and people who join an hour from
# minutes, make them. libsndfile gives the length of the first stream as that of the file, and then the end of the file:
# no error, no warning. The same for Opus. It can open every stream by itself, if it is given the file from there on.
#
# Seen with Python 3.11 on Debian 12: two streams of 2 s and 3 s, joined; soundfile finds 2 s and reads 2 s, in Vorbis as
# in Opus. Given the bytes from the second stream on, it reads 3 s.
#
# Ends with 0 if it is still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check soundfile==0.14.0 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import io
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 48_000
print("libsndfile", soundfile.__libsndfile_version__)
for subtype in ("VORBIS", "OPUS"):
    streams = []
    for seconds, hz in ((2, 1000), (3, 3000)):
        name = f"{seconds}.ogg"
        sound = 0.3 * np.sin(2 * np.pi * hz * np.arange(seconds * RATE_HZ) / RATE_HZ)
        with soundfile.SoundFile(name, "w", RATE_HZ, 1, subtype, format="OGG") as file:
            for start in range(0, len(sound), RATE_HZ):
                file.write(sound[start : start + RATE_HZ])
        streams.append(Path(name).read_bytes())
    serials = [stream[14:18] for stream in streams]
    assert serials[0] != serials[1], "streams of a chain want numbers of their own; run it again"
    Path("chained.ogg").write_bytes(b"".join(streams))
    said = soundfile.info("chained.ogg").frames / RATE_HZ
    read = len(soundfile.read("chained.ogg")[0]) / RATE_HZ
    second = len(soundfile.read(io.BytesIO(streams[1]))[0]) / RATE_HZ
    print(f"{subtype}: 2 s and 3 s joined; soundfile says {said:.2f} s, reads {read:.2f} s; of the second {second:.2f} s")
    assert abs(said - 2) < 0.05 and abs(read - 2) < 0.05 and abs(second - 3) < 0.05, "no longer so"
PY
