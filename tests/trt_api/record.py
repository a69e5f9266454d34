"""Writes the tables beside it: every public name of the classes that we use, from NVIDIA's own
Python bindings.

python tests/trt_api/record.py VERSION FOLDER OUT

FOLDER is an unpacked wheel (pip download --no-deps tensorrt_cu12_bindings==10.3.0; unzip); `rtx` as
VERSION takes the TensorRT for RTX that is installed, wherever FOLDER is. The libraries are not on
PyPI and want a GPU; the bindings import all the same beside empty ones that have the nine names
they look for, which this makes with gcc.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
    "createNvOnnxParser_INTERNAL createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion "
    "getBuilderPluginRegistry getPluginRegistry initLibNvInferPlugins"
)
CLASSES = (
    "Builder INetworkDefinition OnnxParser ParserError IBuilderConfig IOptimizationProfile "
    "ITimingCache IHostMemory Runtime ICudaEngine IExecutionContext Logger ITensor "
    "NetworkDefinitionCreationFlag MemoryPoolType BuilderFlag ExecutionContextAllocationStrategy "
    "TensorIOMode DataType"
)


def names_of(trt: Any) -> list[str]:
    """Public names of the module, and of the classes, with their class."""
    found = {name for name in dir(trt) if not name.startswith("_")}
    for name in CLASSES.split():
        found |= {
            f"{name}.{member}" for member in dir(getattr(trt, name)) if not member.startswith("_")
        }
    return sorted(found)


def _empty_libraries(folder: Path, major: str) -> None:
    source = folder / "empty.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in _SYMBOLS.split()))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        target = folder / f"lib{library}.so.{major}"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(target), str(source)], check=True)


def _load(version: str, folder: Path) -> Any:
    if version == "rtx":
        return importlib.import_module("tensorrt_rtx")
    path = str(folder / "tensorrt_bindings" / "tensorrt.so")
    loader = importlib.machinery.ExtensionFileLoader("tensorrt", path)
    spec = importlib.util.spec_from_file_location("tensorrt", path, loader=loader)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    version = sys.argv[1]
    folder = Path(sys.argv[2])
    out = Path(sys.argv[3])
    # the loader reads its path only when a program starts
    if version != "rtx" and "LIBRARIES" not in os.environ:
        with tempfile.TemporaryDirectory() as libraries:
            _empty_libraries(Path(libraries), version.partition(".")[0])
            environment = os.environ | {"LD_LIBRARY_PATH": libraries, "LIBRARIES": libraries}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    out.write_text("\n".join(names_of(_load(version, folder))) + "\n")


if __name__ == "__main__":
    main()
