"""Where tests of what runs on the device run: always on the CPU, on a GPU too where there is
one."""

import numpy as np
import torch

from trainer.training.augment import Dice

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def dice(device: str = "cpu", seed: int = 0) -> Dice:
    return Dice(np.random.default_rng(seed), torch.Generator(device).manual_seed(seed))
