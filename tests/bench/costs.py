"""One round of costs of one part, as JSON: what `python -m tests.bench --before REV` runs in turn
in two trees.

python -m tests.bench.costs images|decoding|replay|training [--quick]
"""

import argparse
import importlib
import json
from pathlib import Path

import edge

PARTS = ("images", "decoding", "replay", "training")


def main() -> None:
    """Print {what: cost}; less is better."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    found = Path(edge.__file__).parents[1]
    assert found == Path.cwd(), f"the code of {Path.cwd()} is to be measured, not that of {found}"
    print(
        json.dumps(importlib.import_module(f"tests.bench.{arguments.part}").costs(arguments.quick))
    )


if __name__ == "__main__":
    main()
