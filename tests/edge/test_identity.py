"""What a recording is: real files that are copied, moved, swapped, grown and touched, and what the
record says then."""

import os
import random
import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst
from edge.capture.file_name import told_by_name
from edge.capture.file_states import continues, read_once, state_of
from edge.capture.pulsed_file import PulsedFile
from edge.capture.sound_sums import SoundSums, is_within
from edge.config import load_config
from edge.contract.bundle import file_sha256, read_bundle
from edge.replay.archive import recordings_in
from edge.replay.identity import identify, recording_id, told_of
from edge.replay.reader_threads import Readers
from edge.replay.replay import Replay
from edge.reports.summary import of_recordings
from edge.store.files import KnownRecording
from edge.store.record import Store
from edge.types import FileState, Outcome, stable_id
from tests.conftest import hiss, note, write_sound

StationYaml = Callable[..., Path]
FAT_S = 1_715_486_460  # even seconds, as FAT has them
NAME = "20240512_040000.WAV"


def song(code: str, seconds: float = 6.0, seed: int = 0) -> NDArray[np.float32]:
    return note(code, seconds) + hiss(seconds, seed=seed)


def wav(samples: NDArray[np.float32], comment: str = "", closed: bool = True) -> bytes:
    """A WAV as a recorder writes it; before it is closed, its header has no sizes."""
    data = np.round(samples * 32767).astype("<i2").tobytes()
    text = comment.encode().ljust(200, b"\0")
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 32_000, 64_000, 2, 16)
    chunks += b"LIST" + struct.pack("<I4s4sI", 12 + len(text), b"INFO", b"ICMT", len(text)) + text
    chunks += b"data" + struct.pack("<I", len(data) if closed else 0) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) if closed else 0) + b"WAVE" + chunks


def put(path: Path, content: bytes, at_s: float | None = FAT_S) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if at_s is not None:
        os.utime(path, (at_s, at_s))
    return path


class Desk:
    """One record, and replays into it."""

    def __init__(self, config: Path) -> None:
        self.config = load_config(config)
        self.analyst = Analyst(self.config, Recognizer(read_bundle(self.config.bundle_folder)))
        self.analysed: list[str] = []  # names of files whose sound was looked at in the last replay

    def replay(self, what: Path, jobs: int = 1) -> list[Outcome]:
        self.analysed = []
        with Store(self.config.database) as store:
            replay = Replay(
                self.analyst, store, alive=lambda found: self.analysed.append(found.row.path)
            )
            reading = Readers(replay.reading, jobs).events if jobs > 1 else None
            outcomes = list(replay.run(*recordings_in(what), reading))
            ends = [replay.in_the_end(o) for o in outcomes]
        assert {o.path for o in outcomes if not o.earlier and o.state == "analysed"} == set(
            self.analysed
        )
        return sorted(ends, key=lambda o: o.path)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.config.database)) as db:
            return db.execute(sql).fetchall()

    def counted(self) -> list[tuple[str, float, int]]:
        """Path, seconds of effort and detections of each recording that counts."""
        return self.rows(
            "SELECT r.path, (SELECT coalesce(round(sum(analysed_s), 3), 0) FROM effort WHERE "
            "recording = r.id), (SELECT count(*) FROM detections WHERE recording = r.id) FROM "
            "recordings r WHERE r.state = 'analysed' ORDER BY r.path, r.rowid"
        )

    def twice(self) -> list[tuple[Any, ...]]:
        return self.rows(
            "SELECT start_utc, species FROM detections GROUP BY 1, 2 HAVING count(*) > 1"
        )


@pytest.fixture
def desk(station_yaml: StationYaml) -> Desk:
    return Desk(station_yaml())


# Two recordings


@pytest.mark.parametrize("jobs", [1, 3])
def test_two_cards_with_one_name_size_and_time(desk: Desk, tmp_path: Path, jobs: int) -> None:
    a = put(tmp_path / "cardA" / NAME, wav(song("lowtoo")))
    b = put(tmp_path / "cardB" / NAME, wav(song("higtoo")))
    first = desk.replay(a.parent, jobs)
    second = desk.replay(b.parent, jobs)
    assert [o.earlier for o in first + second] == [False, False]
    assert first[0].recording != second[0].recording
    assert len(desk.counted()) == 2
    for card, outcome, species in ((a, first[0], "lowtoo"), (b, second[0], "higtoo")):
        again = desk.replay(card.parent, jobs)
        assert (again[0].earlier, again[0].recording, desk.analysed) == (
            True,
            outcome.recording,
            [],
        )
        with Store(desk.config.database) as store:
            assert store.heard_in(desk.analyst.bundle.id, [outcome.recording or ""])[1] == 1
            heard = store.rows(
                f"SELECT DISTINCT species FROM detections WHERE recording = '{outcome.recording}'"
            )
        assert heard == [(species,)]
    assert {row[0] for row in desk.rows("SELECT sha256 FROM recordings")} == {
        file_sha256(a),
        file_sha256(b),
    }


def test_a_swap_in_place_that_keeps_every_time(desk: Desk, tmp_path: Path) -> None:
    """What FAT shows when a card is swapped: nothing but the content tells."""
    path = put(tmp_path / "in" / NAME, wav(song("lowtoo")))
    (before,) = desk.replay(path)
    before_state = state_of(path)
    put(path, wav(song("higtoo")))
    with Store(desk.config.database) as store, store._transaction():  # as if ctime were the same
        store._db.execute("UPDATE files SET ctime_ns = ?", (state_of(path).ctime_ns,))
    assert (before_state.bytes, before_state.mtime_ns) == (
        state_of(path).bytes,
        state_of(path).mtime_ns,
    )
    (after,) = desk.replay(path)
    assert (after.earlier, after.recording == before.recording) == (False, False)
    assert len(desk.counted()) == 2


def test_an_edit_between_the_blocks_of_a_sample_is_seen_by_its_ctime(
    desk: Desk, tmp_path: Path
) -> None:
    sound = song("lowtoo", 12)
    path = put(tmp_path / NAME, wav(sound))
    desk.replay(path)
    before = state_of(path)
    sound[100_000:100_100] = 0.5
    put(path, wav(sound))
    after = state_of(path)
    assert (before.bytes, before.mtime_ns, before.sample) == (
        after.bytes,
        after.mtime_ns,
        after.sample,
    )
    (outcome,) = desk.replay(path)
    assert not outcome.earlier
    assert len(desk.counted()) == 2, "nobody can tell it from another card's"


def test_a_header_that_is_mended_is_the_same_recording(desk: Desk, tmp_path: Path) -> None:
    path = put(
        tmp_path / NAME,
        wav(song("lowtoo"), "Recorded at 04:00:00 12/05/2024 (UTC) by AudioMoth 24F3190160371"),
    )
    (first,) = desk.replay(path)
    put(
        path,
        wav(song("lowtoo"), "Recorded at 05:30:00 12/05/2024 (UTC) by AudioMoth 24F3190160371"),
    )
    (second,) = desk.replay(path)
    assert first.recording != second.recording
    assert [row[1] for row in desk.counted()] == [6.0]
    assert desk.rows("SELECT DISTINCT substr(start_utc, 1, 16) FROM detections") == [
        ("2024-05-12T05:30",)
    ]


def test_hours_of_a_dead_microphone_are_recordings_each(desk: Desk, tmp_path: Path) -> None:
    silence = wav(np.zeros(6 * 32_000, np.float32))
    for hour in ("06", "07", "08"):
        put(tmp_path / "in" / f"20240512_{hour}0000.wav", silence)
    outcomes = desk.replay(tmp_path / "in")
    assert len({o.recording for o in outcomes}) == 3
    assert sum(row[1] for row in desk.counted()) == 18.0
    assert all(o.earlier for o in desk.replay(tmp_path / "in"))


# One recording


@pytest.mark.parametrize("jobs", [1, 4])
def test_copies_links_and_other_roots_are_one(desk: Desk, tmp_path: Path, jobs: int) -> None:
    content = wav(song("midtoo"))
    path = put(tmp_path / "in" / "card" / "m_20240512_040000.wav", content)
    put(tmp_path / "in" / "copy" / "m_20240512_040000.wav", content, at_s=None)
    put(tmp_path / "in" / "renamed_2024-05-12_04-00-00.wav", content)
    (tmp_path / "in" / "link_20240512_040000.wav").symlink_to(path)
    (tmp_path / "in" / "hard_20240512_040000.wav").hardlink_to(path)
    outcomes = desk.replay(tmp_path / "in", jobs)
    assert len(outcomes) == 5
    assert len({o.recording for o in outcomes}) == 1
    assert Counter(o.earlier for o in outcomes) == {True: 4, False: 1}
    assert sum(o.new_detections for o in outcomes) == desk.counted()[0][2] > 0
    assert len(of_recordings(outcomes)) == len(desk.counted()) == 1
    (tmp_path / "in" / "card").rename(tmp_path / "moved")
    for folder in (tmp_path / "in", tmp_path / "moved", tmp_path):
        assert all(o.earlier for o in desk.replay(folder, jobs) if o.state == "analysed")
    assert len(desk.counted()) == 1


def test_a_file_without_a_time_that_gets_a_name_with_one(desk: Desk, tmp_path: Path) -> None:
    """The same recording, and now it is known when it began; a copy without a time changes that no
    more."""
    path = put(tmp_path / "in" / "REC001.wav", wav(song("midtoo")))
    (first,) = desk.replay(path.parent)
    path = path.rename(path.with_name("20190601_053000.wav"))
    (second,) = desk.replay(path.parent)
    assert (second.recording, second.earlier) == (first.recording, False)
    assert desk.rows("SELECT DISTINCT substr(start_utc, 1, 15) FROM detections") == [
        ("2019-06-01T05:3",)
    ]
    assert desk.rows("SELECT start_utc, time_source FROM recordings") == [
        ("2019-06-01T05:30:00.000Z", "name")
    ]
    shutil.copy(path, path.with_name("REC001.wav"))
    for _ in range(2):
        assert all(o.earlier for o in desk.replay(path.parent))
    assert len(desk.counted()) == 1


def test_what_touches_a_file_costs_no_analysis(desk: Desk, tmp_path: Path) -> None:
    path = put(tmp_path / NAME, wav(song("midtoo")))
    (first,) = desk.replay(path)
    touches: tuple[Callable[[], object], ...] = (
        lambda: path.chmod(0o600),
        lambda: os.utime(path),
        lambda: put(path, path.read_bytes()),
        lambda: path.with_suffix(".link").hardlink_to(path),
    )
    for touch in touches:
        touch()
        (again,) = desk.replay(path)
        assert (again.earlier, again.recording, desk.analysed) == (True, first.recording, [])
    assert desk.rows("SELECT count(*) FROM files") == [(1,)]


def test_unchanged_files_are_not_read_again(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute in range(3):
        put(tmp_path / "in" / f"20240512_04{minute:02d}00.wav", wav(song("midtoo", seed=minute)))
    desk.replay(tmp_path / "in")

    def never(path: Path, _: object) -> str:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr("edge.replay.reader.read_once", never)
    assert all(o.earlier for o in desk.replay(tmp_path / "in"))


def test_of_two_that_are_read_at_once_the_second_waits_for_the_first(
    desk: Desk, tmp_path: Path
) -> None:
    """A cluster's nodes do not ask who else reads: both are read, and the record has one."""
    content = wav(song("midtoo", 20))
    paths = [put(tmp_path / f"{name}_20240512_040000.wav", content) for name in "abc"]
    with Store(desk.config.database) as store:
        replay = Replay(desk.analyst, store)
        from edge.replay.reader import read_recordings

        outcomes = list(
            replay.run(tmp_path, paths, lambda tasks: read_recordings(desk.analyst, tasks))
        )
    assert Counter(o.earlier for o in outcomes) == {True: 2, False: 1}
    assert {o.state for o in outcomes} == {"analysed"}
    assert [row[1] for row in desk.counted()] == [20.0]
    assert sum(o.new_detections for o in outcomes) == desk.counted()[0][2]


def test_each_refused_file_stands_for_itself(desk: Desk, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "c/a.wav"):
        put(tmp_path / "in" / name, b"")
    outcomes = desk.replay(tmp_path / "in")
    assert [o.state for o in of_recordings(outcomes)] == ["refused"] * 3
    assert len({o.recording for o in outcomes}) == 3
    assert all(o.earlier for o in desk.replay(tmp_path / "in"))
    put(tmp_path / "in" / "a.wav", wav(song("midtoo")))
    assert [o.state for o in desk.replay(tmp_path / "in")] == ["analysed", "refused", "refused"]


# Files that grow

LONG = song("lowtoo", 9, 1), song("midtoo", 9, 2), song("higtoo", 9, 3)


def growing_wav(parts: int) -> bytes:
    return wav(np.concatenate(LONG[:parts]), closed=parts == len(LONG))


def growing_encoded(folder: Path, suffix: str) -> Callable[[int], bytes]:
    """Bytes of an MP3 or FLAC so far; what a FLAC's header says of the whole is written when it is
    closed."""
    whole = write_sound(folder / f"whole.{suffix}", np.concatenate(LONG)).read_bytes()

    def so_far(parts: int) -> bytes:
        content = bytearray(whole[: len(whole) * parts // len(LONG)])
        if suffix == "flac" and parts < len(LONG):
            content[21:42] = bytes([content[21] & 0xF0]) + bytes(20)
        return bytes(content)

    return so_far


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac"])
def test_a_file_that_grew_between_two_looks_is_one_row(
    desk: Desk, tmp_path: Path, kind: str
) -> None:
    so_far = growing_wav if kind == "wav" else growing_encoded(tmp_path, kind)
    path = tmp_path / "in" / f"20240512_040000.{kind}"
    for parts in (1, 2, 3):
        put(path, so_far(parts), FAT_S + 10 * parts)
        (outcome,) = desk.replay(path)
        assert not outcome.earlier
    assert outcome.audio_s == pytest.approx(27, abs=0.1)
    ((_, effort_s, detections),) = desk.counted()
    assert effort_s == pytest.approx(27, abs=0.1)
    assert detections == desk.rows("SELECT count(*) FROM detections")[0][0] > 0
    assert desk.twice() == []
    assert {
        row[0] for row in desk.rows("SELECT grown_into FROM recordings WHERE state = 'refused'")
    } == {outcome.recording}
    put(path, so_far(1))  # a half that comes back is in the whole already
    (back,) = desk.replay(path)
    assert (back.earlier, back.recording) == (True, outcome.recording)


def test_a_file_that_grew_has_no_time_but_its_own(desk: Desk, tmp_path: Path) -> None:
    """Its start is its modification time less its length: another each time."""
    path = tmp_path / "in" / "REC.wav"
    for parts in (1, 2, 3):
        put(path, growing_wav(parts), FAT_S + 100 * parts)
        desk.replay(path)
    assert [row[1] for row in desk.counted()] == [27.0]


def test_a_partial_name_is_not_kept_beside_the_whole(desk: Desk, tmp_path: Path) -> None:
    part = put(tmp_path / "in" / "20240512_040000.wav.filepart", growing_wav(2))
    desk.replay(part.parent)
    put(part, growing_wav(3))
    part.rename(part.with_suffix(""))
    desk.replay(part.parent)
    assert [row[:2] for row in desk.counted()] == [("20240512_040000.wav", 27.0)]


def test_whole_known_before_its_half_grows(desk: Desk, tmp_path: Path) -> None:
    put(tmp_path / "a" / "x_20240512_040000.wav", growing_wav(3))
    path = put(tmp_path / "b" / "y_20240512_040000.wav", growing_wav(1))
    desk.replay(tmp_path / "a")
    desk.replay(tmp_path / "b")
    put(path, growing_wav(3))
    (outcome,) = desk.replay(tmp_path / "b")
    assert outcome.earlier
    assert [row[1] for row in desk.counted()] == [27.0]


def test_grown_and_reached_from_another_root(desk: Desk, tmp_path: Path) -> None:
    path = put(tmp_path / "card" / "data" / NAME, growing_wav(1))
    desk.replay(tmp_path / "card")
    put(path, growing_wav(2))
    desk.replay(path.parent)
    put(path, growing_wav(3))
    desk.replay(tmp_path)
    assert [row[:2] for row in desk.counted()] == [(f"card/data/{NAME}", 27.0)]


@pytest.mark.parametrize("folders", ["ab", "ba"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_half_in_another_folder_is_in_the_whole(
    desk: Desk, tmp_path: Path, folders: str, at_once: bool
) -> None:
    """Whichever is looked at first; both are there."""
    for folder, parts in zip(folders, (1, 3), strict=True):
        put(tmp_path / "in" / folder / NAME, growing_wav(parts))
        if not at_once:
            desk.replay(tmp_path / "in")
    outcomes = desk.replay(tmp_path / "in", 2 if at_once else 1)
    assert [o.audio_s for o in of_recordings(outcomes)] == [27.0]
    assert [row[:2] for row in desk.counted()] == [(f"{folders[1]}/{NAME}", 27.0)]
    assert desk.twice() == []
    assert [(o.earlier, desk.analysed) for o in desk.replay(tmp_path / "in")] == [(True, [])] * 2


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac"])
def test_a_file_that_was_cut_back(desk: Desk, tmp_path: Path, kind: str) -> None:
    """The whole was heard; of what is left of it nothing is heard again."""
    so_far = growing_wav if kind == "wav" else growing_encoded(tmp_path, kind)
    path = put(tmp_path / "in" / f"20240512_040000.{kind}", so_far(3))
    (whole,) = desk.replay(path.parent)
    for parts in (2, 1):
        put(path, so_far(parts), FAT_S + parts)
        (left,) = desk.replay(path.parent)
        assert (left.state, left.recording, left.new_detections) == ("analysed", whole.recording, 0)
        assert all(o.earlier for o in desk.replay(path.parent))
        assert [row[1] for row in desk.counted()] == [pytest.approx(27, abs=0.1)]
    put(path, so_far(3))
    assert [o.recording for o in desk.replay(path.parent)] == [whole.recording]
    assert desk.twice() == []


def test_halves_of_another_hour_or_name_are_other_recordings(desk: Desk, tmp_path: Path) -> None:
    for name, parts in (
        ("a/20240512_040000.wav", 1),
        ("b/20240512_050000.wav", 2),
        ("c/x_20240512_040000.wav", 3),
    ):
        put(tmp_path / name, growing_wav(parts))
    desk.replay(tmp_path)
    assert [row[1] for row in desk.counted()] == [9.0, 18.0, 27.0]


# Other tags around one sound


def chunked(name: str, content: bytes) -> Callable[[bytes], bytes]:
    """A RIFF with one more chunk in front of its sound."""

    def edit(whole: bytes) -> bytes:
        chunk = name.encode() + struct.pack("<I", len(content)) + content
        at = whole.index(b"data")
        return (
            whole[:4]
            + struct.pack("<I", len(whole) + len(chunk) - 8)
            + whole[8:at]
            + chunk
            + whole[at:]
        )

    return edit


def id3(size: int) -> Callable[[bytes], bytes]:
    return lambda whole: b"ID3\x03\0\0" + bytes([0, 0, size >> 7, size & 127]) + bytes(size) + whole


def flac_block(kind: int, size: int) -> Callable[[bytes], bytes]:
    """A metadata block behind STREAMINFO: padding, or the application's own."""
    return lambda whole: (
        whole[:42] + bytes([kind]) + size.to_bytes(3, "big") + b"bird" * (size // 4) + whole[42:]
    )


RETAGGED = {
    "list": (
        "wav",
        chunked("LIST", b"INFOICMT" + struct.pack("<I", 988) + b"Wren".ljust(988, b"\0")),
    ),
    "guano": ("wav", chunked("guan", b"GUANO|Version: 1.0\nNote: a wren\n".ljust(9000, b" "))),
    "id3 of 8 KiB": ("mp3", id3(8192)),
    "id3 of 100 bytes": ("mp3", id3(100)),
    "id3v1": ("mp3", lambda whole: whole + b"TAG".ljust(128, b"\0")),
    "padding": ("flac", flac_block(1, 30_000)),
    "application": ("flac", flac_block(2, 400)),
}


@pytest.mark.parametrize("how", RETAGGED)
@pytest.mark.parametrize("named", [True, False])
def test_new_tags_in_place_are_no_new_recording(
    desk: Desk, tmp_path: Path, how: str, named: bool
) -> None:
    """The head is of another length, and no byte stands where it stood."""
    suffix, edit = RETAGGED[how]
    path = tmp_path / "in" / f"{'20240512_040000' if named else 'REC'}.{suffix}"
    path.parent.mkdir()
    write_sound(path, np.concatenate(LONG))
    (first,) = desk.replay(path)
    before = desk.counted()
    with Store(desk.config.database) as store:
        ((reviewed,),) = store.rows("SELECT id FROM detections ORDER BY id LIMIT 1")
        store.review(str(reviewed), "ann", "wrong", "", keep=True)
    original = path.read_bytes()
    put(path, edit(original), FAT_S)
    (second,) = desk.replay(path)
    assert desk.counted() == before
    assert desk.rows("SELECT count(DISTINCT recording) FROM effort") == [(1,)]
    assert second.audio_s == first.audio_s
    assert desk.rows("SELECT verdict, stands_now IS NOT NULL FROM reviews_kept") == [("wrong", 1)]
    put(path, original)
    desk.replay(path)
    assert all(o.earlier for o in desk.replay(path))
    assert desk.counted() == before


def test_another_container_under_another_suffix_is_another_file(desk: Desk, tmp_path: Path) -> None:
    for suffix in ("wav", "flac"):
        write_sound(tmp_path / f"20240512_040000.{suffix}", song("midtoo", 12))
    desk.replay(tmp_path)
    assert [row[1] for row in desk.counted()] == [12.0, 12.0]


def test_silence_with_other_tags_is_no_proof(desk: Desk, tmp_path: Path) -> None:
    """Dead microphones of two stations, with one name: nothing tells that they are one."""
    for card in ("a", "b"):
        put(tmp_path / card / NAME, wav(np.full(6 * 32_000, 0.25, np.float32), f"card {card}"))
    desk.replay(tmp_path)
    assert [row[1] for row in desk.counted()] == [6.0, 6.0]


@pytest.mark.parametrize("at_s", [0.5, 3.2, 9.9, 12.0, 21.0])
def test_a_click_is_another_sound(at_s: float) -> None:
    sound = song("midtoo", 25)
    other = sound.copy()
    other[round(at_s * 32_000)] += 0.1

    def sums(samples: NDArray[np.float32]) -> tuple[str, float]:
        found = SoundSums()
        for at in range(0, len(samples), 320_000):
            found.add(samples[at : at + 320_000])
        return found.text, len(samples) / 32_000

    assert is_within(*sums(sound), *sums(sound))
    assert not is_within(*sums(other), *sums(sound))
    assert is_within(*sums(sound[: 24 * 32_000]), *sums(sound))
    assert not is_within(*sums(sound), *sums(sound[: 24 * 32_000]))
    assert is_within(*sums(other[:700_000]), *sums(sound)) == (at_s == 21.0), (
        "the last block is of less sound"
    )
    assert not is_within(*sums(sound[:20_000]), *sums(sound)), "too short to tell"


def test_room_set_aside_is_no_other_sound(desk: Desk, tmp_path: Path) -> None:
    """A copy that sets aside its room first: zeros follow what is there already."""
    whole = growing_wav(3)
    path = put(tmp_path / "in" / NAME, whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    desk.replay(path)
    put(path, whole)
    desk.replay(path)
    assert [row[1] for row in desk.counted()] == [27.0]


def test_silence_under_one_name_is_no_proof(desk: Desk, tmp_path: Path) -> None:
    """Two cards with one name, both of dead microphones: both stay."""
    for card, seconds in (("a", 6), ("b", 9)):
        put(tmp_path / card / NAME, wav(np.zeros(seconds * 32_000, np.float32)))
        desk.replay(tmp_path / card)
    assert [row[1] for row in desk.counted()] == [6.0, 9.0]


def test_another_recorder_that_took_a_longer_name_stays_beside(desk: Desk, tmp_path: Path) -> None:
    for card, code, seconds in (("a", "lowtoo", 6), ("b", "higtoo", 12), ("c", "midtoo", 18)):
        put(tmp_path / card / NAME, wav(song(code, seconds)))
        desk.replay(tmp_path / card)
    assert [row[1] for row in desk.counted()] == [6.0, 12.0, 18.0]


def test_cut_off_in_its_analysis_and_then_grown(desk: Desk, tmp_path: Path) -> None:
    """Without a time in its name; nothing of the first look may stay."""
    path = put(tmp_path / "REC.wav", growing_wav(2))

    class Cut(Exception):
        pass

    def cut(_: object) -> None:
        raise Cut

    with Store(desk.config.database) as store, pytest.raises(Cut):
        Replay(desk.analyst, store, alive=cut).recording(path, path.name)
    assert desk.rows("SELECT state FROM recordings") == [("started",)]
    put(path, growing_wav(3), FAT_S + 99)
    desk.replay(path)
    assert [row[1] for row in desk.counted()] == [27.0]
    assert desk.rows("SELECT count(DISTINCT recording) FROM effort") == [(1,)]


def goes_on(path: Path, earlier: FileState) -> bool | None:
    with PulsedFile(path) as file:
        return continues(file, earlier)


@pytest.mark.parametrize(
    "size", [0, 1, 768, 769, 4095, 8192, 16_383, 16_384, 20_480, 100_000, 5_000_000]
)
def test_samples_of_any_size(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    path = put(tmp_path / "x", content)
    with PulsedFile(path) as file:
        digest, state = read_once(file, state_of(path))
    assert digest == file_sha256(path)
    assert replace(state, body_end=0, body_sum=0) == state_of(path)
    assert len(state.sample) % 8 == 0
    assert len(state.sample) < 200
    can_tell = size > 768
    assert goes_on(path, state) is (True if can_tell else None)
    put(path, bytes(min(44, size)) + content[44:] + b"more")
    assert goes_on(path, state) is (True if can_tell else None)
    put(path, random.Random(-1).randbytes(size + 9))
    assert goes_on(path, state) is (False if can_tell else None)
    put(path, content[:-1])
    assert goes_on(path, state) is (False if can_tell else None)


@pytest.mark.parametrize("at", [4096, 5000, 30_000, 1_000_000, 2_900_000, 2_995_903])
def test_one_byte_between_the_blocks_is_another_sound(tmp_path: Path, at: int) -> None:
    content = bytearray(random.Random(at).randbytes(3_000_000))
    path = put(tmp_path / "x", content)
    with PulsedFile(path) as file:
        _, state = read_once(file, state_of(path))
    content[at] ^= 1
    assert goes_on(put(path, content), state) is False


@pytest.mark.parametrize("longer_s", [0, 6])
def test_cards_that_begin_and_end_alike(desk: Desk, tmp_path: Path, longer_s: int) -> None:
    """Recorders under one schedule, whose sound differs only where no block of the sample lies."""
    for card, code in (("a", "lowtoo"), ("b", "higtoo")):
        sound = np.concatenate(
            [hiss(5, seed=1), song(code, 5), hiss(5 + (longer_s if card == "b" else 0), seed=2)]
        )
        put(tmp_path / card / NAME, wav(sound))
        desk.replay(tmp_path / card)
    assert [row[1] for row in desk.counted()] == [15.0, 15.0 + longer_s]


# Names and records of earlier versions


def test_what_a_name_tells() -> None:
    same = [
        "20240512_040000.wav",
        "garden_2024-05-12_04-00-00.WAV",
        "S4A03895_20240512_040000.flac",
    ]
    assert {told_by_name(name) for name in same} == {"2024-05-12T04:00:00"}
    assert (
        told_by_name("10_AAA_20240512.ogg")
        == told_by_name("11_AAA_20240512.ogg")
        != told_by_name("12_BBB_20240512")
    )
    assert told_by_name("REC001.wav") == ""
    assert told_of("20240512_040000.wav", "guano") == told_of("REC001.wav", "name") == ""


@pytest.mark.parametrize(
    ("names", "zone", "start"),
    [
        (
            ("20240512_040000", "20240512_040000_[52.1 13.4]", "20240512_040000Z"),
            None,
            "2024-05-12T04:00",
        ),
        (("20240512_040000_[52.1 13.4]", "20240512_040000"), None, "2024-05-12T04:00"),
        (
            ("20240512_060000", "20240512_040000Z", "20240512T060000+0200"),
            "Europe/Berlin",
            "2024-05-12T04:00",
        ),
        (("XC1 2024-05-12", "XC1 2024-05-12 04-00-00"), None, "2024-05-12T04:00"),
        (
            ("7_COR_20240512", "20240512_040000_[52.1 13.4]", "7_COR_20240512"),
            None,
            "2024-05-12T04:00",
        ),
    ],
)
def test_a_name_with_more_or_fewer_words(
    station_yaml: StationYaml, tmp_path: Path, names: tuple[str, ...], zone: str | None, start: str
) -> None:
    """They tell the same moment; one renaming after the other, and copies beside each other."""
    for renamed in (True, False):
        station = f"id: porch, timezone: {zone}" if zone else "id: porch"
        desk = Desk(station_yaml(name=f"{renamed}", station=station))
        last = None
        for name in names:
            path = put(tmp_path / str(renamed) / "in" / f"{name}.wav", wav(song("midtoo")))
            if last is not None and last != path and renamed:
                last.unlink()
            last = path
            desk.replay(path.parent)
            assert [row[1] for row in desk.counted()] == [6.0]
        assert desk.rows("SELECT substr(start_utc, 1, 16) FROM recordings") == [(start,)]
        assert all(o.earlier for o in desk.replay(path.parent))


@pytest.mark.parametrize(
    "names", [("REC1", "20240512_040000"), ("XC1 2024-05-12", "XC2 20240512_0400_[52.1 13.4]")]
)
def test_names_that_tell_more_and_are_read_at_once(
    desk: Desk, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Whichever is first: one row; the better name is taken at the latest when the folder is looked
    at again."""
    for name in names:
        put(tmp_path / "in" / f"{name}.wav", wav(song("midtoo")))
    for _ in range(2):
        desk.replay(tmp_path / "in", 2)
        assert [row[1] for row in desk.counted()] == [6.0]
    assert desk.rows("SELECT substr(start_utc, 1, 16) FROM recordings") == [("2024-05-12T04:00",)]
    assert all(o.earlier for o in desk.replay(tmp_path / "in", 2))


def test_names_that_contradict_each_other_are_recordings_each(desk: Desk, tmp_path: Path) -> None:
    """Equal bytes: all of dead microphones."""
    names = [
        "20240512_040000",
        "20240512_040000+0100",
        "20240512_040000_[52.1 13.4]",
        "20240512_040000_[52.1 13.5]",
    ]
    for name in (*names, "XC1 2024-05-13"):
        put(tmp_path / f"{name}.wav", wav(np.zeros(6 * 32_000, np.float32)))
        desk.replay(tmp_path)
    assert len(desk.counted()) == 4, "the first is one with the third"


def test_ids_of_earlier_versions_stay() -> None:
    old = KnownRecording("old", "a/20240512_040000.wav", "name", True, "now", None, False, False)
    told = "2024-05-12T04:00:00"

    def found(known: KnownRecording, name: str, told: str) -> tuple[str, bool]:
        identity = identify([known], "porch", "now", name, "sha", told)
        return identity.id, identity.done

    assert found(old, "b/x_20240512_040000.wav", told) == ("old", True)
    assert found(old, "b/copy.wav", "") == ("old", True)
    other = "2024-05-12T05:00:00"
    assert found(old, "a/20240512_050000.wav", other) == (
        recording_id("porch", "sha", other),
        False,
    )


def test_a_record_of_an_earlier_version_is_read_once_and_not_analysed(
    desk: Desk, tmp_path: Path
) -> None:
    path = put(tmp_path / "in" / NAME, wav(song("midtoo")))
    bad = put(tmp_path / "in" / "bad.wav", b"RIFF????WAVEhello")
    first = desk.replay(path.parent)
    old = stable_id("porch", NAME, file_sha256(path))
    with closing(sqlite3.connect(desk.config.database)) as db:
        db.execute("DELETE FROM files")
        db.execute("UPDATE recordings SET id = ? WHERE id = ?", (old, first[0].recording))
        for table in ("detections", "effort"):
            db.execute(
                f"UPDATE {table} SET recording = ? WHERE recording = ?", (old, first[0].recording)
            )
        db.commit()
    before = desk.rows("SELECT id, start_utc, state FROM recordings ORDER BY id")
    again = desk.replay(path.parent)
    assert [(o.recording, o.earlier) for o in again] == [(old, True), (first[1].recording, False)]
    assert desk.rows("SELECT id, start_utc, state FROM recordings ORDER BY id") == before
    assert all(o.earlier for o in desk.replay(path.parent))
    path.rename(tmp_path / f"other_{NAME}")
    assert [o.recording for o in desk.replay(tmp_path / f"other_{NAME}")] == [old]
    put(bad, wav(song("lowtoo")))
    desk.replay(bad)
    assert desk.rows("SELECT count(*) FROM recordings WHERE path = 'bad.wav'") == [(2,)], (
        "its refusal stays"
    )


# All of it together

NAMES = (
    "a_20240512_040000.wav",
    "sub/a_20240512_040000.wav",
    "b_20240512_040000.wav",
    "c_20240512_050000.wav",
)
CODES = ("lowtoo", "midtoo", "higtoo")
Sound = tuple[int, ...]  # numbers of pieces of 6 s, no two of which are equal


class Story:
    """A small tree to which things happen. What the record must hold is kept beside it: every sound
    that was there when somebody looked, less what grew into another under the same name."""

    def __init__(self, folder: Path, desks: list[Desk], rng: random.Random) -> None:
        self.folder = folder
        self.desks = desks
        self.rng = rng
        self.desk = desks[0]
        self.sounds: dict[
            str, tuple[Sound, str]
        ] = {}  # by path: what is there, and a comment in its header
        self.seen: dict[
            str, list[tuple[Sound, str, str]]
        ] = {}  # by path: keys of what was ever seen there
        self.counts: set[tuple[Sound, str, str]] = set()
        self.grown: dict[tuple[Sound, str, str], tuple[Sound, str, str]] = {}
        self.reviewed: set[str] = set()
        self.steps: list[str] = []
        self.pieces = 0

    def piece(self) -> int:
        self.pieces += 1
        return self.pieces

    def write(self, name: str, at_s: float | None = FAT_S) -> None:
        sound, comment = self.sounds[name]
        put(
            self.folder / name,
            wav(np.concatenate([song(CODES[n % 3], 6, n) for n in sound]), comment),
            at_s,
        )

    def step(self) -> None:
        act = self.rng.choice(
            (
                "new",
                "copy",
                "move",
                "swap",
                "grow",
                "mend",
                "touch",
                "look",
                "look",
                "review",
                "other",
            )
        )
        name = self.rng.choice(NAMES)
        to = self.rng.choice(NAMES)
        self.steps.append(f"{act} {name} {to}")
        if act in ("new", "swap"):  # in place, of equal size and time, if there was one
            length = len(self.sounds[name][0]) if name in self.sounds else 1
            self.sounds[name] = tuple(self.piece() for _ in range(length)), ""
            self.write(name)
        elif act == "back" and self.seen.get(name):
            self.sounds[name] = self.rng.choice(self.seen[name])[:2]
            self.write(name)
        elif act == "look":
            self.look()
            self.check()
        elif act == "other":
            self.desk = self.rng.choice(self.desks)
        elif act == "review":
            self.review()
        elif name in self.sounds:
            self.change(act, name, to)

    def change(self, act: str, name: str, to: str) -> None:
        path = self.folder / name
        other = self.folder / to
        sound, comment = self.sounds[name]
        if act in ("copy", "move") and name != to:
            other.parent.mkdir(exist_ok=True)
            shutil.copy2(path, other) if act == "copy" else path.rename(other)
            self.sounds[to] = self.sounds[name] if act == "copy" else self.sounds.pop(name)
        elif act == "grow" and len(sound) < 3:
            self.sounds[name] = (*sound, self.piece()), comment
            self.write(name, None)
        elif act == "mend":
            self.sounds[name] = sound, f"note {self.rng.randrange(3)}"
            self.write(name)
        elif act == "touch":
            path.touch()

    def look(self) -> None:
        self.desk.replay(self.folder, self.rng.choice((1, 3)))
        for name in sorted(self.sounds):
            key = (*self.sounds[name], told_by_name(name))
            if key not in self.grown:
                self.counts.add(key)
            last = name.rpartition("/")[2]
            alike = [other for other in NAMES if other.rpartition("/")[2] == last]
            for earlier in [key for place in alike for key in self.seen.get(place, [])]:
                part, whole = sorted(
                    (self.grown.get(earlier, earlier), self.grown.get(key, key)),
                    key=lambda k: len(k[0]),
                )
                if part != whole and part[0] == whole[0][: len(part[0])]:
                    self.grown |= {k: whole for k, into in self.grown.items() if into == part} | {
                        part: whole
                    }
                    self.counts.discard(part)
            self.seen.setdefault(name, []).append(key)

    def review(self) -> None:
        if self.desk.config.database.exists():
            found = self.desk.rows("SELECT id FROM detections ORDER BY id")
            if found:
                (wanted,) = self.rng.choice(found)
                with Store(self.desk.config.database) as store:
                    store.review(wanted, "ann", "wrong", "", keep=True, instead="a chainsaw")
                self.reviewed.add(wanted)

    def check(self) -> None:
        counted = self.desk.counted()
        assert sorted(row[1] for row in counted) == sorted(
            6.0 * len(sound) for sound, *_ in self.counts
        ), self.steps
        ((total,),) = self.desk.rows("SELECT round(coalesce(sum(analysed_s), 0), 3) FROM effort")
        assert total == sum(row[1] for row in counted), self.steps
        assert (
            self.desk.rows(
                "SELECT recording, start_utc, species FROM detections GROUP BY 1, 2, 3 HAVING "
                "count(*) > 1"
            )
            == []
        )
        kept = self.desk.rows(
            "SELECT detection, verdict, instead, is_there, species IS NOT NULL FROM reviews_kept"
        )
        there = {row[0] for row in self.desk.rows("SELECT id FROM detections")}
        assert sorted(kept) == sorted(
            (d, "wrong", "a chainsaw", d in there, 1) for d in self.reviewed
        ), self.steps
        assert self.desk.rows("PRAGMA foreign_key_check") == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(8), 136, 237, 375])
def test_whatever_happens_to_files_each_sound_counts_once(
    station_yaml: StationYaml, tmp_path: Path, seed: int
) -> None:
    others = station_yaml("detect: {threshold: 0.6}", f"state: {tmp_path}", name="other")
    story = Story(
        tmp_path / "tree",
        [Desk(station_yaml(f"state: {tmp_path}")), Desk(others)],
        random.Random(seed),
    )
    (tmp_path / "tree").mkdir()
    for _ in range(40):
        story.step()
    story.look()
    story.check()
