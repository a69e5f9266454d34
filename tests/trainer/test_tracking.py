"""Tracking: what MLflow says of a run is what the run says, however often it is sent; a dead server
stops nothing."""

import dataclasses
import io
import json
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from tests import HANGS_S
from tests.helpers.trainer_corpus import make_corpus
from tests.trainer.test_fit import fit_here, tiny_recipe
from tests.trainer.test_fit import options as untracked
from trainer.book import Result
from trainer.pipeline.stages import Options, run_stages
from trainer.recipe import Recipe
from trainer.report import tracking
from trainer.run import Run
from trainer.training import fit
from trainer.training.history import HISTORY, read_history

pytestmark = pytest.mark.slow

STAGES = ("folds", "spectrograms", "fit-cnn")
EPOCHS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("tracking") / "corpus", 4, 8.0)


def recipe() -> Recipe:
    tiny = tiny_recipe()
    return dataclasses.replace(tiny, members=(dataclasses.replace(tiny.members[0], epochs=EPOCHS),))


def options(data: Path, out: Path) -> Options:
    return dataclasses.replace(untracked(data, out, recipe()), track=True)


def train(asked: Options, patch: pytest.MonkeyPatch) -> tuple[Run, str]:
    """Trained in this process; the run, and what was said."""
    patch.setattr(fit, "_train_all", fit_here)
    # a busy machine takes longer than a person would wait
    patch.setattr(tracking, "LAST_S", HANGS_S)
    said = io.StringIO()
    run = run_stages(asked, STAGES, Console(file=said, width=1000))
    return run, said.getvalue()


@pytest.fixture(scope="module")
def tracked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tracking.SERVER, raising=False)
        return train(options(data, tmp_path_factory.mktemp("tracked") / "run"), patch)[0]


def client(run: Run) -> MlflowClient:
    return MlflowClient(f"sqlite:///{run.folder.resolve() / 'tracking' / 'mlflow.db'}")


def only_run(run: Run):  # type: ignore[no-untyped-def]
    found = client(run).search_runs([e.experiment_id for e in client(run).search_experiments()])
    assert len(found) == 1
    return found[0]


def points(run: Run, key: str) -> list[tuple[int, float]]:
    return [
        (m.step, m.value) for m in client(run).get_metric_history(only_run(run).info.run_id, key)
    ]


def curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    return {
        f"{name}/{key}": [(e.epoch, getattr(e, key)) for e in read_history(run.member_folder(name))]
        for name in run.wanted()
        for key in HISTORY[1:]
        if key != "soundscape_f1"  # NaN: the recipe does not ask for it
    }


def test_the_folder_has_the_recipe_the_curves_and_the_figures(tracked: Run) -> None:
    found = only_run(tracked)
    assert found.info.run_name == "run"
    assert found.data.params["members.0.architecture"] == "test_efficientnet"
    assert found.data.params["optimiser.batch"] == "4"
    expected = curves(tracked)
    assert len(expected) == 2 * 6
    assert {key: points(tracked, key) for key in expected} == expected
    oof = json.loads((tracked.folder / "oof.json").read_text())
    assert found.data.metrics["oof/balanced_accuracy"] == oof["balanced_accuracy"]
    assert found.info.status == "RUNNING"
    assert {path.name for path in (tracked.folder / "tracking").iterdir()} == {"mlflow.db"}


def test_a_second_time_adds_nothing(
    data: Path, tracked: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = only_run(tracked)
    train(options(data, tracked.folder), monkeypatch)
    after = only_run(tracked)
    assert after.info.run_id == before.info.run_id
    assert {key: points(tracked, key) for key in curves(tracked)} == curves(tracked)
    assert len(points(tracked, "oof/balanced_accuracy")) == 1


def test_epochs_are_added_as_they_come_and_the_report_at_the_end(
    tracked: Run, tmp_path: Path
) -> None:
    """A run half trained, as the parent sees it at some epoch; then whole, with later stages."""
    run = half_trained(tracked, tmp_path / "half")
    name = run.wanted()[0]
    history = tracked.member_folder(run.wanted()[0]) / "history.csv"
    copy = tracking.Copy(run, "inputs")
    copy.update()
    assert [step for step, _ in points(run, f"{name}/train_loss")] == [1]
    (run.member_folder(name) / "history.csv").write_bytes(history.read_bytes())
    (run.folder / "tune.json").write_text(
        json.dumps({"scores": {"f1": 0.5, "rows": 3, "why": "text", "no": None}})
    )
    (run.folder / "report.html").write_text("<p>first")
    run.book.finish("report", {}, Result(("report.html",), "-"), {}, 1.0)
    copy.update()
    tracking.Copy(run, "inputs").update()  # as after a kill
    assert [step for step, _ in points(run, f"{name}/train_loss")] == [1, 2, 3]
    found = only_run(run)
    assert (found.data.metrics["tune/f1"], found.data.metrics["tune/rows"]) == (0.5, 3.0)
    assert found.info.status == "FINISHED"
    artifacts = client(run).list_artifacts(found.info.run_id)
    assert [a.path for a in artifacts] == ["report.html"]
    (run.folder / "report.html").write_text("<p>second")
    copy.update()
    assert (
        run.folder / "tracking/artifacts" / found.info.run_id / "artifacts/report.html"
    ).read_text() == "<p>second"


def half_trained(tracked: Run, folder: Path) -> Run:
    folder.mkdir()
    for name in ("recipe.yaml", "run.json", "taxonomy.csv"):
        (folder / name).write_bytes((tracked.folder / name).read_bytes())
    run = Run(folder)
    name = tracked.wanted()[0]
    run.member_folder(name).mkdir(parents=True)
    lines = (tracked.member_folder(name) / "history.csv").read_text().splitlines(keepends=True)
    (run.member_folder(name) / "history.csv").write_text("".join(lines[:2]))
    return run


def test_members_of_other_data_are_another_experiment(tracked: Run, tmp_path: Path) -> None:
    run = half_trained(tracked, tmp_path / "run")
    (run.folder / "tracking").mkdir()  # a copy: to make a schema takes seconds
    shutil.copy(tracked.folder / "tracking" / "mlflow.db", run.folder / "tracking")
    assert tracking.Copy(run, "inputs").id == tracking.Copy(run, "inputs").id
    assert tracking.Copy(run, "inputs").id != tracking.Copy(run, "others").id


def test_a_dead_server_costs_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setenv(tracking.SERVER, f"http://127.0.0.1:{closed.getsockname()[1]}")
        run, said = train(options(data, tmp_path / "run"), monkeypatch)
    assert len(run.members()) == 2
    lines = [line for line in said.splitlines() if line.startswith("tracking:")]
    assert len(lines) == 1
    assert "Connection refused" in lines[0] or "Max retries" in lines[0]
    assert not (run.folder / "tracking").exists()


def test_a_server_that_never_answers_is_not_waited_for(
    tracked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "LAST_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(tracking.SERVER, f"http://127.0.0.1:{silent.getsockname()[1]}")
        run = half_trained(tracked, tmp_path / "run")
        begin = time.monotonic()
        with tracking.tracking(run, True, Console(quiet=True)) as note:
            note("inputs")
            connection, _ = silent.accept()
        assert time.monotonic() - begin < 60
        connection.close()
    for thread in threading.enumerate():
        if thread.name == "tracking":
            thread.join()


def test_without_mlflow_it_says_so(tracked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    said = io.StringIO()
    with tracking.tracking(tracked, True, Console(file=said, width=200)) as note:
        note("inputs")
    assert (
        said.getvalue()
        == "tracking is off: mlflow is not installed; pip install '.[track]' in the checkout "
        "brings it\n"
    )
    monkeypatch.delenv(tracking.SERVER, raising=False)
    with tracking.tracking(
        tracked, None, Console(file=said, width=200)
    ) as note:  # nobody asked for it
        note("inputs")
    assert said.getvalue().count("\n") == 1
