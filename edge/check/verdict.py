"""What one check found and what to do about it. Knows nothing of what is checked."""

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
    """One row. `advice` is one sentence on what to do; empty where all is well."""

    name: str
    verdict: CheckVerdict
    found: str
    advice: str = ""
    stops: bool = False  # a setting or bundle with which the station does not start
    figures: Figures = field(default_factory=dict)  # the same in numbers, for programs


def attempt(
    name: str, advice: str, check: Callable[[], Iterable[CheckResult]]
) -> list[CheckResult]:
    """The rows of a check; where it fails, one that says of what, in the system's own words."""
    try:
        return list(check())
    except (BirdstationError, OSError, sqlite3.Error, subprocess.SubprocessError) as error:
        stops = isinstance(error, ConfigError | BundleError)
        return [CheckResult(name, "bad", " ".join(str(error).split()), advice, stops=stops)]


def worst(checks: Iterable[CheckResult]) -> CheckVerdict:
    """The worst verdict of them."""
    return max((check.verdict for check in checks), key=VERDICTS.index, default="ok")


def exit_status(checks: Iterable[CheckResult]) -> int:
    """0 fit, perhaps with warnings; 1 something is bad; 78 it is a setting or the bundle."""
    bad = [check for check in checks if check.verdict == "bad"]
    if any(check.stops for check in bad):
        return EXIT_CONFIG
    return EXIT_BAD if bad else 0


def checks_summary(checks: list[CheckResult]) -> dict[str, Any]:
    """For programs."""
    return {
        "verdict": worst(checks),
        "exit": exit_status(checks),
        "checks": [asdict(check) for check in checks],
    }


def checks_table(checks: list[CheckResult]) -> Table:
    """For people; advice stands below what was found."""
    table = Table("what", "is", "found")
    for check in checks:
        found = escape(check.found) + (f"\n[b]→ {escape(check.advice)}[/b]" if check.advice else "")
        table.add_row(check.name, f"[{_COLOURS[check.verdict]}]{check.verdict}[/]", found)
    return table
