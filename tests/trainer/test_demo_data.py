"""The synthetic corpus: its layout, that a seed fixes every byte, that labels are what a listener
would say."""

import ast
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import soundfile
from scipy import signal

from edge.contract.audio import RATE_HZ
from trainer.demo import CorpusSummary, corpus, make_corpus
from trainer.demo.fauna import Atlas, DemoPlace, make_birds
from trainer.demo.layers import LAYERS
from trainer.demo.recordings import plan_recording, render_recording
from trainer.demo.seeds import stream
from trainer.demo.vorbis import encode
from trainer.demo.world import make_world

pytestmark = pytest.mark.slow

SEED = 7
SIZE = {"species": 3, "recordings": 4, "soundscapes": 2, "seed": SEED}
OFFICIAL = (
    "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,author,"
    "date,filename,license,rating,time,url"
)
BROKEN = 3  # rows whose audio is missing, unreadable or empty


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CorpusSummary]:
    folder = tmp_path_factory.mktemp("demo")
    return folder / "corpus", make_corpus(folder / "corpus", folder / "rasters", **SIZE)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def sounding_rows(out: Path) -> list[dict[str, str]]:
    rows = rows_of(out / "train_metadata.csv")
    return [row for row in rows if not row["filename"].startswith("XC99")]


def audio_path(out: Path, row: dict[str, str]) -> Path:
    return out / "train_short_audio" / row["primary_label"] / row["filename"]


def test_metadata_has_the_official_columns_and_sound_behind_its_rows(
    made: tuple[Path, CorpusSummary],
) -> None:
    out, summary = made
    assert (out / "train_metadata.csv").read_text(encoding="utf-8").splitlines()[0] == OFFICIAL
    rows = sounding_rows(out)
    assert len(rows) == summary.recordings == 12
    for row in rows:
        info = soundfile.info(audio_path(out, row))
        assert (info.samplerate, info.channels, info.format, info.subtype) == (
            RATE_HZ,
            1,
            "OGG",
            "VORBIS",
        )
        assert 8.0 <= info.duration <= 25.0
        assert isinstance(ast.literal_eval(row["secondary_labels"]), list)
        assert float(row["rating"]) in np.arange(0, 5.5, 0.5)
        assert row["primary_label"].isalnum()
        assert row["primary_label"].islower()


def test_malformed_rows_are_counted_and_really_are(made: tuple[Path, CorpusSummary]) -> None:
    out, summary = made
    rows = rows_of(out / "train_metadata.csv")
    paths = [audio_path(out, row) for row in rows]
    assert sum("-00" in row["date"] for row in rows) >= summary.bad_dates == 1
    assert sum(row["latitude"] == "" for row in rows) >= summary.missing_coordinates == 1
    assert sum(not path.exists() for path in paths) == summary.missing_audio == 1
    assert (
        sum(path.exists() and path.stat().st_size == 0 for path in paths)
        == summary.empty_audio
        == 1
    )
    (garbage,) = [path for path in paths if path.name == "XC9900001.ogg"]
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(garbage)
    assert summary.malformed == 5
    assert f"seed {SEED}" in (out / "README.txt").read_text(encoding="utf-8")


def test_soundscapes_have_labelled_rows_sites_and_other_dates(
    made: tuple[Path, CorpusSummary],
) -> None:
    out, summary = made
    sites = {row["id"] for row in rows_of(out / "soundscape_sites.csv")}
    dates = {}
    places = {}
    labelled = 0
    for kind in ("train", "test"):
        labels = rows_of(out / f"{kind}_soundscape_labels.csv")
        assert list(labels[0]) == ["row_id", "site", "audio_id", "seconds", "birds"]
        names = [path.stem.split("_") for path in (out / f"{kind}_soundscapes").glob("*.ogg")]
        assert {row["audio_id"] for row in labels} == {audio_id for audio_id, _, _ in names}
        assert {row["site"] for row in labels} == {site for _, site, _ in names} <= sites
        assert all(
            row["row_id"] == f"{row['audio_id']}_{row['site']}_{row['seconds']}" for row in labels
        )
        assert [int(row["seconds"]) for row in labels[:12]] == list(range(5, 65, 5))
        labelled += sum(row["birds"] != "nocall" for row in labels)
        dates[kind] = {day for *_, day in names}
        places[kind] = {site for _, site, _ in names}
    assert dates["train"].isdisjoint(dates["test"])
    assert places["train"] != places["test"]
    assert summary.rows == 48
    assert summary.rows - summary.nocall_rows == labelled
    assert 0.3 < summary.nocall_rows / summary.rows < 0.75


def test_the_same_seed_gives_the_same_bytes_in_other_processes(
    made: tuple[Path, CorpusSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, summary = made
    monkeypatch.setattr(corpus, "_ALONE_MAX", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    again = make_corpus(tmp_path / "again", tmp_path / "rasters", **SIZE)
    assert again == summary
    assert contents(tmp_path / "again") == contents(out)


def test_another_seed_gives_other_sound(made: tuple[Path, CorpusSummary]) -> None:
    birds = make_birds(SEED, 3)
    atlas = Atlas(make_world(SEED), birds)
    plan = plan_recording(SEED, atlas, birds, 0, 0)
    path = made[0] / plan.path
    assert encode(render_recording(plan)) == path.read_bytes()
    assert encode(render_recording(replace(plan, seed=SEED + 1))) != path.read_bytes()


def test_it_resumes_and_then_repeats_nothing(made: tuple[Path, CorpusSummary]) -> None:
    out, summary = made
    before = contents(out)
    lost = [
        audio_path(out, sounding_rows(out)[5]),
        *sorted((out / "test_soundscapes").iterdir())[:1],
    ]
    for path in lost:
        path.unlink()
    kept = sorted((out / "train_soundscapes").iterdir())[0]
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged: of another size than was written
    stages: list[tuple[str, int, int]] = []
    rasters = out.parent / "rasters"
    assert make_corpus(out, rasters, **SIZE, progress=lambda *step: stages.append(step)) == summary
    assert contents(out) == before
    assert stages == [
        ("recordings", 11, 12),
        ("recordings", 12, 12),
        ("soundscapes", 2, 4),
        ("soundscapes", 3, 4),
        ("soundscapes", 4, 4),
    ]
    stages.clear()
    assert make_corpus(out, rasters, **SIZE, progress=lambda *step: stages.append(step)) == summary
    assert stages == []


def test_labels_agree_with_the_energy_in_the_file(made: tuple[Path, CorpusSummary]) -> None:
    out, _ = made
    labelled_db = []
    silent_db = []
    for path in sorted(out.glob("t*_soundscapes/*.ogg")):
        truth = json.loads((out / "truth" / f"{path.stem}.json").read_text(encoding="utf-8"))
        sound, _ = soundfile.read(path)
        hz, _, power = signal.spectrogram(sound, RATE_HZ, nperseg=1000, noverlap=0)
        for song in truth["songs"]:
            band = power[(hz >= song["low_hz"]) & (hz <= song["high_hz"])].sum(axis=0)
            rows = band[: 12 * 160].reshape(12, 160)
            for row, label in zip(rows, truth["labels"], strict=True):
                # its loudest 0.6 s
                loud_db = 10 * np.log10(np.sort(row)[-20:].mean() / np.median(band))
                if song["species"] in label["birds"].split():
                    labelled_db.append(loud_db)
                elif label["birds"] == "nocall":
                    silent_db.append(loud_db)
                    overlap_s = min(song["end_s"], int(label["seconds"])) - max(
                        song["start_s"], int(label["seconds"]) - 5
                    )
                    assert overlap_s < 1.2 or song["snr_db"] < 6, (
                        f"{path.stem}: {song} is not in {label}"
                    )
    assert np.median(labelled_db) > np.median(silent_db) + 3
    assert np.mean(np.array(labelled_db) > np.median(silent_db)) > 0.9


def test_a_label_is_at_least_0_4_s_of_audible_song(made: tuple[Path, CorpusSummary]) -> None:
    for path in sorted((made[0] / "truth").glob("*.json")):
        truth = json.loads(path.read_text(encoding="utf-8"))
        for row, label in zip(truth["rows"], truth["labels"], strict=True):
            heard = sorted(code for code, seconds in row["audible_s"].items() if seconds >= 0.4)
            assert (" ".join(heard) or "nocall") == label["birds"]


def test_look_alikes_sound_alike_and_others_do_not(made: tuple[Path, CorpusSummary]) -> None:
    out, _ = made
    profiles: dict[str, list[np.ndarray]] = {}
    for row in sounding_rows(out):
        sound, _ = soundfile.read(audio_path(out, row))
        _, _, power = signal.spectrogram(sound, RATE_HZ, nperseg=1024)
        bands = 10 * np.log10(power[32:288].reshape(64, 4, -1).mean(axis=1) + 1e-12)  # 1..9 kHz
        profiles.setdefault(row["primary_label"], []).append(
            np.quantile(bands, 0.97, axis=1) - np.median(bands, axis=1)
        )
    west, east, other = (np.mean(profiles[bird.code], axis=0) for bird in make_birds(SEED, 3))
    assert np.corrcoef(west, east)[0, 1] > 0.9
    assert max(np.corrcoef(west, other)[0, 1], np.corrcoef(east, other)[0, 1]) < 0.7


def test_look_alikes_never_meet(made: tuple[Path, CorpusSummary]) -> None:
    out, _ = made
    birds = make_birds(SEED, 3)
    atlas = Atlas(make_world(SEED), birds)
    west, east = birds[:2]
    for row in rows_of(out / "soundscape_sites.csv"):
        living = atlas.living_at(birds, DemoPlace(float(row["lat"]), float(row["lon"])))
        assert not (west in living and east in living)
    rng = stream(SEED, "test")
    assert all(atlas.suitability(east, atlas.draw(west, rng)) == 0 for _ in range(200))
    for kind in ("train", "test"):
        heard = {
            code
            for row in rows_of(out / f"{kind}_soundscape_labels.csv")
            for code in row["birds"].split()
        }
        assert {west.code, east.code} <= heard
    companions = {
        row["primary_label"]: ast.literal_eval(row["secondary_labels"])
        for row in sounding_rows(out)
    }
    assert east.code not in companions[west.code]
    assert west.code not in companions[east.code]


def test_rasters_vary_have_a_crs_and_no_value_at_sea(made: tuple[Path, CorpusSummary]) -> None:
    out, _ = made
    sea = (-150.0, -30.0)
    grids = set()
    places = [
        (float(r["longitude"]), float(r["latitude"])) for r in sounding_rows(out) if r["latitude"]
    ]
    for layer in LAYERS:
        with rasterio.open(out.parent / "rasters" / f"{layer.name}.tif") as raster:
            values = raster.read(1, masked=True)
            assert raster.crs.to_epsg() == 4326
            assert raster.count == 1
            assert values.std() > 0
            assert 0.1 < values.count() / values.size < 0.5
            assert next(raster.sample([sea]))[0] == raster.nodata
            assert all(value[0] != raster.nodata for value in raster.sample(places))
            grids.add((raster.shape, raster.bounds))
    assert len(grids) > 1
    world = make_world(SEED)
    warm = world.cell(-3, -60)
    cold = world.cell(62, -110)
    assert world.temperature_c[warm] > 20 > 0 > world.temperature_c[cold]


@pytest.mark.parametrize(
    ("name", "value"), [("species", 0), ("species", 41), ("recordings", 0), ("soundscapes", 0)]
)
def test_a_number_out_of_range_is_one_clear_line(name: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"^{name} is {value}: a demo corpus takes [0-9]+ to [0-9]+$"
    ):
        make_corpus(tmp_path / "out", tmp_path / "rasters", **{**SIZE, name: value})
    assert not (tmp_path / "out").exists()


def test_what_it_did_not_make_is_left_alone(
    made: tuple[Path, CorpusSummary], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train_metadata.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="not a demo corpus"):
        make_corpus(tmp_path / "mine", tmp_path / "rasters", **SIZE)
    with pytest.raises(ValueError, match="made with species 3"):
        make_corpus(made[0], tmp_path / "rasters", **{**SIZE, "species": 4})
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "bio1.tif").write_bytes(b"a real raster")
    with pytest.raises(ValueError, match=f"of seed {SEED}: name another folder"):
        make_corpus(tmp_path / "new", made[0].parent / "rasters", **{**SIZE, "seed": SEED + 1})
    with pytest.raises(ValueError, match="left alone"):
        make_corpus(tmp_path / "new", tmp_path / "real", **SIZE)
