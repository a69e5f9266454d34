"""The species that a model knows, in the order of its outputs. Knows no scores and no names of
files."""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast, get_args

from edge.contract.errors import BundleError, ConfigError
from edge.contract.text import Table, TextError, is_printable, text_of

_CODE = re.compile(r"[a-z0-9_-]{2,32}")
_SHOWN_MAX = 60  # characters shown of a refused name
NOCALL = "nocall"  # the label of a row without birds; never a species
Kind = Literal["bird", "animal", "human", "sound"]


@dataclass(frozen=True)
class Species:
    """One class of the model: eBird-style code and its names."""

    code: str
    scientific_name: str
    common_name: str
    kind: Kind = "bird"


_NAMES = ("code", "scientific_name", "common_name")  # columns of every taxonomy


class Taxonomy:
    """Species in the order of the model's index. The digest changes with any code and with the
    order."""

    def __init__(self, species: Iterable[Species]) -> None:
        self.species = tuple(species)
        self.codes = tuple(s.code for s in self.species)
        self._index = {code: i for i, code in enumerate(self.codes)}
        if len(self._index) != len(self.codes):
            twice = next(code for i, code in enumerate(self.codes) if self._index[code] != i)
            raise ValueError(f"species code {twice!r} occurs twice in the taxonomy")
        for code in self.codes:
            if not _CODE.fullmatch(code) or code == NOCALL:
                raise ValueError(
                    f"species code {code!r}: 2 to 32 of a-z, 0-9, _ and -, and not {NOCALL!r}"
                )

    def __len__(self) -> int:
        return len(self.species)

    def __iter__(self) -> Iterator[Species]:
        return iter(self.species)

    def __getitem__(self, index: int) -> Species:
        return self.species[index]

    def __contains__(self, code: object) -> bool:
        return code in self._index

    def index(self, code: str) -> int:
        """Model index of a code. Raises KeyError if the model does not know it."""
        return self._index[code]

    @property
    def digest(self) -> str:
        """SHA-256 of the codes in order, which defines the meaning of a score vector."""
        return hashlib.sha256("\n".join(self.codes).encode()).hexdigest()

    def of_kind(self, kinds: Iterable[Kind]) -> list[int]:
        """Model indices of the classes of these kinds."""
        chosen = set(kinds)
        return [i for i, species in enumerate(self.species) if species.kind in chosen]

    def named(self, names: Mapping[str, str]) -> "Taxonomy":
        """The same species with common names by code; species without one in `names` keep their
        own."""
        return Taxonomy(
            replace(s, common_name=names.get(s.code) or s.common_name) for s in self.species
        )

    def write_csv(self, path: Path) -> None:
        """Write the file that `read_csv` reads; it has the column `kind` if any class is not a
        bird."""
        columns = (
            [f.name for f in fields(Species)]
            if any(s.kind != "bird" for s in self.species)
            else list(_NAMES)
        )
        with path.open("w", newline="", encoding="utf8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([getattr(s, name) for name in columns] for s in self.species)

    @classmethod
    def read_csv(cls, path: Path) -> "Taxonomy":
        """The taxonomy in a file. Raises BundleError naming the file if it is not one."""
        try:
            table = Table(text_of(path.read_bytes()), _NAMES)
            species = []
            for line, row in table:
                if not isinstance(row, dict):
                    raise TextError(
                        f"line {line}: expected {len(table.names)} cells, found {len(row)}"
                    )
                kind = row.get("kind", "bird")
                if kind not in get_args(Kind):
                    raise TextError(
                        f"line {line}: kind: expected {', '.join(get_args(Kind))}, found {kind!r}"
                    )
                _check_names(line, {name: row[name] for name in _NAMES})
                code, scientific, common = (row[name] for name in _NAMES)
                species.append(Species(code, scientific, common, cast(Kind, kind)))
            return cls(species)
        except (OSError, ValueError) as error:  # TextError is a ValueError
            raise BundleError(
                f"{path}: not a taxonomy (code, scientific_name, common_name): {error}"
            ) from error


def _check_names(line: int, names: Mapping[str, str]) -> None:
    """Check names, which appear on terminals, in logs and in messages. Raises TextError."""
    for column, name in names.items():
        if not is_printable(name):
            raise TextError(
                f"line {line}: {column}: expected printable text, found {name[:_SHOWN_MAX]!r}"
            )


def read_names(path: Path, language: str) -> dict[str, str]:
    """Common names by code from a bundle's names.csv: `code`, then a column per language (de, fr,
    pt_BR …).

    Raises BundleError naming the file if it is not such a table, ConfigError naming the available
    languages if this one is missing.
    """
    try:
        table = Table(text_of(path.read_bytes()), ["code"])
        if language not in table.names[1:]:
            known = ", ".join(sorted(table.names[1:]))
            raise ConfigError(f"station.language: expected one of {known}, found {language!r}")
        names = {}
        for line, row in table:
            if isinstance(row, dict):
                _check_names(line, {language: row[language]})
                names[row["code"]] = row[language]
        return names
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from error
