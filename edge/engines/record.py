"""engine.json: which engines lie in a folder, of which networks, for which machine, and how well
they did.

`python -m export trt` writes it, a station reads it. An engine is machine code: none is loaded that
is not recorded here with its digest.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edge.contract.bundle import Bundle, BundleMember, file_sha256
from edge.contract.errors import EngineError
from edge.contract.strict import SchemaError, parse
from edge.engines.device import Device

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
    wanted_sha256: str  # of the one that was tried first: another where half precision failed
    # relative to the folder; carries a piece of its digest, so an engine in use is never written
    # over
    file: str
    sha256: str
    bytes: int
    batch_max: int
    workspace_mib: int
    build_s: float
    build_peak_mb: float  # resident memory of the process that compiled it, 10⁶ bytes
    parity_max: float  # largest and mean |Δscore| against torch float32, over the bundle's probe
    parity_mean: float
    p50_ms: float  # one window, the copies of image and scores included
    p95_ms: float
    note: str | None = None  # why it is not what was asked for
    builder: Builder = "tensorrt"  # which of NVIDIA's interfaces compiled it


@dataclass(frozen=True)
class EngineRecord:
    """What engine.json says. Complete when every network of the bundle is there."""

    bundle: str  # its id, for people; networks are told by their digests
    device: Device
    members: tuple[EngineMember, ...]
    schema: int = SCHEMA

    def write(self, folder: Path) -> None:
        """Write engine.json, whole or not at all."""
        temporary = folder / f".{FILE}"
        temporary.write_text(
            json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf8"
        )
        temporary.replace(folder / FILE)


def read_record(folder: Path) -> EngineRecord | None:
    """What a folder's engine.json says; None if there is none. Raises EngineError if it cannot be
    used."""
    path = folder / FILE
    try:
        raw: Any = json.loads(path.read_text(encoding="utf8"))
        found = raw.get("schema") if isinstance(raw, dict) else None
        if found != SCHEMA:
            raise EngineError(
                f"{path}: schema {found!r}; this version reads {SCHEMA}; run python -m export trt "
                f"again"
            )
        record: EngineRecord = parse(EngineRecord, raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # Refused is a ValueError
        reason = error if isinstance(error, SchemaError) else f"not readable: {error}"
        raise EngineError(f"{path}: {reason}; run python -m export trt again") from error
    return record


def engines_for(
    record: EngineRecord,
    bundle: Bundle,
    networks: Sequence[BundleMember],
    device: Device,
    folder: Path,
) -> list[EngineMember]:
    """The recorded engines of these of the bundle's networks, in their order. Raises EngineError,
    one line, if they were compiled for another machine or of other networks, or if a file is not
    the one that was recorded."""
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
                f"{folder / FILE}: member {member.name} was compiled of another network; {again}"
            )
        if not is_whole(folder, engine):
            raise EngineError(
                f"{folder / engine.file}: missing, or not the engine that was recorded; {again}"
            )
        found.append(engine)
    return found


def is_whole(folder: Path, engine: EngineMember) -> bool:
    """Whether the engine's file is there and the one that was recorded."""
    path = folder / engine.file
    return (
        Path(engine.file).name == engine.file
        and path.is_file()
        and file_sha256(path) == engine.sha256
    )
