"""From a corpus of recordings to a Run: folds, members, metadata model, weights, threshold,
report."""

import os

# else ONNX Runtime reports to its makers: a station calls nobody
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
