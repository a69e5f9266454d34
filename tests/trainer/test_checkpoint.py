"""A checkpoint and weights that are damaged: the one is none, the other a line; neither changes a
network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from edge.contract.errors import CorpusError
from trainer.networks.checkpoint import (
    FILE,
    read_checkpoint,
    read_weights,
    write_checkpoint,
    write_weights,
)


def network(seed: int, size: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, size), nn.BatchNorm1d(size), nn.Linear(size, 2))


def trained(seed: int) -> tuple[nn.Module, Optimizer]:
    """A network after a step, so that the optimiser has a state."""
    net = network(seed)
    optimiser = AdamW(net.parameters())
    torch.autograd.backward(net(torch.randn(8, 4)).square().mean())
    optimiser.step()
    return net, optimiser


def state(net: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def damages(whole: bytes) -> list[bytes]:
    turned = []
    for at in range(0, len(whole), 29):
        other = bytearray(whole)
        other[at] ^= 0x41
        turned.append(bytes(other))
    return [*turned, b"", whole[: len(whole) // 2], whole[:-1], b"no tensors"]


def test_one_that_is_whole_is_taken_up(tmp_path: Path) -> None:
    net, optimiser = trained(1)
    write_checkpoint(tmp_path, net, optimiser, 3, "inputs")
    fresh, other = trained(2)
    assert read_checkpoint(tmp_path, fresh, other, "inputs") == 3
    assert same(state(fresh), state(net))
    assert read_checkpoint(tmp_path, fresh, other, "other inputs") == 0


def test_one_that_is_damaged_is_none(tmp_path: Path) -> None:
    """Another byte in the numbers is no error to safetensors, and would be trained on."""
    write_checkpoint(tmp_path, *trained(1), 3, "inputs")
    fresh, optimiser = trained(2)
    before = state(fresh)
    steps = str(optimiser.state_dict())
    for damaged in damages((tmp_path / FILE).read_bytes()):
        (tmp_path / FILE).write_bytes(damaged)
        assert read_checkpoint(tmp_path, fresh, optimiser, "inputs") == 0
        assert same(state(fresh), before)
        assert str(optimiser.state_dict()) == steps
    (tmp_path / FILE).unlink()
    assert read_checkpoint(tmp_path, fresh, optimiser, "inputs") == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "another network", "missing"])
def test_weights_that_are_damaged_are_a_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "member" / "weights.safetensors"
    write_weights(path, network(1, size=7 if damage == "another network" else 6))
    whole = path.read_bytes()
    kept = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no weights"}
    path.write_bytes(kept.get(damage, whole))
    if damage == "missing":
        path.unlink()
    with pytest.raises(CorpusError) as refusal:
        read_weights(path, network(2))
    said = str(refusal.value)
    assert said.startswith(f"{path}: not the weights of this network: ")
    assert said.endswith(f"; remove {path.parent} and run the command that made it again")
    assert "\n" not in said
