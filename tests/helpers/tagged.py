"""Small files of every container with a text in every place where converters put one, byte by
byte."""

import struct

MOTH = (
    "Recorded at 04:00:00 12/05/2024 (UTC) by AudioMoth 24F31901603710E5 at medium gain while "
    "battery was 4.1V."
)
GUANO = (
    "GUANO|Version: 1.0\nTimestamp: 2024-05-12T05:30:00.000+01:30\nLoc Position: -33.86 "
    "151.21\nMake: X\n"
)


def chunk(name: bytes, data: bytes, order: str = "<") -> bytes:
    return name + struct.pack(order + "I", len(data)) + data + b"\0" * (len(data) % 2)


def wave(*after: bytes, before: bytes = b"", kind: bytes = b"RIFF") -> bytes:
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 32_000, 64_000, 2, 16))
    body = b"WAVE" + fmt + before + chunk(b"data", bytes(64)) + b"".join(after)
    return kind + struct.pack("<I", len(body)) + body


def icmt(text: bytes) -> bytes:
    return chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"Lavf") + chunk(b"ICMT", text + b"\0"))


def aiff(*chunks: bytes, kind: bytes = b"AIFF") -> bytes:
    comm = chunk(
        b"COMM", struct.pack(">hIh", 1, 8, 16) + bytes.fromhex("400dfa00000000000000"), ">"
    )
    body = kind + comm + b"".join(chunks) + chunk(b"SSND", bytes(24), ">")
    return b"FORM" + struct.pack(">I", len(body)) + body


def aiff_comment(text: bytes) -> bytes:
    data = (
        struct.pack(">H", 2)
        + struct.pack(">IhH", 0, 0, 3)
        + b"odd\0"
        + struct.pack(">IhH", 0, 0, len(text))
        + text
    )
    return chunk(b"COMT", data, ">")


def vorbis(*comments: bytes) -> bytes:
    sized = (struct.pack("<I", len(comment)) + comment for comment in comments)
    return struct.pack("<I", 3) + b"abc" + struct.pack("<I", len(comments)) + b"".join(sized)


def flac(*blocks: tuple[int, bytes]) -> bytes:
    """Blocks by their kind: 2 application, 4 comments, 6 a picture."""
    whole = [(0, bytes(34)), *blocks]
    marks = (
        kind | (0x80 if index == len(whole) - 1 else 0) for index, (kind, _) in enumerate(whole)
    )
    parts = (
        bytes([mark]) + len(data).to_bytes(3, "big") + data
        for mark, (_, data) in zip(marks, whole, strict=True)
    )
    return b"fLaC" + b"".join(parts) + b"\xff\xf8sound"


def page(stream: int, lacing: bytes, body: bytes, flags: int = 0) -> bytes:
    head = (
        b"OggS"
        + bytes([0, flags])
        + bytes(8)
        + struct.pack("<III", stream, 0, 0)
        + bytes([len(lacing)])
    )
    return head + lacing + body


def ogg(first: bytes, second: bytes, per_page: int = 255, stream: int = 7) -> bytes:
    """A stream of two packets; the second goes over as many pages as it needs."""
    pages = [page(stream, bytes([len(first)]), first, flags=2)]
    lacing = bytes([255] * (len(second) // 255) + [len(second) % 255])
    at = 0
    for start in range(0, len(lacing), per_page):
        here = lacing[start : start + per_page]
        pages.append(page(stream, here, second[at : at + sum(here)]))
        at += sum(here)
    return b"".join(pages) + page(stream, b"\4", b"tone")


def sync_safe(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def id3(
    version: int,
    *frames: tuple[bytes, bytes],
    unsync: bool = False,
    extended: bool = False,
    plain: bool = False,
) -> bytes:
    body = b""
    flags = 0
    for name, data in frames:
        if version == 2:
            body += name + len(data).to_bytes(3, "big") + data
            continue
        mark = 0
        if version == 4 and unsync:
            data = data.replace(b"\xff", b"\xff\0")
            mark = 2
        size = sync_safe(len(data)) if version == 4 and not plain else struct.pack(">I", len(data))
        body += name + size + bytes([0, mark]) + data
    if extended and version > 2:
        flags |= 0x40
        body = (sync_safe(6) + b"\1\0" if version == 4 else struct.pack(">I", 6) + bytes(6)) + body
    if unsync:
        flags |= 0x80
        body = body if version == 4 else body.replace(b"\xff", b"\xff\0")
    return b"ID3" + bytes([version, 0, flags]) + sync_safe(len(body)) + body


def flagged(version: int, frame: tuple[bytes, bytes], flags: bytes, front: bytes) -> bytes:
    """A tag of one frame whose flags say that something stands before its content."""
    name = frame[0]
    data = front + frame[1]
    size = sync_safe(len(data)) if version == 4 else struct.pack(">I", len(data))
    return b"ID3" + bytes([version, 0, 0]) + sync_safe(10 + len(data)) + name + size + flags + data


def comm(text: bytes) -> tuple[bytes, bytes]:
    return b"COMM", b"\3eng\0" + text


def caf(text: bytes) -> bytes:
    info = struct.pack(">I", 2) + b"title\0x\0comment\0" + text + b"\0"
    return (
        b"caff\0\1\0\0"
        + b"desc"
        + struct.pack(">q", 32)
        + bytes(32)
        + b"info"
        + struct.pack(">q", len(info))
        + info
    )


def containers(comment: str) -> dict[str, bytes]:
    text = comment.encode()
    wide = comment.encode("utf-16")
    mpeg = b"\xff\xfb\x90\0" + bytes(64)
    wide_pair = "comment".encode("utf-16") + b"\0\0" + wide  # each with its mark
    picture = vorbis(b"METADATA_BLOCK_PICTURE=" + b"A" * 200_000, b"DESCRIPTION=" + text)
    return {
        "wav": wave(before=icmt(text)),
        "wav, behind the sound": wave(icmt(text)),
        "wav, id3": wave(chunk(b"id3 ", id3(3, comm(text)))),
        "wav, ID3": wave(chunk(b"ID3 ", id3(4, comm(text)))),
        "wav, id3 in front": id3(3, (b"TIT2", b"\0moth")) + wave(icmt(text)),
        "wav, bext": wave(before=chunk(b"bext", text.ljust(602, b"\0"))),
        "rf64": wave(icmt(text), kind=b"RF64"),
        "bw64": wave(icmt(text), kind=b"BW64"),
        "aiff": aiff(chunk(b"ANNO", text, ">")),
        "aiff, comt": aiff(aiff_comment(text)),
        "aiff, id3": aiff(chunk(b"ID3 ", id3(4, comm(text)), ">")),
        "aifc": aiff(chunk(b"NAME", b"x", ">"), chunk(b"ANNO", text, ">"), kind=b"AIFC"),
        "flac, COMMENT": flac((4, vorbis(b"ARTIST=x", b"COMMENT=" + text))),
        "flac, description": flac(
            (3, bytes(18)), (4, vorbis(b"description=" + text)), (1, bytes(99))
        ),
        "flac, own key": flac((4, vorbis(b"Notes on it=" + text))),
        "flac, picture": flac((6, bytes(300_000)), (4, picture)),
        "flac, riff": flac(
            (4, vorbis()), (2, b"riff" + b"RIFF\0\0\0\0WAVE"), (2, b"riff" + icmt(text))
        ),
        "flac, aiff": flac((2, b"aiff" + chunk(b"ANNO", text, ">"))),
        "flac, id3 in front": id3(4, comm(text)) + flac((4, vorbis(b"title=x"))),
        "vorbis": ogg(b"\1vorbis" + bytes(23), b"\3vorbis" + vorbis(b"COMMENT=" + text)),
        "vorbis, picture": ogg(b"\1vorbis" + bytes(23), b"\3vorbis" + picture),
        "opus, small pages": ogg(
            b"OpusHead" + bytes(11), b"OpusTags" + vorbis(b"DESCRIPTION=" + text), per_page=1
        ),
        "ogg flac": ogg(b"\x7fFLAC" + bytes(46), b"\4\0\0\0" + vorbis(b"Comment=" + text)),
        "caf": caf(text),
        "au": b".snd"
        + struct.pack(">6I", 24 + len(text), 4, 3, 32_000, 1, 0)[:20]
        + text
        + bytes(4),
        "mp3, 2.2": id3(2, (b"COM", b"\0eng\0" + text)) + mpeg,
        "mp3, 2.3 TXXX": id3(3, (b"TXXX", b"\0comment\0" + text)) + mpeg,
        "mp3, 2.3 UTF-16": id3(3, (b"TXXX", b"\1" + wide_pair)) + mpeg,
        "mp3, 2.3 unsync": id3(
            3, (b"COMM", b"\1eng\xff\xfe\0\0" + wide), unsync=True, extended=True
        )
        + mpeg,
        "mp3, 2.4 UTF-16BE": id3(4, (b"COMM", b"\2eng\0d\0\0" + comment.encode("utf-16-be")))
        + mpeg,
        "mp3, 2.4 unsync": id3(
            4, (b"COMM", b"\1eng\xff\xfe\0\0" + wide), unsync=True, extended=True
        )
        + mpeg,
        "mp3, 2.4 with what flags put in front": flagged(
            4, comm(text), b"\0\x41", b"\7" + sync_safe(len(text) + 5)
        )
        + mpeg,
        "mp3, 2.3 grouped": flagged(3, comm(text), b"\0\x20", b"\7") + mpeg,
        "mp3, 2.4 with plain sizes": id3(4, (b"TIT2", b"\3" + b"x" * 199), comm(text), plain=True)
        + mpeg,
        "mp3, second tag": id3(3, (b"TIT2", b"\0x"))
        + id3(4, (b"TXXX", b"\3comment\0" + text))
        + mpeg,
    }


def wamd(*pieces: tuple[int, bytes]) -> bytes:
    whole = [(0, b"\1\0"), (1, b"SM4"), (0xFFFF, bytes(5)), *pieces]
    return chunk(
        b"wamd", b"".join(struct.pack("<HI", kind, len(value)) + value for kind, value in whole)
    )
