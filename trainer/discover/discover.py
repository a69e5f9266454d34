"""discover: clips of unknown sounds into groups, a page about them, and a corpus to be named.

OUT/discover.json               what was grouped, and by which backbone
OUT/embeddings/part-*.npz       vectors, by contents of the files: nothing is embedded twice
OUT/groups.csv                  each clip, its group, its distance to the middle
OUT/discover.html
OUT/corpus/group-01/...         copies of the clips, the largest group first
OUT/corpus-unsorted/...         clips too unlike anything
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from rich.console import Console

from edge.contract.bundle import file_sha256
from edge.contract.errors import EXIT_REFUSED, CorpusError, UsageError
from edge.contract.folders import entries_of, files_under, holds_nothing
from trainer.discover.clips import Clip, read_clips
from trainer.discover.groups import CLIPS_MAX, DISTANCE, SMALLEST, Partition, cut, tree_of
from trainer.discover.groups_page import EXAMPLES, Example, GroupView, PageFacts, write_page
from trainer.discover.vectors import ClipVector, VectorStore, vectors_of
from trainer.files import (
    clear_temporaries,
    make_folder,
    read_csv,
    read_json,
    replacing,
    write_csv,
    write_json,
)
from trainer.transfer.backbone import backbone_in
from trainer.workers import progress_bar

MARK = "discover.json"
GROUPS = "groups.csv"
PAGE = "discover.html"
CORPUS = "corpus"
UNSORTED = "corpus-unsorted"
HEADER = ("file", "group", "distance", "copy", "time", "latitude", "longitude", "score")
OTHER_DISTANCES = (0.3, 0.35, 0.4, 0.45, 0.5)


@dataclass(frozen=True)
class DiscoverOptions:
    """Options of the command."""

    folder: Path
    backbone: Path  # folder of an adopted bundle
    out: Path
    distance: float = DISTANCE
    smallest: int = SMALLEST
    jobs: int = 1


@dataclass(frozen=True)
class _Row:
    """A clip in the result."""

    clip: Clip
    vector: ClipVector
    group: str  # empty: unsorted
    apart: float
    copy: str  # relative to OUT


def discover(options: DiscoverOptions, console: Console) -> int:
    """Write OUT; the same clips and options give the same bytes. Returns the exit status: that of
    recordings refused if a file could not be read.

    Raises CorpusError if there is nothing to group, UsageError for an OUT with other contents,
    BundleError for a backbone that is none.
    """
    out = options.out
    if not 0 < options.distance <= 2:
        raise UsageError(f"--distance: expected a number up to 2, found {options.distance:g}")
    _check_apart(options.folder, out)
    earlier = _earlier_copies(out)

    def tell(line: str) -> None:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)

    clips = read_clips(options.folder, tell)
    if len(clips) > CLIPS_MAX:
        raise CorpusError(
            f"{options.folder}: expected at most {CLIPS_MAX:,} clips, found {len(clips):,}; divide "
            "them, e.g. by month"
        )
    backbone = backbone_in(options.backbone)
    mark = {"discover": 1, "backbone": backbone.id}
    write_json(out / MARK, mark | {"sums": _sums(_mark(out))})
    clear_temporaries(out)
    heard = _hear(clips, options, backbone.id, tell, console)
    rows, others = _group(heard, options)
    write_json(out / MARK, mark)  # from here on copies come and go
    _clear(out, earlier)
    write_csv(out / GROUPS, HEADER, map(_cells, rows))
    for row in rows:
        _copy(row.clip.path, out / row.copy)
    facts = PageFacts(
        folder=options.folder.resolve().name,
        backbone=backbone.member.architecture,
        clips=len(rows),
        unsorted=sum(not row.group for row in rows),
        unreadable=len(clips) - len(heard),
        distance=options.distance,
        others=others,
    )
    views = _views(rows)
    _show(facts, views, out, console)
    sums = {row.copy: file_sha256(out / row.copy) for row in rows}
    write_json(out / MARK, mark | {"sums": sums})
    _say_end(facts, views, out, console)
    return EXIT_REFUSED if facts.unreadable else 0


def _hear(
    clips: Sequence[Clip],
    options: DiscoverOptions,
    backbone: str,
    tell: Callable[[str], None],
    console: Console,
) -> list[tuple[Clip, ClipVector]]:
    """The clips that can be read, with their vectors. Raises CorpusError if none can."""
    store = VectorStore(options.out / "embeddings", backbone)
    with progress_bar(console) as bar:
        task = bar.add_task("embeddings", total=len(clips), note="")
        found = vectors_of(
            clips,
            options.backbone,
            store,
            options.jobs,
            tell,
            lambda done: bar.update(task, completed=done),
        )
    heard = [(clip, one) for clip, one in zip(clips, found, strict=True) if one is not None]
    if not heard:
        raise CorpusError(f"{options.folder}: none of {len(clips)} files can be read as sound")
    return heard


def _show(facts: PageFacts, views: Sequence[GroupView], out: Path, console: Console) -> None:
    with progress_bar(console) as bar:
        task = bar.add_task("groups drawn", total=len(views), note="")
        text = write_page(facts, views, lambda done: bar.update(task, completed=done))
    with replacing(out / PAGE) as temporary:
        temporary.write_text(text, encoding="utf8")


def _copy(source: Path, target: Path) -> None:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise CorpusError(f"{source}: was there and is not now: {error.strerror}") from error
    with replacing(target) as temporary:
        temporary.write_bytes(content)


def _say_end(facts: PageFacts, views: Sequence[GroupView], out: Path, console: Console) -> None:
    lines = [
        f"{facts.clips:,} clips: {facts.clips - facts.unsorted:,} in {len(views):,} groups, "
        f"{facts.unsorted:,} unlike anything ({out / UNSORTED})",
        f"page: {out / PAGE} (open it in a browser)",
    ]
    if facts.unreadable:
        lines[0] += f"; {facts.unreadable:,} could not be read"
    if views:
        lines.append(f"next: name the folders in {out / CORPUS} and train on it")
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def _group(
    heard: Sequence[tuple[Clip, ClipVector]], options: DiscoverOptions
) -> tuple[list[_Row], list[tuple[float, int, int]]]:
    """Rows, and what other distances would give."""
    vectors = np.stack([one.vector for _, one in heard])
    tree = tree_of(vectors) if len(vectors) > 1 else None
    grouping = cut(tree, vectors, options.distance, options.smallest)
    others = []
    for distance in sorted({*OTHER_DISTANCES, options.distance}):
        other = cut(tree, vectors, distance, options.smallest)
        others.append((distance, other.count, int((other.group >= 0).sum())))
    return list(_rows(heard, grouping)), others


def _rows(heard: Sequence[tuple[Clip, ClipVector]], grouping: Partition) -> Iterable[_Row]:
    digits = max(2, len(str(grouping.count)))
    taken: set[str] = set()
    for (clip, vector), number, apart in zip(heard, grouping.group, grouping.apart, strict=True):
        group = f"group-{number + 1:0{digits}}" if number >= 0 else ""
        folder = f"{CORPUS}/{group}" if group else UNSORTED
        path = PurePosixPath(clip.name)
        copy = f"{folder}/{path.name}"
        if copy.lower() in taken:  # the same name in another folder
            copy = f"{folder}/{'-'.join(path.parts)}"
        again = 2
        while copy.lower() in taken:
            copy = f"{folder}/{path.stem}-{again}{path.suffix}"
            again += 1
        taken.add(copy.lower())
        yield _Row(clip, vector, group, float(apart), copy)


def _cells(row: _Row) -> tuple[object, ...]:
    clip = row.clip
    known = (clip.time and clip.time.isoformat(), clip.latitude, clip.longitude, clip.score)
    apart = f"{row.apart:.4f}" if row.group else ""
    return (
        clip.name,
        row.group,
        apart,
        row.copy,
        *("" if value is None else value for value in known),
    )


def _views(rows: Sequence[_Row]) -> list[GroupView]:
    views = []
    for name in sorted({row.group for row in rows if row.group}):
        mine = sorted((row for row in rows if row.group == name), key=lambda row: row.apart)
        at = np.unique(np.linspace(0, len(mine) - 1, EXAMPLES).round().astype(int))
        views.append(
            GroupView(
                name,
                [row.clip for row in mine],
                [_example(mine[k]) for k in at],
                float(np.median([row.apart for row in mine])),
            )
        )
    return views


def _example(row: _Row) -> Example:
    return Example(row.clip, row.copy, row.vector.start_s, row.apart)


def _check_apart(folder: Path, out: Path) -> None:
    """Raise UsageError if one folder is inside the other: copies would be found as clips."""
    inner, outer = out.resolve(), folder.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(
            f"--out: expected a folder apart from {folder}, found {out}; choose another"
        )


def _earlier_copies(out: Path) -> list[Path]:
    """Copies that an earlier run made, of which everything under the corpus must be. Raises
    UsageError if OUT is not ours, or a person has worked in its corpus."""
    if not holds_nothing(out) and "discover" not in _mark(out):
        raise UsageError(f"{out}: contains other files; choose a new or empty folder for --out")
    copies = []
    if (out / GROUPS).is_file():
        copies = [out / row["copy"] for row in read_csv(out / GROUPS, HEADER)]
    ours = set(copies)
    for folder in (out / CORPUS, out / UNSORTED):
        foreign = [path for path in files_under(folder) if path not in ours]
        if foreign:
            raise UsageError(
                f"{foreign[0]}: not where discover put it; what was named or moved by hand is left "
                "alone: choose another --out"
            )
    for name, sha256 in _sums(_mark(out)).items():
        path = out / name
        if not path.is_file() or file_sha256(path) != sha256:
            what = "was changed" if path.exists() else "is not there any more"
            raise UsageError(
                f"{path}: {what} since discover put it there; what was sorted by hand is left "
                "alone: choose another --out"
            )
    return [path for path in copies if path.is_relative_to(out) and ".." not in path.parts]


def _mark(out: Path) -> dict[str, object]:
    try:
        return read_json(out / MARK)
    except CorpusError:
        return {}


def _sums(mark: Mapping[str, object]) -> dict[str, str]:
    """The sums of the copies of a run that came to its end, by their names in OUT."""
    found = mark.get("sums")
    return (
        {str(name): str(sha256) for name, sha256 in found.items()}
        if isinstance(found, dict)
        else {}
    )


def _clear(out: Path, copies: Iterable[Path]) -> None:
    """Remove earlier copies, and the folders that are then empty."""
    for path in copies:
        path.unlink(missing_ok=True)
    make_folder(out / CORPUS)
    for folder in entries_of(out / CORPUS):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
