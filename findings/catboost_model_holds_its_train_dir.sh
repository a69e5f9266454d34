#!/usr/bin/env bash
# CatBoost 1.2.10: a saved model holds the absolute path of its `train_dir`, for good.
#
# `train_dir` says where logs and snapshots of a training go; a person sets it to keep them out of the way. The .cbm file
# and the JSON and ONNX exports keep it among the parameters of the training, as it was given: with an absolute path the
# names of the account and the project travel with every copy of the model, to wherever an ONNX file is deployed. Two
# trainings that differ in nothing else give files that differ, so that the sums of a reproducible training are not equal.
# `get_all_params`, where one would look, does not list it. A model trained without `train_dir` holds no path.
#
# Seen with Python 3.11 on Debian 12: the path is in model.cbm, model.json and model.onnx; the same seed in two folders:
# the .cbm files differ, and so do the .onnx files.
#
# Ends with 0 if it is still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check catboost==1.2.10 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

import numpy as np
from catboost import CatBoostClassifier

random = np.random.default_rng(0)
features = random.normal(size=(200, 4)).astype(np.float32)
label = (features[:, 0] > 0).astype(int) + (features[:, 1] > 0)
found = {}
for name in ("somebody", "another"):
    work = Path(name).resolve() / "train"
    work.mkdir(parents=True)
    model = CatBoostClassifier(iterations=5, loss_function="MultiClass", random_seed=1, train_dir=str(work), verbose=False)
    model.fit(features, label)
    files = {kind: Path(f"{name}.{kind}") for kind in ("cbm", "json", "onnx")}
    for kind, path in files.items():
        model.save_model(str(path), format=kind)
        inside = str(work).encode() in path.read_bytes().replace(b"\\/", b"/")
        print(f"{name}.{kind}: holds the path of train_dir: {inside}")
        found[name, kind] = inside
    print("get_all_params has train_dir:", "train_dir" in model.get_all_params())
same = {kind: Path(f"somebody.{kind}").read_bytes() == Path(f"another.{kind}").read_bytes() for kind in ("cbm", "onnx")}
print("equal files of two trainings that differ in train_dir alone:", same)
plain = CatBoostClassifier(iterations=5, loss_function="MultiClass", random_seed=1, verbose=False, allow_writing_files=False)
plain.fit(features, label)
plain.save_model("plain.cbm")
print("without train_dir:", str(Path.cwd()).encode() in Path("plain.cbm").read_bytes())
assert all(found.values()) and not any(same.values()), "no longer so"
PY
