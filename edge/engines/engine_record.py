"""engine.json: the engines in a folder, their networks, their machine, and their accuracy and
speed.

`python -m export trt` writes it, a station reads it. An engine is machine code: none is loaded that
is not recorded here with its digest.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from edge.contract.bundle import Bundle, BundleMember, file_sha256
from edge.contract.errors import EngineError
from edge.engines.device import Device
from edge.engines.record_file import read_record_file

FILE = "engine.json"
SCHEMA = 1
Precision = Literal["fp32", "fp16"]
Builder = Literal["tensorrt", "torch-tensorrt"]


@dataclass(frozen=True)
class EngineMember:
    """One network's engine: a member's or the student's."""

    name: str
    precision: Precision
    onnx_sha256: str  # of the bundle's file that was compiled
    wanted_sha256: str  # of the file that was tried first; another if half precision failed
    # relative to the folder; contains part of its digest, so that an engine in use is never
    # overwritten
    file: str
    sha256: str
    bytes: int
    batch_max: int
    workspace_mib: int
    build_s: float
    build_peak_mb: float  # resident memory of the compiling process, 10⁶ bytes
    # largest and mean |Δscore| against torch float32, over the bundle's probe
    parity_max: float
    parity_mean: float
    p50_ms: float  # of one window, with the copies of image and scores
    p95_ms: float
    note: str | None = None  # reason why it is not as requested
    builder: Builder = "tensorrt"  # NVIDIA's interface that compiled it


@dataclass(frozen=True)
class EngineRecord:
    """Contents of engine.json. Complete when it has every network of the bundle."""

    bundle: str  # its id, for people; networks are identified by their digests
    device: Device
    members: tuple[EngineMember, ...]
    schema: int = SCHEMA

    def write(self, folder: Path) -> None:
        """Write engine.json, completely or not at all."""
        temporary = folder / f".{FILE}"
        temporary.write_text(
            json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf8"
        )
        temporary.replace(folder / FILE)


def read_record(folder: Path) -> EngineRecord | None:
    """The engine.json of a folder; None if there is none. Raises EngineError if it cannot be
    used."""
    return read_record_file(folder / FILE, EngineRecord, SCHEMA, "python -m export trt")


def engines_for(
    record: EngineRecord,
    bundle: Bundle,
    networks: Sequence[BundleMember],
    device: Device,
    folder: Path,
) -> list[EngineMember]:
    """The recorded engines of these networks of the bundle, in their order.

    Raises EngineError, one line, if they were compiled for another machine or from other networks,
    or if a file is not the recorded one.
    """
    again = "run python -m export trt again"
    refused = device.refuses(record.device)
    if refused:
        raise EngineError(f"{folder / FILE}: {refused}; {again}")
    recorded = {member.name: member for member in record.members}
    found = []
    for member in networks:
        engine = recorded.get(member.name)
        if engine is None:
            raise EngineError(f"{folder / FILE}: no engine of member {member.name}; {again}")
        source = member.half if engine.precision == "fp16" else member.file
        if source is None or file_sha256(bundle.folder / source) != engine.onnx_sha256:
            raise EngineError(
                f"{folder / FILE}: member {member.name} was compiled from another network; {again}"
            )
        if not is_whole(folder, engine):
            raise EngineError(
                f"{folder / engine.file}: missing, or not the recorded engine; {again}"
            )
        found.append(engine)
    return found


def is_whole(folder: Path, engine: EngineMember) -> bool:
    """True if the engine's file is there and is the recorded one."""
    path = folder / engine.file
    return (
        Path(engine.file).name == engine.file
        and path.is_file()
        and file_sha256(path) == engine.sha256
    )
