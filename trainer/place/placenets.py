"""Small networks from place and day to species: the better metadata model for places without
recordings nearby.

Several networks with different random weights are averaged: their mean varies less than each of
them. Takes the features of edge/prior/place.py; knows no neighbours (neighbours.py) and no files of
a run but its own.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from edge.contract.blend import Scores
from edge.prior.place import NUMERIC, FeatureSpec, Values
from trainer.networks.checkpoint import read_weights, write_weights
from trainer.networks.onnx_file import write_onnx

NETS = 4
EPOCHS = 25
_WIDTH = 256
_DROPOUT = 0.5
# A small table has smaller batches, so that an epoch has at least _STEPS_MIN steps.
_BATCH_MIN = 32
_BATCH = 512
_STEPS_MIN = 40
_RATE = 3e-3
_WEIGHT_DECAY = 1e-3
_WAVES_KM = (3000.0, 1000.0, 300.0)  # random Fourier features of the place (Rahimi and Recht 2007)
_WAVES_EACH = 32
_HARMONICS = 3
_ROWS_MAX = 1 << 20  # of one call of the ONNX file


class PlaceNet(nn.Module):
    """Features `(n, features)` to logits `(n, classes)`: the place on the sphere, the day on the
    circle of the year and the rest unchanged, through one residual block, as in geographical priors
    (Mac Aodha et al. 2019)."""

    mean: Tensor
    std: Tensor
    waves: Tensor
    phases: Tensor

    def __init__(self, spec: FeatureSpec, seed: int) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        of = [NUMERIC.index(name) for name in ("latitude", "longitude", "day_of_year")]
        self.where = of
        self.rest = [i for i in range(len(spec.names)) if i not in of]
        waves = [random.normal(size=(3, _WAVES_EACH)) * 6371.0 / km for km in _WAVES_KM]
        phases = random.uniform(0, 2 * math.pi, len(_WAVES_KM) * _WAVES_EACH)
        for name, values in {
            "mean": [spec.mean[i] for i in of],
            "std": [spec.std[i] for i in of],
            "waves": np.concatenate(waves, axis=1),
            "phases": phases,
        }.items():
            self.register_buffer(name, torch.tensor(np.asarray(values), dtype=torch.float32))
        inputs = 3 + len(phases) + 2 * _HARMONICS + len(self.rest)
        self.enter = nn.Linear(inputs, _WIDTH)
        self.block = nn.Sequential(
            nn.Linear(_WIDTH, _WIDTH),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_WIDTH, _WIDTH),
            nn.ReLU(),
        )
        self.leave = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(_WIDTH, len(spec.classes)))

    def forward(self, features: Tensor) -> Tensor:
        where = features[:, self.where] * self.std + self.mean
        north = torch.deg2rad(where[:, 0])
        east = torch.deg2rad(where[:, 1])
        sphere = torch.stack(
            [north.cos() * east.cos(), north.cos() * east.sin(), north.sin()], dim=1
        )
        turns = where[:, 2:3] * (2 * math.pi / 366)
        season = [
            wave(turns * n) for n in range(1, _HARMONICS + 1) for wave in (torch.sin, torch.cos)
        ]
        inputs = [
            2 * sphere,
            torch.cos(sphere @ self.waves + self.phases),
            *season,
            features[:, self.rest],
        ]
        x = torch.relu(self.enter(torch.cat(inputs, dim=1)))
        out: Tensor = self.leave(x + self.block(x))
        return out


class PlaceNets(nn.Module):
    """The mean of several networks' probabilities."""

    def __init__(self, nets: list[PlaceNet]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([torch.softmax(net(features), dim=1) for net in self.nets]).mean(dim=0)


def fit_nets(
    spec: FeatureSpec,
    features: Values,
    label: NDArray[np.int64],
    epochs: int,
    seed: int,
    work: Path,
    fold: NDArray[np.int64] | None = None,
) -> PlaceNets:
    """Train the networks on features `(n, features)` and labels `(n,)`, from different weights and
    waves; with `fold` `(n,)`, network k does not train on the rows of fold k.

    A network that a killed fit left in `work` is reused. Trains on the GPU if there is one.
    """
    nets = []
    name = "whole" if fold is None else "net"
    for k in range(NETS):
        with torch.random.fork_rng():
            torch.manual_seed(seed + k)
            net = PlaceNet(spec, seed + k)
        path = work / f"{name}{k}.safetensors"
        if path.is_file():
            read_weights(path, net)
        else:
            seen = slice(None) if fold is None else fold != k
            _train(net, features[seen], label[seen], epochs, seed + k, f"network {k + 1} of {NETS}")
            write_weights(path, net)
        nets.append(net)
    return PlaceNets(nets).eval()


def _train(
    net: PlaceNet, features: Values, label: NDArray[np.int64], epochs: int, seed: int, name: str
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net.to(device).train()
    inputs = torch.from_numpy(features).to(device)
    truth = torch.from_numpy(label).to(device)
    size = min(_BATCH, max(_BATCH_MIN, len(label) // _STEPS_MIN))
    steps = math.ceil(len(label) / size)
    optimiser = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _RATE, total_steps=epochs * steps, pct_start=0.15
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in track(range(epochs), name, transient=True, disable=not sys.stderr.isatty()):
            for batch in torch.split(torch.randperm(len(label)).to(device), size):
                loss = functional.cross_entropy(net(inputs[batch]), truth[batch])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
    net.cpu()


@torch.inference_mode()
def probabilities(nets: PlaceNets, features: Values) -> Scores:
    """Probabilities `(n, classes)` for features `(n, features)`."""
    parts = [nets.eval()(part) for part in torch.split(torch.from_numpy(features), 4096)]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def unseen(nets: PlaceNets, features: Values, fold: NDArray[np.int64]) -> Scores:
    """Out-of-fold probabilities `(n, classes)`: those of network k for the rows of fold k."""
    parts = []
    for k, net in enumerate(nets.nets):
        alone = PlaceNets([net])  # type: ignore[list-item]
        parts.append(probabilities(alone, features[fold == k]))
    order = np.argsort(np.concatenate([np.flatnonzero(fold == k) for k in range(len(parts))]))
    return np.asarray(np.concatenate(parts)[order], np.float32)


def nets_to_onnx(nets: PlaceNets, spec: FeatureSpec, path: Path) -> None:
    """Write `path` with input `features` (n, features) and output `probabilities` (n, classes),
    like the published kind."""
    write_onnx(
        nets, torch.zeros(2, len(spec.names)), path, ("features", "probabilities"), _ROWS_MAX
    )
