"""From a corpus of recordings to a Run: folds, members, metadata model, weights, threshold,
report."""

import os

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # else ONNX Runtime reports to its makers: a station calls nobody
