"""check-data: contents and problems of a corpus, as counts and a table. Decodes no sound: it reads
the headers of files and finds identical ones."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from edge.contract.errors import CorpusError
from trainer.corpus.duplicates import same_files, two_species
from trainer.corpus.recordings import Corpus
from trainer.corpus.spectrograms import probe_all
from trainer.corpus.tables import Problems
from trainer.files import read_json
from trainer.workers import worker_pool

# With fewer than 5 recordings a species is missing from some folds; with fewer than 10 its scores
# are unreliable.
_RARE = {5: "species with fewer than 5 recordings", 10: "species with 5 to 9 recordings"}


@dataclass(frozen=True)
class CorpusCheck:
    """check.json."""

    corpus: str
    counts: Mapping[str, float]
    problems: Mapping[str, int]
    examples: Mapping[str, list[str]]
    note: str = ""  # a remark on all of them

    def table(self) -> Table:
        table = Table(
            "what",
            "count",
            "for example",
            title=f"corpus {self.corpus}",
            title_justify="left",
            caption=self.note or None,
        )
        table.columns[1].justify = "right"
        for name, count in self.counts.items():
            table.add_row(name.replace("_", " "), f"{count:,}".rstrip(), "")
        table.add_section()
        for kind, count in sorted(self.problems.items()):
            table.add_row(
                f"[yellow]{kind}[/yellow]", f"{count:,}", escape(", ".join(self.examples[kind][:3]))
            )
        if not self.problems:
            table.add_row("[green]no problems[/green]", "0", "")
        return table


def check_data(corpus: Corpus, jobs: int) -> CorpusCheck:
    """Count the contents of a corpus; probe the header of every sound file in `jobs` processes."""
    with worker_pool(jobs) as pool:
        audios = probe_all(corpus.recordings, pool)
    problems = corpus.problems.copy()
    for recording, audio in audios.items():
        if audio.problem:
            problems.add("audio not readable", f"{recording}: {audio.problem}")
    good = {key: audio for key, audio in audios.items() if not audio.problem}
    _note_twins(corpus, problems)
    heard = Counter(r.primary_label for r in corpus.recordings if r.recording in good)
    for code in corpus.taxonomy.codes:
        if not heard[code]:
            problems.add("species without readable audio", code)
    recorded = Counter(r.primary_label for r in corpus.recordings)
    for code in sorted(corpus.taxonomy.codes, key=lambda code: recorded[code]):
        kind = next((kind for below, kind in _RARE.items() if recorded[code] < below), None)
        if kind:
            problems.add(kind, f"{code}: {recorded[code]}")
    rows = [labels for soundscape in corpus.soundscapes for labels in soundscape.labels.values()]
    counts = {
        "species": len(corpus.taxonomy),
        "recordings": len(corpus.recordings),
        "recordings_readable": len(good),
        "recordings_with_place": sum(r.latitude is not None for r in corpus.recordings),
        "recordings_with_date": sum(r.date is not None for r in corpus.recordings),
        "recordings_at_other_rates": sum(audio.rate_hz != 32_000 for audio in good.values()),
        "hours": round(sum(audio.seconds for audio in good.values()) / 3600, 2),
        "fewest_recordings_of_a_species": min(heard[code] for code in corpus.taxonomy.codes),
        "soundscapes": len(corpus.soundscapes),
        "labelled_rows": len(rows),
    }
    return CorpusCheck(
        corpus.name, counts, dict(problems.counts), dict(problems.examples), _note(corpus)
    )


def _note_twins(corpus: Corpus, problems: Problems) -> None:
    """Add identical files to the problems: among recordings, among soundscapes and between both."""
    recordings = corpus.recordings
    soundscapes = corpus.soundscapes
    for group in same_files([*(r.path for r in recordings), *(s.path for s in soundscapes)]):
        mine = [recordings[i] for i in group if i < len(recordings)]
        theirs = [soundscapes[i - len(recordings)].path.name for i in group if i >= len(recordings)]
        for recording in mine[1:]:
            problems.add(
                "same sound as another recording", f"{recording.recording} is {mine[0].recording}"
            )
        if two_species(mine):
            problems.add(
                "same sound as two species", ", ".join(recording.recording for recording in mine)
            )
        for name in theirs[1:]:
            problems.add("same sound as another soundscape", f"{name} is {theirs[0]}")
        if mine and theirs:
            problems.add(
                "soundscape that is trained on, too", f"{theirs[0]} is {mine[0].recording}"
            )


def _note(corpus: Corpus) -> str:
    """A remark for a corpus made by demo-data, which has a few deliberate faults; else empty."""
    path = corpus.data / "corpus.json"
    try:
        made = path.is_file() and {"parameters", "complete"} <= read_json(path).keys()
    except CorpusError:
        return ""
    return (
        "an invented corpus: its damaged files, dates and places are there on purpose (README.txt)"
        if made
        else ""
    )
