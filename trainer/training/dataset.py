"""The crops of an epoch, their targets, and the way of images to the device. Knows no augmentation,
no network.

Images stay uint8 until they are on the device.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge.contract.audio import Image
from edge.contract.taxonomy import Taxonomy
from trainer.corpus.recordings import Recording
from trainer.corpus.spectrograms import CacheEntry
from trainer.recipe import LabelRecipe, SamplingRecipe

Ints = NDArray[np.int64]
ImagePlace = Literal["device memory", "memory", "disk"]

# Of an unrated recording: a rating of 0 means "not rated" (as in the second-placed solution of
# 2021).
_WEIGHT_MIN = 0.1
_ON_DEVICE_SHARE = 0.4  # of the free device memory, for the images
_IN_MEMORY_SHARE = 0.7  # of the available memory; the page cache keeps them while there is room


@dataclass(frozen=True)
class CropSet:
    """Recordings with images: the positions of these, and labels. Arrays with one row per
    recording."""

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
    entries: Sequence[CacheEntry],
    recordings: Sequence[Recording],
    folds: dict[str, int],
    taxonomy: Taxonomy,
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
        weight=np.maximum(rating / max(float(rating.max(initial=0.0)), 1.0), _WEIGHT_MIN).astype(
            np.float32
        ),
    )


def targets(
    crops: CropSet, chosen: Ints, labels: LabelRecipe, calls: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Targets `(n, species)` of the recordings `chosen` `(n,)`: primary, secondary, other. `calls`
    `(n,)`, the probability of a call in each sample, multiplies the first two, down to
    `labels.other` (as in the winning solution of 2021)."""
    values = np.where(crops.secondary[chosen], labels.secondary, labels.other).astype(np.float32)
    values[np.arange(len(chosen)), crops.primary[chosen]] = labels.primary
    if calls is not None:
        values = np.where(
            values > labels.other, np.maximum(values * calls[:, None], labels.other), values
        )
    return values


def epoch_crops(
    crops: CropSet, sampling: SamplingRecipe, rng: np.random.Generator, clip_crops: int = 1
) -> tuple[Ints, Ints]:
    """One epoch in random order: recordings `(n,)` as rows of `crops`, and their images `(n,
    clip_crops)`, consecutive ones of the recording, wrapping around if it has fewer.

    A species with r recordings gets a share of the draws in proportion to r^(1 - balance). Its
    recordings take turns, so that with balance 0 each is drawn exactly `crops_per_recording` times;
    each turn takes different crops.
    """
    total = len(crops) * sampling.crops_per_recording
    recordings = np.bincount(crops.primary, minlength=crops.classes).astype(float)
    share = np.where(recordings > 0, np.maximum(recordings, 1) ** (1.0 - sampling.balance), 0.0)
    draws = np.rint(total * share / share.sum()).astype(int)
    chosen = []
    turn = []
    for species in np.flatnonzero(draws):
        order = rng.permutation(np.flatnonzero(crops.primary == species))
        position = np.arange(draws[species])
        chosen.append(order[position % len(order)])
        turn.append(position // len(order))
    recording = np.concatenate(chosen)
    turns = np.concatenate(turn)
    starts = np.maximum(crops.count - clip_crops + 1, 1)
    offset = (rng.random(len(crops)) * starts).astype(np.int64)
    start = (offset[recording] + turns) % starts[recording]
    in_recording = (start[:, None] + np.arange(clip_crops)) % crops.count[recording, None]
    image = crops.first[recording, None] + in_recording
    shuffled = rng.permutation(len(recording))
    return recording[shuffled], image[shuffled]


def first_crops(crops: CropSet, crops_max: int) -> tuple[Ints, Ints]:
    """The first `crops_max` crops of every recording, in order: recordings `(n,)` and images
    `(n,)`."""
    count = np.minimum(crops.count, crops_max)
    recording = np.repeat(np.arange(len(crops)), count)
    turn = np.arange(len(recording)) - np.repeat(np.cumsum(count) - count, count)
    return recording, crops.first[recording] + turn


def on_host(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A host array as a tensor ready to be copied to the device: pinned for a GPU, so that the copy
    is asynchronous."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory()


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A host array as a tensor on the device; the host does not wait for the GPU."""
    return on_host(array, device).to(device, non_blocking=True)


class Images(Protocol):
    """A source of images in two steps: `gather` on the host, in any thread, then `place` on the
    device."""

    held: ImagePlace

    def gather(self, rows: Ints) -> Tensor:
        """The input of `place` for rows `(n, c)`."""

    def place(self, gathered: Tensor) -> Tensor:
        """Images uint8 `(n, c, 128, 281)` on the device; the host does not wait for it."""


class DeviceImages:
    """All images in device memory: a batch costs one gather there."""

    held: ImagePlace = "device memory"

    def __init__(self, images: Image, device: torch.device) -> None:
        self._images = torch.empty(images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(images), 4096):  # in parts, without a second copy on the host
            # torch does not take read-only arrays
            part = np.array(images[start : start + 4096])
            self._images[start : start + len(part)] = torch.from_numpy(part).to(device)

    def gather(self, rows: Ints) -> Tensor:
        return on_host(rows, self._images.device)

    def place(self, gathered: Tensor) -> Tensor:
        return self._images[gathered.to(self._images.device, non_blocking=True)]


class HostImages:
    """Images in the page cache or on disk, gathered on the host; copied to a GPU from pinned
    memory."""

    def __init__(self, images: Image, device: torch.device, held: ImagePlace = "memory") -> None:
        self._images = images
        self._device = device
        self.held = held

    def gather(self, rows: Ints) -> Tensor:
        flat = rows.ravel()
        order = np.argsort(flat)  # ascending reads are sequential reads
        batch = np.empty((len(flat), *self._images.shape[1:]), np.uint8)
        batch[order] = self._images[flat[order]]
        return on_host(batch.reshape(*rows.shape, *batch.shape[1:]), self._device)

    def place(self, gathered: Tensor) -> Tensor:
        return gathered.to(self._device, non_blocking=True)


def open_images(images: Image, device: torch.device) -> Images:
    """Open memory-mapped images in device memory if they fit well; otherwise on the host. If they
    fit into its memory they are read at once into the page cache, which all workers of a machine
    share."""
    if (
        device.type == "cuda"
        and images.nbytes < _ON_DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    ):
        return DeviceImages(images, device)
    if images.nbytes > _IN_MEMORY_SHARE * available_bytes():
        return HostImages(images, device, "disk")
    images.reshape(-1)[:: mmap.PAGESIZE].max(initial=0)  # a byte of every page
    return HostImages(images, device, "memory")


def images_line(images: Image, devices: Sequence[str]) -> str:
    """A line on the place where `open_images` will keep the images for members on these devices."""
    size = f"images: {images.nbytes / 1e9:.1f} GB"
    free = available_bytes()
    held = f"{free / 1e9:.1f} GB of memory available"
    if images.nbytes > _IN_MEMORY_SHARE * free:
        host = (
            f"read from disk as needed, since they take more than {_IN_MEMORY_SHARE:.0%} of {held}"
        )
    else:
        host = f"read into memory before training ({held})"
    gpus = sorted({name for name in devices if name != "cpu"})
    if gpus:
        most = f"{_ON_DEVICE_SHARE:.0%} of its free memory"
        host = f"held by {', '.join(gpus)} if they take less than {most}, else {host}"
    return f"{size}, {host}"


def available_bytes() -> int:
    """Memory that is available without swapping, including the page cache."""
    with Path("/proc/meminfo").open(encoding="ascii") as file:
        return next(
            int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")
        )
