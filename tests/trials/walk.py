"""Random walks over edits: after each, fit-all equals a run made from scratch, and made nothing
again for nothing.

    python -m tests.trials.walk --steps 200 --seeds 5 [--first 1] [--minutes M]

A line for each step; Ctrl-C, or the end of the minutes, ends it with the counts so far. Exits 1 and
says what is wrong if anything is.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.helpers.trainer_ground import make_ground
from tests.helpers.trainer_steps import Tally, Walk
from tests.helpers.trainer_walk import here


def main() -> None:
    """Walk, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=200, help="of each seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    asked = parser.parse_args()
    end = time.monotonic() + 60 * asked.minutes
    tallies = dict[int, Tally]()
    with here(), suppress(KeyboardInterrupt):
        for seed in range(asked.first, asked.first + asked.seeds):
            if time.monotonic() < end:
                _walk(seed, asked.steps, end, tallies)
    _tell(tallies)
    sys.exit(any(tally.wrong for tally in tallies.values()))


def _walk(seed: int, steps: int, end: float, tallies: dict[int, Tally]) -> None:
    with tempfile.TemporaryDirectory(prefix="walk-") as home:
        walk = Walk(make_ground(Path(home)), seed)
        tallies[seed] = walk.tally
        try:
            while walk.tally.steps < steps and time.monotonic() < end:
                begin = time.monotonic()
                before = walk.tally.edits.copy()
                wrong = len(walk.tally.wrong)
                walk.step()
                edits = ", ".join(walk.tally.edits - before)
                print(
                    f"seed {seed}, step {walk.tally.steps}: {edits}; "
                    f"{time.monotonic() - begin:.1f} s",
                    flush=True,
                )
                for line in walk.tally.wrong[wrong:]:
                    print(f"  WRONG {line}", flush=True)
        finally:
            walk.close()


def _tell(tallies: dict[int, Tally]) -> None:
    edits = Counter[str]()
    made = Counter[str]()
    refused = Counter[str]()
    for tally in tallies.values():
        edits += tally.edits
        made += tally.made
        refused += tally.refused
    numbers = {
        name: sum(getattr(t, name) for t in tallies.values())
        for name in ("steps", "trained", "scratch", "kills")
    }
    print(f"\n{len(tallies)} seeds: {', '.join(f'{name} {n}' for name, n in numbers.items())}")
    for what, counts in (("edits", edits), ("stages made again", made), ("refused", refused)):
        print(f"{what}: {counts.total()}")
        for name, count in counts.most_common():
            print(f"  {count:4} {name}")
    wrong = [f"seed {seed}: {line}" for seed, tally in tallies.items() for line in tally.wrong]
    print(f"wrong: {len(wrong)}", *wrong, sep="\n  ")


if __name__ == "__main__":
    main()
