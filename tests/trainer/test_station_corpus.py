"""A corpus of a station's reviewed clips, as the trainer reads it."""

from collections.abc import Callable
from pathlib import Path

from edge.reports.corpus import write_corpus
from edge.reports.reviewed_clips import code_of
from tests.helpers.reviewed_station import CLIPS, PLACE, heard, replayed, review, write_archive
from trainer.corpus.duplicates import same_sound, two_species
from trainer.corpus.recordings import Corpus, probe_audio


def test_the_trainer_reads_what_a_station_wrote(
    station_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    config = replayed(station_yaml(CLIPS, station=PLACE), write_archive(tmp_path / "in"))
    review(config, heard(config, "lowtoo", "a_")[0].id, "correct")
    review(config, heard(config, "lowtoo", "b_")[0].id, "correct")
    review(config, heard(config, "midtoo")[0].id, "correct")
    review(config, heard(config, "higtoo")[0].id, "wrong", "Зяблик")
    done = write_corpus(config, tmp_path / "corpus")
    corpus = Corpus.read(tmp_path / "corpus")
    assert corpus.problems.counts == {}
    finch = code_of("Зяблик")
    assert corpus.taxonomy.codes == tuple(sorted(("lowtoo", "midtoo", finch)))
    assert corpus.taxonomy[corpus.taxonomy.index(finch)].common_name == "Зяблик"
    assert done.species == {code: 1 + (code == "lowtoo") for code in corpus.taxonomy.codes}
    for one in corpus.recordings:
        assert probe_audio(one.path).seconds >= 11.0
        assert (one.latitude, one.longitude, one.rating) == (52.123456, 13.654321, 0.0)
        assert str(one.date) in ("2024-05-12", "2024-05-13")
        assert one.author == "porch"
    of_chord = {
        r.primary_label: r.secondary_labels for r in corpus.recordings if r.secondary_labels
    }
    assert of_chord == {"lowtoo": ("midtoo",), "midtoo": ("lowtoo",)}
    (twins,) = same_sound(corpus.recordings)
    assert not two_species([one for one in corpus.recordings if one.recording in twins])
