"""JSON files in which `python -m export` leaves what a station reads about its engines. Knows no
engine."""

import json
from pathlib import Path
from typing import Any, TypeVar

from edge.contract.errors import EngineError
from edge.contract.strict import SchemaError, parse

Record = TypeVar("Record")


def read_record_file(path: Path, kind: type[Record], schema: int, command: str) -> Record | None:
    """The contents of a file as a `kind`; None if there is no file. Raises EngineError, which says
    to run `command` again, if it cannot be used."""
    advice = f"run {command} again"
    try:
        raw: Any = json.loads(path.read_text(encoding="utf8"))
        found = raw.get("schema") if isinstance(raw, dict) else None
        if found != schema:
            raise EngineError(f"{path}: schema {found!r}; this version reads {schema}; {advice}")
        record: Record = parse(kind, raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # SchemaError is a ValueError
        reason = error if isinstance(error, SchemaError) else f"not readable: {error}"
        raise EngineError(f"{path}: {reason}; {advice}") from error
    return record
