"""Whether a model knows invented birds alone, and the words that say so wherever its results are
shown.

It is known by its species, which are those of the bundle that ships: so the words are no part of
any bundle's id, and a model that was trained on the synthetic corpus has them too. Knows no sound
and no record.
"""

import json
from functools import cache

from edge.config import DEMO_FOLDER

NOTICE = "demonstration model: eight invented birds, no real one"
REMEDY = "For real birds: make birds, or name your own model as bundle: in station.yaml"


def notice_of(taxonomy_digest: str | None) -> str | None:
    """What is to be said of a model with these species (`Manifest.taxonomy_digest`); None:
    nothing."""
    return NOTICE if taxonomy_digest is not None and taxonomy_digest == _invented() else None


@cache
def _invented() -> str | None:
    try:
        manifest = json.loads((DEMO_FOLDER / "bundle" / "manifest.json").read_text(encoding="utf8"))
        return str(manifest["taxonomy_digest"])
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
    ):  # whoever needs that bundle says what is wrong with it
        return None
