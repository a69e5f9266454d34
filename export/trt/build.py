"""Builds the engines of a bundle, member by member, each in its own process, and records them in
engine.json.

Existing engines that still fit are kept, so an interrupted build resumes, and a finished one ends
at once.
"""

import fcntl
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from edge.contract.bundle import Bundle
from edge.contract.errors import EXIT_CONFIG, BundleError, EngineError, UsageError
from edge.contract.folders import entries_of
from edge.engines.device import Device
from edge.engines.engine_record import FILE, EngineMember, EngineRecord, read_record
from export.parity import Parity, allowed
from export.trt.member import TIMING_CACHE, Request, tried
from export.trt.plan import WORKSPACE_MIB, SourceFile, Step
from trainer.files import check_writable

LOG = "build.log"
_BUILD_S_MAX = 3600.0  # for one attempt; a large member takes minutes on the smallest board
_LOG_BYTES_MAX = 10_000_000
# File names given by export.trt.member; other files are not ours.
_ENGINE = re.compile(r".+\.(fp16|fp32)\.[0-9a-f]{12}\.engine")


def build_engines(
    bundle: Bundle, steps: list[Step], device: Device, out: Path, tell: Callable[[str], None]
) -> EngineRecord:
    """Compile the members of the steps into `out` and add each to engine.json.

    Raises UsageError if `out` contains other files, BundleError if TensorRT does not support a
    member, EngineError if a member cannot be compiled with any workspace or is wrong even in
    float32.
    """
    check_out(out)
    check_writable(out)  # before minutes of compilation
    with _alone(out):
        return _build(bundle, steps, device, out, tell)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock a folder for one compiler: two would write the same files. The lock ends with the
    process."""
    log = out / LOG
    if log.is_file() and log.stat().st_size > _LOG_BYTES_MAX:
        log.unlink()
    with log.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait for it or choose another --out"
            raise UsageError(f"{out}: in use by another `export trt`; {advice}") from None
        yield


def _build(
    bundle: Bundle, steps: list[Step], device: Device, out: Path, tell: Callable[[str], None]
) -> EngineRecord:
    """Build the engines in a locked folder."""
    for step in steps:
        tried(out, step.member.name).unlink(missing_ok=True)  # left by a killed build
    members = {step.member.name: step.done for step in steps if step.done}
    for step in steps:
        if step.member.name not in members:
            tell(f"{step.member.name}: compiling")
            members[step.member.name] = _compile(bundle, step, out, tell)
        EngineRecord(bundle.id, device, tuple(members.values())).write(out)
    record = EngineRecord(bundle.id, device, tuple(members[step.member.name] for step in steps))
    record.write(out)
    _tidy(out, record)
    return record


def check_out(out: Path) -> None:
    """Raise UsageError unless a folder contains engines, the beginnings of some, or nothing."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out is the folder of the engines")
    names = [path.name for path in entries_of(out)] if out.exists() else []
    others = [
        name
        for name in names
        if name not in (FILE, LOG, TIMING_CACHE) and not _ENGINE.fullmatch(name)
    ]
    try:
        recorded = read_record(out) is not None
    except EngineError:  # of another version, or damaged
        recorded = False
    if others and not recorded:
        raise UsageError(
            f"{out}: contains {others[0]} and no engines; choose a new or empty folder for --out"
        )


def _compile(bundle: Bundle, step: Step, out: Path, tell: Callable[[str], None]) -> EngineMember:
    """Compile the first of the sources of a step that keeps parity."""
    note = None
    for source in step.sources:
        member = _compile_source(bundle, step, source, out, tell)
        apart = Parity(member.parity_max, member.parity_mean)
        if apart.holds(source.precision):
            return replace(member, wanted_sha256=step.sources[0].sha256, note=note)
        note = f"{source.precision}: {apart}; allowed is {allowed(source.precision)}"
        tell(f"{step.member.name}: {note}")
    raise EngineError(f"member {step.member.name}: TensorRT gives wrong scores: {note}")


def _compile_source(
    bundle: Bundle, step: Step, source: SourceFile, out: Path, tell: Callable[[str], None]
) -> EngineMember:
    reason = ""
    for workspace_mib in WORKSPACE_MIB:
        name = step.member.name
        request = Request(
            name=name,
            index=step.index,
            onnx=str(source.file),
            precision=source.precision,
            bundle=str(bundle.folder),
            out=str(out),
            batch_max=step.batch_max,
            workspace_mib=workspace_mib,
            builder=step.builder,
        )
        found = _serve_request(request, out / LOG)
        if isinstance(found, EngineMember):
            return found
        reason = found
        tell(f"{name} in {source.precision} with {workspace_mib} MiB of workspace: {reason}")
    raise EngineError(
        f"member {step.member.name} in {source.precision}: {reason}; TensorRT's full log: "
        f"{out / LOG}"
    )


def _serve_request(request: Request, log: Path) -> EngineMember | str:
    """Serve a request in a process. Returns the member, or the reason for its failure. Raises
    BundleError if another attempt cannot help."""
    command = [sys.executable, "-m", "export.trt.member", json.dumps(asdict(request))]
    with log.open("ab") as stderr:
        begin = stderr.tell()
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=stderr, timeout=_BUILD_S_MAX
            )
        except subprocess.TimeoutExpired:
            return f"not ready after {_BUILD_S_MAX:.0f} s"
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}" + (
            ", probably because memory ran out" if done.returncode == -9 else ""
        )
    if done.returncode:
        reason = _reason(log, begin)
        if done.returncode == EXIT_CONFIG:
            raise BundleError(f"member {request.name} in {request.precision}: {reason}")
        return reason
    try:
        return EngineMember(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError, TypeError) as error:
        return f"the compiling process gave no answer ({error})"


def _reason(log: Path, begin: int) -> str:
    """The last error of ours in the log of a process, followed by the last one of TensorRT."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf8", "replace").splitlines()
    ours = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    theirs = [" ".join(line.partition("[E]")[2].split()) for line in lines if "[E]" in line]
    return ": ".join(part for part in (*ours[-1:], *theirs[-1:]) if part) or (
        lines[-1] if lines else "no reason given"
    )


def _tidy(out: Path, record: EngineRecord) -> None:
    """Remove engines that are no longer recorded."""
    kept = {member.file for member in record.members}
    for path in out.glob("*.engine"):
        if path.name not in kept and _ENGINE.fullmatch(path.name):
            path.unlink()
