"""The recordings within one file: usually one; several if files were joined by `cat` or a stream is
chained.

Opens each with libsndfile, with a corrected header where needed, reads it, and finds the beginning
of the next. Knows containers through container_layout.py and streams.py; knows no mixing, no rate
but the file's, and no words for the record.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import soundfile

from edge.capture.container_layout import (
    BEGINNING,
    BEGINNINGS,
    Layout,
    begins,
    find_beginning,
    plain_layout,
)
from edge.capture.header_view import ByteExtent, View
from edge.capture.pulsed_file import pread, size_of
from edge.capture.streams import (
    OGG_BEGINS,
    TAIL_BYTES,
    Flac,
    Mpeg,
    Ogg,
    flac_stream,
    mpeg_next,
    mpeg_stream,
    ogg_last_page,
    ogg_stream,
)
from edge.capture.trailing_data import ID3_FOOTER, id3_end, left_over, only_zeros, tags_begin
from edge.contract.audio import Samples

HEAD_BYTES = 65_536  # a recording must begin within these
_FRAMES_UNKNOWN = 2**40  # libsndfile's "to the end" is 2**63 - 1; FLAC cannot say more than 2**36
_SIZE_ENDLESS = 2**44
_FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_PLAIN = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
# Sound per libsndfile call: a call costs 8 µs, and a decoding error may lose the call's samples.
_READ_S = 0.25


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is not typed
    """A file that never seeks: soundfile otherwise seeks after each read, and never reads beyond a
    header's estimate."""

    def seekable(self) -> bool:
        return False


class SoundPart:
    """One recording or stream within the file, open to be read once, forward.

    `frames` is the number of samples per channel that its header declares or that were found,
    whichever is more; None if unknown. Raises soundfile.SoundFileError if libsndfile cannot open
    it. Whatever the file itself raises while it is read (OSError, or what its `pulse` raises)
    passes through every method: it says nothing about the sound.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.start = start
        self.stopped: str | None = None  # reason why reading ended early
        self._file = file
        self._end = size_of(file)
        self._skip = 0  # frames to skip, which were read before
        self._bounded = False  # reading ends at the beginning of the next stream
        self._count = 0  # frames read
        self.cut = False  # it ends within a frame that cannot be decoded
        self.form: Layout | Flac | Ogg | Mpeg | None = None  # None: only libsndfile knows it
        self._view, self.sound = self._opened()
        self._step = max(1, round(_READ_S * self.sound.samplerate))
        self.frames = self._announced()

    def _opened(self) -> tuple[View, soundfile.SoundFile]:
        magic = pread(self._file, 4, self.start)
        rest = ByteExtent(self.start, self._end - self.start)
        if (plain := plain_layout(self._file, self.start, self._end)) is not None:
            self.form = plain
            if not plain.whole:
                with suppress(soundfile.SoundFileError):
                    return self._mended(plain)
        elif magic == b"fLaC":
            self.form = flac = flac_stream(self._file, self.start, self._end)
            if not flac.whole and rest.bytes > 26:
                head = flac.without_length(pread(self._file, 26, self.start))
                sound = ByteExtent(self.start + len(head), rest.bytes - len(head))
                return _seen(View(self._file, [sound], head, stop_before=_FLAC_BEGINS))
        elif magic == b"OggS":
            self.form = ogg = ogg_stream(self._file, self.start, self._end)
            head = pread(self._file, ogg.heads_end - self.start, self.start)
            sound = ByteExtent(ogg.heads_end, max(0, ogg.end - ogg.heads_end))
            # streams may have equal serial numbers: only their beginnings separate them
            return _seen(
                View(self._file, [sound], head, stop_before=OGG_BEGINS if ogg.whole else None)
            )
        elif (mpeg := mpeg_stream(self._file, self.start)) is not None:
            self.form = mpeg
            head = pread(self._file, 10, 0)
            # behind a tag with a footer, libsndfile loses the first frames
            plain_tag = len(head) == 10 and not head[5] & ID3_FOOTER
            if mpeg.has_length and plain_tag and self.start == id3_end(self._file, 0):
                rest = ByteExtent(0, self._end)  # libsndfile skips the tag itself
            if not mpeg.has_length:
                # libsndfile assumes the first frame's bit rate throughout and stops where the file
                # would then end: a VBR file can lose most of its sound. Of a file that claims to be
                # endless it reads as long as there are frames.
                with suppress(soundfile.SoundFileError):
                    return _seen(View(self._file, [rest], said_size=_SIZE_ENDLESS))
        if magic[:3] == b"ID3" and not isinstance(self.form, Mpeg):
            # libsndfile may loop endlessly over tags
            behind = id3_end(self._file, self.start)
            rest = ByteExtent(behind, max(0, self._end - behind))
        try:
            return _seen(View(self._file, [rest]))
        except soundfile.SoundFileError:
            if rest.at or plain is None or not plain.whole:
                raise
            # without the chunks behind the sound, some of which libsndfile rejects
            return self._mended(plain)

    def _mended(self, plain: Layout) -> tuple[View, soundfile.SoundFile]:
        head = pread(self._file, plain.data_at - self.start, self.start)
        fixed, extents = plain.mended(head)
        view, sound = _seen(View(self._file, extents, fixed))
        if sound.subtype in _PLAIN:  # other codecs make up sound behind the end of a file
            # another file may begin within the length that the wrong header declares
            view.stop_before = BEGINNING[plain.kind]
        return view, sound

    def _announced(self) -> int | None:
        frames = int(self.sound.frames)
        if isinstance(self.form, Layout) and frames < _FRAMES_UNKNOWN:
            said = self.form.said
            present = self.form.present
            if self.sound.subtype.startswith("ALAC"):
                return frames  # from a table in the header
            return (
                round(frames * said / present)
                if said is not None and said > present > 0
                else frames
            )
        if isinstance(self.form, Flac):
            return self.form.frames
        if isinstance(self.form, Mpeg) and not self.form.has_length:
            return None  # libsndfile's is a guess
        return frames if frames < _FRAMES_UNKNOWN else None

    @property
    def certain(self) -> int | None:
        """The frames that can be read, if header and end of the file prove it and no other
        recording follows."""
        if isinstance(self.form, Layout):
            # otherwise another file may begin within what counts as sound
            proven = self.form.whole or not self.form.present
            return int(self.sound.frames) if proven and self.next_start() is None else None
        whole = False
        if isinstance(self.form, Flac):
            whole = self.form.whole
        elif isinstance(self.form, Mpeg):
            stop = tags_begin(self._file, self.start, self._end)
            whole = self.form.has_length and stop - self.start == self.form.bytes
        elif isinstance(self.form, Ogg):
            whole = self.form.whole and self.form.marked
        return self.frames if whole else None

    def end_marked(self, end: int | None = None) -> bool:
        """False for an Ogg stream whose last page before `end` is not marked as the last: something
        is missing."""
        if not isinstance(self.form, Ogg):
            return True
        if end is None or not self.form.whole:
            return self.form.marked
        page = ogg_last_page(self._file, self.start, end)
        return page is not None and page.last

    @property
    def not_closed(self) -> bool:
        """True if the header declares no length, as programs write it that fill in the length
        later, or never.

        Only for plain containers; FLAC, Ogg and MP3 streams are judged by their end.
        """
        return isinstance(self.form, Layout) and self.form.said is None

    def junk(self, stop: int | None) -> int:
        """Number of bytes between its end and `stop`, or the file's end, that are not sound, tags
        or padding."""
        if not isinstance(self.form, Layout | Ogg) or not self.end_marked():
            return 0
        return left_over(self._file, self.form.end, self._end if stop is None else stop)

    @property
    def position(self) -> int:
        """Offset at which libsndfile reads on; it may be ahead of the samples given."""
        return self._view.position

    def read(self, buffer: Samples) -> int:
        """Fill `(n, channels)`; fewer frames at the end, or where the decoder gives up (`stopped`
        then has the reason)."""
        while self._skip and self.stopped is None:
            got = self._read(buffer[: min(self._skip, self._step)])
            self._skip = self._skip - got if got else 0
        count = 0
        while count < len(buffer) and self.stopped is None:
            got = self._read(buffer[count : count + self._step])
            count += got
            if got == 0:
                break
        return count

    def _read(self, buffer: Samples) -> int:
        # samples decoded before an error count, but libsndfile does not say how many
        marked = isinstance(self.form, Flac | Mpeg)
        if marked:
            buffer.fill(np.nan)
        try:
            got = len(self.sound.read(out=buffer))
        except soundfile.SoundFileError as error:
            self._view.check()
            got = int(np.argmax(np.isnan(np.append(buffer[:, 0], np.nan)))) if marked else 0
            self._count += got
            self.stopped = self._failed(error)
            return got
        self._view.check()
        self._count += got
        return got

    def _failed(self, error: Exception) -> str:
        """The reason for an error while reading: damage, or "" at or behind the end."""
        position = self.position
        if self.frames is not None and self._count >= self.frames:
            return ""  # nothing that was declared is missing
        if position < self._end and not only_zeros(self._file, position, self._end):
            return f"damaged ({error_line(error)})"
        self.cut = position >= self._end
        return ""

    def next_start(self) -> int | None:
        """Offset behind what was read at which another recording or stream begins; None if there is
        none."""
        file = self._file
        end = self._end
        position = self.position
        if isinstance(self.form, Layout):
            stop = self.form.end
            if self._view.stopped_at is not None:
                stop = self._view.stopped_at
                said = self.form.said or 0
                self.frames = max(
                    self._count, round(self.sound.frames * said / max(1, self.form.present))
                )
            if stop >= end:
                return None
            return stop if begins(file, stop) else find_beginning(file, stop, end)
        if isinstance(self.form, Flac):
            return find_beginning(file, max(self.start + 4, position - TAIL_BYTES), end)
        if isinstance(self.form, Mpeg):
            return (
                mpeg_next(file, position, end)
                if position < tags_begin(file, self.start, end) - 4
                else None
            )
        if not isinstance(self.form, Ogg):
            return None
        if not self.form.whole:
            return self.form.following
        if self._view.stopped_at is not None:
            return self._view.stopped_at
        return find_beginning(file, max(self.form.heads_end, position - TAIL_BYTES), end)

    def stop_at(self, stop: int, read: int) -> bool:
        """Read on to `stop`, where the next stream begins; False if there is nothing more.

        Needed if libsndfile, misled by the next stream, ended before it, after `read` frames.
        """
        misled = (
            isinstance(self.form, Ogg)
            and self.form.whole
            and self.stopped is None
            and self.position < stop
        )
        if not misled or self._bounded:
            return False
        self._bounded = True
        view, sound = _seen(View(self._file, [ByteExtent(self.start, stop - self.start)]))
        self.sound.close()
        self._view = view
        self.sound = sound
        self._skip = read
        self._count = 0
        self.frames = self._announced()
        return True

    def close(self) -> None:
        self.sound.close()


def _seen(view: View) -> tuple[View, soundfile.SoundFile]:
    try:
        sound = _Forward(view)
    except soundfile.SoundFileError:
        view.check()
        raise
    view.check()  # libsndfile may have accepted half a header
    return view, sound


def find_start(file: BinaryIO, search: bool) -> int:
    """Offset of the recording that a file holds: behind tags, and with `search` behind junk. 0 if
    none is found."""
    end = size_of(file)
    at = id3_end(file, 0)
    head = pread(file, HEAD_BYTES, at)
    if BEGINNINGS.match(head):
        return at
    boxed = head.find(b"mdat") + 4 if head[4:8] == b"ftyp" else 0  # MPEG in a QuickTime file
    mpeg = at + boxed if mpeg_stream(file, at + boxed) is not None else None
    if mpeg is not None and (not search or mpeg_next(file, mpeg, end) == mpeg):
        return mpeg
    found = BEGINNINGS.search(head) if search else None
    if found:  # more reliable than the two bytes that begin an MPEG frame
        return at + found.start()
    return mpeg or (mpeg_next(file, at, end, HEAD_BYTES) or 0 if search else 0)


def error_line(error: Exception) -> str:
    """The message of libsndfile or the system, without a file name."""
    # error 7 of MP3, whose text is about pipes
    if isinstance(error, soundfile.LibsndfileError) and error.code == 7:
        return "no frame could be decoded"
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).removeprefix("Error : ").rstrip(".")
