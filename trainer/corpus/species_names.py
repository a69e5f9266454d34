"""Names of species as people write them, and the species of a bundle that they mean: by code,
scientific name, or common name in any of its languages.

Knows no recording.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from edge.contract.errors import BundleError
from edge.contract.taxonomy import NOCALL, Species, Taxonomy
from edge.contract.text import Table, TextError, printable, text_of

# Classes of BirdNET-Analyzer's training folders that are not species, and our own word.
BACKGROUND = frozenset(("noise", "background", NOCALL, "other", "silence"))
_CODE_MAX = 32
_NEAREST = 4  # suggestions for a name that is not recognised
_ALIKE = 0.55  # likeness below which a name is no suggestion
_OF_A_WORD = 0.9  # weight of the likeness to a single word of a name
_COMPARED = 200  # names compared letter by letter: those with most groups of letters in common
_BINOMIAL = re.compile(r"[A-Z][a-z-]+ [a-z-]+(?: [a-z-]+)?")
# Letters that decompose into no letter and accent.
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe"})
_APOSTROPHES = re.compile("['’‘`´ʼ′]")


@dataclass(frozen=True)
class Label:
    """Names of one species as somebody wrote them; empty where there is none."""

    text: str  # as shown to people
    code: str = ""
    scientific: str = ""
    common: str = ""

    @classmethod
    def of(cls, text: str) -> "Label":
        """The label that a folder's name or a cell is: `Turdus merula_Common Blackbird` and `Turdus
        merula, Common Blackbird` are two names."""
        text = " ".join(unicodedata.normalize("NFC", text).split())
        half = text.partition("_")[0]
        if text == f"{half}_{half}":  # BirdNET's classes that are no species: Dog_Dog
            return cls(text, "", "", half)
        for separator in ("_", ", "):
            scientific, found, common = text.partition(separator)
            if found and common and _BINOMIAL.fullmatch(scientific.strip()):
                return cls(text, "", scientific.strip(), common.strip())
        return cls(text, "", "", text)  # `Great tit` looks like a scientific name, too

    @property
    def is_background(self) -> bool:
        """True if it says that no species is heard."""
        names = [name for name in (self.code, self.scientific, self.common) if name]
        return bool(names) and all(squeezed(name) in BACKGROUND for name in names)

    @property
    def species(self) -> Species:
        """The species for who has no other names than these; equal for equal names."""
        name = self.code or self.scientific or self.common
        shown = self.common or self.scientific or self.code
        return Species(
            slug(name), printable(self.scientific.replace("_", " ")), printable(shown).strip()
        )


def exact(text: str) -> str:
    """A name in any case, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).replace("_", " ").casefold().split())


def squeezed(text: str) -> str:
    """The letters and digits of a name, without accents: `Güldenstädt's_red-start` is
    `guldenstadtsredstart`."""
    parted = unicodedata.normalize("NFKD", text.casefold()).translate(_LETTERS)
    return "".join(sign for sign in parted if sign.isalnum())


def slug(name: str) -> str:
    """A species code made of a name: `Great Tit` is `great_tit`. A name without letters from a to z
    gets one that is made of its digest."""
    plain = _APOSTROPHES.sub("", unicodedata.normalize("NFKD", name.casefold()))
    plain = "".join(s for s in plain if not unicodedata.combining(s)).translate(_LETTERS)
    code = re.sub("[^a-z0-9]+", "_", plain).strip("_")
    lost = sum(s.isalpha() for s in plain) - sum(s.isalpha() for s in code)
    if 2 <= len(code) <= _CODE_MAX and code != NOCALL and not lost:
        return code
    number = sha256(squeezed(name).encode("utf8", "replace")).hexdigest()[:8]
    return f"{code[: _CODE_MAX - 9].strip('_') or 'species'}_{number}"


@dataclass(frozen=True)
class _NameIndex:
    """Codes of the species that have a name, in one form, by the kind of name."""

    key: Callable[[str], str]
    codes: Mapping[str, set[str]]
    scientific: Mapping[str, set[str]]
    common: Mapping[str, set[str]]

    def find(self, kind: str, name: str) -> set[str]:
        key = self.key(name)
        table: Mapping[str, set[str]] = getattr(self, kind)
        return table.get(key, set()) if key else set()


@dataclass(frozen=True)
class SpeciesNames:
    """The species of a taxonomy and their names in all languages."""

    taxonomy: Taxonomy
    others: Mapping[str, frozenset[str]] = field(default_factory=dict)  # common names by code

    @classmethod
    def of_bundle(cls, folder: Path) -> "SpeciesNames":
        """The names in a bundle's taxonomy.csv and, if it has one, names.csv. Raises BundleError
        naming the file."""
        if not (folder / "taxonomy.csv").is_file():
            raise BundleError(
                f"{folder}: expected the folder of an adopted model, with taxonomy.csv in it; "
                "python -m export adopt makes one"
            )
        taxonomy = Taxonomy.read_csv(folder / "taxonomy.csv")
        path = folder / "names.csv"
        return cls(taxonomy, _languages(path) if path.is_file() else {})

    def find(self, label: Label) -> tuple[Species, ...]:
        """The species that a label means: none, one, or several if its name is ambiguous. Of
        several names the first that is recognised counts: code, scientific name, common name."""
        tried = (
            ("codes", label.code),
            ("scientific", label.scientific),
            ("codes", label.common),
            ("scientific", label.common),
            ("common", label.common),
            ("scientific", label.code),
            ("common", label.code),
        )
        for index in (self._exact, self._loose):
            for kind, name in tried:
                if found := index.find(kind, name):
                    return tuple(self.by_code[code] for code in sorted(found))
        return ()

    def by_scientific(self, name: str) -> Species | None:
        """The species with a scientific name; None if there is none, or if there are several."""
        for index in (self._exact, self._loose):
            found = index.find("scientific", name)
            if len(found) == 1:
                return self.by_code[next(iter(found))]
        return None

    def nearest(self, name: str) -> list[str]:
        """Up to four names that look most like this one, of different species: `Blackbird
        (eurbla)`."""
        asked = squeezed(name)
        shared: Counter[int] = Counter()
        for part in _parts_of(asked):
            shared.update(self._by_part.get(part, ()))
        likely = sorted(shared, key=lambda i: (-shared[i], len(self._listed[i][1])))
        alike = [(*_likeness(asked, *self._listed[i][:2]), i) for i in likely[:_COMPARED]]
        found: dict[str, str] = {}
        for most, _, i in sorted(alike, key=lambda one: (-one[0], -one[1], one[2])):
            shown, _, code = self._listed[i]
            if most >= _ALIKE:
                name = self.by_code[code].common_name if shown == code else shown
                found.setdefault(code, code if name == code else f"{name or code} ({code})")
        return list(found.values())[:_NEAREST]

    @cached_property
    def by_code(self) -> Mapping[str, Species]:
        return {species.code: species for species in self.taxonomy}

    @cached_property
    def _exact(self) -> _NameIndex:
        return self._index(exact)

    @cached_property
    def _loose(self) -> _NameIndex:
        return self._index(squeezed)

    def _index(self, key: Callable[[str], str]) -> _NameIndex:
        index = _NameIndex(key, {}, {}, {})
        for kind, name, code in self._all():
            getattr(index, kind).setdefault(key(name), set()).add(code)
        return index

    def _all(self) -> Iterator[tuple[str, str, str]]:
        """All names: kind, name, code."""
        for species in self.taxonomy:
            yield "codes", species.code, species.code
            yield "scientific", species.scientific_name, species.code
            yield "common", species.common_name, species.code
            for name in sorted(self.others.get(species.code, ())):
                yield "common", name, species.code

    @cached_property
    def _listed(self) -> list[tuple[str, str, str]]:
        """Different names as written and squeezed, with their codes."""
        listed = {(squeezed(name), code): name for _, name, code in self._all()}
        return [(name, key, code) for (key, code), name in listed.items() if key]

    @cached_property
    def _by_part(self) -> Mapping[str, list[int]]:
        """Positions in `_listed` of the names that contain three letters."""
        found: dict[str, list[int]] = {}
        for i, (_, key, _) in enumerate(self._listed):
            for part in _parts_of(key):
                found.setdefault(part, []).append(i)
        return found


def _languages(path: Path) -> dict[str, frozenset[str]]:
    """Common names by code, in all languages of a bundle's names.csv."""
    try:
        return {
            row["code"]: frozenset(name.strip() for name in row.values()) - {row["code"], ""}
            for _, row in Table(text_of(path.read_bytes()), ["code"])
            if isinstance(row, dict)
        }
    except (OSError, TextError) as error:
        raise BundleError(f"{path}: {error}") from error


def _likeness(asked: str, name: str, key: str) -> tuple[float, float]:
    """Likeness from 0 to 1 of a squeezed name to another, or to a word of it, and to all of it:
    `Blackbrd` may stand for `Eurasian Blackbird`."""
    whole = SequenceMatcher(None, asked, key).ratio()
    words = [squeezed(word) for word in re.split(r"[\W_]+", name)] if len(key) > len(asked) else []
    of_words = [SequenceMatcher(None, asked, word).ratio() for word in words if len(word) > 3]
    return max(whole, _OF_A_WORD * max(of_words, default=0.0)), whole


def _parts_of(text: str) -> set[str]:
    padded = f"  {text} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}
