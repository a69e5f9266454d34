"""From a Run to a Bundle, and from a Bundle to what a device runs."""

import os

# else ONNX Runtime reports to its makers: a station calls nobody
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
