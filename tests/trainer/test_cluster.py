"""Many members at once: devices side by side, and a Ray cluster of two nodes of which one is
killed."""

import dataclasses
import io
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from ray.cluster_utils import Cluster
from rich.console import Console

from edge.contract.errors import ConfigError
from tests.helpers.ray_nodes import kill_a_node_of, two_nodes
from tests.helpers.trainer_corpus import make_corpus
from tests.trainer.test_fit import QUIET, fit_here, options, tiny_recipe, wait_for
from trainer.pipeline.stages import Options, run_stages
from trainer.recipe import Recipe
from trainer.run import Run
from trainer.training import cluster, fit
from trainer.training.fit import Workplace
from trainer.training.history import read_history
from trainer.training.member import MemberTask

BEFORE = ("folds", "spectrograms")


def four_members() -> Recipe:
    tiny = tiny_recipe()
    return dataclasses.replace(tiny, members=(dataclasses.replace(tiny.members[0], seeds=(1, 2)),))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("many") / "corpus", 4, 8.0)


@pytest.fixture(scope="module")
def one_by_one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained in this process, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_train_all", fit_here)
        asked = options(data, tmp_path_factory.mktemp("straight") / "run", four_members())
        return run_stages(asked, (*BEFORE, "fit-cnn"), QUIET)


def begun(data: Path, out: Path, like: Run) -> Options:
    """A run with spectrograms and folds, not yet trained."""
    out.mkdir()
    shutil.copytree(
        like.folder,
        out,
        ignore=lambda _, names: {"members", "oof.json"} & set(names),
        dirs_exist_ok=True,
    )
    Run(out).book.begin("fit-cnn")
    return options(data, out, four_members())


def assert_same_members(one: Run, other: Run) -> None:
    assert [m.name for m in one.members()] == [m.name for m in other.members()] == one.wanted()
    for name in one.wanted():
        first, second = (
            safetensors.torch.load_file(r.member_folder(name) / "weights.safetensors")
            for r in (one, other)
        )
        assert all(torch.equal(first[key], second[key]) for key in first), name
        assert one.member(name).valid_f1 == other.member(name).valid_f1


# devices


@pytest.mark.slow
def test_two_devices_train_side_by_side(data: Path, one_by_one: Run, tmp_path: Path) -> None:
    asked = begun(data, tmp_path / "run", one_by_one)
    said = io.StringIO()
    asked = dataclasses.replace(asked, device="auto", devices="cpu,cpu", jobs=2)
    run = run_stages(asked, ("fit-cnn",), Console(file=said, width=200))
    assert "4 of 4 networks to train, 2 at a time on 2 × cpu" in said.getvalue()
    assert_same_members(one_by_one, run)


def test_a_worker_keeps_one_device_and_a_device_has_one_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads instead of processes: what is asked is who gets what, and when."""
    at_work = 0
    most = 0
    pairs = set()
    lock = threading.Lock()
    both = threading.Barrier(2)

    def train(task: MemberTask) -> str:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
            pairs.add((threading.get_ident(), task.device))
        if task.seed < 2:
            both.wait(60)  # the first two are there at the same time
        with lock:
            at_work -= 1
        return task.device

    monkeypatch.setattr(fit, "worker_pool", ThreadPoolExecutor)
    monkeypatch.setattr(fit, "fit_on_device", train)
    kind = tiny_recipe().members[0]
    tasks = [MemberTask(Path(), kind, 0, seed, None, "", "", 1, None) for seed in range(5)]  # type: ignore[arg-type]
    finished = [
        device for part in fit._side_by_side(tasks, ["cuda:0", "cuda:1"], 1) for device in part
    ]
    assert len(finished) == 5
    assert set(finished) == {"cuda:0", "cuda:1"}
    assert most == 2
    assert len(pairs) == 2


def test_what_is_asked_for_and_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Workplace.of("auto", "0,1", None, 8) == Workplace(("cuda:0", "cuda:1"), 8)
    assert Workplace.of("auto", "1, cpu", None, 8).devices == ("cuda:1", "cpu")
    assert Workplace.of("auto", None, None, 8) == Workplace(("cuda:0",), 8)
    assert Workplace.of("cpu", None, None, 3) == Workplace(("cpu",) * 3, 3)
    assert Workplace.of("cuda", None, "auto", 3).cluster == "auto"
    with pytest.raises(
        ConfigError, match=r"--devices 0,2: '2' does not exist; available: cpu, 0, 1$"
    ):
        Workplace.of("auto", "0,2", None, 8)
    for word in ("gpu", "-1", "0,", ""):
        with pytest.raises(ConfigError, match="does not exist; available: cpu, 0, 1"):
            Workplace.of("auto", word, None, 8)
    with pytest.raises(ConfigError, match="--devices 0 and --device cpu contradict each other"):
        Workplace.of("cpu", "0", None, 8)
    with pytest.raises(ConfigError, match="--devices 0 and --cluster auto contradict each other"):
        Workplace.of("auto", "0", "auto", 8)


# a cluster


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with two_nodes() as made:
        yield made


@pytest.mark.slow
def test_a_lost_node_costs_its_member_and_nothing_else(
    data: Path, one_by_one: Run, nodes: Cluster, tmp_path: Path
) -> None:
    asked = dataclasses.replace(begun(data, tmp_path / "run", one_by_one), cluster=nodes.address)
    run = Run(asked.out)
    kept = {}
    lost = []

    def kill_a_node() -> None:
        def two_are_done_and_two_begun() -> bool:
            begun = [name for name in run.wanted() if read_history(run.member_folder(name))]
            return len(run.members()) == 2 and len(begun) == 4

        wait_for("two members", two_are_done_and_two_begun)
        for info in run.members():
            kept.update(
                {
                    p: (p.read_bytes(), p.stat().st_mtime_ns)
                    for p in run.member_folder(info.name).iterdir()
                }
            )
        kill_a_node_of(nodes)
        lost.extend(
            name for name in run.wanted() if not (run.member_folder(name) / "member.json").exists()
        )

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    run_stages(asked, ("fit-cnn",), QUIET)
    killer.join()
    assert len(lost) == 2, "they were finished before the kill"
    assert_same_members(one_by_one, run)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == kept
    for name in run.wanted():
        names = {path.name for path in run.member_folder(name).iterdir()}
        assert names == {"weights.safetensors", "member.json", "history.csv", "oof.npz"}


@pytest.mark.slow
def test_a_node_that_does_not_see_the_run_says_so(
    data: Path, one_by_one: Run, nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task, on its node, finds another run.json than the one that it is told of."""
    asked = dataclasses.replace(begun(data, tmp_path / "run", one_by_one), cluster=nodes.address)
    monkeypatch.setattr(cluster, "digest", lambda *_: "another")
    with pytest.raises(
        ConfigError, match=r"run\.json: is another one there on node .* that all nodes see"
    ) as told:
        run_stages(asked, ("fit-cnn",), QUIET)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_gpu_that_no_node_has(
    data: Path, one_by_one: Run, nodes: Cluster, tmp_path: Path
) -> None:
    asked = dataclasses.replace(
        begun(data, tmp_path / "run", one_by_one), cluster=nodes.address, device="cuda"
    )
    with pytest.raises(ConfigError, match="--device cuda: no node has a GPU"):
        run_stages(asked, ("fit-cnn",), QUIET)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_no_cluster_there_is_one_line(address: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        address = address.format(port=closed.getsockname()[1])
        with pytest.raises(
            ConfigError, match=f"--cluster {address}: no Ray cluster found: "
        ) as told:
            next(cluster.train(address, []))
    assert "\n" not in str(told.value)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray is not installed; .* pip install '\.\[cluster\]'"):
        next(cluster.train("auto", []))
