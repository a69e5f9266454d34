"""`make birds` and the page of a station's birds: real commands on encoded sound, with a small
bundle in place of the adopted one. The page is read as a browser reads it, pictures are opened,
sounds are decoded."""

import base64
import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from edge.capture.recording import Decoder
from edge.contract.audio import RATE_HZ
from edge.reports.sound import cut_out
from edge.reports.spectrogram import ROWS, clock_text, png, row_edges_hz, spectrogram, svg
from edge.types import Gap
from tests import HANGS_S, unmeasured
from tests.conftest import hiss, write_sound
from tests.edge.test_folded import BLOCK, FIRST, as_float, fold, noise, wav
from tests.helpers.waveform_bundle import CREDIT, HZ, make_waveform_bundle, tone

pytestmark = pytest.mark.slow

VOID = ("meta", "img")
SPOKEN = Path(__file__).parents[1] / "data" / "spoken.ogg"
ODD = "<b>Äcker & 'Wäld\"er_20240501_040000.flac"


class Page(HTMLParser):
    """What stands on a page; fails on a tag that is not closed, or one that nobody wrote."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder, self.text, self.links = path.parent, "", list[tuple[str, str]]()
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "b" or self._open[-1] == "td", "only a score is bold"
        self.links += [(tag, str(value)) for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += f"{data}\n"

    def files(self, tag: str) -> list[Path]:
        return [self.folder / unquote(link) for of, link in self.links if of == tag]


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": "200"},
        **options,
    )


def picture_of(path: Path) -> NDArray[np.uint8]:
    """The colours inside an SVG file, `(rows, columns, 3)`."""
    image = ElementTree.parse(path).getroot().find("{http://www.w3.org/2000/svg}image")
    assert image is not None
    data = base64.b64decode(
        image.attrib["href"].removeprefix("data:image/png;base64,"), validate=True
    )
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def loudest_hz(samples: NDArray[np.float32]) -> float:
    return float(np.fft.rfftfreq(len(samples), 1 / RATE_HZ)[np.abs(np.fft.rfft(samples)).argmax()])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_waveform_bundle(tmp_path_factory.mktemp("bundle") / "waveform").folder


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have it: an odd name, a subfolder, notes, a damaged file."""
    folder = tmp_path_factory.mktemp("field") / "my birds & co"
    write_sound(
        folder / ODD, np.concatenate([hiss(20, 0.0001), tone("lowtoo", 5, 0.2), hiss(20, 0.0001)])
    )
    write_sound(
        folder / "deeper" / "20240620_050000.ogg",
        np.concatenate([hiss(10), tone("midtoo", 10), hiss(7)]),
    )
    (folder / "notes.txt").write_text("heard a lot")
    (folder / "broken_20240502_040000.wav").write_bytes(b"RIFF\x10\x00\x00\x00WAVEfmt ")
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def made(bundle: Path, field: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make birds` leaves of that folder."""
    out = tmp_path_factory.mktemp("made") / "birds"
    before = listing(field)
    done = run("export", "birds", "--bundle", bundle, "--out", out, "--place", "20,10", "--", field)
    assert done.returncode == 0, done.stderr
    for text in ("Low Tooter", "Tonus profundus", "Middle Tooter", "broken_20240502", "birds.html"):
        assert text in done.stdout + done.stderr
    assert listing(field) == before, "nothing was written there"
    return out


def test_a_page_names_shows_and_plays_the_best_of_each_species(made: Path) -> None:
    page = Page(made / "birds.html")
    assert all(not re.match(r"[a-z]+:|/", link) for _, link in page.links), (
        "nothing is asked of anybody"
    )
    for text in (
        "Low Tooter",
        "Tonus profundus",
        "Middle Tooter",
        CREDIT,
        ODD,
        "2024-05-01 04:00:20",
        "at 0:20",
    ):
        assert text in page.text, text
    assert "probability by the geo model on that day" in page.text
    assert "threshold 0.500" in page.text
    for code, sound, picture in zip(
        ("lowtoo", "midtoo"), page.files("audio"), page.files("img"), strict=True
    ):
        samples, rate_hz = soundfile.read(sound, dtype="float32")
        assert rate_hz == RATE_HZ
        assert 7 * RATE_HZ <= len(samples) <= 9 * RATE_HZ, "the window and what there is around it"
        assert loudest_hz(samples) == pytest.approx(HZ[code], abs=1)
        assert np.abs(samples).max() > 0.2, "faint sound is made louder"
        level = picture_of(picture).sum(axis=2).sum(axis=1)
        hz = np.interp(ROWS - level.argmax() - 0.5, np.arange(ROWS + 1), row_edges_hz())
        assert hz == pytest.approx(HZ[code], rel=0.05), "the picture shows it where the axis says"
    assert "Played" in page.text


def test_the_same_command_goes_on_and_does_nothing_twice(
    made: Path, bundle: Path, field: Path
) -> None:
    with closing(sqlite3.connect(made / "station.db")) as db:
        before = db.execute("SELECT id, score FROM detections ORDER BY id").fetchall()
    stale = made / "birds_files" / "lowtoo-01234567.svg"
    stale.touch()
    mine = made / "birds_files" / "mine.txt"
    mine.touch()
    done = run(
        "export", "birds", "--bundle", bundle, "--out", made, "--place", "20,10", "--", field
    )
    assert done.returncode == 0, done.stderr
    assert "0 new" in done.stderr
    assert not stale.exists(), "of an earlier page"
    assert mine.exists(), "nothing goes that birdstation did not make"
    with closing(sqlite3.connect(made / "station.db")) as db:
        assert db.execute("SELECT id, score FROM detections ORDER BY id").fetchall() == before


def test_killed_it_goes_on(bundle: Path, field: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "birds"
    command = [
        "-m",
        "export",
        "birds",
        "--bundle",
        bundle,
        "--out",
        out,
        "--place",
        "20,10",
        "--",
        field,
    ]
    first = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + HANGS_S
    while not (out / "station.db").exists() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = run(*command[1:])
    assert done.returncode == 0, done.stderr
    rows = []
    for folder in (made, out):
        with closing(sqlite3.connect(folder / "station.db")) as db:
            rows.append(db.execute("SELECT id, score FROM detections ORDER BY id").fetchall())
    assert rows[0] == rows[1]
    assert Page(out / "birds.html").files("audio")


def test_one_recording_is_enough(bundle: Path, field: Path, made: Path, tmp_path: Path) -> None:
    """Also where others were replayed before: the page speaks of its own."""
    before = listing(field)
    shutil.copytree(made, tmp_path / "out")
    done = run("export", "birds", "--bundle", bundle, "--out", tmp_path / "out", "--", field / ODD)
    assert done.returncode == 0, done.stderr
    page = Page(tmp_path / "out" / "birds.html")
    assert "Low Tooter" in page.text
    assert "Middle Tooter" not in page.text
    assert "sound alone decided" in page.text
    assert "PLACE=48.52,9.06" in done.stdout, "what would have helped"
    assert listing(field) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: no such folder"),
        (("a\nb",), "give it a printable name"),
        (("empty",), "empty: no recordings in it"),
        (("--place", "48,52,9,06", "field"), "found '48,52,9,06'; expected latitude,longitude"),
        (("--place", "Tübingen", "field"), "expected latitude,longitude"),
        (("--place", "95,9", "field"), "latitude is -90 to 90"),
        (("--place", "nan,9", "field"), "latitude is -90 to 90"),
        (("--out", "foreign", "field"), "foreign/station.yaml: not made by `make birds`"),
        (("--out", "file", "field"), "file: not a folder"),
        (("--bundle", "nowhere", "field"), "nowhere"),
        ((".",), ".: contains out, the folder for results"),
        (("noise",), "none of 1 recordings could be analysed"),
        (("--from", "wheels"), "expected SHA-256"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name in ("empty", "field", "foreign", "noise", "wheels"):
        (tmp_path / name).mkdir()
    write_sound(tmp_path / "field" / "x.wav", tone("lowtoo", 6))
    (tmp_path / "foreign" / "station.yaml").write_text("station: {id: mine}\n")
    (tmp_path / "file").touch()
    (tmp_path / "noise" / "a.wav").write_bytes(b"no sound")
    with zipfile.ZipFile(tmp_path / "wheels" / "opensoundscape-0.13.2-py3-none-any.whl", "w"):
        pass
    given = () if "--bundle" in arguments else ("--bundle", bundle)
    out = () if "--out" in arguments else ("--out", "out")
    done = run("export", "birds", *given, *out, *arguments, cwd=tmp_path)
    assert done.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in done.stderr
    errors = [
        line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")
    ]
    assert message in done.stdout + done.stderr
    assert len(errors) == 1 or "nowhere" in arguments, errors
    assert (tmp_path / "foreign" / "station.yaml").read_text() == "station: {id: mine}\n"


@pytest.mark.parametrize("accept", [(), ("--accept", "MIT")])
def test_the_licence_wants_a_person_or_its_name(tmp_path: Path, accept: tuple[str, ...]) -> None:
    done = run("export", "birds", "--out", tmp_path / "out", *accept)
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert "CC-BY-NC-SA-4.0, which must be accepted: make birds ACCEPT=CC-BY-NC-SA-4.0" in line
    assert ("found 'MIT'" in line) == bool(accept)
    assert not (tmp_path / "out").exists()


def test_without_network_the_example_says_what_to_do(bundle: Path, tmp_path: Path) -> None:
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "XDG_CACHE_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "export",
            "birds",
            "--bundle",
            str(bundle),
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        stdin=subprocess.DEVNULL,
        env=os.environ | nowhere,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("fetching ")]
    assert "opensoundscape 0.13.2 could not be fetched" in line
    assert "make birds FOLDER=recordings" in done.stderr


@pytest.fixture
def replayed(bundle: Path, field: Path, station_yaml: Callable[..., Path]) -> Callable[..., Path]:
    """A station that has replayed the folder and kept clips."""

    def replay(*lines: str) -> Path:
        config = station_yaml("clips: {of_recordings: true}", *lines, bundle=bundle)
        assert run("edge", "replay", field, "--config", config).returncode == 3
        return config

    return replay


def test_clips_stand_in_for_recordings_that_are_gone(
    replayed: Callable[..., Path], tmp_path: Path
) -> None:
    config = replayed("sensitive: {species: [midtoo]}")
    done = run("edge", "pictures", "--config", config, "--out", tmp_path / "page")
    assert done.returncode == 0, done.stderr
    page = Page(tmp_path / "page" / "birds.html")
    (sound,) = page.files("audio")
    assert loudest_hz(soundfile.read(sound)[0]) == pytest.approx(HZ["lowtoo"], abs=1)
    assert "Neither its recording nor a clip of it is available" in page.text, (
        "none is kept of a sensitive species"
    )


def test_no_sound_of_sensitive_species_leaves_with_a_page(
    replayed: Callable[..., Path], field: Path, tmp_path: Path
) -> None:
    config = replayed("sensitive: {species: [midtoo]}")
    assert (
        run("edge", "pictures", field, "--config", config, "--out", tmp_path / "page").returncode
        == 0
    )
    page = Page(tmp_path / "page" / "birds.html")
    assert len(page.files("img")) == 2
    assert [path.name.split("-")[0] for path in page.files("audio")] == ["lowtoo"]
    assert "among this station's sensitive ones" in page.text


@pytest.mark.parametrize("human", ["clips", "off"])
def test_no_sound_of_people_leaves_with_a_page(
    bundle: Path, station_yaml: Callable[..., Path], tmp_path: Path, human: str
) -> None:
    """In replays nobody listens for speech where no clip is saved; whoever makes a page does."""
    voice, rate_hz = soundfile.read(SPOKEN, dtype="float32")
    assert rate_hz == RATE_HZ
    spoken = np.concatenate(
        [tone("midtoo", 5), voice, np.zeros(5 * RATE_HZ, np.float32), tone("lowtoo", 7)]
    )
    write_sound(tmp_path / "field" / "20240501_040000.flac", spoken)
    config = station_yaml(f"privacy: {{human: {human}}}", bundle=bundle)
    assert run("edge", "replay", tmp_path / "field", "--config", config).returncode == 0
    assert (
        run(
            "edge", "pictures", tmp_path / "field", "--config", config, "--out", tmp_path / "page"
        ).returncode
        == 0
    )
    page = Page(tmp_path / "page" / "birds.html")
    assert len(page.files("img")) == 2
    assert ("people seem to speak" in page.text) == (human == "clips")
    assert len(page.files("audio")) == (1 if human == "clips" else 2)


def test_what_a_person_called_wrong_is_not_shown(
    replayed: Callable[..., Path], field: Path, tmp_path: Path
) -> None:
    config = replayed()
    with closing(sqlite3.connect(config.parent / "station.db")) as db:
        wrong = db.execute("SELECT id FROM detections WHERE species = 'lowtoo'").fetchall()
    for (detection,) in wrong:
        assert run("edge", "review", detection, "wrong", "--config", config).returncode == 0
    assert (
        run("edge", "pictures", field, "--config", config, "--out", tmp_path / "page").returncode
        == 0
    )
    page = Page(tmp_path / "page" / "birds.html")
    assert "Low Tooter" not in page.text
    assert "Middle Tooter" in page.text


def test_nothing_of_others_is_replaced(replayed: Callable[..., Path], tmp_path: Path) -> None:
    config = replayed()
    for name in ("birds.html", "birds_files"):
        out = tmp_path / name
        (out / "birds_files").mkdir(parents=True)
        path = out / name if name == "birds.html" else out / name / "mine.svg"
        path.write_text("mine")
        done = run("edge", "pictures", "--config", config, "--out", out)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "choose another folder for --out" in done.stderr
        assert path.read_text() == "mine"


def test_a_full_disk_is_one_line(
    replayed: Callable[..., Path], field: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: the system refuses to write in the same
    place."""
    config = replayed()
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += "from edge.config import load_config; from edge.store.record import Store\n"
    limited += (
        "from edge.reports.pictures import write_pictures; from edge.contract.program import "
        "run_program\n"
    )
    limited += (
        f"config = load_config(__import__('pathlib').Path({str(config)!r})); store = "
        "Store(config.database)\n"
    )
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    limited += "run_program(lambda: write_pictures(store, config, *map(__import__('pathlib').Path, "
    limited += f"({str(tmp_path / 'page')!r}, {str(field)!r}))))"
    done = subprocess.run(
        [sys.executable, "-c", limited],
        env=unmeasured(),
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*birds_files/.*: File too large\n", done.stderr)
    assert not list((tmp_path / "page").rglob("*.part"))


def test_a_picture_shows_time_and_pitch_where_the_axes_say() -> None:
    note = np.concatenate(
        [np.zeros(RATE_HZ, np.float32), tone("midtoo", 1), np.zeros(RATE_HZ, np.float32)]
    )
    level = spectrogram(note)
    assert level.shape == (ROWS, 301)
    row = level.sum(axis=1).argmax()
    hz = np.interp(ROWS - row - 0.5, np.arange(ROWS + 1), row_edges_hz())
    assert hz == pytest.approx(HZ["midtoo"], rel=0.03)
    loud = np.flatnonzero(level[row] > 200)
    assert (loud[0], loud[-1]) == (pytest.approx(100, abs=2), pytest.approx(200, abs=2))
    assert not spectrogram(np.zeros(RATE_HZ, np.float32)).any()
    with Image.open(io.BytesIO(png(level))) as opened:
        assert opened.size == (301, ROWS)
        assert (np.asarray(opened) == level).all(), "levels are places in the palette"
    drawn = ElementTree.fromstring(svg(note, 1.0, 3598.5))
    texts = [part.text for part in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["0.5", "1", "2", "4", "8", "16 kHz", "59:59", "1:00:00", "1:00:01"]
    assert clock_text(17.5) == "0:17.5"


def test_a_cut_is_the_sound_at_that_place(tmp_path: Path) -> None:
    sound = hiss(61, 0.1)
    path = write_sound(tmp_path / "x.flac", sound)
    cuts = cut_out(path, [0.0, 12.5, 56.0])
    for offset_s, (first_s, last_s) in {0.0: (0, 7), 12.5: (10.5, 19.5), 56.0: (54, 61)}.items():
        cut = cuts[offset_s]
        assert cut.before_s == offset_s - first_s
        expected = sound[round(first_s * RATE_HZ) : round(last_s * RATE_HZ)]
        np.testing.assert_allclose(cut.samples, expected, atol=1e-4)
    assert cut_out(tmp_path / "gone.flac", [0.0]) == {}


def test_no_cut_reaches_over_a_gap(tmp_path: Path) -> None:
    """Silence that a recorder has folded up lies between sounds that are no neighbours."""
    before = noise(FIRST + 7 * 125 * BLOCK, 1)
    after = noise(8 * RATE_HZ, 2)
    path = wav(tmp_path / "20240501_040000T.WAV", np.concatenate([before, fold(1000), after]))
    with Decoder(path) as decoder:
        (gap,) = [piece for piece in decoder if isinstance(piece, Gap)]
    resumed_s = gap.at_s + gap.seconds
    cuts = cut_out(path, [2.0, resumed_s + 1])
    assert len(cuts[2.0].samples) / RATE_HZ == pytest.approx(gap.at_s, abs=0.01)
    assert cuts[resumed_s + 1].before_s == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(
        cuts[resumed_s + 1].samples[6 * RATE_HZ : 7 * RATE_HZ],
        as_float(after)[6 * RATE_HZ : 7 * RATE_HZ],
        atol=0.01,
    )
