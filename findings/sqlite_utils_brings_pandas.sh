#!/usr/bin/env bash
# sqlite-utils 4.2.1: importing it imports pandas wherever pandas is installed, and so numpy and pyarrow if they are there.
#
# It looks for pandas to accept its types as column types, at the head of its module. A small daemon that stores rows with
# sqlite-utils is small in an environment of its own; installed beside a trainer's libraries the same daemon takes some 50 MB
# more though nothing of it uses pandas.
#
# Seen with Python 3.11 on Debian 12: without pandas the import takes 15 MB; with pandas 2.2.3 in the environment `pandas` is
# in sys.modules after `import sqlite_utils`, and the same import takes 64 MB.
#
# Ends with 0 if it is still so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sqlite-utils==4.2.1
cd "$folder"
cat > look.py <<'PY'
import sys


def resident_mb() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


before = resident_mb()
import sqlite_utils  # noqa: E402, F401

print("pandas" in sys.modules, f"{resident_mb() - before:.0f} MB")
PY
alone=$("$folder/venv/bin/python" look.py)
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pandas==2.2.3 numpy==2.2.6
beside=$("$folder/venv/bin/python" look.py)
echo "alone: pandas imported: $alone; beside pandas: $beside"
[[ "$alone" == False* && "$beside" == True* ]] || { echo "no longer so"; exit 1; }
