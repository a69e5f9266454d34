"""Which crops an epoch consists of, their targets, and how images reach the device. Knows no augmentation, no network.

Images stay uint8 until they are on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.contract.audio import Image
from edge.contract.taxonomy import Taxonomy
from trainer.corpus import Recording
from trainer.recipe import LabelRecipe, SamplingRecipe
from trainer.spectrograms import Entry

Ints = NDArray[np.int64]

_WEIGHT_MIN = 0.1  # of an unrated recording: 0 means "nobody rated it" (as the 2nd place of 2021 did)
_ON_DEVICE_SHARE = 0.4  # of the free device memory that the images may take


@dataclass(frozen=True)
class CropSet:
    """Recordings with images: where these lie and what is heard in them. Arrays of one row per recording."""

    first: Ints  # index into images.npy
    count: Ints
    fold: Ints
    primary: Ints  # index of the species
    secondary: NDArray[np.bool_]  # (recordings, species)
    weight: NDArray[np.float32]  # rating / max(rating)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def classes(self) -> int:
        return int(self.secondary.shape[1])

    def where(self, chosen: NDArray[np.bool_]) -> "CropSet":
        """Only the recordings where `chosen` is true."""
        return CropSet(**{name: value[chosen] for name, value in vars(self).items()})


def crop_set(
    entries: Sequence[Entry], recordings: Sequence[Recording], folds: dict[str, int], taxonomy: Taxonomy
) -> CropSet:
    """The recordings of the cache with their folds and labels."""
    known = {r.recording: r for r in recordings}
    chosen = [known[e.recording] for e in entries]
    secondary = np.zeros((len(entries), len(taxonomy)), bool)
    for row, recording in zip(secondary, chosen, strict=True):
        row[[taxonomy.index(code) for code in recording.secondary_labels]] = True
    rating = np.array([r.rating for r in chosen], np.float32)
    return CropSet(
        first=np.array([e.first for e in entries], np.int64),
        count=np.array([e.count for e in entries], np.int64),
        fold=np.array([folds[e.recording] for e in entries], np.int64),
        primary=np.array([taxonomy.index(r.primary_label) for r in chosen], np.int64),
        secondary=secondary,
        weight=np.maximum(rating / max(float(rating.max(initial=0.0)), 1.0), _WEIGHT_MIN).astype(np.float32),
    )


def targets(crops: CropSet, chosen: Ints, labels: LabelRecipe) -> NDArray[np.float32]:
    """Targets of recordings `chosen` `(n,)` as `(n, species)`: primary, secondary, other."""
    values = np.where(crops.secondary[chosen], labels.secondary, labels.other).astype(np.float32)
    values[np.arange(len(chosen)), crops.primary[chosen]] = labels.primary
    return values


def epoch_crops(crops: CropSet, sampling: SamplingRecipe, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """One epoch in random order: recordings `(n,)` as rows of `crops`, and their images `(n,)`.

    Species s with r recordings gets a share of the draws in proportion to r^(1 - balance); its recordings take turns,
    so that with balance 0 each comes exactly `crops_per_recording` times; turns take different crops.
    """
    total = len(crops) * sampling.crops_per_recording
    recordings = np.bincount(crops.primary, minlength=crops.classes).astype(float)
    share = np.where(recordings > 0, np.maximum(recordings, 1) ** (1.0 - sampling.balance), 0.0)
    draws = np.rint(total * share / share.sum()).astype(int)
    chosen, turn = [], []
    for species in np.flatnonzero(draws):
        order = rng.permutation(np.flatnonzero(crops.primary == species))
        position = np.arange(draws[species])
        chosen.append(order[position % len(order)])
        turn.append(position // len(order))
    recording, turns = np.concatenate(chosen), np.concatenate(turn)
    offset = (rng.random(len(crops)) * crops.count).astype(np.int64)
    image = crops.first[recording] + (offset[recording] + turns) % crops.count[recording]
    shuffled = rng.permutation(len(recording))
    return recording[shuffled], image[shuffled]


def first_crops(crops: CropSet, crops_max: int) -> tuple[Ints, Ints]:
    """The first `crops_max` crops of every recording, in order: recordings `(n,)` and images `(n,)`."""
    count = np.minimum(crops.count, crops_max)
    recording = np.repeat(np.arange(len(crops)), count)
    turn = np.arange(len(recording)) - np.repeat(np.cumsum(count) - count, count)
    return recording, crops.first[recording] + turn


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A host array as a tensor there; from pinned memory, so that the host need not wait for the GPU."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Images(Protocol):
    """Where images come from: rows `(n,)` to uint8 `(n, 1, 128, 281)` on the device."""

    def take(self, rows: Ints) -> Tensor: ...


class DeviceImages:
    """All images in device memory: a batch costs one gather there."""

    def __init__(self, images: Image, device: torch.device) -> None:
        self._images = torch.empty(images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(images), 4096):  # in parts: the host holds no second copy
            part = np.ascontiguousarray(images[start : start + 4096])
            self._images[start : start + len(part)] = torch.from_numpy(part).to(device)

    def take(self, rows: Ints) -> Tensor:
        return self._images[to_device(rows, self._images.device)][:, None]


class HostImages:
    """Images in the page cache, gathered on the host; batches go to a GPU from pinned memory."""

    def __init__(self, images: Image, device: torch.device) -> None:
        self._images, self._device = images, device

    def take(self, rows: Ints) -> Tensor:
        order = np.argsort(rows)  # ascending reads are sequential reads
        batch = np.empty((len(rows), *self._images.shape[1:]), np.uint8)
        batch[order] = self._images[rows[order]]
        return to_device(batch[:, None], self._device)


def open_images(images: Image, device: torch.device) -> Images:
    """Images in device memory where they fit well, otherwise from the host."""
    if device.type == "cuda" and images.nbytes < _ON_DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return DeviceImages(images, device)
    return HostImages(images, device)
