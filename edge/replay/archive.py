"""Replay of a folder of recordings into the configured record: opens model, record and broker, and
connects them."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from edge.analysis.recognizer import best_recognizer
from edge.analysis.stretch import Analyst
from edge.capture.own_files import OWN_FOLDER, OwnFiles
from edge.capture.recording import find_recordings
from edge.clips.maker import ClipMaker
from edge.config import Config, check_state
from edge.contract.bundle import Bundle, read_bundle
from edge.contract.errors import UsageError
from edge.disclosure import Disclosure
from edge.engines.onnx import cores
from edge.publisher import Publisher
from edge.replay.cluster import ClusterReaders
from edge.replay.reader_threads import Readers
from edge.replay.replay import Progress, Replay
from edge.store.clips import ClipTable
from edge.store.outbox import OutboxTable
from edge.store.record import Store
from edge.types import Outcome

_DRAIN_S_MAX = 120.0


def recordings_in(folder: Path, own: OwnFiles | None = None) -> tuple[Path, list[Path]]:
    """Root and recordings of a folder, or of a single file, without the files of the station
    itself, `own`. Raises UsageError if the path does not exist, or lies inside the station's own
    folder."""
    try:
        is_folder = folder.is_dir()
        is_file = folder.is_file()
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from error
    if not is_folder and not is_file:  # a pipe would block, a device would never end
        raise UsageError(f"{folder}: no such file or folder")
    if own is not None and own.leads_in(folder):
        raise UsageError(f"{folder}: {OWN_FOLDER}")
    return (folder if is_folder else folder.parent), find_recordings(folder, own)


@dataclass(frozen=True)
class ReplaySummary:
    """Results of a replay."""

    outcomes: list[Outcome]
    bundle: Bundle
    seconds: dict[str, float]  # by step, summed over threads
    waiting: int | None  # messages not yet acknowledged; None if no broker is configured
    broker_error: str

    @property
    def recordings(self) -> dict[str, str]:
        """Ids of the recordings by file path."""
        return {o.path: o.recording for o in self.outcomes if o.recording}


def replay_folder(
    config: Config,
    folder: Path,
    on_outcome: Callable[[Outcome, Progress], None] = lambda *_: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    jobs: int = 0,
    cluster: str | None = None,
) -> ReplaySummary:
    """Replay a folder into the configured database and, if one is configured, to the broker.

    `jobs` recordings are read side by side, one per core if 0; the cores are shared among them.
    `cluster` is the address of a Ray cluster that reads them instead. `on_outcome` gets each
    outcome, `on_progress` is called after every batch. Raises UsageError, ConfigError, BundleError
    or StoreError.
    """
    with _sigterm_as_exit():
        return _replay_folder(config, folder, on_outcome, on_progress, jobs, cluster)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into an orderly exit, as for Ctrl-C. Otherwise it would count as a crash, and
    the open recordings would be suspected of causing it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _replay_folder(
    config: Config,
    folder: Path,
    on_outcome: Callable[[Outcome, Progress], None],
    on_progress: Callable[[Progress], None],
    jobs: int,
    cluster: str | None,
) -> ReplaySummary:
    check_state(config.state)
    root, paths = recordings_in(folder, OwnFiles(config.state))
    jobs = max(1, min(jobs or cores(), len(paths)))
    runtime = replace(config.runtime, threads=config.runtime.threads or max(1, cores() // jobs))
    bundle = read_bundle(config.bundle_folder, config.station.language)
    recognizer = best_recognizer(bundle, runtime, config.engines_folder, config.members, "replay")
    recognizer.check_probe()
    analyst = Analyst(config, recognizer)
    outcomes = []
    waiting = None
    broker_error = ""
    with ExitStack() as stack:
        store = stack.enter_context(Store(config.database))

        def open_clips() -> ClipMaker:
            return ClipMaker(lambda: ClipTable(config.database), config, recognizer.bundle.id)

        keep = open_clips if config.clips.of_recordings else None
        replay = Replay(analyst, store, keep, alive=lambda _: on_progress(replay.progress))
        publisher = None
        if config.mqtt:
            client_id = f"birdstation-{config.station.id}-replay"
            publisher = Publisher(
                lambda: OutboxTable(config.database),
                config.mqtt,
                client_id,
                disclosure=Disclosure.of(config),
            )
            stack.enter_context(publisher)
        if cluster:
            known = store.known(config.station.id)
            reading = ClusterReaders(
                cluster, config, recognizer.bundle.id, known, replay.analysis
            ).events
        else:
            reading = Readers(replay.reading, jobs).events
        for outcome in replay.run(root, paths, reading):
            outcomes.append(outcome)
            on_outcome(outcome, replay.progress)
        outcomes = [replay.in_the_end(outcome) for outcome in outcomes]
        if publisher:
            with analyst.stopwatch("publish"):
                publisher.drain(_DRAIN_S_MAX)
            waiting = store.waiting_count()
            broker_error = publisher.last_error
    outcomes.sort(key=lambda outcome: outcome.path)  # they end in a different order each time
    return ReplaySummary(outcomes, bundle, analyst.stopwatch.seconds, waiting, broker_error)
