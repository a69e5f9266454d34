"""From a corpus of recordings to a Run: folds, members, metadata model, weights, threshold,
report."""

import os

# ONNX Runtime sends telemetry to its makers otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
