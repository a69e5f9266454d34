"""A recording file as the files in it: usually one; more where files were joined by `cat` or a
stream is chained.

Opens each with libsndfile, helped where a header is wrong, reads it, and finds where the next
begins. Knows containers by layout.py and streams.py; knows no mixing, no rate but the file's, and
no words for the record.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import soundfile

from edge.capture.layout import (
    BEGINNING,
    BEGINNINGS,
    Layout,
    begins,
    find_beginning,
    plain_layout,
)
from edge.capture.leftover import ID3_FOOTER, id3_end, left_over, only_zeros, tags_begin
from edge.capture.opened import pread, size_of
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
from edge.capture.view import ByteExtent, View
from edge.contract.audio import Samples

HEAD_BYTES = 65_536  # in which a recording must begin
_FRAMES_UNKNOWN = 2**40  # libsndfile's "to the end" is 2**63 - 1; FLAC cannot say more than 2**36
_SIZE_ENDLESS = 2**44
_FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_PLAIN = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
# per libsndfile call: each costs 8 µs of its own, and a decoding error may cost the call it happens
# in
_READ_S = 0.25


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is not typed
    """Never seeks: soundfile otherwise seeks after each read, and never reads beyond a header's
    estimate."""

    def seekable(self) -> bool:
        return False


class SoundPart:
    """One file or stream in the file, open to be read once, forward.

    `frames` are those of a channel that its header announces or that were found, whichever are
    more; None where nobody can say. Raises soundfile.SoundFileError if libsndfile cannot open it.
    Whatever the file itself raises while it is read (OSError, or what its `pulse` raises) leaves
    each of its methods: it says nothing of the sound.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.start = start
        self.stopped: str | None = None  # why reading ended before the end
        self._file, self._end = file, size_of(file)
        self._skip = 0  # frames that were read already
        self._bounded = False  # it is read up to where the next begins, and no further
        self._count = 0  # frames read
        self.cut = False  # it ends within what cannot be decoded without the rest
        self.form: Layout | Flac | Ogg | Mpeg | None = None  # None: what libsndfile may know
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
            # streams may bear the same number: only where one begins tells them apart
            return _seen(
                View(self._file, [sound], head, stop_before=OGG_BEGINS if ogg.whole else None)
            )
        elif (mpeg := mpeg_stream(self._file, self.start)) is not None:
            self.form = mpeg
            head = pread(self._file, 10, 0)
            plain_tag = (
                len(head) == 10 and not head[5] & ID3_FOOTER
            )  # with one, libsndfile loses the first frames
            if mpeg.has_length and plain_tag and self.start == id3_end(self._file, 0):
                rest = ByteExtent(0, self._end)  # libsndfile passes over the tag itself
            if not mpeg.has_length:
                # libsndfile takes the first frame's bit rate for all and stops where the file would
                # then end: a VBR file can lose most of its sound. An endless file it reads for as
                # long as there are frames.
                with suppress(soundfile.SoundFileError):
                    return _seen(View(self._file, [rest], said_size=_SIZE_ENDLESS))
        if magic[:3] == b"ID3" and not isinstance(
            self.form, Mpeg
        ):  # libsndfile's own way past tags can go on for ever
            behind = id3_end(self._file, self.start)
            rest = ByteExtent(behind, max(0, self._end - behind))
        try:
            return _seen(View(self._file, [rest]))
        except soundfile.SoundFileError:
            if rest.at or plain is None or not plain.whole:
                raise
            return self._mended(
                plain
            )  # without the chunks behind the sound, some of which libsndfile cannot bear

    def _mended(self, plain: Layout) -> tuple[View, soundfile.SoundFile]:
        head = pread(self._file, plain.data_at - self.start, self.start)
        fixed, extents = plain.mended(head)
        view, sound = _seen(View(self._file, extents, fixed))
        if sound.subtype in _PLAIN:  # other codecs invent sound behind the end of a file
            # another file may begin in what the header, which is wrong, counts as its own
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
        """The frames that can be read, and no other file behind them, where header and end of the
        file prove it."""
        if isinstance(self.form, Layout):
            told = (
                self.form.whole or not self.form.present
            )  # else another file may begin in what counts as sound
            return int(self.sound.frames) if told and self.next_start() is None else None
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
        """False for an Ogg stream whose last page before `end` is not marked as such: something is
        missing."""
        if not isinstance(self.form, Ogg):
            return True
        if end is None or not self.form.whole:
            return self.form.marked
        page = ogg_last_page(self._file, self.start, end)
        return page is not None and page.last

    @property
    def not_closed(self) -> bool:
        """Whether its header says what a program writes that has still to fill in the length, or
        never can. Of a FLAC, an Ogg or MP3 stream its end tells."""
        return isinstance(self.form, Layout) and self.form.said is None

    def junk(self, stop: int | None) -> int:
        """Bytes between its end and `stop`, or the file's end, that are no sound, tags or
        padding."""
        if not isinstance(self.form, Layout | Ogg) or not self.end_marked():
            return 0
        return left_over(self._file, self.form.end, self._end if stop is None else stop)

    @property
    def position(self) -> int:
        """Where libsndfile reads on; it may be ahead of what it gave."""
        return self._view.position

    def read(self, buffer: Samples) -> int:
        """Fill `(n, channels)`; fewer frames at the end or where the decoder gives up (`stopped`
        then says why)."""
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
        marked = isinstance(
            self.form, Flac | Mpeg
        )  # what it decoded before an error counts, but is not told
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
        """What an error while reading means: damage, or nothing at all ("") at or behind the
        end."""
        position = self.position
        if self.frames is not None and self._count >= self.frames:
            return ""  # nothing that was announced is missing
        if position < self._end and not only_zeros(self._file, position, self._end):
            return f"damaged ({error_line(error)})"
        self.cut = position >= self._end
        return ""

    def next_start(self) -> int | None:
        """Where, behind what was read, another file or stream begins."""
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
        """Read on to `stop`, where the next stream begins: libsndfile ended before it, misled by
        the stream behind, after `read` frames. False if there is no more."""
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
    view.check()  # libsndfile may have made something of half a header
    return view, sound


def find_start(file: BinaryIO, search: bool) -> int:
    """Where the recording begins that a file holds: behind tags, and with `search` behind junk. 0
    if none is found."""
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
    if found:  # rather than what two bytes of anything may look like
        return at + found.start()
    return mpeg or (mpeg_next(file, at, end, HEAD_BYTES) or 0 if search else 0)


def error_line(error: Exception) -> str:
    """libsndfile's or the system's words, without a file name."""
    if (
        isinstance(error, soundfile.LibsndfileError) and error.code == 7
    ):  # of MP3; the words speak of pipes
        return "no frame could be decoded"
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).removeprefix("Error : ").rstrip(".")
