"""Properties of this machine on which a compiled engine depends. Knows no engine."""

import importlib
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.contract.errors import EngineError
from edge.engines.cuda import Cuda

_ASKED_S_MAX = 10.0


@dataclass(frozen=True)
class Device:
    """A GPU with its software. None: not a Jetson, or unknown."""

    tensorrt: str  # with build number, e.g. 10.3.0.30
    compute_capability: str
    gpu: str
    board: str | None  # e.g. NVIDIA Jetson Orin Nano Developer Kit
    cuda: str
    driver: str  # the CUDA version that the driver supports
    l4t: str | None  # e.g. R36 (release), REVISION: 4.3
    power_mode: str | None  # affects only the speed

    def refuses(self, other: "Device") -> str | None:
        """The reason why an engine compiled on `other` does not run here; None if it does."""
        for key, name in _DECIDES.items():
            here = getattr(self, key)
            there = getattr(other, key)
            if here != there:
                return f"compiled for {name} {there}, but this machine has {here}"
        return None


# Plans are not portable between machines that differ in these, nor is the fastest kernel the same.
_DECIDES = {
    "tensorrt": "TensorRT",
    "compute_capability": "compute capability",
    "gpu": "GPU",
    "board": "board",
}


def import_tensorrt() -> Any:
    """NVIDIA's module. Raises EngineError if it is not installed or its libraries are not found."""
    try:  # only needed with a GPU, so not imported at the top
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(
            f"TensorRT is missing ({reason}); docs/jetson.md explains how to install it"
        ) from None


def this_device(trt: Any, cuda: Cuda, root: Path = Path("/")) -> Device:
    """This machine; `root` is its file system. Raises EngineError if CUDA does not answer."""
    gpu, capability = cuda.gpu()
    runtime, driver = cuda.versions()
    board = board_of(root)
    l4t = l4t_of(root)
    mode = power_mode()
    return Device(str(trt.__version__), capability, gpu, board, runtime, driver, l4t, mode)


def board_of(root: Path) -> str | None:
    """Name of this board in the device tree."""
    return _first_line(root / "proc/device-tree/model")


def l4t_of(root: Path) -> str | None:
    """The release of Linux for Tegra, e.g. `R36 (release), REVISION: 4.3`."""
    line = _first_line(root / "etc/nv_tegra_release")
    return ", ".join(part.strip() for part in line.lstrip("# ").split(",")[:2]) if line else None


def power_mode() -> str | None:
    """Name of the current nvpmodel mode, e.g. 15W."""
    with suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=_ASKED_S_MAX
        )
        for line in asked.stdout.splitlines():
            if line.startswith("NV Power Mode:"):
                return line.partition(":")[2].strip()
    return None


def _first_line(path: Path) -> str | None:
    with suppress(OSError):
        text = path.read_bytes().decode("utf8", "replace").strip("\0\n ")
        return text.splitlines()[0] if text else None
    return None
