"""Result of one check, with advice, and tables of results. Knows nothing of what is checked."""

import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from edge.contract.errors import EXIT_CONFIG, BirdstationError, BundleError, ConfigError

CheckVerdict = Literal["ok", "warning", "bad"]
VERDICTS: tuple[CheckVerdict, ...] = ("ok", "warning", "bad")
Figures = Mapping[str, float | str | None]
EXIT_BAD = 1
_COLOURS = {"ok": "green", "warning": "yellow", "bad": "red"}


@dataclass(frozen=True)
class CheckResult:
    """One row. `advice`: one sentence on what to do, empty if nothing is to be done."""

    name: str
    verdict: CheckVerdict
    found: str
    advice: str = ""
    stops: bool = False  # True: with this setting or bundle the station does not start
    figures: Figures = field(default_factory=dict)  # the result in numbers, for programs


def attempt(
    name: str, advice: str, check: Callable[[], Iterable[CheckResult]]
) -> list[CheckResult]:
    """Rows of a check; if it raises an error, one row with the text of that."""
    try:
        return list(check())
    except (BirdstationError, OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        stops = isinstance(error, ConfigError | BundleError)
        return [CheckResult(name, "bad", " ".join(str(error).split()), advice, stops=stops)]


def worst(checks: Iterable[CheckResult]) -> CheckVerdict:
    """The worst verdict of all."""
    return max((check.verdict for check in checks), key=VERDICTS.index, default="ok")


def exit_status(checks: Iterable[CheckResult]) -> int:
    """Exit status: 0 ready, perhaps with warnings; 1 something is bad; 78 a setting or the bundle
    is."""
    bad = [check for check in checks if check.verdict == "bad"]
    if any(check.stops for check in bad):
        return EXIT_CONFIG
    return EXIT_BAD if bad else 0


def checks_summary(checks: list[CheckResult]) -> dict[str, Any]:
    """JSON object of all results, for programs."""
    return {
        "verdict": worst(checks),
        "exit": exit_status(checks),
        "checks": [asdict(check) for check in checks],
    }


def checks_table(checks: list[CheckResult]) -> Table:
    """Table of all results for people, advice below each finding."""
    table = Table("what", "is", "found")
    for check in checks:
        found = escape(check.found) + (f"\n[b]→ {escape(check.advice)}[/b]" if check.advice else "")
        table.add_row(check.name, f"[{_COLOURS[check.verdict]}]{check.verdict}[/]", found)
    return table
