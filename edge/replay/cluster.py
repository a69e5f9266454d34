"""Recordings read by the nodes of a Ray cluster. The recordings of a lost node are read again
elsewhere.

Every node needs birdstation installed, and bundle and recordings under the same paths. Stores
nothing: the caller gets the events and stores them.
"""

import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edge.analysis.recognizer import best_recognizer
from edge.analysis.stretch import Analyst
from edge.config import Config
from edge.contract.bundle import read_bundle
from edge.contract.cluster import joined
from edge.contract.errors import BirdstationError, ConfigError
from edge.replay.identity import Identity, identify
from edge.replay.reader import Event, Events, ReadFailure, RecordingTask, read_recordings
from edge.store.files import KnownRecording

LOST_MAX = 5  # times that a group of recordings may lose its node or process
# small recordings are grouped: each task of the cluster costs milliseconds
_GROUP_BYTES = 64 << 20
_GROUP_TASKS = 64
_AHEAD = 2  # groups per core that run or wait; more are requested as these end


class ClusterReaders:
    """Reads recordings on a cluster.

    for event in ClusterReaders("10.0.0.1:6379", config, bundle_id, known).events(tasks): ...

    `known`: the recordings in the record, by SHA-256. Those finished under the digest `analysis`
    are not read again.

    The events of a recording are in order and come when its group is done. A recording whose
    process dies again and again ends as a ReadFailure; the others continue. Raises ConfigError if
    there is no cluster, if a node has another bundle, or if clips of recordings are to be saved.
    """

    def __init__(
        self,
        address: str,
        config: Config,
        bundle_id: str,
        known: Mapping[str, Sequence[KnownRecording]] = MappingProxyType({}),
        analysis: str = "",
    ) -> None:
        if config.clips.of_recordings:
            raise ConfigError(
                "--cluster: clips.of_recordings is on; a cluster sends no sound back, turn it off"
            )
        self._address = address
        self._config = config
        self._bundle_id = bundle_id
        self._known = known
        self._analysis = analysis

    def events(self, tasks: Iterable[RecordingTask]) -> Events:
        """Read the tasks, which are requested as the cluster progresses; yield their events."""
        with joined(self._address) as ray:
            read = ray.remote(num_cpus=1, max_retries=LOST_MAX)(_read_there)
            # sent to each node once
            known = (ray.put(dict(self._known)), self._analysis) if self._known else ()
            limit = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            groups = _groups(tasks)
            running = dict[Any, list[RecordingTask]]()
            again: list[list[RecordingTask]] = []
            while True:
                while len(running) < limit and (
                    group := again.pop() if again else next(groups, None)
                ):
                    running[read.remote(self._config, self._bundle_id, group, *known)] = group
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1)
                group = running.pop(done[0])
                events = _events_of(ray, done[0])
                if events is not None:
                    yield from events
                elif len(group) > 1:  # one of them kills its process: find out which
                    again += [[task] for task in group]
                else:
                    yield ReadFailure(
                        group[0], OSError(0, f"its process died {LOST_MAX + 1} times"), None
                    )


def _groups(tasks: Iterable[RecordingTask]) -> Iterator[list[RecordingTask]]:
    group: list[RecordingTask] = []
    for task in tasks:
        group.append(task)
        if len(group) >= _GROUP_TASKS or sum(t.bytes for t in group) >= _GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _events_of(ray: Any, reference: Any) -> list[Event] | None:
    """Events of a finished task; None if it lost its process too often. Raises BirdstationError as
    the node raised it."""
    try:
        events: list[Event] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BirdstationError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError:
        return None
    return events


# one process reads many groups, and loading a bundle takes seconds
_analysts: dict[str, Analyst] = {}


def _read_there(
    config: Config,
    bundle_id: str,
    group: list[RecordingTask],
    known: Mapping[str, Sequence[KnownRecording]] = MappingProxyType({}),
    analysis: str = "",
) -> list[Event]:
    """Read recordings on a node of the cluster, in a separate process with one core."""
    key = repr((bundle_id, config))
    if key not in _analysts:
        _analysts[key] = _analyst(config, bundle_id)

    def which(name: str, sha256: str, told: str) -> Identity:
        return identify(
            known.get(sha256, ()), config.station.id, analysis, name, sha256, told, config.zone
        )

    return list(read_recordings(_analysts[key], group, identify=which))


def _analyst(config: Config, bundle_id: str) -> Analyst:
    bundle = read_bundle(config.bundle_folder, config.station.language)
    if bundle.id != bundle_id:
        node = socket.gethostname()
        raise ConfigError(
            f"{config.bundle_folder}: the bundle on node {node} differs from the one here; all "
            "nodes need the same"
        )
    # a folder for priors computed on this node; the station's own state is not reachable here
    state = Path(tempfile.mkdtemp(prefix="birdstation-"))
    here = replace(config, state=state, runtime=replace(config.runtime, threads=1))
    recognizer = best_recognizer(
        bundle, here.runtime, config.engines_folder, here.members, "replay"
    )
    recognizer.check_probe()
    return Analyst(here, recognizer)
