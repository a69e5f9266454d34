"""Export: from a Run to a Bundle, and from a Bundle to engines for a device."""

import os

# ONNX Runtime sends telemetry to its makers otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
