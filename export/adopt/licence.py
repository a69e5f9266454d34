"""A published model's licence, shown and accepted before anything is made of it."""

import sys
from datetime import date

from edge.contract.bundle import Licence
from edge.contract.errors import ConfigError
from edge.contract.screen import say
from export.adopt.known import KnownModel


def accept_licence(known: KnownModel, accepted: str | None) -> Licence:
    """Show the licence in two lines; accepted by `accepted`, its SPDX name, or typed at a terminal.
    Raises ConfigError else."""
    terms = known.licence
    say(f"{known.title}: {terms.spdx}, {terms.holder}; {terms.in_short}", file=sys.stderr)
    say(f"{terms.terms}; where results are shown, say: {terms.attribution}", file=sys.stderr)
    how = "--accept"
    if accepted is None and sys.stdin.isatty():
        say(f"Type {terms.spdx} to accept: ", end="", file=sys.stderr, flush=True)
        accepted = sys.stdin.readline().strip()
        how = "typed"
    if accepted != terms.spdx:
        found = f"found {accepted!r}; " if accepted else ""
        raise ConfigError(
            f"the licence is not accepted: {found}give --accept {terms.spdx} (to make: "
            f"ACCEPT={terms.spdx})"
        )
    today = date.today().isoformat()
    return Licence(
        terms.spdx, terms.holder, terms.attribution, terms.terms, f"{today}, {how} {terms.spdx}"
    )
