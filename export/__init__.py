"""From a Run to a Bundle, and from a Bundle to what a device runs."""

import os

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # else ONNX Runtime reports to its makers: a station calls nobody
