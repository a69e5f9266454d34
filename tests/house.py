"""Counts of what a reader meets in the source files of edge, trainer and export, in one table.

    python -m tests.house [FOLDER] [--where]

FOLDER is any checkout, also one of an older layout, so that before and after are counted alike:

    git worktree add /tmp/before REV && python -m tests.house /tmp/before

`--where` also lists everything that is to become less, with file and line. Tests are left out, but
for the number of rooms at their root. Nothing is imported or run; the files are parsed.

Counted are
- lines of more than 100 columns;
- packed assignments, `a, b = x, y`: a tuple on either side. Loops, a call that is unpacked and a
  swap do not count;
- public classes with a participle for a name, by its last word: `Begun`, `Refused`, `LeftOut`;
- class names with two meanings: one name in two modules. For WORDS an alias counts as a class, and
  a leading underscore does not make another name;
- docstrings that open with an indirect question, by their first word;
- rooms of a package: the modules and subpackages that are its direct children. An arrow is one room
  that imports another, however often; floors are the rooms on the longest way along arrows.
"""

import argparse
import ast
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGES = ("edge", "trainer", "export")
COLUMNS = 100


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUESTIONS = _words(
    """What Which Whether How Where When Who Whom Whose Why That Whatever Whichever Wherever
    Whenever Whoever"""
)

# Words that named two or three things each: for a reader an alias or a private class is one more.
WORDS = _words(
    """Stretch Recording Detector Task Batch Refused Disk Cut Choice Check Counts Scored Verdict"""
)

# Participles without -ed or -ing, but none that is a noun as well (Cut, Set, Split, Hit, Thought).
IRREGULAR = _words(
    """Begun Bent Bitten Born Borne Bought Bound Bred Broken Brought Built Caught Chosen Dealt Done
    Drawn Driven Eaten Fallen Fed Felt Forgotten Found Frozen Given Gone Got Grown Heard
    Held Hidden Kept Known Laid Left Lent Lost Made Meant Met Paid Put Read Rebuilt Redone
    Ridden Risen Said Seen Sent Shaken Shown Shut Slept Sold Sought Spent Spoken Stolen
    Stood Stuck Sung Sunk Swept Taken Taught Thrown Told Torn Understood Undone Unheard
    Unknown Unread Unseen Withdrawn Won Worn Written"""
)
# What may follow a participle without making a noun of it: LeftOut, TunedTo.
PARTICLES = _words("Apart At Away By Down For From In Into Of Off On Out Over To Up With Without")
# Nouns that end like participles.
NOUNS = _words(
    """Bearing Bed Beginning Being Breed Building Ceiling Coding Crossing Deed Embed Ending Evening
    Feed Feeling Finding Heading Hearing King Landing Listing Mapping Meaning Meeting Morning Need
    Opening Painting Pairing Rating Reading Recording Reed Ring Saving Seed Sensing Setting Shed
    Sibling Sling Spacing Speed Spring String Swing Thing Timing Training Tuning Warning Weed Wing
    Wording"""
)


@dataclass(frozen=True)
class Finding:
    """One thing at one line of a file."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Source:
    """A source file; `path` is relative to the folder of the project."""

    path: str
    text: str = field(repr=False)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without what ends them."""
        return self.text.splitlines()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of its tree, the module first."""
        try:
            return list(ast.walk(ast.parse(self.text)))
        except SyntaxError as error:
            sys.exit(f"{self.path}: line {error.lineno}: expected Python, found {error.msg}")

    @property
    def module(self) -> ast.Module:
        """The root of its tree."""
        assert isinstance(self.nodes[0], ast.Module)
        return self.nodes[0]

    @property
    def name(self) -> list[str]:
        """The parts of its dotted name."""
        parts = list(Path(self.path).with_suffix("").parts)
        return parts[:-1] if parts[-1] == "__init__" else parts

    def at(self, node: ast.stmt, text: str) -> Finding:
        """A finding at a node."""
        return Finding(self.path, node.lineno, text)


def read_sources(folder: Path, package: str) -> list[Source]:
    """The source files of a package, sorted, without folders called tests."""
    paths = [path.relative_to(folder) for path in sorted((folder / package).rglob("*.py"))]
    return [
        Source(path.as_posix(), (folder / path).read_text(encoding="utf8"))
        for path in paths
        if "tests" not in path.parts
    ]


def long_lines(source: Source) -> list[Finding]:
    """Lines of more than 100 columns."""
    return [
        Finding(source.path, number, f"{len(line)} columns")
        for number, line in enumerate(source.lines, 1)
        if len(line) > COLUMNS
    ]


def packed_assignments(source: Source) -> list[Finding]:
    """Assignments of a tuple to a tuple that are no swap."""
    return [
        source.at(node, ast.unparse(node))
        for node in source.nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and any(isinstance(target, ast.Tuple) for target in node.targets)
        and not _is_swap(node)
    ]


def _is_swap(node: ast.Assign) -> bool:
    target = node.targets[0]
    if (
        len(node.targets) > 1
        or not isinstance(target, ast.Tuple)
        or not isinstance(node.value, ast.Tuple)
    ):
        return False
    return sorted(map(ast.unparse, target.elts)) == sorted(map(ast.unparse, node.value.elts))


def function_lengths(source: Source) -> dict[Finding, int]:
    """Lines of each function from its `def` on."""
    return {
        source.at(node, node.name): (node.end_lineno or node.lineno) - node.lineno + 1
        for node in source.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def classes(source: Source) -> list[Finding]:
    """Classes at the top level, private ones too; the text is the name."""
    return [
        source.at(node, node.name) for node in source.module.body if isinstance(node, ast.ClassDef)
    ]


def public_classes(source: Source) -> list[Finding]:
    """Classes at the top level whose names have no leading underscore."""
    return [found for found in classes(source) if not found.text.startswith("_")]


def participles(source: Source) -> list[Finding]:
    """Public classes with a participle for a name."""
    return [found for found in public_classes(source) if is_participle(found.text)]


def is_participle(name: str) -> bool:
    """A name in CamelCase whose last word, or last but a particle, is a participle."""
    words = re.findall(r"[A-Z][a-z0-9]*", name)
    while len(words) > 1 and words[-1] in PARTICLES:
        words.pop()
    if not words or words[-1] in NOUNS:
        return False
    return words[-1] in IRREGULAR or re.fullmatch(r"\w{2,}(ed|ing)", words[-1]) is not None


def indirect_questions(source: Source) -> list[Finding]:
    """Docstrings whose first word opens an indirect question."""
    return [
        Finding(source.path, line, text.splitlines()[0])
        for line, text in docstrings(source)
        if re.split(r"\W", text, maxsplit=1)[0] in QUESTIONS
    ]


def docstrings(source: Source) -> Iterator[tuple[int, str]]:
    """Docstrings of the module, its classes and functions, each with its line."""
    for node in source.nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def two_meanings(sources: list[Source]) -> dict[str, list[Finding]]:
    """Class names that stand in more than one module, and WORDS that do so under any guise."""
    places: dict[str, list[Finding]] = defaultdict(list)
    for source in sources:
        for found in classes(source) + _aliases(source):
            word = found.text.lstrip("_")
            if word in WORDS:
                places[word].append(found)
            else:
                places[found.text].append(found)
    return {
        name: found
        for name, found in sorted(places.items())
        if len({one.path for one in found}) > 1
    }


def _aliases(source: Source) -> list[Finding]:
    """WORDS that are given to a type: `Verdict = Literal["ok", "bad"]`."""
    return [
        source.at(node, target.id)
        for node in source.module.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id.lstrip("_") in WORDS
    ]


@dataclass(frozen=True)
class Rooms:
    """The direct children of a package, and which of them imports which."""

    names: frozenset[str]
    arrows: frozenset[tuple[str, str]]

    @property
    def floors(self) -> int:
        """Rooms on the longest way along arrows; one that closes a circle is not followed."""
        below: dict[str, set[str]] = defaultdict(set)
        for upper, lower in self.arrows:
            below[upper].add(lower)
        height: dict[str, int] = {}

        def climb(room: str) -> int:
            if room not in height:
                height[room] = 0
                height[room] = 1 + max(map(climb, below[room]), default=0)
            return height[room]

        return max(map(climb, self.names), default=0)


def rooms(package: str, sources: list[Source]) -> Rooms:
    """The rooms of a package by its source files."""
    names = frozenset(source.name[1] for source in sources if len(source.name) > 1)
    arrows = {
        (source.name[1], target[1])
        for source in sources
        if len(source.name) > 1
        for target in (name.split(".") for name in imports(source))
        if target[0] == package and len(target) > 1 and target[1] in names - {source.name[1]}
    }
    return Rooms(names, frozenset(arrows))


def imports(source: Source) -> set[str]:
    """Dotted names of all that a file imports, anywhere in it: `from a import b` is `a.b`."""
    names = set()
    for node in source.nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                inside = source.path.removesuffix(".py").split("/")
                base = inside[: -node.level] + base
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


@dataclass(frozen=True)
class House:
    """The source files of some packages, and what is counted of them."""

    sources: list[Source] = field(repr=False)

    @property
    def lines(self) -> int:
        """Lines of all files."""
        return sum(self.file_lengths.values())

    @property
    def file_lengths(self) -> dict[str, int]:
        """Lines of each file."""
        return {source.path: len(source.lines) for source in self.sources}

    @cached_property
    def function_lengths(self) -> dict[Finding, int]:
        """Lines of each function."""
        lengths: dict[Finding, int] = {}
        for source in self.sources:
            lengths |= function_lengths(source)
        return lengths

    def all(self, measure: Callable[[Source], list[Finding]]) -> list[Finding]:
        """The findings of all files."""
        return [found for source in self.sources for found in measure(source)]

    def per_thousand(self, measure: Callable[[Source], list[Finding]]) -> float:
        """Findings per 1000 lines."""
        return 1000 * len(self.all(measure)) / max(self.lines, 1)


def read_house(folder: Path = PROJECT) -> dict[str, House]:
    """The three packages of a checkout, by name."""
    return {package: House(read_sources(folder, package)) for package in PACKAGES}


def figures(house: House) -> dict[str, str]:
    """The rows of the table that hold for one package and for all of them."""
    files = list(house.file_lengths.values()) or [0]
    lengths = list(house.function_lengths.values()) or [0]
    long = len(house.all(long_lines))
    return {
        "files": str(len(house.sources)),
        "lines": str(house.lines),
        "file median / max": f"{statistics.median(files):.0f} / {max(files)}",
        "function median / max": f"{statistics.median(lengths):.0f} / {max(lengths)}",
        f"lines over {COLUMNS} columns": f"{long} ({100 * long / max(house.lines, 1):.1f} %)",
        "packed assignments per 1000 lines": f"{house.per_thousand(packed_assignments):.1f}",
        "public classes": str(len(house.all(public_classes))),
        "participles among their names": str(len(house.all(participles))),
        "class names with two meanings": str(len(two_meanings(house.sources))),
        "docstrings that open with a question": str(len(house.all(indirect_questions))),
    }


def table(folder: Path) -> str:
    """All figures of a checkout: a column for each package and one for all of them."""
    house = read_house(folder)
    everything = House([source for part in house.values() for source in part.sources])
    columns = {name: figures(part) for name, part in house.items()}
    for name, part in house.items():
        plan = rooms(name, part.sources)
        columns[name]["rooms / arrows / floors"] = (
            f"{len(plan.names)} / {len(plan.arrows)} / {plan.floors}"
        )
    columns["together"] = figures(everything)
    columns["tests"] = {"rooms / arrows / floors": str(len(rooms_of_tests(folder)))}
    rows = [_table_row("", list(columns))]
    for row in columns["edge"]:
        rows.append(_table_row(row, [column.get(row, "") for column in columns.values()]))
    return "\n".join(rows)


def _table_row(name: str, cells: list[str]) -> str:
    return "".join([f"{name:36}", *(f"{cell:>16}" for cell in cells)]).rstrip()


def rooms_of_tests(folder: Path) -> list[str]:
    """Modules and subpackages at the root of the tests."""
    children = sorted((folder / "tests").glob("*"))
    return [
        path.stem
        for path in children
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
    ]


def places(folder: Path) -> Iterator[str]:
    """A line for everything that is to become less."""
    everything = House([source for part in read_house(folder).values() for source in part.sources])
    measures = {
        "long line": long_lines,
        "packed": packed_assignments,
        "participle": participles,
        "question": indirect_questions,
    }
    for name, measure in measures.items():
        yield from (f"{name}: {found}" for found in everything.all(measure))
    for found in two_meanings(everything.sources).values():
        yield from (f"two meanings: {one}" for one in found)


def main() -> None:
    """Print the table, on request with all places."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.house", description="Figures of the source files."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=PROJECT, help="a checkout; default: this one"
    )
    parser.add_argument(
        "--where", action="store_true", help="also print the place of all that is to become less"
    )
    options = parser.parse_args()
    if not any((options.folder / package).is_dir() for package in PACKAGES):
        parser.error(
            f"{options.folder}: expected a checkout with the folders {', '.join(PACKAGES)}"
        )
    print(table(options.folder))
    if options.where:
        print(*places(options.folder), sep="\n")


if __name__ == "__main__":
    main()
