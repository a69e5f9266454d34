"""Files that operating systems and programs leave in folders beside a person's own, which are
skipped wherever a folder is read.

Knows no suffix of sound and no layout of a folder.
"""

from collections.abc import Iterator
from pathlib import Path

from edge.contract.errors import CorpusError

# Names in lower case that Windows, macOS, Synology and fsck leave on cards, shares and disks, apart
# from hidden ones.
_LEFT_BESIDE = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "autorun.inf",
        "system volume information",
        "$recycle.bin",
        "recycler",
        "recycled",
        "__macosx",
        "icon\r",
        "network trash folder",
        "temporary items",
        "@eadir",
        "#recycle",
        "lost+found",
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
    """True if a file or folder of this name is not a person's own.

    That is: hidden (`._x.wav`, `.DS_Store`, `.Trash`), the lock of an open document (`~$x.csv`),
    the origin of a download (`x.wav:Zone.Identifier`), or a system folder or file.
    """
    small = name.lower()
    lock = small.startswith("~$") and small.endswith(_OFFICE)
    return (
        small.startswith(".") or lock or name.endswith(":Zone.Identifier") or small in _LEFT_BESIDE
    )


def entries_of(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without the skipped ones. Raises OSError if it cannot be
    listed."""
    return sorted(path for path in folder.iterdir() if not passed_over(path.name))


def files_under(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; links to files are followed, to folders not.

    Raises CorpusError naming a folder that cannot be listed: otherwise its files would be missing
    silently.
    """
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
    """True if a folder may be filled: it does not exist, or contains only skipped files."""
    return not folder.exists() or (
        folder.is_dir() and all(passed_over(path.name) for path in folder.iterdir())
    )
