"""The notice that is shown with all results of a model whose birds are invented.

Such a model is recognised by its species, which are those of the bundle that ships. So the notice
is not part of a bundle's id, and models that were trained on the synthetic corpus get it too. Knows
no sound and no record.
"""

import json
from functools import cache

from edge.config import DEMO_FOLDER

NOTICE = "demonstration model: eight invented birds, no real one"
REMEDY = "For real birds: make birds, or name your own model as bundle: in station.yaml"


def notice_of(taxonomy_digest: str | None) -> str | None:
    """Notice for a model with these species (`Manifest.taxonomy_digest`); None: no notice."""
    return NOTICE if taxonomy_digest is not None and taxonomy_digest == _invented() else None


@cache
def _invented() -> str | None:
    try:
        manifest = json.loads((DEMO_FOLDER / "bundle" / "manifest.json").read_text(encoding="utf8"))
        return str(manifest["taxonomy_digest"])
    except (OSError, ValueError, LookupError, TypeError):  # reported where that bundle is used
        return None
