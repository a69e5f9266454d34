"""`make check`: the fast tests of what changed, between steps. `make test` alone says that all is
well.

    python -m tests.changed [--since REV] [pytest's options]

Changed is what differs from REV, by default from the commit before the last: what is not committed,
and the last commit. A test file is one of a changed file if it is named after it, imports it (other
files under tests count as its own) or names its module; of a file without any, the tests of those
that import it. Of what is not Python it is if it names the file, or else its folder; what nothing
names is the whole project's. Tests marked `slow` are left out.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import grimp

PROJECT = Path(__file__).parents[1]
PACKAGES = ("edge", "trainer", "export", "tests")
WHOLE_PROJECT = "tests/project/test_project.py"


def base(since: str | None) -> str:
    """The commit to compare with; the empty tree if there is only one commit."""
    if not git("rev-parse", "--verify", "--quiet", "HEAD^{commit}"):
        sys.exit(
            "make check: expected a git checkout with a commit; in any other copy run make test"
        )
    found = git(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{since or 'HEAD~1'}^{{commit}}"
    )
    if not found and since:
        sys.exit(f"--since: expected a commit of this repository, found {since!r}")
    return found or git("hash-object", "-t", "tree", "/dev/null")


def changed_files(commit: str) -> list[str]:
    """Paths below the project's folder, those that are gone too."""
    differing = git("diff", "--name-only", "-z", "--no-renames", "--relative", commit, "--").split(
        "\0"
    )
    return sorted(
        {*differing, *git("ls-files", "-z", "--others", "--exclude-standard").split("\0")} - {""}
    )


def git(*arguments: str) -> str:
    """What git prints; nothing if it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    return "" if done.returncode else done.stdout.strip()


def tests_of(changed: Iterable[str]) -> list[str]:
    """Test files of the changed files."""
    return sorted(set[str]().union(*tests_by_file(changed).values()))


def tests_by_file(changed: Iterable[str]) -> dict[str, set[str]]:
    """Changed file -> its test files."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)  # its cache misses modules that are new
    texts = {
        path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf8")
        for path in (PROJECT / "tests").rglob("test_*.py")
    }
    found = {}
    for name in changed:
        of_it = (
            _of_module(graph, name, texts)
            if name.endswith(".py")
            else _naming(texts, Path(name).name)
        )
        of_it = of_it or _naming(texts, f'"{Path(name).parts[0]}"') or {WHOLE_PROJECT}
        found[name] = of_it | ({name} & set(texts))
    return found


def _of_module(graph: grimp.ImportGraph, name: str, texts: dict[str, str]) -> set[str]:
    """Tests that are called like it, import it or name it: it may be run as a program only."""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    stem = module.rpartition(".")[2]
    found = {path for path in texts if f"_{stem}_" in f"{Path(path).stem}_"} | _naming(
        texts, module
    )
    if stem == "__main__":
        found |= _naming(texts, f'"{module.partition(".")[0]}"')
    return found | (_importing(graph, module) if module in graph.modules else set())


def _naming(texts: dict[str, str], name: str) -> set[str]:
    """Test files in whose text this stands."""
    return {path for path, text in texts.items() if name in text}


def _importing(graph: grimp.ImportGraph, module: str) -> set[str]:
    """Test files that import it, through helpers or not; else those of the modules that import
    it."""
    seen = {module}
    floor = {module}
    while floor:
        found = set[str]()
        above = set[str]()
        at_hand = set(floor)
        while at_hand:
            one = at_hand.pop()
            if one.startswith("tests.") and one.rpartition(".")[2].startswith("test_"):
                found.add(one.replace(".", "/") + ".py")
            for importer in graph.find_modules_that_directly_import(one) - seen:
                seen.add(importer)
                (at_hand if importer.startswith("tests.") else above).add(importer)
        if found:
            return found
        floor = above
    return set()


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--since", metavar="REV", help="a commit to compare with")
    parser.add_argument("-n", default="0", metavar="WORKERS", help="as pytest-xdist's")
    arguments, options = parser.parse_known_args()
    commit = base(arguments.since)
    changed = changed_files(commit)
    tests = tests_of(changed)
    print(
        f"{len(changed)} files differ from {commit[:9]}; tests of them: "
        f"{' '.join(tests) or 'none'}",
        flush=True,
    )
    if not tests:
        return
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "not slow",
        "-n",
        arguments.n,
        *options,
        *tests,
    ]
    done = subprocess.run(command, cwd=PROJECT)
    all_slow = done.returncode == 5 and not options
    sys.exit(0 if all_slow else done.returncode)


if __name__ == "__main__":
    main()
