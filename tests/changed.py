"""`make check`: the fast tests of what changed, between steps. `make test` alone says that all is well.

    python -m tests.changed [--since REV] [pytest's options]

Changed is what differs from REV: by default what is not committed, or, where all is, the last commit. A test file is
one of a changed file if it is named after it or imports it (other files under tests count as its own); of a file that
no test imports, the tests of those that import it. Of what is not Python it is if it names the file, or else its
folder; what nothing names is the whole project's. Tests marked `slow` are left out.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import grimp

PROJECT = Path(__file__).parents[1]
PACKAGES = ("edge", "trainer", "export", "tests")


def changed_files(since: str | None) -> list[str]:
    """Paths below the project's folder."""
    if since is None:
        since = "HEAD" if git("status", "--porcelain") else "HEAD~1"
    differing = git("diff", "--name-only", "--no-renames", since).splitlines()
    return sorted({*differing, *git("ls-files", "--others", "--exclude-standard").splitlines()})


def git(*arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stdout


def tests_of(changed: list[str]) -> list[str]:
    """Test files of the changed files."""
    graph = grimp.build_graph(*PACKAGES)
    found: set[str] = set()
    for name in changed:
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if name.endswith(".py") and module in graph.modules:
            found |= tests_of_module(graph, module) | tests_called(Path(name).stem)
        elif not name.endswith(".py"):
            folder = f'"{Path(name).parts[0]}"'
            found |= tests_that_name(Path(name).name) or tests_that_name(folder) or {"tests/test_project.py"}
    return sorted(path for path in found if (PROJECT / path).is_file())


def tests_of_module(graph: grimp.ImportGraph, module: str) -> set[str]:
    """Test files that import it, through helpers or not; else those of the modules that import it."""
    seen, floor = {module}, {module}
    while floor:
        found, above = set[str](), set[str]()
        at_hand = set(floor)
        while at_hand:
            one = at_hand.pop()
            if is_test(one):
                found.add(one.replace(".", "/") + ".py")
            for importer in graph.find_modules_that_directly_import(one) - seen:
                seen.add(importer)
                (at_hand if importer.startswith("tests.") else above).add(importer)
        if found:
            return found
        floor = above
    return set()


def is_test(module: str) -> bool:
    """A file of tests, not a helper of theirs."""
    return module.startswith("tests.") and module.rsplit(".", 1)[1].startswith("test_")


def tests_called(name: str) -> set[str]:
    """Test files that are named after it: they may only run its command."""
    files = (PROJECT / "tests").rglob("test_*.py")
    return {path.relative_to(PROJECT).as_posix() for path in files if f"_{name}_" in f"{path.stem}_"}


def tests_that_name(name: str) -> set[str]:
    """Test files in whose text this stands."""
    files = (PROJECT / "tests").rglob("test_*.py")
    return {path.relative_to(PROJECT).as_posix() for path in files if name in path.read_text(encoding="utf8")}


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", metavar="REV", help="a commit to compare with")
    arguments, options = parser.parse_known_args()
    changed = changed_files(arguments.since)
    tests = tests_of(changed)
    print(f"{len(changed)} files changed; tests of them: {' '.join(tests) or 'none'}", flush=True)
    if not tests:
        return
    done = subprocess.run([sys.executable, "-m", "pytest", "-m", "not slow", *options, *tests], cwd=PROJECT)
    nothing_left = done.returncode == 5  # all of these tests are slow
    sys.exit(0 if nothing_left else done.returncode)


if __name__ == "__main__":
    main()
