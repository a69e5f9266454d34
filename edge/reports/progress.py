"""A replay with a progress bar."""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from edge.config import Config
from edge.replay.archive import ReplaySummary, replay_folder
from edge.replay.replay import Progress
from edge.types import Outcome


def replay_with_progress(
    settings: Config, folder: Path, jobs: int, cluster: str | None, console: Console
) -> ReplaySummary:
    """Call `replay_folder` and show its progress. The bar counts bytes, which unlike seconds are
    known beforehand, so that it also moves within one long recording."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("loading the model", total=None)
        start = time.perf_counter()
        count = 0

        def show(now: Progress) -> None:
            pace = now.audio_s / (time.perf_counter() - start)
            description = f"{count} of {now.recordings} recordings, {pace:.0f} × real time"
            shown.update(
                task, completed=now.bytes_done, total=now.bytes_total, description=description
            )

        def ended(_: Outcome, now: Progress) -> None:
            nonlocal count
            count += 1
            show(now)

        return replay_folder(settings, folder, ended, show, jobs, cluster)
