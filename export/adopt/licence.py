"""The licence of a published model, shown and accepted before the model is used."""

import sys
from datetime import date

from edge.contract.bundle import Licence
from edge.contract.errors import ConfigError
from edge.contract.screen import say
from export.adopt.known import KnownModel


def accept_licence(known: KnownModel, accepted: str | None) -> Licence:
    """Show the licence in two lines. It is accepted by its SPDX name in `accepted`, or typed at a
    terminal. Raises ConfigError if it is not accepted."""
    terms = known.licence
    say(f"{known.title}: {terms.spdx}, {terms.holder}; {terms.in_short}", file=sys.stderr)
    say(f"{terms.terms}; attribution for results: {terms.attribution}", file=sys.stderr)
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
