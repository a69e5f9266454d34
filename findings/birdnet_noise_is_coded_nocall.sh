#!/usr/bin/env bash
# birdnet-analyzer 2.4.0: the class "Noise" is coded `nocall` in the table that turns BirdNET's labels into eBird's codes.
#
# BirdCLEF and those who score by its rules write `nocall` for a stretch in which no bird calls; it excludes all species.
# BirdNET has a class of its own for noise, one of 6,522, that can be heard together with birds. Whoever names detections by
# this table writes rows such as "nocall amerob", which row-wise F1 counts as a wrong label, and every noisy row without a
# bird as rightly empty. The table holds both directions in one dictionary, label to code and code to label.
#
# Seen with Python 3.11: eBird_taxonomy_codes_2024E.json maps "Noise_Noise" to "nocall", and "nocall" to "Noise_Noise".
#
# Ends with 0 if it is still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps birdnet-analyzer==2.4.0 -d "$folder"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
import zipfile
from pathlib import Path

wheel = zipfile.ZipFile(next(Path().glob("birdnet_analyzer-*.whl")))
codes = json.loads(wheel.read("birdnet_analyzer/eBird_taxonomy_codes_2024E.json"))
found = {key: value for key, value in codes.items() if "nocall" in (key, value)}
print(len(codes), "entries;", found)
assert found == {"Noise_Noise": "nocall", "nocall": "Noise_Noise"}, "no longer so"
PY
