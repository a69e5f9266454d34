"""Tracking: a copy of the figures of a run in MLflow, in RUN/tracking or on the server named by
MLFLOW_TRACKING_URI.

The run folder is authoritative; each update adds what the copy lacks. Runs in its own thread: an
unreachable server costs one line of output. Knows no training.
"""

import importlib
import importlib.util
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.files import digest, read_json, replacing
from trainer.run import Run
from trainer.training.history import HISTORY, read_history

SERVER = "MLFLOW_TRACKING_URI"
LAST_S = 15.0  # wait at the end of a training for the last update
_BATCH = {"params": 100, "metrics": 1000}  # limits of MLflow
_KEY = "birdstation.run"
_REPORT = "birdstation.report"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the next epoch tries again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@contextmanager
def tracking(run: Run, asked: bool | None, console: Console) -> Iterator[Callable[[str], None]]:
    """Yield a function that updates the copy, soon and without waiting. Its argument is the digest
    of the training inputs of the members: members of other data are another experiment. `asked`
    None: if MLflow is installed."""
    there = all(importlib.util.find_spec(name) for name in ("mlflow", "sqlalchemy"))
    if not there and (asked or (asked is None and os.environ.get(SERVER))):
        advice = "pip install '.[track]' in the checkout brings it"
        console.print(f"tracking is off: mlflow is not installed; {advice}", markup=False)
    if asked is False or not there:
        yield lambda _: None
        return
    tracker = _Tracker(run, console)
    tracker.start()
    try:
        yield tracker.note
    finally:
        tracker.end()


class _Tracker(threading.Thread):
    """Updates the copy when notified; several calls during one update count as one."""

    def __init__(self, run: Run, console: Console) -> None:
        super().__init__(daemon=True, name="tracking")
        self._run = run
        self._console = console
        self._inputs: str | None = None
        self._copy: Copy | None = None
        self._told = threading.Event()
        self._ended = False
        self._warned = False

    def note(self, inputs: str) -> None:
        self._inputs = inputs
        self._told.set()

    def end(self) -> None:
        self._ended = True
        self._told.set()
        self.join(LAST_S)

    def run(self) -> None:
        last = False
        while not last:
            self._told.wait()
            self._told.clear()
            last = self._ended  # read before the update, so that the last one is complete
            if self._inputs is not None:
                self._update(self._inputs)

    def _update(self, inputs: str) -> None:
        """Update the copy. Errors of a server, a database or a disk are printed once and do not
        stop the training."""
        mlflow = _library("mlflow.exceptions")
        database = _library("sqlalchemy.exc")
        try:
            if self._copy is None or self._copy.inputs != inputs:
                self._copy = Copy(self._run, inputs)
            self._copy.update()
        except (mlflow.MlflowException, database.SQLAlchemyError, OSError) as error:
            self._copy = None  # the next update asks what has arrived
            if not self._warned:
                self._warned = True
                reason = str(error).splitlines()[0][:200]
                advice = (
                    "training continues; missing data is sent when it answers, or by the next "
                    "fit-all"
                )
                self._console.print(f"tracking: {reason}; {advice}", markup=False, highlight=False)


class Copy:
    """The MLflow run that belongs to a run folder; reused if it exists."""

    def __init__(self, run: Run, inputs: str) -> None:
        self._run = run
        self.inputs = inputs
        self._client = _client(run.folder)
        about = read_json(run.folder / "run.json")
        self._begun_ms = int(datetime.fromisoformat(about["created"]).timestamp() * 1000)
        self.id = self._find(
            digest(about["created"], run.folder.resolve().name, run.recipe.digest, inputs), about
        )
        self._sent = {name: self._epochs_sent(name) for name in run.wanted()}

    def _find(self, key: str, about: dict[str, Any]) -> str:
        """Id of the MLflow run. On a server, experiments are named by corpus; in a folder, by its
        path, so that a moved folder does not write to its old place."""
        folder = self._run.folder.resolve()
        name = about["data"] if os.environ.get(SERVER) else folder.as_posix()
        place = None if os.environ.get(SERVER) else (folder / "tracking" / "artifacts").as_uri()
        found = self._client.get_experiment_by_name(name)
        experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(name, artifact_location=place)
        )
        runs = self._client.search_runs([experiment], f"tags.`{_KEY}` = '{key}'", max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        tags = {_KEY: key, "corpus": about["data"]} | about["versions"]
        return str(
            self._client.create_run(experiment, self._begun_ms, tags, folder.name).info.run_id
        )

    def _epochs_sent(self, name: str) -> int:
        return len(self._client.get_metric_history(self.id, f"{name}/{HISTORY[1]}"))

    def update(self) -> None:
        """Send parameters, epochs, figures and report that MLflow does not have."""
        there = self._client.get_run(self.id)
        all_of_it = {
            key: str(value)[:500] for key, value in _flat(self._run.recipe.as_dict(), ".").items()
        }
        params = [(key, value) for key, value in all_of_it.items() if key not in there.data.params]
        figures = [
            (key, value, when, 0)
            for key, value, when in _figures(self._run)
            if there.data.metrics.get(key) != value
        ]
        self._log("params", [_entity("Param")(*param) for param in params])
        self._log("metrics", [_entity("Metric")(*point) for point in [*self._epochs(), *figures]])
        report = self._run.folder / "report.html"
        if report.is_file() and there.data.tags.get(_REPORT) != digest(report):
            self._client.log_artifact(self.id, str(report))
            self._client.set_tag(self.id, _REPORT, digest(report))
        if self._run.book.entry("report") and there.info.status != "FINISHED":
            self._client.set_terminated(self.id)

    def _epochs(self) -> Iterator[tuple[str, float, int, int]]:
        """Points of epochs not sent yet: key, value, time, epoch. The time counts training since
        the run began, so it is always the same and a store drops duplicates."""
        for name, sent in self._sent.items():
            history = read_history(self._run.member_folder(name))
            when = float(self._begun_ms)
            for epoch in history:
                when += 1000 * epoch.seconds
                if epoch.epoch > sent:
                    figures = {key: float(getattr(epoch, key)) for key in HISTORY[1:]}
                    for key, value in figures.items():
                        if not math.isnan(value):
                            yield f"{name}/{key}", value, int(when), epoch.epoch
            self._sent[name] = max(sent, len(history))

    def _log(self, what: str, entities: list[Any]) -> None:
        for start in range(0, len(entities), _BATCH[what]):
            self._client.log_batch(self.id, **{what: entities[start : start + _BATCH[what]]})


def _client(folder: Path) -> Any:
    """A client of the server, or of RUN/tracking/mlflow.db. That file is created under a temporary
    name: a kill must not leave half a schema."""
    client = _library("mlflow").MlflowClient
    if os.environ.get(SERVER):
        return client()
    path = folder.resolve() / "tracking" / "mlflow.db"
    if not path.is_file():
        with replacing(path) as temporary:
            client(f"sqlite:///{temporary}").search_experiments()
    return client(f"sqlite:///{path}")


def _entity(name: str) -> Any:
    return getattr(_library("mlflow.entities"), name)


def _library(name: str) -> Any:
    """Import an optional library late, since it takes seconds. It reads its settings on import."""
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    return importlib.import_module(name)


def _figures(run: Run) -> Iterator[tuple[str, float, int]]:
    """Key, value and time of every number in the results of the other stages so far."""
    for prefix, file, part in (
        ("oof", "oof.json", None),
        ("tune", "tune.json", "scores"),
        ("metadata", "metadata/metrics.json", None),
    ):
        path = run.folder / file
        if path.is_file():
            found = read_json(path)
            for key, value in _flat(found[part] if part else found, "/").items():
                if (
                    isinstance(value, int | float)
                    and not isinstance(value, bool)
                    and math.isfinite(value)
                ):
                    yield f"{prefix}/{key}", float(value), int(path.stat().st_mtime * 1000)


def _flat(value: dict[str, Any], separator: str) -> dict[str, Any]:
    """Nested values by their key paths; lists of plain values stay in one piece."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, list) and any(isinstance(entry, dict) for entry in item):
            item = {str(i): entry for i, entry in enumerate(item)}
        if isinstance(item, dict):
            flat |= {
                f"{key}{separator}{inner}": leaf for inner, leaf in _flat(item, separator).items()
            }
        else:
            flat[key] = json.dumps(item) if isinstance(item, list) else item
    return flat
