"""Does the daemon cost more than it did: CPU, memory, and how late its rows are?

    python -m tests.trials.hearing_cost --before REV [--rounds 7] [--seconds 120]

In each round a daemon with the code of that commit and one with the code as it is now hear the same
virtual sound card (the demonstration's soundscapes, for ever) at the same time, so that whatever
else runs here is in the way of both. Printed: the share of one core, resident memory, and the time
from the end of a window to its row, of both, with the ratios by the rule of `make bench`. Ends with
1 if now takes over 2 % more CPU, or over 10 MB more memory, or if its rows come later than before
by over a tenth; "over" where the whole interval is. Wants what virtual_card.py wants.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.before import tree_of
from tests.bench.ratios import ROUNDS, Ratio
from tests.helpers.daemon import PROJECT, Daemon, Watched
from tests.helpers.sound_card import Card, forest, missing_programs
from tests.trials import above_zero

CPU_MAX = 1.02
MEMORY_MAX_MB = 10.0
LATER_MAX = 1.1
_BUNDLE = PROJECT / "edge/demo/bundle"
_SPARE_S = 60.0  # a round's starts and ends
_COSTS = {
    "CPU, % of one core": CPU_MAX,
    "end of window to row, median s": LATER_MAX,
    "p99 s": LATER_MAX,
}


def one_round(
    card: Card, folder: Path, trees: dict[str, Path], seconds: float
) -> dict[str, Watched]:
    """Both at once, begun in turn and measured over the same time."""
    folder.mkdir()
    with ExitStack() as stack:
        daemons = {
            name: stack.enter_context(
                Daemon(card, folder / name, _BUNDLE, health_s=10, project=tree)
            )
            for name, tree in trees.items()
        }
        for daemon in daemons.values():
            daemon.count_from_now()
        time.sleep(seconds)
    for name, daemon in daemons.items():
        assert daemon.seen.status == 0, f"{name}: {daemon.log.read_text()}"
    return {name: daemon.seen for name, daemon in daemons.items()}


def costs_of(seen: Watched) -> dict[str, float]:
    """What one daemon of one round took."""
    late = sorted(seen.commit_s)
    return {
        "CPU, % of one core": 100 * seen.cpu_share,
        "resident MB": seen.rss_mb,
        "end of window to row, median s": statistics.median(late),
        "p99 s": late[min(len(late) - 1, round(0.99 * len(late)))],
    }


def main() -> None:
    """Print a line for each daemon of each round, and what becomes of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", metavar="REV", required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=above_zero, default=120.0)
    arguments = parser.parse_args()
    if arguments.rounds < ROUNDS:
        parser.error(f"--rounds: expected {ROUNDS} or more, found {arguments.rounds}")
    if missing := missing_programs():
        sys.exit(missing)
    found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with (
        tree_of(arguments.before) as (tree, commit),
        tempfile.TemporaryDirectory(prefix="hearing-cost-") as name,
    ):
        folder = Path(name)
        with Card(folder) as card:
            card.play(
                forest(folder / "forest.wav", arguments.rounds * (arguments.seconds + _SPARE_S))
            )
            trees = [("before", tree), ("now", PROJECT)]
            for number in range(arguments.rounds):
                in_turn = dict(trees[:: -1 if number % 2 else 1])
                for side, seen in one_round(
                    card, folder / f"round{number}", in_turn, arguments.seconds
                ).items():
                    found[side].append(costs_of(seen))
                    print(
                        number + 1,
                        side,
                        {what: round(cost, 2) for what, cost in found[side][-1].items()},
                        flush=True,
                    )
    print(
        f"{commit[:9]} and now, {arguments.rounds} rounds of {arguments.seconds:g} s, both at once"
    )
    over = [worse(found, what) for what in _COSTS]
    sys.exit(1 if heavier(found) or any(over) else 0)


def worse(found: dict[str, list[dict[str, float]]], what: str) -> bool:
    """Print the ratio of a cost; whether it is over its bound."""
    now, before = ([costs[what] for costs in found[side]] for side in ("now", "before"))
    ratio = Ratio.of(now, before)
    medians = f"{statistics.median(before):.2f} -> {statistics.median(now):.2f}"
    print(f"{what}: {medians}, {ratio}, bound {_COSTS[what]:g}: {ratio.verdict(_COSTS[what])}")
    return ratio.low > _COSTS[what]


def heavier(found: dict[str, list[dict[str, float]]]) -> bool:
    """Print by how much now is larger; whether it is over the bound in the median."""
    both = zip(found["now"], found["before"], strict=True)
    more = sorted(now["resident MB"] - before["resident MB"] for now, before in both)
    median = statistics.median(more)
    print(
        f"resident memory: {median:+.1f} MB ({more[0]:+.1f} to {more[-1]:+.1f}), bound "
        f"{MEMORY_MAX_MB:g}"
    )
    return median > MEMORY_MAX_MB


if __name__ == "__main__":
    main()
