"""The corpus: odd rows are counted with an example and survived; what is not a corpus is refused in one line."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from edge.contract.audio import RATE_HZ
from edge.contract.errors import CorpusError, RecordingError
from tests.conftest import hiss, write_sound
from tests.trainer_corpus import CODES, make_corpus, row, write_table
from trainer.check import check_data
from trainer.corpus import LABELS, METADATA, Corpus, probe_audio, read_sound

LOW, MID = CODES


def read(data: Path, *rows: dict[str, str]) -> Corpus:
    """A corpus of one good row per species and these."""
    write_table(data / METADATA, [row(LOW, "a.ogg"), row(MID, "b.ogg"), *rows])
    return Corpus.read(data)


def test_a_good_corpus_has_no_problems(tmp_path: Path) -> None:
    corpus = Corpus.read(make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True))
    assert corpus.problems.counts == {}
    assert corpus.taxonomy.codes == tuple(sorted(CODES))
    assert len(corpus.recordings) == 4
    first = corpus.recordings[0]
    assert (first.recording, first.latitude, first.date, first.rating) == (
        f"{LOW}/XC00.ogg",
        40.0,
        date(2019, 1, 4),
        4.0,
    )
    (soundscape,) = corpus.soundscapes
    assert (soundscape.site, soundscape.date, soundscape.latitude) == ("ABC", date(2019, 5, 4), 48.0)
    assert soundscape.labels["7_ABC_10"] == {"nocall"}


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ({"date": "2012-00-00"}, "date not valid"),
        ({"date": "0000-00-00"}, "date not valid"),
        ({"date": "2013-02-30"}, "date not valid"),
        ({"date": "yesterday"}, "date not valid"),
        ({"date": ""}, "date missing"),
        ({"latitude": ""}, "place missing"),
        ({"latitude": "91.0"}, "place not valid"),
        ({"longitude": "nan"}, "place not valid"),
        ({"longitude": "11,5"}, "place not valid"),
        ({"rating": "good"}, "rating not valid"),
        ({"secondary_labels": "['unknown1']"}, "secondary label of an unknown species"),
        ({"secondary_labels": "[1]"}, "secondary labels not valid"),
        ({"secondary_labels": "__import__('os')"}, "secondary labels not valid"),
    ],
)
def test_an_odd_cell_is_counted_and_survived(tmp_path: Path, cells: dict[str, str], kind: str) -> None:
    corpus = read(tmp_path, row(LOW, "odd.ogg", **cells))
    assert len(corpus.recordings) == 3
    assert corpus.problems.counts[kind] == 1
    assert f"{LOW}/odd.ogg" in corpus.problems.examples[kind][0]
    odd = corpus.recordings[2]
    if kind.startswith("date"):
        assert odd.date is None
        assert odd.quarter is None
    if kind.startswith("place"):
        assert odd.latitude is None
        assert odd.longitude is None


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ({"filename": ""}, "row without species or file"),
        ({"filename": "../../etc/passwd"}, "row without species or file"),
        ({"filename": "a.ogg"}, "row twice"),
        ({"primary_label": "Not A Code"}, "species code not usable"),
        ({"primary_label": "nocall"}, "species code not usable"),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_and_left_out(tmp_path: Path, cells: dict[str, str], kind: str) -> None:
    corpus = read(tmp_path, row(LOW, "odd.ogg") | cells)
    assert len(corpus.recordings) == 2
    assert corpus.problems.counts[kind] == 1


def test_a_row_with_too_few_cells_is_named_by_its_line(tmp_path: Path) -> None:
    read(tmp_path)
    path = tmp_path / METADATA
    path.write_text(path.read_text() + f"{LOW},short\n")
    corpus = Corpus.read(tmp_path)
    assert corpus.problems.examples["row malformed"] == [f"{METADATA} line 4"]


def test_secondary_labels_are_the_known_others(tmp_path: Path) -> None:
    corpus = read(tmp_path, row(LOW, "c.ogg", secondary_labels=f"['{MID}', '{LOW}', 'unknown1', '{MID}']"))
    assert corpus.recordings[2].secondary_labels == (MID,)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda data: (data / METADATA).unlink(), "not readable"),
        (lambda data: (data / METADATA).write_text("primary_label,filename\n"), "column secondary_labels"),
        (lambda data: (data / METADATA).write_text(""), "column primary_label"),
        (lambda data: write_table(data / METADATA, [row(LOW, "a.ogg")]), "at least 2 are wanted"),
        (lambda data: (data / LABELS).write_text("row_id\n"), "column site"),
    ],
)
def test_what_is_not_a_corpus_is_refused_in_one_line(tmp_path: Path, spoil, expected: str) -> None:  # type: ignore[no-untyped-def]
    read(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CorpusError) as refused:
        Corpus.read(tmp_path)
    assert expected in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        Corpus.read(tmp_path / "nothing")


def test_two_soundscapes_of_one_name_are_named_and_neither_is_learnt_from(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0, soundscape=True)
    folder = data / "train_soundscapes"
    (folder / "7_ABC_20190505.ogg").write_bytes((folder / "7_ABC_20190504.ogg").read_bytes())
    corpus = Corpus.read(data)
    assert corpus.soundscapes == ()
    assert corpus.problems.examples == {
        "soundscape of the same rows as another": ["7_ABC_20190504.ogg", "7_ABC_20190505.ogg"]
    }


def test_check_data_counts_unreadable_and_missing_audio(tmp_path: Path) -> None:
    data = make_corpus(tmp_path / "corpus", 2, 1.0)
    audio = data / "train_short_audio"
    (audio / LOW / "XC00.ogg").write_bytes(b"OggS nonsense")
    (audio / MID / "XC01.ogg").unlink()
    (audio / MID / "XC11.ogg").write_bytes(b"")
    checked = check_data(Corpus.read(data), jobs=1)
    assert checked.counts["recordings"] == 4
    assert checked.counts["recordings_readable"] == 1
    assert checked.problems == {
        "audio file missing": 1,
        "audio not readable": 2,
        "species without readable audio": 1,
        "species with fewer than 5 recordings": 2,
    }


def test_sound_of_another_rate_and_channels_is_brought_to_32_khz_mono(tmp_path: Path) -> None:
    time_s = np.arange(48_000 * 2) / 48_000
    stereo = np.stack([np.sin(2 * np.pi * 1000 * time_s) * 0.5, np.zeros(len(time_s))], axis=1).astype(np.float32)
    path = write_sound(tmp_path / "x.wav", stereo, 48_000)
    sound = read_sound(path, 10 * RATE_HZ)
    assert sound.dtype == np.float32
    assert abs(len(sound) - 2 * RATE_HZ) <= 1
    middle = sound[RATE_HZ // 2 : RATE_HZ]
    wanted = 0.25 * np.sin(2 * np.pi * 1000 * (np.arange(len(middle)) + RATE_HZ // 2) / RATE_HZ)
    assert np.abs(middle - wanted).max() < 0.01
    assert probe_audio(path).samples == 2 * RATE_HZ


def test_only_the_wanted_part_of_a_long_recording_is_decoded(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "x.ogg", hiss(5.0))
    assert len(read_sound(path, RATE_HZ)) == RATE_HZ


@pytest.mark.parametrize("content", [b"", b"not sound", b"OggS" + bytes(200)])
def test_what_cannot_be_decoded_is_a_recording_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ogg"
    path.write_bytes(content)
    assert probe_audio(path).problem
    with pytest.raises(RecordingError):
        read_sound(path, RATE_HZ)
