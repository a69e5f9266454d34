"""birdstation on the device: sound in, trustworthy records out."""

import os

# else ONNX Runtime reports to its makers: a station calls nobody
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
