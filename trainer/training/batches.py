"""Batches prepared ahead of the training loop in a thread, so that the device need not wait for the
next one.

Order and contents are the same as without a thread. Knows no images and no network.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.training.dataset import Ints

_AHEAD = 4  # batches of 64 grey images are 2.3 MB each


@dataclass(frozen=True)
class Batch:
    """The samples of one step, on the host, ready to be copied to the device."""

    rows: Ints  # (n, c) index into images.npy
    images: Tensor  # the input of `Images.place`
    target: Tensor  # (n, species)
    weight: Tensor  # (n,)


class Batches:
    """Yields `make(0)`, `make(1)`, … for all `steps`, made in another thread; `waited_s` is the
    time that the consuming loop had to wait. With a GPU this is an upper bound of the GPU's idle
    time, since it has work queued."""

    def __init__(self, make: Callable[[int], Batch], steps: int, device: torch.device) -> None:
        self._make = make
        self._steps = steps
        self._device = device
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, "batches", self._begin) as thread:
            made: deque[Future[Batch]] = deque()
            for step in range(min(_AHEAD, self._steps)):
                made.append(thread.submit(self._make, step))
            for step in range(self._steps):
                begin = time.monotonic()
                batch = made.popleft().result()
                self.waited_s += time.monotonic() - begin
                if step + _AHEAD < self._steps:
                    made.append(thread.submit(self._make, step + _AHEAD))
                yield batch

    def _begin(self) -> None:
        if self._device.type == "cuda":
            # Pinned memory belongs to a device, and a new thread starts with the first device.
            torch.cuda.set_device(self._device)
