"""Folders of damaged recordings with odd names, replayed: every file ends analysed or refused,
once, in one line.

`python -m tests.trials.fuzz --rounds 200 --seed 1` runs as long as you like. Each round replays a
new folder twice in a child process, so that a crash of a decoder is seen and its seed is known.
Knows nothing of what the sound holds.
"""

import argparse
import faulthandler
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console

from edge.capture.recording import record_name
from edge.config import Config, load_config
from edge.replay.archive import ReplaySummary, replay_folder
from edge.replay.replay import Progress
from edge.reports.screen_summary import show_replay
from edge.reports.summary import Cost, replay_summary
from edge.store.record import Store
from edge.types import Outcome
from tests.conftest import make_bundle
from tests.trials import counted

FILES = 20  # of a round
FILE_S_MAX = 120.0  # generous: it takes milliseconds
# fmt: off
ENCODINGS = (
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "PCM_24"), ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "ULAW"), ("wav", "WAV", "IMA_ADPCM"), ("wav", "WAV", "MS_ADPCM"),
    ("wav", "WAV", "GSM610"), ("wav", "WAVEX", "PCM_16"), ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"), ("w64", "W64", "PCM_16"), ("rf64", "RF64", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"), ("au", "AU", "PCM_16"),
)
# fmt: on
EXTREMES = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**32 - 1,
)
NAME_PARTS = (
    *(
        b"20240512_034500",
        b"5AFCD4F4",
        b"7019_COR_20190904",
        b"20249999_996199",
        b"[-27.3 152.8]",
        b"[99 999]",
    ),
    *(
        b"[red]",
        b"[",
        b"{0}",
        b"%s%n",
        b"-rf",
        b"\\xff",
        b"\\",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\n",
        b"\r",
        b"\x1b[2J",
    ),
    *(b"\x7f", b"'", b'"', b" ", b"~", b"$(id)", b"?*", b"x" * 240),
    *(
        text.encode()
        for text in (
            "é",
            "e\u0301",
            "🐦",
            "\u202e",
            "\u0647\u0644",
            "\u200b",
            "\x85",
            "\u2028",
            "\ufeff",
        )
    ),
)
TEXTS = (
    *(
        b"Timestamp: 2024-05-12T03:45:00+01:00\n",
        b"Timestamp: 9999-12-31T23:59:59-14:00\n",
        b"Loc Position: 47.6 -122.3\n",
    ),
    *(
        b"Loc Position: 1e999 nan\n",
        b"Recorded at 03:45:00 12/05/2024 (UTC+1) by AudioMoth 24F319055FDF2205",
    ),
    *(
        b"Recorded at 99:99:99 99/99/9999 (UTC+99)",
        b"\xff\xfe\0",
        "٠٣:٤٥".encode(),
        b"\0" * 9,
        b":" * 99,
    ),
)


def originals() -> list[tuple[str, bytes]]:
    """Suffix and content of real recordings of 0.6 s, encoded in every way."""
    rng = np.random.default_rng(0)
    found = []
    for suffix, kind, subtype in ENCODINGS:
        for channels in (1,) if subtype in ("GSM610",) else (1, 2):
            file = io.BytesIO()
            soundfile.write(
                file, rng.uniform(-0.1, 0.1, (9_600, channels)), 16_000, subtype, format=kind
            )
            found.append((suffix, file.getvalue()))
    return found


# What happens to files


def _place(rng: random.Random, content: bytes) -> int:
    """Anywhere, and often in the header."""
    return rng.randrange(max(1, min(len(content), rng.choice((64, 512, len(content) + 1)))))


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: _place(rng, content)]


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 30))):
        if changed:
            changed[_place(rng, content) % len(changed)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _claim(rng: random.Random, content: bytes) -> bytes:
    """Some other number where a length, a rate or a count of channels may stand."""
    at = _place(rng, content) & ~1
    order = rng.choice("<>")
    number = rng.choice(
        (
            struct.pack(order + "I", rng.choice(EXTREMES)),
            struct.pack(order + "Q", rng.getrandbits(64)),
        )
    )
    number = rng.choice((number, number[:2]))
    return content[:at] + number + content[at + len(number) :]


def _swap(rng: random.Random, content: bytes) -> bytes:
    a, b, c = sorted(_place(rng, content) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = _place(rng, content)
    return (
        content[:at]
        + rng.choice((rng.randbytes(rng.randrange(300)), bytes(4_096), content[:at]))
        + content[at:]
    )


def _tagged(rng: random.Random, content: bytes) -> bytes:
    return (
        b"ID3\4\0"
        + rng.choice((b"\0", b"\x10"))
        + rng.choice((bytes(4), b"\0\0\0\x20", b"\x7f" * 4))
        + bytes(32)
        + content
    )


def _chunk(rng: random.Random, depth: int = 0) -> bytes:
    """A chunk of metadata as recorders write it, its size true or not."""
    name = rng.choice(
        (
            b"guan",
            b"bext",
            b"LIST",
            b"ICMT",
            b"ds64",
            b"data",
            b"fmt ",
            b"id3 ",
            b"wamd",
            b"\0\0\0\0",
        )
    )
    body = b"".join(rng.choice(TEXTS) for _ in range(rng.randrange(5)))
    if name == b"LIST" and depth < 3:
        body = b"INFO" + b"".join(_chunk(rng, depth + 1) for _ in range(rng.choice((1, 1, 40))))
    elif name == b"bext":
        body = (
            bytes(320)
            + rng.choice((b"2024-05-1203-45-00", b"9999-99-9999-99-99", rng.randbytes(18)))
            + bytes(250)
        )
    elif name == b"ds64":
        body = struct.pack(
            "<3QI",
            rng.getrandbits(64),
            rng.choice((2**47, rng.getrandbits(64))),
            0,
            rng.choice(EXTREMES),
        )
    size = rng.choice((len(body),) * 6 + (*EXTREMES, len(body) + 1))
    return (
        name
        + struct.pack("<I", size)
        + body
        + bytes(rng.choice((len(body) % 2, 1 - len(body) % 2)))
    )


def _chunks(rng: random.Random, content: bytes) -> bytes:
    """Metadata before and behind the sound of a RIFF file; ID3 before any other."""
    if content[:4] not in (b"RIFF", b"RF64"):
        return _tagged(rng, content)
    head, tail = ([_chunk(rng) for _ in range(rng.choice((0, 1, 3)))] for _ in range(2))
    kind = rng.choice((content[:4],) * 3 + (b"RF64", b"BW64"))
    return kind + content[4:12] + b"".join(head) + content[12:] + b"".join(tail)


CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _cut,
    _flip,
    _claim,
    _swap,
    _insert,
    _chunks,
)


def _ogg_crc(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def _sealed(content: bytes) -> bytes:
    """Ogg pages with true sums: others never reach the codec."""
    pages = [page for page in re.split(b"(?=OggS)", content) if page]
    for index, page in enumerate(pages):
        if len(page) >= 27:
            bare = page[:22] + bytes(4) + page[26:]
            pages[index] = page[:22] + struct.pack("<I", _ogg_crc(bare)) + page[26:]
    return b"".join(pages)


def mutant(rng: random.Random, content: bytes) -> bytes:
    """The file after up to three accidents; now and then after none."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        content = rng.choice(CHANGES)(rng, content)
    return _sealed(content) if content[:4] == b"OggS" and rng.random() < 0.8 else content


def odd_name(rng: random.Random, suffix: str) -> bytes:
    """A name that a file may have; most are harmless."""
    stem = b"".join(rng.choice(NAME_PARTS) for _ in range(rng.choice((0, 1, 2, 4))))
    stem = stem.lstrip(b".") or str(rng.randrange(1000)).encode()
    return stem[: 254 - len(suffix)] + b"." + suffix.encode()


def fill(folder: Path, rng: random.Random, sounds: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """Write a round's files; returns what the record has to know them by, and their true names."""
    names: dict[str, bytes] = {}
    while len(names) < FILES:
        suffix, content = rng.choice(sounds)
        name = odd_name(rng, rng.choice((suffix, suffix, "wav", "WAV")))
        path = folder / os.fsdecode(rng.choice((b"", b"deep [/b]/", b"\xfe/")) + name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutant(rng, content))
        if rng.random() < 0.1:
            os.utime(path, (0, rng.choice((-1e9, 0.0, 2.0**32, 1.5e10))))
        names[record_name(path, folder)] = os.fsencode(path.relative_to(folder))
    return names


# What must be true of the replay


def true_name(name: str) -> bytes:
    """The file that the record speaks of."""
    escape = re.compile(rb"\\(?:(\\)|x(..)|u(....))")
    return escape.sub(
        lambda m: m[1] or (bytes.fromhex(m[2].decode()) if m[2] else chr(int(m[3], 16)).encode()),
        name.encode(),
    )


def fuzz_round(folder: Path, config: Config, seed: int, sounds: list[tuple[str, bytes]]) -> float:
    """One folder, replayed twice; returns the seconds of the slowest file."""
    names = fill(folder, random.Random(seed), sounds)
    assert {name: true_name(name) for name in names} == names
    slowest = 0.0
    since = time.perf_counter()

    def on_outcome(_: Outcome, now: Progress) -> None:
        nonlocal slowest, since
        assert now.recordings == len(names)
        slowest = max(slowest, time.perf_counter() - since)
        since = time.perf_counter()
        faulthandler.dump_traceback_later(FILE_S_MAX, exit=True)

    first = replay_folder(config, folder, on_outcome)
    again = replay_folder(config, folder, on_outcome)
    faulthandler.cancel_dump_traceback_later()
    assert slowest < FILE_S_MAX
    assert [(o.path, o.state, o.reason, True) for o in first.outcomes] == [
        (o.path, o.state, o.reason, o.earlier) for o in again.outcomes
    ], "what is done is not done again"
    with Store(config.database) as store:
        check(store, config, first, set(names))
        rows = store.rows(
            "SELECT path FROM recordings WHERE state <> 'started' UNION SELECT path FROM files"
        )
        assert {path for (path,) in rows} >= set(names)
        assert not store.rows("SELECT path FROM recordings WHERE state = 'started'")
    return slowest


def check(store: Store, config: Config, done: ReplaySummary, names: set[str]) -> None:
    """Everything ended, and people and programs can be told."""
    assert sorted(o.path for o in done.outcomes) == sorted(names), (
        "no file is lost, none comes twice"
    )
    for outcome in done.outcomes:
        assert outcome.state in ("analysed", "refused")
        assert outcome.reason if outcome.state == "refused" else outcome.audio_s >= 0.1
        assert "\n" not in (outcome.reason or "")
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", outcome.path)
    summary = replay_summary(store, done, Cost(1.0, 1.0, done.seconds), None)
    json.loads(json.dumps(summary, ensure_ascii=False).encode())
    show_replay(Console(file=io.StringIO()), store, config, done, summary)


def run_rounds(seeds: range) -> None:
    """What the child does: says each seed before its round, so that a crash has one."""
    sounds = originals()
    with tempfile.TemporaryDirectory() as made:
        bundle = make_bundle(Path(made) / "bundle")
        slowest = 0.0
        for seed in seeds:
            print(f"seed {seed}", flush=True)
            with tempfile.TemporaryDirectory(dir=made) as home:
                yaml = Path(home) / "station.yaml"
                yaml.write_text(
                    f"station: {{id: fuzz}}\nbundle: {bundle}\nclips: {{of_recordings: true}}\n"
                )
                slowest = max(
                    slowest, fuzz_round(Path(home) / "in", load_config(yaml), seed, sounds)
                )
    print(f"{len(seeds)} rounds of {FILES} files, slowest file {slowest:.2f} s", flush=True)


def main() -> int:
    """Run the rounds in a child; after a failure say how to see it again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=counted, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.child:
        faulthandler.enable()
        run_rounds(range(wanted.seed, wanted.seed + wanted.rounds))
        return 0
    command = [
        sys.executable,
        "-m",
        "tests.trials.fuzz",
        "--child",
        f"--rounds={wanted.rounds}",
        f"--seed={wanted.seed}",
    ]
    child = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = child.stdout.splitlines() or ["nothing"]
    print(said[-1])
    if child.returncode:
        print(
            f"{child.stderr[-6000:]}\nended with {child.returncode}; again: python -m "
            f"tests.trials.fuzz --rounds 1 --seed {said[-1].split()[-1]}",
            file=sys.stderr,
        )
    return 1 if child.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
