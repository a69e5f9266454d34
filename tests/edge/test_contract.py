"""Bundle, taxonomy, blend, place and score: what one program writes and another must be able to
trust."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.analysis.recognizer import Recognizer
from edge.contract.blend import Blend, acoustic_scores, blend_scores
from edge.contract.bundle import read_bundle
from edge.contract.errors import BundleError
from edge.contract.metrics import NOCALL_ROW, interval, labels_of, row_f1, score_rows
from edge.contract.taxonomy import Species, Taxonomy
from edge.prior.place import GRID_STEP_DEG, NUMERIC, RASTERS, FeatureSpec, Grid, place_columns
from tests.conftest import SPECIES, note


def test_bundle_reads_back(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    assert [s.code for s in bundle.taxonomy] == [s.code for s in SPECIES]
    assert bundle.manifest.blend.rule == "logit"
    assert len(bundle.id) == 64
    assert Recognizer(bundle).check_probe() < 1e-5


def flip_a_byte(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    "name", ["members/mixup.onnx", "taxonomy.csv", "probe.npz", "prior/grid.npz", "manifest.json"]
)
def test_a_damaged_file_is_named(own_bundle: Path, name: str) -> None:
    flip_a_byte(own_bundle / name)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read_bundle(own_bundle)


@pytest.mark.parametrize("name", ["members/mixup.onnx", "SHA256SUMS", "prior/model.onnx"])
def test_a_missing_file_is_named(own_bundle: Path, name: str) -> None:
    (own_bundle / name).unlink()
    with pytest.raises(BundleError, match=name.split("/")[-1]):
        read_bundle(own_bundle)


def test_a_foreign_file_is_named(own_bundle: Path) -> None:
    (own_bundle / "members" / "extra.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.onnx: not listed"):
        read_bundle(own_bundle)


def edit_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    """Change the manifest and make the sums fit again, as someone who edits by hand would."""
    import hashlib

    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    kept = [line for line in sums if not line.endswith("  manifest.json")]
    kept.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  manifest.json")
    (folder / "SHA256SUMS").write_text("\n".join(kept) + "\n")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda raw: raw.update(schema=3), "schema 3; this version reads 1 to 2"),
        (lambda raw: raw["thresholds"].update(blended=0.1), "id does not match"),
        (lambda raw: raw.pop("members"), "members: missing"),
        (
            lambda raw: raw["thresholds"].update(blended="high"),
            r"thresholds\.blended: expected a number, found 'high'",
        ),
        (lambda raw: raw.update(members=[]), "no members"),
        (lambda raw: raw["members"][0].update(file="../../etc/passwd"), "no file"),
        (lambda raw: raw["blend"].update(rule="vote"), "mean, logit"),
        (lambda raw: raw.update(padding="noise"), "context, zeros, image"),
    ],
)
def test_an_edited_manifest_is_refused(
    own_bundle: Path, change: Callable[[dict], None], match: str
) -> None:
    edit_manifest(own_bundle, change)
    with pytest.raises(BundleError, match=match):
        read_bundle(own_bundle)


def test_no_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="python -m export onnx"):
        read_bundle(tmp_path)


def test_a_machine_that_computes_otherwise_is_refused(bundle_folder: Path) -> None:
    recognizer = Recognizer(read_bundle(bundle_folder))
    honest = recognizer.engine.scores
    recognizer.engine.scores = lambda images, members: honest(images, members) + np.float32(0.01)  # type: ignore[method-assign]
    with pytest.raises(BundleError, match=r"probe failed on .* differ by 0\.0"):
        recognizer.check_probe()
    recognizer.engine.scores = lambda images, members: honest(images, members) * np.float32(np.nan)  # type: ignore[method-assign]
    with pytest.raises(BundleError, match="probe failed"):
        recognizer.check_probe()


def test_members_hear_their_notes(bundle_folder: Path) -> None:
    from edge.contract.audio import mel_image

    scores = Recognizer(read_bundle(bundle_folder)).recognise(
        np.stack([mel_image(note(s.code, 7)) for s in SPECIES]), None
    )
    assert (scores.blended.argmax(axis=1) == np.arange(3)).all()
    np.testing.assert_array_equal(scores.blended, scores.acoustic)


def test_taxonomy(tmp_path: Path) -> None:
    taxonomy = Taxonomy(SPECIES)
    taxonomy.write_csv(tmp_path / "t.csv")
    assert Taxonomy.read_csv(tmp_path / "t.csv").species == SPECIES
    assert Taxonomy(SPECIES[::-1]).digest != taxonomy.digest
    for codes in (["same1", "same1"], ["UPPER"], ["nocall"], ["a b"]):
        with pytest.raises(ValueError, match="species code"):
            Taxonomy(Species(code, "", "") for code in codes)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BundleError, match=r"t\.csv"):
        Taxonomy.read_csv(tmp_path / "t.csv")


probabilities = hnp.arrays(np.float32, (4, 3), elements=st.floats(0, 1, width=32))


@given(acoustic=probabilities, prior=probabilities, weight=st.floats(0, 4))
def test_blends_stay_scores(acoustic: np.ndarray, prior: np.ndarray, weight: float) -> None:
    for rule in ("mean", "logit"):
        blended = blend_scores(acoustic, prior, Blend(rule, weight))
        assert blended.dtype == np.float32
        assert ((blended >= 0) & (blended <= 1)).all()
    np.testing.assert_array_equal(blend_scores(acoustic, None, Blend("logit", weight)), acoustic)


def test_blend_formulas() -> None:
    acoustic = np.array([[0.5, 0.5]], np.float32)
    prior = np.array([0.9, 0.1], np.float32)
    np.testing.assert_allclose(
        blend_scores(acoustic, prior, Blend("mean", 0.14)),
        [[0.626 / 1.14, 0.514 / 1.14]],
        rtol=1e-6,
    )
    odds = np.log(0.2 + 0.8 * np.array([0.9, 0.1]) * 2)
    np.testing.assert_allclose(
        blend_scores(acoustic, prior, Blend("logit", 1.0))[0], 1 / (1 + np.exp(-odds)), rtol=1e-5
    )


def test_kinds_are_averaged_first() -> None:
    members = np.array([[[0.0]], [[0.4]], [[0.9]]], np.float32)
    assert acoustic_scores(members, ["a", "a", "b"], Blend())[0, 0] == pytest.approx(0.55)
    assert acoustic_scores(members, ["a", "a", "b"], Blend(kind_weights={"a": 3.0}))[
        0, 0
    ] == pytest.approx(0.375)


@pytest.mark.parametrize(
    "wrong",
    [{"rule": "vote"}, {"prior_weight": -1.0}, {"kind_weights": {"a": -1.0}}, {"smoothing": 0.34}],
)
def test_bad_blends_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="blend"):
        Blend(**wrong)


def test_features_are_encoded_as_trained(tmp_path: Path) -> None:
    spec = FeatureSpec(tuple(range(8)), (2.0,) * 8, (3, 7), ("aa", "bb"))
    spec.write(tmp_path / "f.json")
    assert FeatureSpec.read(tmp_path / "f.json") == spec
    columns = {name: np.array([index + 1.0, np.nan]) for index, name in enumerate(NUMERIC)}
    columns["forest_type"] = np.array([7, np.nan])
    encoded = spec.encode(columns)
    np.testing.assert_array_equal(encoded, [[0.5] * 8 + [0, 1], [0.0] * 8 + [0, 0]])
    assert len(spec.names) == encoded.shape[1]


def test_grid_looks_up_the_cell(tmp_path: Path) -> None:
    rows = int(180 / GRID_STEP_DEG)
    columns = int(360 / GRID_STEP_DEG)
    layer = (np.arange(rows)[:, None] + np.arange(columns)[None, :] / 2048).astype(np.float16)
    Grid(dict.fromkeys(RASTERS, layer)).write(tmp_path / "g.npz")
    grid = Grid.read(tmp_path / "g.npz")
    at = place_columns(
        grid, np.array([89.99, -90.0, 0.1]), np.array([-180.0, 180.0, 10.1]), np.array([1, 2, 3])
    )
    np.testing.assert_array_equal(at["bio1"], layer[[0, rows - 1, 359], [0, 0, 760]])
    np.savez(tmp_path / "g.npz", bio1=layer)
    with pytest.raises(BundleError, match=r"g\.npz"):
        Grid.read(tmp_path / "g.npz")


def test_row_f1_is_the_competitions() -> None:
    assert row_f1(labels_of("a b"), labels_of("a b")) == 1
    assert row_f1(labels_of("a b"), labels_of("a")) == pytest.approx(2 / 3)
    assert row_f1(labels_of("nocall"), labels_of("")) == 1
    assert row_f1(labels_of("nocall"), labels_of("a")) == 0


def test_score_has_its_parts() -> None:
    truth = {"x_5": labels_of("a"), "x_10": NOCALL_ROW, "y_5": NOCALL_ROW, "y_10": labels_of("a b")}
    found = {"x_5": labels_of("a"), "y_5": labels_of("a"), "y_10": labels_of("a")}
    score = score_rows(truth, found, {row: row[0] for row in truth})
    assert score.rows == 4
    assert score.f1 == pytest.approx((1 + 1 + 0 + 2 / 3) / 4)
    assert score.f1_all_nocall == 0.5
    assert score.f1_call_rows == pytest.approx((1 + 2 / 3) / 2)
    assert score.f1_nocall_rows == 0.5
    assert score.f1_low <= score.f1 <= score.f1_high
    with pytest.raises(ValueError, match="no labelled rows"):
        score_rows({}, {}, {})


def test_interval_draws_whole_recordings() -> None:
    rng = np.random.default_rng(0)
    one_each = interval(rng.random(200), [str(i) for i in range(200)])
    assert one_each[0] < 0.5 < one_each[1]
    assert one_each[1] - one_each[0] == pytest.approx(2 * 1.96 * 0.289 / 200**0.5, rel=0.25)
    assert interval(np.array([0.0, 1.0]), ["x", "x"]) == (0.5, 0.5)
