"""Every module's "knows no …" holds: what it says it does not know it neither imports nor calls.

A docstring of a package speaks for all of its modules. The words are those of nouns.py.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import pytest

from tests import house
from tests.house import Source
from tests.project.nouns import BANS, FAR, READERS
from tests.project.sentences import clauses, is_question, things, unknown

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef)
_DENIALS = re.compile(r"\b(?:knows? (?:no|nothing|neither)|(?:does|do) not know)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Project:
    """Source files by dotted name."""

    sources: dict[str, Source] = field(repr=False)

    def claims(self) -> Iterator[tuple[str, str, str]]:
        """Module, thing that it does not know, and the file that says so."""
        for name, source in self.sources.items():
            spoken_for = [name]
            if source.path.endswith("__init__.py"):
                spoken_for += [other for other in self.sources if other.startswith(f"{name}.")]
            for thing in unknown(docstring(source)):
                yield from ((module, thing, source.path) for module in spoken_for)

    @cached_property
    def imported(self) -> dict[str, set[str]]:
        """What each module imports itself."""
        return {name: house.imports(source) for name, source in self.sources.items()}

    @cached_property
    def arrows(self) -> dict[str, dict[str, set[str]]]:
        """Modules of ours that each module imports itself, with the names that it takes of them."""
        arrows: dict[str, dict[str, set[str]]] = {name: {} for name in self.sources}
        for name, targets in self.imported.items():
            for target in targets:
                owner = self.owner(target)
                if owner and owner != name:
                    arrows[name].setdefault(owner, set()).add(target)
        return arrows

    def owner(self, target: str) -> str | None:
        """The module that a dotted name is, or is in."""
        parts = target.split(".")
        names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        return next((name for name in names if name in self.sources), None)

    def ways(self, module: str, but: tuple[str, ...]) -> dict[str, list[str]]:
        """Each module that is reached from one, with the shortest way; not for `but` alone."""
        ways = {module: [module]}
        waiting = [module]
        for name in waiting:
            for target, taken in sorted(self.arrows[name].items()):
                if target not in ways and not all(within_any(one, but) for one in taken):
                    ways[target] = [*ways[name], target]
                    waiting.append(target)
        return ways


def docstring(source: Source) -> str:
    """The docstring of a module, empty if it has none."""
    return ast.get_docstring(source.module) or ""


def noun(thing: str) -> str:
    """A thing as the vocabulary has it, which has no plurals."""
    singulars = [
        thing,
        thing.removesuffix("s"),
        thing.removesuffix("es"),
        re.sub("ies$", "y", thing),
    ]
    return next((word for word in singulars if word in BANS or word in READERS), thing)


def calls(source: Source) -> set[str]:
    """Names of all that a module calls, without what they belong to: `Path.open` is `open`."""
    called = {node.func for node in source.nodes if isinstance(node, ast.Call)}
    names = {function.id for function in called if isinstance(function, ast.Name)}
    return names | {function.attr for function in called if isinstance(function, ast.Attribute)}


def within_any(name: str, parts: Iterable[str]) -> bool:
    """Whether a dotted name is one of these or in one of them."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def faults(project: Project) -> list[str]:
    """A line for every sentence that is untrue, or that nothing can be said of."""
    lines = []
    for module, thing, path in project.claims():
        word = noun(thing)
        if word in BANS:
            evidence = known(project, module, word)
            lines += [f'{path}: "knows no {thing}", but {evidence}'] if evidence else []
        elif word not in READERS and not is_question(thing):
            lines.append(
                f'{path}: "knows no {thing}": unknown word; say in tests/project/nouns.py what'
                " such a module must not import (BANS), or that only a reader can tell (READERS)"
            )
    return lines


def known(project: Project, module: str, word: str) -> str:
    """Imports and calls by which a module knows a thing, empty if it does not.

    What it imports of a package that it lies in itself counts for nothing.
    """
    ban = BANS[word]
    banned = [part for part in ban.imports if not within_any(module, [part])]
    called = sorted(calls(project.sources[module]) & set(ban.calls))
    for reached, way in (
        project.ways(module, ban.but) if word in FAR else {module: [module]}
    ).items():
        targets = [
            target
            for target in sorted(project.imported[reached])
            if within_any(target, banned) and not within_any(target, ban.but)
        ]
        if targets:
            return f"{' imports '.join(way)} imports {', '.join(targets)}"
    return f"{module} calls {', '.join(called)}" if called else ""


def strays(docstring: str) -> Iterator[str]:
    """Words of the vocabulary after `no X and` that are not denied themselves."""
    for whole in clauses(docstring):
        clause = re.split(r",? (?:only|but) ", whole)[0]
        for word in re.findall(r"(?:,|\band) (\w+)(?=[,.;]|$| and\b)", clause):
            if noun(word.lower()) in BANS and word.lower() not in things(clause):
                yield word


@pytest.fixture(scope="module")
def project() -> Project:
    sources = [source for part in house.read_house().values() for source in part.sources]
    return made_of({source.path: source.text for source in sources})


def made_of(texts: dict[str, str]) -> Project:
    sources = [Source(path, text) for path, text in texts.items()]
    return Project({".".join(source.name): source for source in sources})


def test_what_a_module_does_not_know_it_does_not_import(project: Project) -> None:
    claims = list(project.claims())
    assert len(claims) > 150, "the sentences are there and are understood"
    lines = faults(project)
    assert not lines, "\n".join(lines)


def test_every_sentence_is_understood(project: Project) -> None:
    for source in project.sources.values():
        text = re.sub(r" \([^()]*\)", "", " ".join(docstring(source).split()))
        understood = [clause for clause in clauses(docstring(source)) if things(clause)]
        expected = "expected a sentence or a part of one like: Knows no X and no Y"
        assert len(understood) >= len(_DENIALS.findall(text)), f"{source.path}: {expected}"
        assert not list(strays(docstring(source))), f"{source.path}: {expected}"


@pytest.mark.parametrize("word", BANS)
def test_what_is_forbidden_exists(word: str, project: Project) -> None:
    libraries = (house.PROJECT / "pyproject.toml").read_text(encoding="utf8").replace("-", "_")
    for target in BANS[word].imports + BANS[word].but:
        top = target.split(".")[0]
        if top not in house.PACKAGES:
            assert top in sys.stdlib_module_names or top in libraries, f"{target}: no such library"
            continue
        owner = project.owner(target)
        assert owner, f"{target}: no such module"
        rest = target.removeprefix(owner).removeprefix(".")
        assert not rest or rest in defined(project.sources[owner]), f"{target}: {owner} has none"


def defined(source: Source) -> set[str]:
    """Names that a module gives to classes, functions and values of its own."""
    names = {node.name for node in source.module.body if isinstance(node, _DEFINITIONS)}
    stored = {node for node in source.nodes if isinstance(node, ast.Name)}
    return names | {node.id for node in stored if isinstance(node.ctx, ast.Store)}


def test_each_word_is_in_one_list() -> None:
    assert not READERS & BANS.keys()
    assert BANS.keys() >= FAR


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A thing. Knows no sound and no SQL.", ["sound", "sql"]),
        ("Plain data; knows no database, broker\nor network.", ["database", "broker", "network"]),
        ("Knows neither sound nor the files.", ["sound", "files"]),
        ("Knows nothing of species, or of labels (taxonomy.py).", ["species", "labels"]),
        ("Knows no station: whoever asks knows it; no sound.", ["station"]),
        ("Knows no GeoTIFF (rasters.py reads those) and no model.", ["geotiff", "model"]),
        ("Knows spans; no settings and no clip.\n\nNo sound.", ["settings", "clip"]),
        ("Knows time and place, nothing of sound.", ["sound"]),
        ("Does not know cards, or what a gap is called.", ["cards", "what a gap is called"]),
        ("Knows nothing of how birds sound or live.", ["how birds sound"]),
        ("Knows no tables and decodes nothing.", ["tables"]),
        ("What a network knows. It has no sound and knows the file.", []),
    ],
)
def test_sentences_are_read(text: str, expected: list[str]) -> None:
    assert unknown(text) == expected


MADE_UP = {
    "edge/a/__init__.py": '"""Knows no broker."""',
    "edge/a/b.py": '"""Knows no clock, no\nfiles and no database."""\nfrom edge.c import d\n',
    "edge/a/e.py": '"""Knows no thread."""\nimport numpy\n',
    "edge/c.py": '"""Knows no record itself."""\nd = 1\n',
}


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        ("edge/a/b.py", "import math", []),
        (
            "edge/a/b.py",
            "import time",
            ['edge/a/b.py: "knows no clock", but edge.a.b imports time'],
        ),
        (
            "edge/a/b.py",
            "def f(p): p.read_text()",
            ['edge/a/b.py: "knows no files", but edge.a.b calls read_text'],
        ),
        (
            "edge/c.py",
            "import sqlite3",
            ['edge/a/b.py: "knows no database", but edge.a.b imports edge.c imports sqlite3'],
        ),
        (
            "edge/a/e.py",
            "def f():\n    from paho.mqtt import client",
            ['edge/a/__init__.py: "knows no broker", but edge.a.e imports paho.mqtt.client'],
        ),
    ],
)
def test_an_untrue_sentence_is_named(path: str, more: str, expected: list[str]) -> None:
    texts = MADE_UP | {"edge/c.py": MADE_UP["edge/c.py"].replace(" itself", "")}
    texts[path] = f"{texts[path]}\n{more}\n"
    lines = [line for line in faults(made_of(texts)) if '"knows no record"' not in line]
    assert lines == expected


def test_an_unknown_word_is_named() -> None:
    (line,) = faults(made_of(MADE_UP))
    assert line.startswith(
        'edge/c.py: "knows no record itself": unknown word; say in tests/project'
    )


def test_a_word_that_is_not_denied_is_named() -> None:
    assert list(strays("Knows no sound and network.")) == ["network"]
    assert not list(strays("Knows no sound and no network; knows no file, no thread."))
