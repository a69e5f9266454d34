"""One random stream per name, so that any file of the corpus can be reproduced on its own, bit for
bit."""

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The random generator for `names` and `seed`: `stream(1, "recording", "XC9000001")`."""
    text = "\x1f".join([str(seed), *map(str, names)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
