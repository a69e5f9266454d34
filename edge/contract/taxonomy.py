"""The species a model knows, in the order of its outputs. Knows no scores and no names of files."""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from edge.contract.errors import BundleError
from edge.contract.text import NotText, Table, text_of

_CODE = re.compile(r"[a-z0-9_-]{2,32}")
NOCALL = "nocall"  # the label of a row without birds; never a species


@dataclass(frozen=True)
class Species:
    """One class of the model: eBird-style code and its names."""

    code: str
    scientific_name: str
    common_name: str


class Taxonomy:
    """Species in the order of the model's index. The digest changes with any code or with the order."""

    def __init__(self, species: Iterable[Species]) -> None:
        self.species = tuple(species)
        self.codes = tuple(s.code for s in self.species)
        self._index = {code: i for i, code in enumerate(self.codes)}
        if len(self._index) != len(self.codes):
            raise ValueError("a species code occurs twice in the taxonomy")
        for code in self.codes:
            if not _CODE.fullmatch(code) or code == NOCALL:
                raise ValueError(f"species code {code!r}: 2 to 32 of a-z, 0-9, _ and -, and not {NOCALL!r}")

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
        """SHA-256 of the codes in order: what a score vector means."""
        return hashlib.sha256("\n".join(self.codes).encode()).hexdigest()

    def write_csv(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([f.name for f in fields(Species)])
            writer.writerows((s.code, s.scientific_name, s.common_name) for s in self.species)

    @classmethod
    def read_csv(cls, path: Path) -> "Taxonomy":
        """Raises BundleError naming the file if it is not a taxonomy."""
        try:
            table = Table(text_of(path.read_bytes()), [f.name for f in fields(Species)])
            species = []
            for line, row in table:
                if not isinstance(row, dict):
                    raise NotText(f"line {line}: {len(row)} cells; {len(table.names)} are wanted")
                species.append(Species(row["code"], row["scientific_name"], row["common_name"]))
            return cls(species)
        except (OSError, ValueError) as error:  # NotText is a ValueError
            raise BundleError(f"{path}: not a taxonomy (code, scientific_name, common_name): {error}") from error
