"""What a replay tells people: of its own recordings, with what was lost, guessed and assumed."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edge.config import load_config
from edge.contract.labels import read_labels
from edge.replay.archive import replay_folder
from edge.reports.score import score_store
from edge.reports.screen_summary import show_replay
from edge.reports.summary import Cost, replay_summary
from edge.reports.tables import score_text
from edge.store.record import Store
from tests.conftest import hiss, note, write_sound

StationYaml = Callable[..., Path]


def replayed(
    config_file: Path, folder: Path, labels: Path | None = None
) -> tuple[str, dict[str, Any]]:
    """What stands on a screen of 80 columns, and the summary."""
    config = load_config(config_file)
    done = replay_folder(config, folder, jobs=1)
    console = Console(file=io.StringIO(), width=80)
    with Store(config.database) as store:
        score = (
            score_store(store, done.bundle, done.recordings, read_labels(labels))
            if labels
            else None
        )
        summary = replay_summary(store, done, Cost(1.0, 1.0, done.seconds), score)
        show_replay(console, store, config, done, summary)
    if score:
        console.print(score_text(score))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), json.loads(json.dumps(summary))


@pytest.fixture(scope="module")
def two_cards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders: a card as it should be, and one with all that may be wrong with it."""
    good = tmp_path_factory.mktemp("good")
    odd = tmp_path_factory.mktemp("odd")
    write_sound(good / "a_20190601_053000.wav", note("midtoo", 10))
    song = np.concatenate([note("lowtoo", 5), hiss(5)])
    write_sound(odd / "1_COR_20190602.ogg", song)
    write_sound(odd / "nodate.flac", np.concatenate([song, hiss(1)]))
    cut = write_sound(odd / "b_20190603_043000.wav", np.concatenate([song, hiss(2)]))
    cut.write_bytes(cut.read_bytes()[:400_000])
    (odd / "bad.wav").write_bytes(b"RIFF????WAVEhello")
    return good, odd


def test_the_table_is_of_this_replay_with_hours(
    station_yaml: StationYaml, two_cards: tuple[Path, Path]
) -> None:
    config = station_yaml()
    replayed(config, two_cards[0])
    text, summary = replayed(config, two_cards[1])
    assert "Low Tooter" in text
    assert "Middle Tooter" not in text, "of another replay"
    assert summary["species"] == 1
    assert "2019-06-02 " in text
    assert "2019-06-03 04:30" in text
    assert max(map(len, text.splitlines())) <= 80 or str(config.parent) in text


def test_what_was_lost_guessed_and_assumed_is_told(
    station_yaml: StationYaml, two_cards: tuple[Path, Path]
) -> None:
    text, summary = replayed(station_yaml(), two_cards[1])
    assert (summary["times_guessed"], summary["hours_unknown"], summary["zones_assumed"]) == (
        1,
        1,
        2,
    )
    assert "Time taken from the file's date, which copying may change: 1 recording\n" in text
    assert "Only the day is known, not the hour: 1 recording\n" in text
    assert "counted as UTC (set station.timezone): 2 recordings\n" in text
    assert "Refused: 1" in text
    assert "Analysed, but not all of it could be read: 1" in text
    assert "truncated" in text
    told, summary = replayed(
        station_yaml("", station="id: porch, timezone: Europe/Vilnius"), two_cards[1]
    )
    assert (summary["times_guessed"], summary["zones_assumed"]) == (1, 0)
    assert "station.timezone" not in told


@pytest.mark.parametrize(
    ("birds", "said"),
    [
        ("norcar", "knows none of the 1 labelled species"),
        ("norcar lowtoo", "does not know 1 of the 2 labelled species: norcar"),
    ],
)
def test_labels_of_species_that_the_model_does_not_know(
    station_yaml: StationYaml, two_cards: tuple[Path, Path], tmp_path: Path, birds: str, said: str
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(f"row_id,birds\n1_COR_5,{birds}\n1_COR_10,nocall\n")
    text, summary = replayed(station_yaml(), two_cards[1], labels)
    assert said in text
    assert "no interval: it needs two recordings or more" in text
    assert summary["labelled_species_unknown"] == ["norcar"]
    assert summary["f1_low"] is None


def test_what_another_station_has_is_counted(
    station_yaml: StationYaml, two_cards: tuple[Path, Path]
) -> None:
    """station.id is given late: its first replays stand under the name of before."""
    text, summary = replayed(station_yaml(), two_cards[0])
    assert summary["also_of_another_station"] == 0
    assert "another station.id" not in text
    text, summary = replayed(station_yaml(station="id: forest"), two_cards[0])
    assert summary["also_of_another_station"] == 1
    assert "another station.id" in " ".join(text.split())
    assert "1 recording, 1 analysed" in text
