"""The better metadata model: neighbours and networks know more than trees where there is structure
to know."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from edge.contract.errors import BundleError
from edge.contract.taxonomy import Taxonomy
from edge.prior.cooccurrence import Cooccurrence
from edge.prior.nearby import DAYS, KM, LEVELS, Nearby, RecordingContext
from edge.prior.place_table import compute_prior_table
from tests import HANGS_S
from tests.helpers.trainer_run import make_rasters
from trainer.corpus.recordings import COLUMNS, Corpus
from trainer.place import placenets
from trainer.place.metadata import fit_metadata
from trainer.place.neighbours import _left_out, left_out
from trainer.place.place_prior import place_scores
from trainer.place.place_score import score_places
from trainer.place.reranker import fit_judge
from trainer.recipe import Recipe, find_recipe
from trainer.run import Run

SPECIES = 16
PLACES = 60
VISITS = 10


def write_table(
    path: Path, seed: int, *, visits: int = VISITS, extra: list[dict[str, str]] | None = None
) -> Path:
    """Recordings at places strewn over a continent, each with three species of its own, two of them
    for half a year: nothing that nine features could tell from each other, but much that neighbours
    know."""
    here = np.random.default_rng(7)  # the same places for every seed
    spots = np.stack([here.uniform(-20, 20, PLACES), here.uniform(-70, -30, PLACES)], axis=1)
    local = [here.permutation(SPECIES)[:3] for _ in range(PLACES)]
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for place in range(PLACES):
            for visit in range(visits):
                month = int(random.integers(1, 13))
                code = local[place][0 if random.random() < 0.3 else 1 + (month > 6)]
                latitude, longitude = spots[place] + random.normal(0, 0.002, 2)
                row = {
                    "primary_label": f"bird{code:02d}",
                    "secondary_labels": "[]",
                    "filename": f"XC{seed}{place:03d}{visit:02d}.ogg",
                    "latitude": f"{latitude:.4f}",
                    "longitude": f"{longitude:.4f}",
                    "date": f"20{random.integers(10, 21)}-{month:02d}-{random.integers(1, 29):02d}",
                    "scientific_name": f"Avis bird{code:02d}",
                    "common_name": f"Bird {code}",
                }
                writer.writerow(row)
        writer.writerows(extra or [])
    return path


def with_metadata(**numbers: object) -> Recipe:
    recipe = find_recipe("demo")
    return replace(recipe, metadata=replace(recipe.metadata, **numbers))


def begin(folder: Path, data: Path, **numbers: object) -> tuple[Run, Corpus]:
    corpus = Corpus.read(data)
    return Run.create(folder, with_metadata(**numbers), corpus.name, corpus.taxonomy), corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places") / "data"
    write_table(folder / "train_metadata.csv", 1)
    return folder


@pytest.fixture(scope="module")
def rasters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rasters(tmp_path_factory.mktemp("layers") / "rasters")


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory, data: Path, rasters: Path) -> Run:
    run, corpus = begin(tmp_path_factory.mktemp("better") / "run", data, kind="better")
    fit_metadata(run, corpus, rasters)
    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, data: Path, rasters: Path) -> Run:
    run, corpus = begin(tmp_path_factory.mktemp("published") / "run", data, iterations=150)
    fit_metadata(run, corpus, rasters)
    return run


def figures(run: Run) -> dict[str, float]:
    found = json.loads((run.folder / "metadata" / "metrics.json").read_text(encoding="utf8"))
    return dict(found["validation"])


def files(run: Run) -> dict[str, bytes]:
    paths = (run.folder / "metadata").iterdir()
    return {path.name: path.read_bytes() for path in paths if path.name != "metrics.json"}


@pytest.mark.slow
def test_it_beats_the_published_kind(better: Run, published: Run) -> None:
    ours = figures(better)
    theirs = figures(published)
    assert ours["top1"] > theirs["top1"] + 0.05
    assert ours["log_loss"] < 0.9 * theirs["log_loss"]
    assert not (published.folder / "metadata" / "nearby.npz").exists()


@pytest.mark.slow
def test_it_holds_on_recordings_that_were_kept_back(
    better: Run, published: Run, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "kept.csv", 2)
    ours = score_places(better, table)
    theirs = score_places(published, table)
    assert ours.used == ours.rows == PLACES * VISITS
    assert ours.model["top1"] > theirs.model["top1"] + 0.05
    assert ours.model["log_loss"] < 0.9 * theirs.model["log_loss"]
    assert ours.baseline_majority["top1"] < 0.2


@pytest.mark.slow
def test_far_from_all_recordings_the_networks_stand(better: Run) -> None:
    folder = better.folder / "metadata"
    pole = (
        np.array([80.0], np.float32),
        np.array([100.0], np.float32),
        np.array([10.0], np.float32),
    )
    nearby = Nearby.read(folder)
    assert nearby is not None
    base = np.full((1, len(better.taxonomy)), 1 / len(better.taxonomy), np.float32)
    np.testing.assert_array_equal(nearby.apply(base, *pole), base)
    assert np.isclose(place_scores(folder, better.taxonomy, *pole).sum(), 1.0, atol=1e-5)


@pytest.mark.slow
def test_station_and_trainer_agree_on_every_day(better: Run) -> None:
    folder = better.folder / "metadata"
    taxonomy = Taxonomy.read_csv(better.folder / "taxonomy.csv")
    nearby = Nearby.read(folder)
    assert nearby is not None
    latitude = float(nearby.latitude[3])
    longitude = float(nearby.longitude[3])
    table = compute_prior_table(folder, taxonomy, latitude, longitude)
    days = np.arange(1, 367, dtype=np.float32)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-5)
    here = np.ones_like(days)
    theirs = place_scores(folder, taxonomy, here * latitude, here * longitude, days)
    np.testing.assert_allclose(table, theirs, atol=1e-6)
    some = place_scores(
        folder, taxonomy, here[:3] * latitude, here[:3] * longitude, days[[0, 99, 365]]
    )
    np.testing.assert_allclose(table[[0, 99, 365]], some, atol=1e-6)  # alone or with the whole year


class Killed(Exception):
    pass


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(
    better: Run, data: Path, rasters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, corpus = begin(tmp_path / "run", data, kind="better")
    real = placenets._train
    trained = []
    # among the networks that are judged, and among those that are kept
    kills = [2, placenets.NETS + 1]

    def train(*arguments: object) -> None:
        if kills and len(trained) == kills[0]:
            kills.pop(0)
            raise Killed
        trained.append(1)
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(placenets, "_train", train)
        for _ in range(2):
            with pytest.raises(Killed):
                fit_metadata(run, corpus, rasters)
        fit_metadata(run, corpus, rasters)
    assert len(trained) == 2 * placenets.NETS
    assert files(run) == files(better)


def test_a_recording_is_no_neighbour_of_itself() -> None:
    """The estimate at a lone recording's own place names its species; left out, there is
    nothing."""
    nearby = Nearby(
        np.array([10, 10, -40], np.float32),
        np.array([20, 20.0001, 20], np.float32),
        np.array([100, 101, 1], np.int16),
        np.array([0, 1, 2], np.int16),
        np.zeros((0, 4), np.float32),
        np.inf,
    )
    total, _, own = _left_out(nearby, np.arange(3))
    assert (own == 0).all()
    assert (total[:, 2] == 0).all()
    assert total[LEVELS.index((KM[-1], DAYS[0])), 0] > 0.9


def outings(seed: int, people: int = 12, each: int = 25) -> tuple[Nearby, NDArray[np.float32]]:
    """Outings of two recordings at places far from each other: the even recordists upload one
    species twice, the odd ones never. And probabilities that know nothing."""
    random = np.random.default_rng(seed)
    recordist = np.repeat(np.arange(people * each) % people, 2)
    first, second = random.integers(0, 8, (2, people * each))
    second = np.where(
        np.arange(people * each) % people % 2 == 0, first, (first + 1 + second % 7) % 8
    )
    spot = np.repeat(random.permutation(people * each), 2)
    columns = (spot % 20 * 3 - 30, spot // 20 * 9 - 70)
    seen = RecordingContext(
        recordist.astype(np.int32),
        np.arange(0, 40, 2, np.int32),
        random.integers(0, 8, 20).astype(np.int16),
    )
    nearby = Nearby(
        *(np.array(column, np.float32) for column in columns),
        np.repeat(random.integers(1, 366, people * each), 2).astype(np.int16),
        np.stack([first, second], axis=1).ravel().astype(np.int16),
        np.full((len(LEVELS), 4), [-3, 0.5, 0, 0], np.float32),
        np.inf,
        seen,
    )
    return nearby, np.full((len(spot), 8), 1 / 8, np.float32)


@pytest.mark.slow
def test_the_second_look_tells_recordists_apart() -> None:
    """After one recording of an outing: of whom it is decides whether the same species is likely or
    not."""
    nearby, base = outings(1)
    judge = fit_judge(nearby, np.tile(np.arange(len(base)), 15), np.tile(base, (15, 1)), seed=1)
    # the first recording of every outing, and all of half of the outings
    keep = np.arange(len(base)) % 2 == 0
    keep |= np.arange(len(base)) < len(base) // 2
    assert nearby.seen is not None
    known = replace(
        nearby,
        **{
            name: getattr(nearby, name)[keep]
            for name in ("latitude", "longitude", "day_of_year", "label")
        },
        seen=replace(nearby.seen, recordist=nearby.seen.recordist[keep]),
        judge=judge,
    )
    asked = np.flatnonzero(~keep)
    where = (
        nearby.latitude[asked],
        nearby.longitude[asked],
        nearby.day_of_year[asked].astype(np.float32),
    )
    found = known.apply(base[asked], *where)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)
    same = found[np.arange(len(asked)), nearby.label[asked - 1]]
    twice = nearby.seen.recordist[asked] % 2 == 0
    assert np.median(same[twice]) > 0.7
    assert np.median(same[~twice]) < 0.1


def test_the_company_of_species_tells_of_habitats() -> None:
    """Birds 0 and 1 share places, 2 and 3 share others, all along one road: beside bird 0 alone
    bird 1 is likelier."""
    random = np.random.default_rng(3)
    wet = np.repeat(random.random(200) < 0.5, 2)
    label = np.where(wet, 0, 2) + random.integers(0, 2, 400)
    coordinates = np.stack([np.repeat(np.arange(200) * 0.1, 2), np.zeros(400)], axis=1).astype(
        np.float32
    )
    company = Cooccurrence.of(coordinates, label.astype(np.intp))
    near = (np.array([0]), np.array([[1.0]]))
    far = np.full(400, 50.0)
    (found,) = company.clue(far, near, 6)
    assert found[1] > 0.15 > -0.3 > max(found[2], found[3])
    assert found[0] == 0  # it speaks for itself
    assert (found[4:] == 0).all()  # never recorded
    assert not company.clue(far, (np.array([0]), np.array([[0.01]])), 6).any()  # nothing near


def test_a_place_is_not_its_own_company() -> None:
    label = np.array([0, 1, 2, 0, 1], np.intp)
    coordinates = np.array([[10, 20], [10, 20], [10, 20], [-5, 7], [33, 44]], np.float32)
    company = Cooccurrence.of(coordinates, label)
    away = np.array([0, 0, 0, 900.0, 4000.0])
    near = (np.array([1]), np.array([[1.0]]))
    without = Cooccurrence.of(coordinates[3:], label[3:]).clue(away[3:], near, 3)
    # one of three places has each of them
    chance = np.log((0 + 0.5 * (1 / 3 + 0.02)) / (1.5 * (1 / 3 + 0.02))) / 2
    np.testing.assert_allclose(company.clue(away, near, 3)[0, 0], chance)
    # bird 2 is nowhere else
    assert company.clue(away, near, 3)[0, 2] > company.clue(away, near, 3)[0, 0]
    assert without[0, 0] < 0


def test_left_out_is_as_if_it_had_never_been() -> None:
    """What the judge learns from a recording is what it would be told had the recording not been
    there."""
    nearby, base = outings(2, people=4, each=10)
    assert nearby.seen is not None
    alone = np.append(np.where(np.arange(79) == 5, 8, nearby.seen.recordist[:79]), 9).astype(
        np.int32
    )
    nearby = replace(nearby, seen=replace(nearby.seen, recordist=alone))
    seen = nearby.seen
    assert seen is not None
    for row in (0, 5, 38, 79):  # two of them by recordists of whom nothing else is known
        keep = np.delete(np.arange(len(base)), row)
        some = np.isin(seen.background_row, keep)
        without = replace(
            nearby,
            **{
                name: getattr(nearby, name)[keep]
                for name in ("latitude", "longitude", "day_of_year", "label")
            },
            seen=RecordingContext(
                seen.recordist[keep],
                np.searchsorted(keep, seen.background_row[some]).astype(np.int32),
                seen.background_label[some],
            ),
        )
        (part,) = left_out(nearby, np.array([row]), "")
        learnt = nearby.clues(
            base[:1], nearby.mix(base[:1], part.levels), part.levels, part.away, part.days, part.own
        )
        away = without.away_km(float(nearby.latitude[row]), float(nearby.longitude[row]))
        levels = list(without.counts(away, part.days))
        told = without.clues(base[:1], without.mix(base[:1], levels), levels, away, part.days)
        np.testing.assert_array_equal(learnt.species, told.species)
        # shares of 79 recordings, not of 80
        np.testing.assert_allclose(learnt.own, told.own, atol=0.06)
        np.testing.assert_allclose(learnt.shared, told.shared, atol=0.02)


@pytest.mark.slow
def test_a_file_without_a_judge_is_still_read(better: Run, tmp_path: Path) -> None:
    whole = Nearby.read(better.folder / "metadata")
    assert whole is not None
    assert whole.judge is not None
    replace(whole, judge=None).write(tmp_path / "nearby.npz")
    found = Nearby.read(tmp_path)
    assert found is not None
    assert found.judge is None
    place = (whole.latitude[:3], whole.longitude[:3], whole.day_of_year[:3].astype(np.float32))
    base = np.full((3, len(better.taxonomy)), 1 / len(better.taxonomy), np.float32)
    np.testing.assert_allclose(found.apply(base, *place).sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.slow
def test_a_judge_of_an_older_version_is_refused_with_advice(better: Run, tmp_path: Path) -> None:
    with np.load(better.folder / "metadata" / "nearby.npz") as file:
        np.savez(
            tmp_path / "nearby.npz",
            **{name: file[name] for name in file if name != "judge_species"},
        )
    with pytest.raises(
        BundleError, match=r"nearby\.npz: .*judge_species.* run fit-metadata and export again"
    ):
        Nearby.read(tmp_path)


@pytest.mark.slow
def test_score_metadata_as_a_command(
    better: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = dict.fromkeys(COLUMNS, "") | {
        "primary_label": "bird00",
        "latitude": "1",
        "longitude": "-50",
    }
    extra = [
        row | {"filename": "a.ogg", "date": "2012-00-00"},
        row | {"filename": "b.ogg", "date": "2012-05-01", "latitude": ""},
        row | {"filename": "c.ogg", "date": "2012-05-01", "primary_label": "newbird"},
    ]
    table = write_table(tmp_path / "kept.csv", 3, visits=1, extra=extra)
    command = [
        sys.executable,
        "-m",
        "trainer",
        "score-metadata",
        "--run",
        better.folder,
        "--metadata",
        table,
    ]
    done = subprocess.run(
        [*map(str, command), "--json"], capture_output=True, text=True, timeout=HANGS_S, check=True
    )
    found = json.loads(done.stdout)
    assert found["rows"] == PLACES + 3
    assert found["used"] == PLACES + 1
    assert found["left_out"] == {"date not valid": 1, "place missing": 1}
    assert found["unknown_species"] == 1
    assert {
        "top1",
        "top5",
        "log_loss",
        "f1_macro",
        "f1_weighted",
        "f1_micro",
        "baseline_majority",
    } <= set(found)
    Console().print(score_places(better, table).table(table.name))
    assert "61 of 63 recordings" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_begins_a_run_by_itself(rasters: Path, tmp_path: Path) -> None:
    """Without a recipe it is the published one, with what was asked for pinned in the run; another
    kind is refused."""
    data = write_table(tmp_path / "data" / "train_metadata.csv", 1, visits=1).parent
    command = [
        sys.executable,
        "-m",
        "trainer",
        "fit-metadata",
        "--data",
        data,
        "--rasters",
        rasters,
    ]
    command += ["--out", tmp_path / "run", "--iterations", "2", "--kind"]

    def begun(kind: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command), kind], capture_output=True, text=True, timeout=HANGS_S
        )

    done = begun("better")
    assert done.returncode == 0, done.stderr
    assert "60 recordings of 16 species" in done.stdout
    recipe = Run(tmp_path / "run").recipe
    assert (recipe.name, recipe.metadata.kind, recipe.metadata.iterations) == (
        "published",
        "better",
        2,
    )
    assert "done already" in begun("better").stdout
    refused = begun("published")
    assert refused.returncode != 0
    assert "made with another recipe (it differs in metadata.kind)" in " ".join(
        refused.stderr.split()
    )
    assert refused.stderr.count("\n") == 1
