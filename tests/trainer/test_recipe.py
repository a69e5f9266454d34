"""Recipes: the published numbers stand, mistakes get one line with file, key, found and allowed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml

from edge.contract.errors import ConfigError
from edge.contract.strict import SchemaError, parse
from trainer.recipe import RECIPES, Recipe, find_recipe, read_recipe, recipe_names

WRITE_UP = "the author's write-up"
CODE = "the public training code of the same family"
MIXUP = "the reference implementation of mixup for CIFAR-10"
NEXT = "the author's list for next time: off"
LATER = "of other solutions: off"
OURS = "not published"
MATCHING = "function matching (Beyer et al. 2021): the teacher answers the mixed image"
CATBOOST = "CatBoost's default"


def _member(
    kind: str, architecture: str, epochs: int, stripes: float, mixup: float
) -> dict[str, tuple[object, str]]:
    return {
        "kind": (kind, WRITE_UP),
        "architecture": (architecture, "the write-up's weights by their names in timm"),
        "epochs": (epochs, WRITE_UP),
        "seeds": ([1, 2], f"{WRITE_UP}: the best of several"),
        "stem_pool": (1, CODE),
        "normalise": ("none", NEXT),
        "clip_crops": (1, NEXT),
        "augment.power": ([0.5, 3.0], WRITE_UP),
        "augment.power_each": (False, WRITE_UP),
        "augment.stripes": (stripes, WRITE_UP),
        "augment.mixup": (mixup, f"{WRITE_UP}: 50 to 100 %; {MIXUP}: all"),
        "augment.mixup_alpha": (1.0, MIXUP),
        "augment.pink": (0.0, NEXT),
        "augment.nocall": (0.0, LATER),
        "augment.empty": (0.0, LATER),
        "augment.snr_db": ([0.0, 3.0], LATER),
    }


PUBLISHED: dict[str, tuple[object, str]] = {
    "name": ("published", OURS),
    "seed": (1, OURS),
    "pretrained": (True, WRITE_UP),
    "keep": ("best", CODE),
    "folds.count": (5, WRITE_UP),
    "folds.cell_deg": (5.0, OURS),
    "spectrograms.crops_max": (10, WRITE_UP),
    "labels.primary": (0.995, WRITE_UP),
    "labels.secondary": (0.3, WRITE_UP),
    "labels.other": (0.0025, WRITE_UP),
    "labels.call_probability": (False, LATER),
    "sampling.crops_per_recording": (1, CODE),
    "sampling.balance": (0.0, CODE),
    "loss.rating_weight": (False, NEXT),
    **{f"members.0.{k}": v for k, v in _member("stripes", "resnest50d.in1k", 12, 0.8, 0.0).items()},
    **{
        f"members.1.{k}": v
        for k, v in _member("mixup", "tf_efficientnet_b3.in1k", 55, 0.0, 1.0).items()
    },
    "optimiser.name": ("adam", WRITE_UP),
    "optimiser.learning_rate": (8e-4, WRITE_UP),
    "optimiser.learning_rate_min": (1e-5, WRITE_UP),
    "optimiser.batch": (64, WRITE_UP),
    "optimiser.weight_decay": (0.0, CODE),
    "metadata.iterations": (1208, WRITE_UP),
    "metadata.depth": (8, OURS),
    "metadata.learning_rate": (1, OURS),
    "metadata.leaf_steps": (10, OURS),
    "metadata.borders": (128, f"{CATBOOST} on a GPU, which the write-up had"),
    "metadata.validation": (0.2, WRITE_UP),
    "metadata.kind": ("published", WRITE_UP),
    "metadata.limit_km": (None, NEXT),
    "bag.per_fold_max": (2, WRITE_UP),
    "tune.padding": (["zeros"], WRITE_UP),
    "tune.hop_s": (5, WRITE_UP),
    "tune.blend": ([{"rule": "mean", "prior_weight": [0.14]}], WRITE_UP),
    "tune.threshold.low": (0.05, OURS),
    "tune.threshold.high": (0.95, OURS),
    "tune.threshold.step": (0.01, OURS),
    "tune.smoothing": ([0.0], LATER),
    "tune.threshold_by": ("global", NEXT),
    "tune.optimise": (0, NEXT),
    "validation.bootstrap": (0, NEXT),
    "student.architecture": ("mobilenetv4_conv_small.e2400_r224_in1k", OURS),
    "student.epochs": (40, OURS),
    "student.views": (8, OURS),
    "student.learning_rate": (1e-3, OURS),
    "student.augment.power": ([0.5, 2.0], OURS),
    "student.augment.power_each": (True, OURS),
    "student.augment.stripes": (0.0, OURS),
    "student.augment.mixup": (0.5, MATCHING),
    "student.augment.mixup_alpha": (1.0, MATCHING),
    "student.augment.pink": (0.0, OURS),
    "student.augment.nocall": (0.5, OURS),
    "student.augment.empty": (0.05, OURS),
    "student.augment.snr_db": ([-5.0, 15.0], OURS),
    "student.stem_pool": (1, OURS),
    "student.normalise": ("none", OURS),
    "student.crops_max": (60, OURS),
    "student.held_out": (0.1, OURS),
}


def _at(recipe: dict[str, Any], key: str) -> object:
    found: Any = recipe
    for part in key.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_published_recipe_is_the_write_up(key: str) -> None:
    assert _at(find_recipe("published").as_dict(), key) == PUBLISHED[key][0], PUBLISHED[key][1]


def test_nothing_of_the_published_recipe_is_without_a_source() -> None:
    recipe = find_recipe("published").as_dict()
    for key in PUBLISHED:
        *parents, last = key.split(".")
        place: Any = _at(recipe, ".".join(parents)) if parents else recipe
        del place[last]

    def leaves(value: Any, path: str) -> list[str]:
        pairs = (
            enumerate(value)
            if isinstance(value, list)
            else value.items()
            if isinstance(value, dict)
            else None
        )
        if pairs is None:
            return [path]
        return [leaf for key, item in pairs for leaf in leaves(item, f"{path}.{key}")]

    assert leaves(recipe, "") == []


def test_every_number_has_its_source_on_its_line() -> None:
    for line in (RECIPES / "published.yaml").read_text(encoding="utf8").splitlines():
        setting, _, source = line.partition("#")
        if (
            setting.strip()
            and not setting.rstrip().endswith(":")
            and setting.strip() != "name: published"
        ):
            assert source.strip(), line


@pytest.mark.parametrize("name", ["published", "improved"])
def test_a_recipe_names_the_very_weights(name: str) -> None:
    recipe = find_recipe(name)
    for architecture in (
        recipe.student.architecture,
        *(member.architecture for member in recipe.members),
    ):
        config = timm.get_pretrained_cfg(architecture)
        assert config is not None
        assert f"{config.architecture}.{config.tag}" == architecture
        assert config.hf_hub_id == f"timm/{architecture}"


def test_improved_turns_on_what_published_leaves_off() -> None:
    differs = find_recipe("published").differences(find_recipe("improved"))
    for key in (
        *("labels.secondary", "labels.call_probability", "sampling.balance", "loss.rating_weight"),
        *(
            "members[0].augment.nocall",
            "members[1].clip_crops",
            "metadata.kind",
            "metadata.limit_km",
        ),
        *("tune.smoothing[0]", "tune.threshold_by", "tune.optimise", "validation.bootstrap"),
    ):
        assert key in differs


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_recipe_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    (tmp_path / "copy.yaml").write_text(recipe.as_yaml())
    assert read_recipe(tmp_path / "copy.yaml") == recipe
    assert read_recipe(tmp_path / "copy.yaml").digest == recipe.digest
    json.dumps(recipe.as_dict(), allow_nan=False)


def _changed(tmp_path: Path, key: str, value: object) -> Path:
    raw = find_recipe("demo").as_dict()
    *parents, last = key.split(".")
    place: dict[str, object] = raw
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]  # type: ignore[assignment, call-overload]
    place[last] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "optimiser.momentum",
            0.9,
            ["optimiser.momentum: unknown key", "allowed here: name, learning_rate"],
        ),
        ("optimiser.name", "sgd", ["optimiser.name: expected one of adam, adamw, found 'sgd'"]),
        ("optimiser.batch", 0.5, ["optimiser.batch: expected a whole number, found 0.5"]),
        ("optimiser.batch", True, ["optimiser.batch: expected a whole number, found yes/true"]),
        (
            "optimiser.learning_rate",
            "fast",
            ["optimiser.learning_rate: expected a number, found 'fast'"],
        ),
        (
            "optimiser.learning_rate",
            float("nan"),
            ["optimiser.learning_rate: expected a finite number, found nan"],
        ),
        (
            "members.0.augment.stripes",
            1.5,
            ["members[0].augment.stripes: expected a share of 0 to 1, found 1.5"],
        ),
        (
            "members.1.augment.power",
            [1.0],
            ["members[1].augment.power: expected a list of 2, found [1.0]"],
        ),
        (
            "members.0.seeds",
            [],
            ["members[0].seeds: expected different numbers, at least one, found []"],
        ),
        (
            "members.0.kind",
            "mixup",
            [
                "members: expected members of different kinds, at least one, found ['mixup', "
                "'mixup']"
            ],
        ),
        ("pretrained", "yes", ["pretrained: expected true or false, found 'yes'"]),
        ("folds", 5, ["folds: expected keys and values, found 5"]),
        ("folds.count", 1, ["folds.count: expected 2 to 20 folds, found 1"]),
        ("labels.secondary", 2.0, ["labels.secondary: expected 0 to 1, found 2.0"]),
        (
            "student.held_out",
            1.0,
            ["student.held_out: expected a share between 0 and 1, 0.001 or more, found 1.0"],
        ),
        ("student.crops_max", 121, ["student.crops_max: expected 1 to 120, found 121"]),
        ("spectrograms.crops_max", 11, ["spectrograms.crops_max: expected 1 to 10, found 11"]),
        (
            "metadata.learning_rate",
            "slow",
            ["metadata.learning_rate: expected a number or auto, found 'slow'"],
        ),
        ("seed", -1, ["seed: expected 0 to 4294967295, found -1"]),
        ("seed", 2**63, ["seed: expected 0 to 4294967295, found 9223372036854775808"]),
        (
            "members.0.seeds",
            [1, -2],
            ["members[0].seeds: expected numbers of 0 to 4294967295, found [1, -2]"],
        ),
        ("members.0.epochs", 10**9, ["members[0].epochs: expected 1 to 10000, found 1000000000"]),
        (
            "members.0.kind",
            "Übergang",
            ["members[0].kind: expected a word of up to 40 letters (a to z)"],
        ),
        (
            "members.0.kind",
            "x" * 41,
            ["members[0].kind: expected a word of up to 40 letters (a to z)"],
        ),
        (
            "members.0.augment.snr_db",
            [-1e300, 3.0],
            ["augment.snr_db: expected [low, high] of -60 to 60"],
        ),
        (
            "members.0.augment.mixup_alpha",
            1e-300,
            ["augment.mixup_alpha: expected 0.01 to 100, found 1e-300"],
        ),
        ("labels.other", 0.999, ["labels.other: expected less than primary, 0.995, found 0.999"]),
        ("optimiser.batch", 10**9, ["optimiser.batch: expected 2 to 65536, found 1000000000"]),
        (
            "folds.cell_deg",
            1e-300,
            ["folds.cell_deg: expected a cell of 0.01 to 45 degrees, found 1e-300"],
        ),
        (
            "metadata.iterations",
            10**9,
            ["metadata.iterations: expected 1 to 100000, found 1000000000"],
        ),
        (
            "metadata.limit_km",
            1e300,
            ["metadata.limit_km: expected null or 1 to 20000 kilometres, found 1e+300"],
        ),
        ("tune.hop_s", 5.00001, ["tune.hop_s: expected 5, 2.5, 1.25, 1, 0.5"]),
        (
            "tune.threshold.step",
            0.91,
            ["tune.threshold.step: expected 0.0001 to 0.9, the distance from low to high"],
        ),
        ("tune.threshold.step", 1e-300, ["tune.threshold.step: expected 0.0001 to 0.9"]),
        (
            "tune.padding",
            ["mirror"],
            ["tune.padding[0]: expected one of context, zeros, image, found 'mirror'"],
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_key_found_and_allowed(
    tmp_path: Path, key: str, value: object, expected: list[str]
) -> None:
    path = _changed(tmp_path, key, value)
    with pytest.raises(ConfigError) as refused:
        read_recipe(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    raw = find_recipe("demo").as_dict()
    del raw["optimiser"]["batch"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"optimiser\.batch: missing"):
        read_recipe(tmp_path / "mine.yaml")


def test_a_number_that_yaml_reads_as_text_says_how_to_write_it(tmp_path: Path) -> None:
    text = find_recipe("demo").as_yaml()
    lines = [
        f"  learning_rate: {'8e-4'}" if "learning_rate: 0." in line else line
        for line in text.splitlines()
    ]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    with pytest.raises(
        ConfigError,
        match=r"learning_rate: .* number, found '8e-4', which YAML reads as text; write 0\.0008",
    ):
        read_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("010", "expected a number in decimal digits, found 010, which YAML reads as 8"),
        ("1:30", "expected a number in decimal digits, found 1:30, which YAML reads as 90"),
        ("0x10", "expected a number in decimal digits, found 0x10, which YAML reads as 16"),
        ("0b11", "expected a number in decimal digits, found 0b11, which YAML reads as 3"),
        ("1:30.5", "expected a number in decimal digits, found 1:30.5, which YAML reads as 90.5"),
        ("1e-3", "epochs: expected a number, found '1e-3', which YAML reads as text; write 0.001"),
        ("no", "epochs: expected a whole number, found no/false"),
        ("~", "epochs: expected a whole number, found nothing"),
        (".nan", "epochs: expected a whole number, found nan"),
        ("2024-05-12", "epochs: expected a whole number, found datetime.date"),
    ],
)
def test_what_yaml_reads_as_something_else_is_refused(
    tmp_path: Path, written: str, expected: str
) -> None:
    text = find_recipe("demo").as_yaml().replace("epochs: 18", f"epochs: {written}")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_recipe(tmp_path / "mine.yaml")
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def _keys(value: Any, at: str = "") -> list[str]:
    """Every key path of nested values, those in the middle too."""
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [key for name, item in pairs for key in (f"{at}{name}", *_keys(item, f"{at}{name}."))]


_WRONG: tuple[object, ...] = (
    *(-61, 10**9 + 1, 10**30, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "1e-3", b"x", [], [[]], {"x": 1}),
)
_RIGHT: dict[object, tuple[str, ...]] = {
    10**9 + 1: ("seed", "seeds"),
    "1e-3": ("name", "architecture"),
}


def test_no_key_takes_what_nobody_means() -> None:
    """Each of them, in the place of each value of a recipe that uses all keys, is refused and the
    key named."""
    improved = find_recipe("improved").as_dict()
    keys = _keys(improved)
    assert len(keys) > 100
    for key in keys:
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        words = [part for part in key.split(".") if not part.isdigit()]
        for wrong in _WRONG:
            if words[-1] in _RIGHT.get(
                repr(wrong) if isinstance(wrong, list | dict) else wrong, ()
            ):
                continue
            raw = copy.deepcopy(improved)
            place: Any = raw
            for part in parents:
                place = place[part]
            place[last] = wrong
            with pytest.raises(SchemaError) as refused:
                parse(Recipe, raw)
            assert words[-1].removesuffix("_min") in str(refused.value), (key, wrong)


@pytest.mark.parametrize("text", ["[", "name: a\nname: b", "- 1", ""])
def test_what_is_not_a_recipe_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_recipe(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"'demoo': unknown; allowed: demo, improved, published, small"
    ):
        find_recipe("demoo")
