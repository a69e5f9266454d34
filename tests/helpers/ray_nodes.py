"""A Ray cluster of two nodes, as processes of this machine; none is left behind."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray starts its processes
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = (
    "0"  # what ray will do by itself; without it, it warns
)
# else 15: beside other tests they stand still
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112,
import ray
from ray.cluster_utils import Cluster

_END_S = 30.0


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A head and a node of one core each."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: sockets lie in it
    inner = Path(folder, "ray")
    inner.mkdir()  # where ray notes the cluster's address: it takes it to be there
    os.environ["RAY_TMPDIR"] = folder
    small = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_log_monitor": False}
    made = Cluster()
    try:
        made.add_node(include_dashboard=False, temp_dir=str(inner), **small)
        made.add_node(**small)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        for pid in of_ray(folder):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_S
        while of_ray(folder):
            assert time.monotonic() < deadline, "ray does not end"
            time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ["RAY_TMPDIR"]


def kill_a_node_of(nodes: Cluster) -> None:
    """SIGKILL the node that is not the head; its workers go with it."""
    raylet = nodes.list_all_nodes()[-1].all_processes["raylet"][0].process
    raylet.send_signal(signal.SIGKILL)


def of_ray(folder: str) -> list[int]:
    """Processes of the cluster whose files are in `folder`: the folder is in their command line or
    environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (OSError, ProcessLookupError):
            continue
        if folder.encode() in told and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found
