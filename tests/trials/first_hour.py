"""Types every command of README and docs in a bare Debian, as a new user would, and says which of
them work.

    python -m tests.trials.first_hour --suite bookworm [--suite trixie] \\
      [--tree FOLDER …] [--copy FILE …] [--only TEXT]

Wants root and debootstrap. A suite is laid down by debootstrap; `--tree` names one that was before:
it stays as it is, a copy is used. To that come what Debian's installer puts on a small machine:
systemd, sudo, nano, certificates. Then the tracked files lie in `~/birdstation` of an account with
sudo, a few recordings in `~/recordings` and /srv/recordings. The shell blocks of each document are
typed there, line after line, in one shell a document; SQL blocks go to sqlite3, and what the table
of docs/install.md says to type as well. `first_hour_table.py` says what is typed instead (an editor
waits for a person), and what cannot be tried in such a tree, with the reason. `--copy` brings a
file of this machine to the same place there, such as /etc/pip.conf where this machine needs one.
The tree is a chroot with namespaces of its own for processes and mounts: nothing of it runs or is
mounted afterwards. Exits 1 if a command that was typed failed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.trials.first_hour_table import DOCUMENTS, INSTEAD, RIGHT, UNTRIED
from tests.trials.wheels import tracked_copy

PROJECT = Path(__file__).resolve().parents[2]
_INSTALLER = ("systemd", "sudo", "nano", "ca-certificates", "procps")
_MARK = "\x01"
_DOCUMENT_S = 1500
_HOME = "home/user"
_TROUBLE = ("Traceback (most recent call last)", "command not found")  # whatever the exit status
_ENTER = 'mount -t proc proc "$0/proc" && mount -t tmpfs shm "$0/dev/shm" && exec chroot "$0" "$@"'


@dataclass(frozen=True)
class Command:
    """One command of a document."""

    document: str
    line: int
    text: str
    typed: str  # what is typed; other than `text` where the table says so
    untried: str = ""  # why it is not

    @property
    def right(self) -> tuple[int, ...]:
        """Exit statuses that are right."""
        return next(
            (statuses for pattern, statuses in RIGHT.items() if re.search(pattern, self.text)), (0,)
        )


@dataclass(frozen=True)
class Answer:
    """How one ended."""

    command: Command
    status: int | None  # None: it was not typed, or never came back
    last: str
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """works, FAILS, works, filled in (what only a person can type or know was), not tried."""
        if self.command.untried:
            return "not tried"
        if self.status not in self.command.right or any(
            trouble in self.last for trouble in _TROUBLE
        ):
            return "FAILS"
        return "works" if self.command.typed == self.command.text else "works, filled in"


def blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """First line, language and lines of each fenced block."""
    begun = 0
    language = ""
    lines = list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if begun:
                yield begun, language, lines
            begun, language, lines = (0, "", []) if begun else (number + 1, line[3:].strip(), [])
        elif begun:
            lines.append(line)


def commands(document: str) -> list[Command]:
    """A document's shell commands in their order, its SQL, and what the table of docs/install.md
    says to type."""
    text = (PROJECT / document).read_text(encoding="utf8")
    found: list[tuple[int, str]] = []
    for start, language, lines in blocks(text):
        if language == "sql":
            found.append((start, "sqlite3 station.db <<'SQL'\n" + "\n".join(lines) + "\nSQL"))
        elif language in ("", "sh", "bash", "console") and not _is_output(lines):
            found += _joined(start, lines)
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("|") and document == "docs/install.md":
            found += [
                (number, span) for span in re.findall(r"`((?:sudo|birdstation) [^`]+)`", line)
            ]
    return [_made(document, line, typed) for line, typed in sorted(found)]


def _is_output(lines: list[str]) -> bool:
    """Whether a block shows what a program prints: no line of it begins as a command does."""
    return not any(re.match(r"[a-z./][\w./+-]*( |$)", line) for line in lines) or any(
        "│" in line for line in lines
    )


def _joined(start: int, lines: list[str]) -> list[tuple[int, str]]:
    found = list[tuple[int, str]]()
    begun = start
    text = ""
    for number, line in enumerate(lines, start):
        begun, text = (begun, f"{text}\n{line}") if text else (number, line)
        if not line.endswith("\\"):
            if text.strip():
                found.append((begun, text))
            text = ""
    return found


def _made(document: str, line: int, text: str) -> Command:
    bare = re.sub(r"\s+#\s.*", "", text)
    typed = bare
    for pattern, instead in INSTEAD.items():
        typed = re.sub(pattern, instead, typed)
    untried = next(
        (why for pattern, why in UNTRIED.items() if re.search(pattern, f"{document}: {typed}")), ""
    )
    return Command(document, line, bare, typed, untried)


class Tree:
    """A bare Debian in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, user: str | None = None, seconds: float = 900) -> str:
        """Run it inside; all that it printed. Raises RuntimeError if root's fails."""
        inside = ["su", "-", user, "-c", *command] if user else list(command)
        place = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _ENTER, str(self.folder)]
        path = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
        }
        path |= {} if user else {"DEBIAN_FRONTEND": "noninteractive"}
        try:
            done = subprocess.run(
                [*place, *inside],
                env=path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            return (expired.stdout or b"").decode(errors="replace")
        said = done.stdout.decode(errors="replace")
        if done.returncode and not user:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{said[-2000:]}")
        return said

    def prepare(self, copied: list[Path]) -> None:
        """What the installer would have put there, an account, the source folder and recordings."""
        for path in (*copied, Path("/etc/resolv.conf")):
            to = self.folder / path.relative_to("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
        self.run("apt-get", "update", "-qq")
        self.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *_INSTALLER)
        for path in copied:  # a package may have brought its own
            shutil.copy(path, self.folder / path.relative_to("/"))
        self.run("useradd", "-m", "-s", "/bin/bash", "user")
        sudoers = self.folder / "etc/sudoers.d/user"
        sudoers.write_text("user ALL=(ALL) NOPASSWD: ALL\n")
        sudoers.chmod(0o440)
        (self.folder / "etc/hosts").write_text(f"127.0.0.1 localhost {_host()}\n")
        (self.folder / _HOME / "birdstation").mkdir()
        tracked_copy(self.folder / _HOME / "birdstation")
        for place in (_HOME, "srv"):
            (self.folder / place / "recordings").mkdir()
            for sound in sorted((PROJECT / "edge/demo/soundscapes").glob("*.ogg"))[:3]:
                shutil.copy(sound, self.folder / place / "recordings")
        self.run("chown", "-R", "user:user", "/home/user")
        self.run("chmod", "-R", "a+rX", "/srv")

    def type(self, document: str) -> list[Answer]:
        """Type what the document says, in one shell."""
        there = commands(document)
        lines = ["cd ~/birdstation", "exec 2>&1", "export LANG=C.UTF-8 COLUMNS=100"]
        for number, command in enumerate(there):
            if not command.untried:
                lines += [f"eval \"$(cat <<'TYPED'\n{command.typed}\nTYPED\n)\" </dev/null"]
                lines += [f"printf '\\n\\001{number} %d %s\\n' $? \"$(date +%s.%N)\""]
        (self.folder / _HOME / "typed.sh").write_text("\n".join(lines) + "\n", encoding="utf8")
        start = time.time()
        said = self.run("bash /home/user/typed.sh", user="user", seconds=_DOCUMENT_S)
        return _answers(there, said, start)


def _answers(there: list[Command], said: str, start: float) -> list[Answer]:
    ended: dict[int, tuple[int, str, float]] = {}
    before = ""
    at = start
    for line in said.splitlines():
        if line.startswith(_MARK):
            number, status, now = line[1:].split()
            ended[int(number)] = (int(status), before, float(now) - at)
            before = ""
            at = float(now)
        else:
            before += f"{line}\n"
    answers = []
    for number, command in enumerate(there):
        status, text, seconds = ended.get(number, (None, "" if command.untried else before, 0.0))
        answers.append(Answer(command, status, text.strip(), seconds))
    return answers


def _host() -> str:
    return Path("/etc/hostname").read_text(encoding="utf8").strip()


def laid_down(suite: str, folder: Path) -> Path:
    """A bare tree of that suite."""
    line = ["debootstrap", "--variant=minbase", suite, str(folder)]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return folder


def told(answers: list[Answer], counts: Counter[str]) -> None:
    """A line for each."""
    for answer in answers:
        command = answer.command
        verdict = answer.verdict
        counts[verdict] += 1
        first = command.text.splitlines()[0]
        if verdict == "not tried":
            print(f"  {verdict}: {command.document}:{command.line} {first}  ({command.untried})")
            continue
        print(
            f"  {verdict} ({answer.seconds:.1f} s): {command.document}:{command.line} {first}",
            flush=True,
        )
        if command.typed != command.text:
            print(f"      typed: {command.typed.splitlines()[0]}")
        if verdict == "FAILS":
            print(f"      exit {answer.status}, right: {command.right}")
            print("".join(f"      | {line}\n" for line in answer.last.splitlines()[-12:]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--suite", action="append", default=[], help="of Debian, such as bookworm")
    parser.add_argument(
        "--tree", action="append", default=[], type=Path, help="a bare tree that debootstrap made"
    )
    parser.add_argument(
        "--copy",
        action="append",
        default=[],
        type=Path,
        help="a file of this machine, for the tree",
    )
    parser.add_argument("--only", default="", help="only documents with this text in the name")
    return parser.parse_args()


def main() -> int:
    """Try each tree; 1 if a command fails."""
    given = _arguments()
    failed = 0
    documents = [name for name in DOCUMENTS if given.only in name and (PROJECT / name).exists()]
    for name in (*given.suite, *given.tree):
        with tempfile.TemporaryDirectory(prefix="first-hour-") as work:
            folder = Path(work) / "tree"
            if isinstance(name, Path):
                subprocess.run(["cp", "-a", str(name), str(folder)], check=True)
            else:
                laid_down(name, folder)
            tree = Tree(folder)
            counts = Counter[str]()
            tree.prepare(given.copy)
            version = (folder / "etc/debian_version").read_text(encoding="utf8").strip()
            print(f"Debian {version}:", flush=True)
            for document in documents:
                told(tree.type(document), counts)
            print(
                f"Debian {version}: "
                + ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            )
            failed += counts["FAILS"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
