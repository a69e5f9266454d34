"""check-data: contents and problems of a corpus, as counts and a table. Decodes no sound: it reads
the headers of files and finds identical ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from edge.contract.errors import CorpusError
from trainer.corpus.duplicates import by_file, same_files, two_species
from trainer.corpus.origins import Place
from trainer.corpus.recordings import Corpus
from trainer.corpus.species_names import SpeciesNames
from trainer.corpus.spectrograms import probe_all
from trainer.corpus.tables import Problems
from trainer.files import read_json
from trainer.workers import worker_pool

_LISTED = 50  # species with a line of their own
_BEYOND_S = 1.0  # programs that cut in windows of 3 s let the last one end behind the file
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
    layout: str = ""
    species: Mapping[str, int] = field(default_factory=dict)  # recordings, by code
    names: Mapping[str, str] = field(default_factory=dict)  # common names, by code

    def table(self) -> Table:
        table = Table(
            "what",
            "count",
            "for example",
            title=escape(f"corpus {self.corpus}: {self.layout}"),
            title_justify="left",
            caption=self.note or None,
        )
        table.columns[1].justify = "right"
        for name, count in self.counts.items():
            table.add_row(name.replace("_", " "), f"{count:,}".rstrip(), "")
        table.add_section()
        for code, count in list(self.species.items())[:_LISTED]:
            table.add_row(escape(self.names.get(code) or code), f"{count:,}", code)
        if len(self.species) > _LISTED:
            others = list(self.species.values())[_LISTED:]
            table.add_row(f"{len(others)} more species", f"{min(others):,} to {max(others):,}", "")
        table.add_section()
        for kind, count in sorted(self.problems.items()):
            table.add_row(
                f"[yellow]{kind}[/yellow]", f"{count:,}", escape(", ".join(self.examples[kind][:3]))
            )
        if not self.problems:
            table.add_row("[green]no problems[/green]", "0", "")
        return table


def check_folder(
    data: Path, jobs: int, backbone: Path | None, place: Place | None, new: Sequence[str]
) -> CorpusCheck:
    """Count the contents of a corpus that belongs to no run; with `backbone`, the bundle of a
    published model, by the names that it knows."""
    names = None if backbone is None else SpeciesNames.of_bundle(backbone)
    species_min = 2 if backbone is None else 1
    return check_data(Corpus.read(data, names, place, new, species_min), jobs)


def check_data(corpus: Corpus, jobs: int) -> CorpusCheck:
    """Count the contents of a corpus; probe the header of every sound file in `jobs` processes."""
    with worker_pool(jobs) as pool:
        audios = probe_all(corpus.recordings, pool)
    problems = corpus.problems.copy()
    for recording in corpus.recordings:
        audio = audios.get(recording.recording)
        if audio is not None and audio.problem:
            problems.add("audio not readable", f"{recording.recording}: {audio.problem}")
        elif audio is not None and recording.end_s is not None:
            missing_s = recording.end_s - recording.start_s - audio.seconds
            if missing_s > _BEYOND_S:
                ends = f"{recording.recording}: {missing_s:.1f} s beyond the end of the file"
                problems.add("annotation longer than its file", ends)
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
    files = len({r.source for r in corpus.recordings})
    rows = [labels for soundscape in corpus.soundscapes for labels in soundscape.labels.values()]
    counts = {
        "species": len(corpus.taxonomy),
        "recordings": len(corpus.recordings),
        **({"sounds_without_species": len(corpus.backgrounds)} if corpus.backgrounds else {}),
        **({"recorded_files": files} if files != len(corpus.recordings) else {}),
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
        corpus.name,
        counts,
        dict(problems.counts),
        dict(problems.examples),
        _note(corpus),
        corpus.layout,
        dict(heard.most_common()),
        {species.code: species.common_name for species in corpus.taxonomy},
    )


def _note_twins(corpus: Corpus, problems: Problems) -> None:
    """Add identical files to the problems: among recordings, among soundscapes and between both."""
    of_file = by_file(corpus.recordings)
    paths = list(of_file)
    soundscapes = corpus.soundscapes
    for group in same_files([*paths, *(s.path for s in soundscapes)]):
        files = [of_file[paths[i]] for i in group if i < len(paths)]
        theirs = [soundscapes[i - len(paths)].path.name for i in group if i >= len(paths)]
        mine = [own[0] for own in files]
        for recording in mine[1:]:
            problems.add(
                "same sound as another recording", f"{recording.recording} is {mine[0].recording}"
            )
        all_of = [recording for own in files for recording in own]
        if two_species(all_of):
            problems.add(
                "same sound as two species", ", ".join(recording.recording for recording in all_of)
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
