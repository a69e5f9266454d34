"""Links between recordings whose file grew, was cut short or got other tags. Compares bytes and
sums of the decoded sound with the record."""

from contextlib import ExitStack, suppress

from edge.capture.file_states import continues, state_of_opened
from edge.capture.pulsed_file import Pulse, PulsedFile, no_pulse
from edge.capture.sound_sums import is_within
from edge.replay.reader import RecordingTask
from edge.store.files import Files, same_place


def grown_out_of(
    store: Files, station: str, task: RecordingTask, recording: str, pulse: Pulse = no_pulse
) -> dict[str, bool]:
    """For each other recording that this file was before: True if the file now contains all of it,
    as far as its bytes tell."""
    grown: dict[str, bool] = {}
    earlier = store.earlier(station, task.name, recording)
    with suppress(OSError, ValueError), ExitStack() as stack:
        file = stack.enter_context(PulsedFile(task.path, pulse)) if earlier else None
        if file is None or not _is_as_read(file, task):
            return {}
        for name, other, state in earlier:
            if _is_another(task, name):
                continue
            continued = continues(file, state)
            if continued is not None:
                grown[other] = continued or grown.get(other, False)
    return grown


def _is_as_read(file: PulsedFile, task: RecordingTask) -> bool:
    """True if this is the file that was read, and not another that has taken its name since."""
    now = state_of_opened(file)
    read = task.file
    return (
        now.sample == read.sample if now.bytes == read.bytes else continues(file, read) is not False
    )


def alike(
    store: Files, station: str, task: RecordingTask, recording: str, sound: str, audio_s: float
) -> tuple[list[str], str | None]:
    """Compare the sound with other recordings of the same file name that began at the same moment
    or were this very file. Returns the recordings whose sound is contained in this one, and one
    that contains all sound of this one, or None."""
    within = []
    for name, other, same_start, its_sound, its_s in store.alike(station, task.name, recording):
        with suppress(OSError, ValueError):
            if not same_start and (not same_place(task.name, name) or _is_another(task, name)):
                continue
            if is_within(its_sound, its_s, sound, audio_s):
                within.append(other)
            elif is_within(sound, audio_s, its_sound, its_s):
                return [], other
    return within, None


def _is_another(task: RecordingTask, name: str) -> bool:
    """True if this name stands for another file that exists beside that of the task."""
    return (
        name != task.name and (task.path.absolute().parents[task.name.count("/")] / name).exists()
    )
