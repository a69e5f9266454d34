"""Bounds for what tests/house.py counts of the project, and proof that it counts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house
from tests.house import Finding, House, Source

LONG_FILE = 480
LONG_FUNCTION = 60
MANY_ROOMS = 20
MANY_PACKED = 2  # per 1000 lines
MANY_QUESTIONS = 20


@pytest.fixture(scope="module")
def packages() -> dict[str, House]:
    return house.read_house()


@pytest.fixture(scope="module")
def project(packages: dict[str, House]) -> House:
    everything = House([source for part in packages.values() for source in part.sources])
    assert len(everything.sources) > 100, "the sources are there"
    return everything


def told(findings: list[Finding], shown: int = 20) -> str:
    """Findings as an error message, not too many of them."""
    rest = [f"and {len(findings) - shown} more"] if len(findings) > shown else []
    return "\n".join([*map(str, findings[:shown]), *rest, "all: python -m tests.house --where"])


def test_no_line_is_longer_than_100_columns(project: House) -> None:
    found = project.all(house.long_lines)
    assert not found, told(found)


def test_one_assignment_a_line(project: House) -> None:
    packed = project.per_thousand(house.packed_assignments)
    assert packed <= MANY_PACKED, told(project.all(house.packed_assignments))


def test_classes_are_called_by_nouns(project: House) -> None:
    found = project.all(house.participles)
    assert not found, told(found)


def test_a_class_name_means_one_thing(project: House) -> None:
    found = [one for meanings in house.two_meanings(project.sources).values() for one in meanings]
    assert not found, told(found)


def test_docstrings_open_with_a_noun_or_a_verb(project: House) -> None:
    found = project.all(house.indirect_questions)
    assert len(found) <= MANY_QUESTIONS, told(found)


@pytest.mark.parametrize("package", house.PACKAGES)
def test_a_package_has_few_rooms(package: str, packages: dict[str, House]) -> None:
    names = house.rooms(package, packages[package].sources).names
    assert 1 < len(names) <= MANY_ROOMS, sorted(names)


def test_tests_have_few_rooms() -> None:
    names = house.rooms_of_tests(house.PROJECT)
    assert 1 < len(names) <= MANY_ROOMS, names


def test_files_are_short(project: House) -> None:
    long = {path: lines for path, lines in project.file_lengths.items() if lines > LONG_FILE}
    assert not long


def test_functions_are_short(project: House) -> None:
    assert project.function_lengths
    assert not [one for one, lines in project.function_lengths.items() if lines > LONG_FUNCTION]


def source(text: str) -> Source:
    return Source("edge/example.py", text)


@pytest.mark.parametrize(
    ("measure", "text", "expected"),
    [
        (house.long_lines, "#" * 100, []),
        (house.long_lines, "\n" + "ä" * 101, [2]),
        (house.packed_assignments, "a, b = 1, x", [1]),
        (house.packed_assignments, "def f():\n    self.a, b = c = 1, g()", [2]),
        (house.packed_assignments, "a, b = b, a\na, b = f()\nfor a, b in x:\n    c = 1, 2", []),
        (house.participles, "class Begun: ...\nclass Waiting: ...\nclass LeftOut: ...", [1, 2, 3]),
        (
            house.participles,
            "class TunedTo: ...\nclass StepFailed: ...\nclass Unread: ...",
            [1, 2, 3],
        ),
        (house.participles, "class Recording: ...\nclass PackedFile: ...\nclass Ring: ...", []),
        (
            house.participles,
            "class _Held: ...\nclass Speed: ...\nclass A:\n    class Heard: ...",
            [],
        ),
        (house.indirect_questions, '"""What it is."""\ndef f():\n    """Whether."""', [1, 3]),
        (house.indirect_questions, 'class A:\n    """\n    How: so.\n    """', [2]),
        (house.indirect_questions, '"""Whatnot, and what it is."""\nx = """How"""', []),
        (house.public_classes, "class A: ...\nclass _B: ...\nif x:\n    class C: ...", [1]),
    ],
)
def test_what_is_counted(
    measure: Callable[[Source], list[Finding]], text: str, expected: list[int]
) -> None:
    assert [found.line for found in measure(source(text))] == expected


def test_a_function_is_as_long_as_from_def_to_its_end() -> None:
    text = "@cache\ndef f():\n    pass\n\nclass A:\n    async def g(\n        a,\n    ): ..."
    assert sorted(house.function_lengths(source(text)).values()) == [2, 3]


def test_meanings_are_counted_over_all_packages() -> None:
    sources = [
        Source("edge/a.py", "class Same: ...\nclass Once: ...\nclass _Own: ...\nclass _Task: ..."),
        Source(
            "trainer/b.py", "class Same: ...\nclass Own: ...\nVerdict = Literal['ok']\nOnce = 1"
        ),
        Source("export/c.py", "class Task: ...\nclass Verdict(Enum): ..."),
    ]
    assert list(house.two_meanings(sources)) == ["Same", "Task", "Verdict"]


def test_rooms_arrows_and_floors(tmp_path: Path) -> None:
    files = {
        "edge/__init__.py": "from edge import top",
        "edge/top.py": "import edge.middle.deep\nfrom edge import low\nfrom edge.low import x",
        "edge/middle/__init__.py": "",
        "edge/middle/deep.py": "def f():\n    from ..low import x\n    from . import other",
        "edge/middle/other.py": "from edge.middle import deep",
        "edge/low.py": "import trainer.top",
        "edge/tests/test_it.py": "import edge.top",
        "edge/alone.py": "",
        "tests/__init__.py": "",
        "tests/test_flat.py": "",
        "tests/edge/__init__.py": "",
        "tests/data/readme.md": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    plan = house.rooms("edge", house.read_sources(tmp_path, "edge"))
    assert plan.names == {"top", "middle", "low", "alone"}
    assert plan.arrows == {("top", "middle"), ("top", "low"), ("middle", "low")}
    assert plan.floors == 3
    assert house.rooms_of_tests(tmp_path) == ["edge", "test_flat"]
    assert "4 / 3 / 3" in house.table(tmp_path)


def test_a_source_that_is_no_python_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "owl.py").write_text("def (\n")
    with pytest.raises(SystemExit, match=r"^edge/owl\.py: line 1: expected Python, found "):
        house.table(tmp_path)
