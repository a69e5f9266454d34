"""Scoring as a command: the competition's figures from its own files, and one line for what is
wrong with one."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.contract.errors import UsageError
from edge.contract.labels import read_labels
from edge.contract.metrics import labels_of
from trainer.tuning.score import score_predictions

TRUTH = """row_id,site,audio_id,seconds,birds
7019_COR_5,COR,7019,5,nocall
7019_COR_10,COR,7019,10,amered blujay
7019_COR_15,COR,7019,15,amered
8_SSW_5,SSW,8,5,nocall
"""


def _files(folder: Path, found: str, truth: str = TRUTH) -> tuple[Path, Path]:
    (folder / "found.csv").write_text(found, encoding="utf8")
    (folder / "truth.csv").write_text(truth, encoding="utf8")
    return folder / "found.csv", folder / "truth.csv"


def test_the_figures_of_a_small_case_worked_by_hand(tmp_path: Path) -> None:
    submission = (
        "row_id,birds\n7019_COR_5,nocall\n7019_COR_10,amered "
        "comyel\n9_XXX_5,nocall\n8_SSW_5,amered\n"
    )
    scored = score_predictions(*_files(tmp_path, submission))
    assert scored.score.f1 == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert scored.score.f1_all_nocall == pytest.approx(0.5)
    assert scored.score.f1_call_rows == pytest.approx(0.25)
    assert scored.score.f1_nocall_rows == pytest.approx(0.5)
    assert scored.precision_call_rows == pytest.approx(1 / 2)
    assert scored.recall_call_rows == pytest.approx(1 / 3)
    assert (scored.rows_not_predicted, scored.rows_not_labelled) == (1, 1)
    assert (scored.recordings, scored.score.rows, scored.call_rows) == (2, 4, 2)


def test_the_competitions_example_of_a_test_recording_is_read(tmp_path: Path) -> None:
    example = (
        "filename_seconds,birds,filename,seconds\nBLK-1_20190611_093000_5,gockin westan,BLK-1,5\n"
    )
    example += "BLK-1_20190611_093000_10,nocall,BLK-1,10\n"
    scored = score_predictions(*_files(tmp_path, example, example))
    assert scored.score.f1 == 1.0
    assert scored.recordings == 1
    assert read_labels(tmp_path / "truth.csv").end_s["BLK-1_20190611_093000_10"] == 10


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    truth=st.lists(st.sets(st.sampled_from(["a", "b", "c"])), min_size=1, max_size=12),
    found=st.lists(st.none() | st.sets(st.sampled_from(["a", "b", "d"])), min_size=12, max_size=12),
)
def test_f1_is_the_mean_of_the_rows_and_missing_rows_are_nocall(
    tmp_path: Path, truth: list[set[str]], found: list[set[str] | None]
) -> None:
    ids = [f"{i % 3}_X_{5 * i + 5}" for i in range(12)]
    rows = [
        (row, " ".join(sorted(birds)) or "nocall") for row, birds in zip(ids, truth, strict=False)
    ]
    given_rows = [
        (row, " ".join(sorted(b))) for row, b in zip(ids, found, strict=True) if b is not None
    ]
    for name, table in (
        ("truth", rows),
        ("found", [*given_rows, (ids[0], "")] if found[0] is None else given_rows),
    ):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("row_id", "birds"), *table])
    scored = score_predictions(tmp_path / "found.csv", tmp_path / "truth.csv")
    wanted = []
    for heard, reported in zip(truth, found, strict=False):
        mine = labels_of(" ".join(heard))
        theirs = labels_of(" ".join(reported or ()))
        wanted.append(2 * len(mine & theirs) / (len(mine) + len(theirs)))
    assert scored.score.f1 == pytest.approx(sum(wanted) / len(wanted))
    assert 0 <= scored.score.f1_low <= scored.score.f1 + 1e-9
    assert scored.score.f1 - 1e-9 <= scored.score.f1_high <= 1


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("row_id,birds\n7019_COR_5\n", "line 2: expected 2 cells (row_id, birds), found 1"),
        ("row_id,birds\n7019_COR_5,a,b\n", "line 2: expected 2 cells (row_id, birds), found 3"),
        ("row_id,birds\nhello,a\n", "line 2: row id: expected NAME_SECONDS, found 'hello'"),
        (
            "row_id,birds\n7019_COR_5,a\n7019_COR_5,b\n",
            "line 3: row id '7019_COR_5' occurs twice",
        ),
        (
            "row_id,birds\n7019_COR_5,Amered\n",
            "expected 'amered' as in the labels, found 'Amered'",
        ),
        (
            "row_id,site,audio_id,seconds,birds\n7019_COR_5,COR,7019,10,a\n",
            "line 2: row id '7019_COR_5': expected audio_id, site and seconds as in it, found "
            "audio_id 7019, site COR",
        ),
        (
            "row_id,species\n7019_COR_5,a\n",
            "expected columns row_id and birds, found row_id, species",
        ),
        ("row_id,birds\n", "no rows"),
        (
            "row_id,birds\nother_5,a\n",
            "expected row ids such as '7019_COR_5', found such as 'other_5'",
        ),
    ],
)
def test_a_malformed_table_is_one_line(tmp_path: Path, found: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        score_predictions(*_files(tmp_path, found))
    assert message in str(refused.value)
    assert "found.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_only_predictions_may_name_nocall_beside_species(tmp_path: Path) -> None:
    path, truth = _files(tmp_path, "row_id,birds\n7019_COR_5,amered nocall\n")
    score_predictions(path, truth)
    truth.write_text(path.read_text())
    with pytest.raises(
        UsageError,
        match="line 2: row id '7019_COR_5': expected nocall or species, found amered noc",
    ):
        score_predictions(path, truth)


@pytest.mark.slow
def test_the_command_tells_people_and_programs(tmp_path: Path) -> None:
    found, truth = _files(tmp_path, "\ufeffrow_id,birds\n7019_COR_5,nocall\n")
    command = [
        sys.executable,
        "-m",
        "trainer",
        "score",
        "--predictions",
        str(found),
        "--labels",
        str(truth),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "0.5000" in told
    assert "rows not predicted, taken as 'no bird'" in told
    figures = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    )
    assert figures["f1"] == figures["f1_all_nocall"] == 0.5
    assert figures["precision_call_rows"] is None
