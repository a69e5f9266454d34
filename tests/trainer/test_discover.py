"""Clips of sounds that no class knows: grouped, shown, copied, and left alone once named."""

import csv
import io
import re
import shutil
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from typer.testing import CliRunner

from edge.contract.audio import RATE_HZ
from edge.contract.errors import (
    EXIT_REFUSED,
    BirdstationError,
    ConfigError,
    CorpusError,
    UsageError,
)
from edge.contract.screen import Screen
from tests.conftest import write_sound
from tests.helpers.waveform_bundle import make_waveform_bundle, tone
from trainer.__main__ import app
from trainer.discover.clips import read_clips
from trainer.discover.discover import DiscoverOptions, discover
from trainer.discover.groups import UNSORTED, cut, tree_of
from trainer.discover.groups_page import draw
from trainer.discover.vectors import windows_of
from trainer.transfer.backbone import Backbone

VOICES = {"lowtoo": 5, "midtoo": 4, "engine": 3}
ODD = "odd.wav"


def call(code: str, seed: int, seconds: float = 6.0) -> np.ndarray:
    """A note over hiss that begins after a second."""
    random = np.random.default_rng(seed)
    sound = 0.003 * random.standard_normal(round(seconds * RATE_HZ)).astype(np.float32)
    sound[RATE_HZ:] += tone(code, seconds - 1, 0.1 + 0.04 * seed)
    return sound


def odd() -> np.ndarray:
    """All notes at once: unlike any of them."""
    return np.sum([tone(code, level=0.1) for code in ("frogxx", "human1", "midtoo")], axis=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "bundle"
    make_waveform_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "given"
    rows = ["file,time,latitude,longitude,score"]
    for hour, (code, count) in enumerate(VOICES.items(), 4):
        for seed in range(count):
            name = f"unknown/{code} {seed}.wav"
            write_sound(folder / name, call(code, seed))
            rows.append(f"{name},2026-05-0{seed + 1}T0{hour}:30:00+02:00,52.1,13.6,0.8")
    write_sound(folder / "unknown" / ODD, odd())
    (folder / "unknown" / "broken.wav").write_bytes(b"RIFF and no more")
    rows.append("unknown/gone.wav,,,,")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder


def found(options: DiscoverOptions) -> tuple[int, str]:
    """Exit status, and what the screen shows."""
    screen = io.StringIO()
    status = discover(options, Screen(file=screen, width=200))
    return status, screen.getvalue()


@pytest.fixture(scope="module")
def result(
    clips: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, str]:
    out = tmp_path_factory.mktemp("discovered") / "out"
    return out, *found(DiscoverOptions(clips, bundle, out))


def table(out: Path) -> list[dict[str, str]]:
    with (out / "groups.csv").open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_each_voice_is_a_group_and_the_largest_comes_first(
    result: tuple[Path, int, str],
) -> None:
    rows = table(result[0])
    groups = {
        name: {row["file"] for row in rows if row["group"] == name}
        for name in ("group-01", "group-02", "group-03", "")
    }
    told = {
        name: {re.sub(r"unknown/(\w+).*", r"\1", file) for file in files}
        for name, files in groups.items()
    }
    assert told == {
        "group-01": {"lowtoo"},
        "group-02": {"midtoo"},
        "group-03": {"engine"},
        "": {"odd"},
    }
    assert [len(files) for files in groups.values()] == [5, 4, 3, 1]
    assert all(0 <= float(row["distance"]) < 0.4 for row in rows if row["group"])


def test_copies_are_the_clips_themselves(result: tuple[Path, int, str], clips: Path) -> None:
    out = result[0]
    rows = table(out)
    assert all((out / r["copy"]).read_bytes() == (clips / r["file"]).read_bytes() for r in rows)
    sounds = {p.relative_to(out).as_posix() for p in out.rglob("*.wav")}
    assert sounds == {row["copy"] for row in rows}
    assert (out / "corpus-unsorted" / ODD).is_file()


def test_what_cannot_be_read_is_named_in_a_line_each(result: tuple[Path, int, str]) -> None:
    _, status, told = result
    assert status == EXIT_REFUSED
    assert len([line for line in told.splitlines() if "broken.wav" in line]) == 1
    assert "clips.csv, line 14: file: 'unknown/gone.wav' is not there" in told
    assert "13 clips: 12 in 3 groups, 1 unlike anything" in told


def test_the_page_plays_draws_and_says_when_and_where(result: tuple[Path, int, str]) -> None:
    out = result[0]
    page = (out / "discover.html").read_text(encoding="utf8")
    players = [
        unquote(unescape(source)) for source in re.findall(r'<audio[^>]*src="([^"]*)"', page)
    ]
    assert len(players) == 4 + 4 + 3, "four clips of a group at most"
    assert all((out / source).is_file() for source in players)
    assert page.count("data:image/png") == len(players)
    assert page.count("by hour of the day and by month") == 3
    assert "2026-05-01T04:30:00+02:00 to 2026-05-05T04:30:00+02:00; at 52.10, 13.60 (5)" in page
    assert not re.search(r'(src|href)="(https?:)?//', page), "nothing is loaded from elsewhere"


def test_the_same_clips_give_the_same_bytes(
    result: tuple[Path, int, str], clips: Path, bundle: Path, tmp_path: Path
) -> None:
    found(DiscoverOptions(clips, bundle, tmp_path / "out", jobs=2))
    assert contents(tmp_path / "out") == contents(result[0])


def test_nothing_is_embedded_twice_and_what_is_lost_is_made_again(
    result: tuple[Path, int, str], clips: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(result[0], out)
    before = contents(out)
    parts = sorted((out / "embeddings").iterdir())
    (out / "discover.html").unlink()
    # left by a run that was killed
    (out / "corpus" / "group-02" / ".birdstation-part12-x.wav").write_bytes(b"half")
    found(DiscoverOptions(clips, bundle, out))
    assert contents(out) == before
    assert sorted((out / "embeddings").iterdir()) == parts, "another part: embedded again"
    parts[0].write_bytes(b"no archive")
    found(DiscoverOptions(clips, bundle, out))
    assert contents(out) == before


def test_another_distance_replaces_the_groups(
    result: tuple[Path, int, str], clips: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(result[0], out)
    found(DiscoverOptions(clips, bundle, out, distance=1.5))
    rows = table(out)
    assert {row["group"] for row in rows} == {"group-01"}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.wav")} == {r["copy"] for r in rows}
    assert not (out / "corpus" / "group-02").exists()


def test_what_a_person_named_is_left_alone(
    result: tuple[Path, int, str], clips: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(result[0], out)
    (out / "corpus" / "group-01").rename(out / "corpus" / "Low Tooter")
    before = contents(out)
    with pytest.raises(UsageError, match=r"Low Tooter.*not where discover put it.*another --out"):
        found(DiscoverOptions(clips, bundle, out))
    assert contents(out) == before


def test_one_clip_is_unlike_anything(bundle: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "clips" / "x.wav", call("lowtoo", 1))
    out = tmp_path / "out"
    status, told = found(DiscoverOptions(tmp_path / "clips", bundle, out))
    assert status == 0
    assert "1 clips: 0 in 0 groups" in told
    assert "no group was found" in (out / "discover.html").read_text(encoding="utf8")
    assert [row["group"] for row in table(out)] == [""]
    assert (out / "corpus-unsorted" / "x.wav").is_file()


def test_same_names_in_two_folders_are_two_copies(bundle: Path, tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        write_sound(tmp_path / "clips" / folder / "x.wav", call("lowtoo", 1))
    found(DiscoverOptions(tmp_path / "clips", bundle, tmp_path / "out"))
    assert [row["copy"] for row in table(tmp_path / "out")] == [
        "corpus/group-01/x.wav",
        "corpus/group-01/b-x.wav",
        "corpus/group-01/c-x.wav",
    ]


@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("none", CorpusError, "expected sound files .*found none"),
        ("missing", CorpusError, "expected a folder of sound files"),
        ("unreadable", CorpusError, "none of 1 files can be read as sound"),
        ("inside", UsageError, "--out: expected a folder apart"),
        ("foreign", UsageError, "contains other files"),
        ("distance", UsageError, "--distance: expected a number up to 2, found nan"),
        (
            "bundle",
            ConfigError,
            "expected the folder of an adopted model, with manifest.json in it",
        ),
        ("table", CorpusError, "clips.csv: not readable: .*file"),
    ],
)
def test_mistakes_are_one_line(
    case: str, error: type[BirdstationError], words: str, bundle: Path, tmp_path: Path
) -> None:
    folder, out, distance = tmp_path / "clips", tmp_path / "out", 0.4
    folder.mkdir()
    if case not in ("none", "missing", "unreadable"):
        write_sound(folder / "x.wav", call("lowtoo", 1))
    if case == "missing":
        folder.rmdir()
    elif case == "unreadable":
        (folder / "x.wav").write_bytes(b"RIFF")
    elif case == "inside":
        out = folder / "out"
    elif case == "foreign":
        out.mkdir()
        (out / "letter.txt").write_text("mine")
    elif case == "distance":
        distance = float("nan")
    elif case == "bundle":
        bundle = folder
    elif case == "table":
        (folder / "clips.csv").write_text("name,when\nx.wav,today\n")
    with pytest.raises(error, match=words) as raised:
        found(DiscoverOptions(folder, bundle, out, distance))
    assert "\n" not in str(raised.value)
    if case == "foreign":
        assert contents(out) == {"letter.txt": b"mine"}


def test_cells_that_cannot_be_read_are_told_and_left_empty(tmp_path: Path) -> None:
    write_sound(tmp_path / "x.wav", call("lowtoo", 1))
    (tmp_path / "clips.csv").write_text(
        "file,time,latitude,longitude,score\nx.wav,yesterday,91,13,high\n"
    )
    told: list[str] = []
    (clip,) = read_clips(tmp_path, told.append)
    assert (clip.name, clip.time, clip.latitude, clip.score) == ("x.wav", None, None, None)
    assert [line.partition("clips.csv, ")[2].partition(":")[0] for line in told] == ["line 2"] * 3
    assert "time: expected ISO 8601" in told[0]


def test_a_clip_is_heard_to_its_end(bundle: Path) -> None:
    sound = call("lowtoo", 1, 12.0)
    windows, starts = windows_of(sound)
    assert starts.tolist() == [0, 5 * RATE_HZ, 7 * RATE_HZ]
    assert all(
        np.array_equal(w, sound[a : a + 5 * RATE_HZ]) for w, a in zip(windows, starts, strict=True)
    )
    embedded = Backbone.open(bundle).embed(windows)
    assert embedded.shape == (3, 1, 5)
    short, begin = windows_of(sound[: 2 * RATE_HZ])
    assert (short.shape, begin.tolist()) == ((1, 5 * RATE_HZ), [0])


def test_silence_is_in_no_group() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [0, 0], [0, 0], [0.9, 0], [0, 0]], np.float32)
    grouping = cut(tree_of(vectors), vectors, 0.4, 3)
    assert grouping.group.tolist() == [0, 0, UNSORTED, UNSORTED, 0, UNSORTED]
    assert grouping.members(0).tolist()[-1] == 1, "the farthest from the middle comes last"
    assert cut(None, vectors[:1], 0.4, 3).count == 0


def test_the_picture_is_the_window_that_was_heard(clips: Path) -> None:
    clip = next(one for one in read_clips(clips, lambda _: None) if "engine 0" in one.name)
    assert draw(clip, 1.0).startswith(b"\x89PNG")
    assert draw(clip, 1.0) != draw(clip, 0.0)


def test_the_command_ends_with_the_status(clips: Path, bundle: Path, tmp_path: Path) -> None:
    arguments = ["discover", str(clips), "--backbone", str(bundle), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*arguments, "--jobs", "1"])
    assert done.exit_code == EXIT_REFUSED, done.output
    assert (tmp_path / "o" / "discover.html").is_file()


@pytest.mark.parametrize("by", ["deleted", "changed"])
def test_what_a_person_sorted_stays(clips: Path, bundle: Path, tmp_path: Path, by: str) -> None:
    out = tmp_path / "out"
    options = DiscoverOptions(clips, bundle, out, 0.4, 3, 1)
    found(options)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    found(options)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    copy = next(path for path in (out / "corpus").rglob("*") if path.is_file())
    if by == "deleted":
        copy.unlink()
    else:
        copy.write_bytes(b"trimmed")
    there = sorted(path.relative_to(out) for path in out.rglob("*"))
    with pytest.raises(UsageError, match="sorted by hand is left alone: choose another --out"):
        found(options)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == there
