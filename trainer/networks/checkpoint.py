"""Checkpoints of a training: weights, optimiser and epoch in one safetensors file, so that a kill
loses at most one epoch.

Random numbers are drawn from seed and epoch, so they need no state. Knows no data and no training.
"""

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edge.contract.errors import CorpusError
from trainer.files import replacing

FILE = "checkpoint.safetensors"
_WEIGHT = "weight."
_STATE = "optimiser."


def write_weights(path: Path, network: nn.Module) -> None:
    """Write the state of a network as safetensors, atomically."""
    with replacing(path) as temporary:
        # save_file would set the file mode to 0600.
        temporary.write_bytes(safetensors.torch.save(_contiguous(network.state_dict())))


def read_weights(path: Path, network: nn.Module) -> None:
    """Load every weight of the network from its file. Raises CorpusError naming the file."""
    try:
        network.load_state_dict(safetensors.torch.load_file(path), strict=True)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        advice = f"remove {path.parent} and run the command that made it again"
        raise CorpusError(f"{path}: not the weights of this network: {reason}; {advice}") from error


def write_checkpoint(
    folder: Path, network: nn.Module, optimiser: Optimizer, epoch: int, inputs: str
) -> None:
    """Write the state after `epoch` epochs of training on inputs with this digest."""
    tensors = {_WEIGHT + name: value for name, value in network.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{_STATE}{index}.{key}": value for key, value in state.items()}
    tensors = _contiguous(tensors)
    with replacing(folder / FILE) as temporary:
        about = {"epoch": str(epoch), "inputs": inputs, "sum": _sum(tensors)}
        temporary.write_bytes(safetensors.torch.save(tensors, about))


def read_checkpoint(folder: Path, network: nn.Module, optimiser: Optimizer, inputs: str) -> int:
    """Load the checkpoint if there is one for these inputs. Returns the number of its epochs, or 0
    if there is none or it is damaged, so that training starts over."""
    try:
        with safetensors.safe_open(folder / FILE, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("inputs") != inputs:
                return 0
            # the file is not a mapping
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        return 0
    if about.get("sum") != _sum(tensors):
        return 0
    network.load_state_dict(
        {n.removeprefix(_WEIGHT): t for n, t in tensors.items() if n.startswith(_WEIGHT)}
    )
    parameters = list(network.parameters())  # in the order of the optimiser
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_STATE):
            index, key = name.removeprefix(_STATE).split(".", 1)
            state.setdefault(int(index), {})[key] = _laid_out_as(parameters[int(index)], tensor)
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    return int(about["epoch"])


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """An optimiser moment in the memory format of its parameter: the fused optimiser goes through
    both in the order of addresses."""
    return torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor


def _sum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors and their names: safetensors does not detect a changed byte."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\0".encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
