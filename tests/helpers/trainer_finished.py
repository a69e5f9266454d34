"""A finished run of a tiny corpus, made once for a module of tests, and a copy of it for each."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.trainer_ground import Ground, make_ground, overwrite
from tests.helpers.trainer_walk import Scratch, Told, apart, fit_all, here, picture
from trainer.book import STAGES
from trainer.run import Run

FIRST = "only-fold0-seed1"
SECOND = "only-fold1-seed1"
_scratch = Scratch()


@contextmanager
def finished_ground(home: Path) -> Iterator[Ground]:
    """A finished run and its ground; while it is there, all is trained in this process."""
    with here():
        ground = make_ground(home)
        assert fit_all(ground.options()).made == STAGES
        yield ground


def copied(done: Ground, home: Path) -> Ground:
    """A copy of it, to be changed."""
    shutil.copytree(done.home, home)
    return Ground(home)


def again(ground: Ground, **asked: Any) -> Told:
    """Fit-all, asked for with these options."""
    ground.asked = asked
    return fit_all(ground.options())


def as_from_scratch(ground: Ground) -> list[str]:
    """In what the run differs from one made from scratch; that of the same ground is made once."""
    expected = _scratch.of(ground)
    return (
        [expected]
        if isinstance(expected, str)
        else apart(picture(Run.open(ground.out, images=True)), expected)
    )


def damage(path: Path, how: str) -> None:
    """The file's times stay."""
    content = path.read_bytes()
    at = len(content) * 2 // 3
    if how == "removed":
        path.unlink()
    else:
        turned = content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :]
        overwrite(path, turned if how == "turned" else content[: len(content) // 2])
