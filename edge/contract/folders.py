"""What systems and programs leave in folders beside a person's files: passed over wherever a folder
is read.

Knows no suffix of sound and no layout of a folder.
"""

from collections.abc import Iterator
from pathlib import Path

from edge.contract.errors import CorpusError

# Beside hidden names: what Windows, macOS, Synology and fsck leave on cards, shares and disks, in
# small letters
_LEFT_BESIDE = frozenset(
    (
        *(
            "thumbs.db",
            "ehthumbs.db",
            "ehthumbs_vista.db",
            "desktop.ini",
            "autorun.inf",
            "system volume information",
        ),
        *(
            "$recycle.bin",
            "recycler",
            "recycled",
            "__macosx",
            "icon\r",
            "network trash folder",
            "temporary items",
        ),
        *("@eadir", "#recycle", "lost+found"),
    )
)

_OFFICE = (
    ".csv",
    ".doc",
    ".docx",
    ".odt",
    ".ods",
    ".rtf",
    ".tsv",
    ".txt",
    ".xls",
    ".xlsm",
    ".xlsx",
)


def passed_over(name: str) -> bool:
    """Whether a file or folder of this name is none of a person's: hidden (`._x.wav`, `.DS_Store`,
    `.Trash`), an open document's lock (`~$x.csv`), where a file came from
    (`x.wav:Zone.Identifier`), or what a system keeps for itself."""
    small = name.lower()
    lock = small.startswith("~$") and small.endswith(_OFFICE)
    return (
        small.startswith(".") or lock or name.endswith(":Zone.Identifier") or small in _LEFT_BESIDE
    )


def entries_of(folder: Path) -> list[Path]:
    """What lies in a folder, sorted. Raises OSError if it cannot be listed."""
    return sorted(path for path in folder.iterdir() if not passed_over(path.name))


def files_under(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; links to files are followed, to folders not. Raises
    CorpusError naming a folder that cannot be listed: what lies in it would be missing in
    silence."""
    try:
        return sorted(_walk(folder))
    except OSError as error:
        raise CorpusError(
            f"{error.filename or folder}: cannot be listed: {error.strerror}"
        ) from error


def _walk(folder: Path) -> Iterator[Path]:
    for path in entries_of(folder) if folder.is_dir() else ():
        if path.is_file():
            yield path
        elif not path.is_symlink():
            yield from _walk(path)


def holds_nothing(folder: Path) -> bool:
    """Whether a folder may be filled: it is not there, or nobody has put anything into it."""
    return not folder.exists() or (
        folder.is_dir() and all(passed_over(path.name) for path in folder.iterdir())
    )
