"""Trains members as tasks of an existing Ray cluster; a member on a lost node is trained again
elsewhere.

Every node has birdstation installed and sees the run folder under the same path.
Trains nothing itself: member.py does.
"""

import socket
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from edge.contract.cluster import joined
from edge.contract.errors import BirdstationError, ConfigError, CorpusError
from trainer.files import digest
from trainer.run import MemberInfo
from trainer.training.member import MemberTask, fit_member
from trainer.workers import POLL_S

# How often one member may lose its node or process; each time it resumes after its last epoch.
LOST_MAX = 10


def train(address: str, tasks: Sequence[MemberTask]) -> Generator[list[MemberInfo], None, None]:
    """Train members, each on a GPU if the cluster has any (and `task.device` is not cpu), otherwise
    on one core.

    Yields the members finished, possibly none, every POLL_S. Raises ConfigError if there is no such
    cluster or a node does not see the run folder, CorpusError if a member was lost too often.
    """
    with joined(address) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        cores = int(resources.get("CPU", 0))
        asked = tasks[0].device
        if asked == "cuda" and not gpus:
            raise ConfigError(
                f"--cluster {address} --device cuda: no node has a GPU; allowed: auto, cpu"
            )
        on_gpu = gpus > 0 and asked != "cpu"
        device, threads = ("cuda:0", max(1, cores // gpus)) if on_gpu else ("cpu", tasks[0].threads)
        options = {"num_cpus": 1, "num_gpus": int(on_gpu), "max_retries": LOST_MAX}
        fit = ray.remote(**options)(_fit)
        same = digest(tasks[0].run / "run.json")
        names = {
            fit.remote(replace(task, device=device, threads=threads), same): task.name
            for task in tasks
        }
        pending = list(names)
        while pending:
            done, pending = ray.wait(pending, timeout=POLL_S)
            yield [_result(ray, names[reference], reference) for reference in done]


def _fit(task: MemberTask, same: str) -> MemberInfo:
    """Train one member. Runs on a node of the cluster, in its own process."""
    path = task.run / "run.json"
    if not path.is_file() or digest(path) != same:
        found = "is another one" if path.is_file() else "is not"
        advice = "the run folder must lie on storage that all nodes see under one path"
        raise ConfigError(f"{path}: {found} there on node {socket.gethostname()}; {advice}")
    return fit_member(task)


def _result(ray: Any, name: str, reference: Any) -> MemberInfo:
    try:
        info: MemberInfo = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BirdstationError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        advice = "finished members are kept; run again: it resumes where it stopped"
        raise CorpusError(
            f"{name}: lost more than {LOST_MAX} times ({type(error).__name__}); {advice}"
        ) from error
    return info
