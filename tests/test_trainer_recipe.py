"""Recipes: the published numbers stand, mistakes get one line with file, key, found and allowed."""

import json
from pathlib import Path

import pytest
import yaml

from edge.contract.errors import ConfigError
from trainer.recipe import find_recipe, read_recipe, recipe_names

PUBLISHED = {
    "pretrained": True,
    "folds.count": 5,
    "spectrograms.crops_max": 10,
    "labels.primary": 0.995,
    "labels.secondary": 0.3,
    "labels.other": 0.0025,
    "loss.rating_weight": False,
    "members.0.kind": "stripes",
    "members.0.architecture": "resnest50d",
    "members.0.epochs": 12,
    "members.0.augment.power": [0.5, 3.0],
    "members.0.augment.power_each": False,
    "members.0.augment.stripes": 0.8,
    "members.0.augment.mixup": 0.0,
    "members.1.kind": "mixup",
    "members.1.architecture": "tf_efficientnet_b3",
    "members.1.epochs": 55,
    "members.1.augment.power": [0.5, 3.0],
    "members.1.augment.stripes": 0.0,
    "members.1.augment.mixup": 1.0,
    "members.1.augment.mixup_alpha": 1.0,
    "optimiser.name": "adam",
    "optimiser.learning_rate": 8e-4,
    "optimiser.learning_rate_min": 1e-5,
    "optimiser.batch": 64,
    "metadata.iterations": 1208,
    "metadata.validation": 0.2,
    "bag.per_fold_max": 2,
    "tune.padding": ["zeros"],
    "tune.hop_s": 5,
    "tune.blend.0.rule": "mean",
    "tune.blend.0.prior_weight": [0.14],
}


@pytest.mark.parametrize(("key", "value"), PUBLISHED.items())
def test_the_published_recipe_keeps_its_numbers(key: str, value: object) -> None:
    found: object = find_recipe("published").as_dict()
    for part in key.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]  # type: ignore[index]
    assert found == value


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
        ("optimiser.momentum", 0.9, ["optimiser.momentum: unknown key", "allowed here: name, learning_rate"]),
        ("optimiser.name", "sgd", ["optimiser.name: found 'sgd'; allowed: adam, adamw"]),
        ("optimiser.batch", 0.5, ["optimiser.batch: found 0.5; a whole number is wanted"]),
        ("optimiser.batch", True, ["optimiser.batch: found yes/true; a whole number is wanted"]),
        ("optimiser.learning_rate", "fast", ["optimiser.learning_rate: found 'fast'; a number is wanted"]),
        ("optimiser.learning_rate", float("nan"), ["optimiser.learning_rate: found nan; a finite number is wanted"]),
        ("members.0.augment.stripes", 1.5, ["members[0].augment.stripes: found 1.5; a share of 0 to 1 wanted"]),
        ("members.1.augment.power", [1.0], ["members[1].augment.power: found [1.0]; a list of 2 is wanted"]),
        ("members.0.seeds", [], ["members[0].seeds: found []; different numbers, at least one wanted"]),
        ("members.0.kind", "mixup", ["members: found ['mixup', 'mixup']; members of different kinds"]),
        ("pretrained", "yes", ["pretrained: found 'yes'; true or false is wanted"]),
        ("folds", 5, ["folds: found 5; keys and values are wanted"]),
        ("folds.count", 1, ["folds.count: found 1; 2 to 20 folds wanted"]),
        ("labels.secondary", 2.0, ["labels.secondary: found 2.0; 0 to 1 wanted"]),
        ("spectrograms.crops_max", 11, ["spectrograms.crops_max: found 11; 1 to 10 wanted"]),
        ("metadata.learning_rate", "slow", ["metadata.learning_rate: found 'slow'; a number or auto is wanted"]),
        ("tune.padding", ["mirror"], ["tune.padding[0]: found 'mirror'; allowed: context, zeros, image"]),
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
    lines = [f"  learning_rate: {'8e-4'}" if "learning_rate: 0." in line else line for line in text.splitlines()]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"learning_rate: found '8e-4', which YAML reads as text; write 0\.0008"):
        read_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize("text", ["[", "name: a\nname: b", "- 1", ""])
def test_what_is_not_a_recipe_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_recipe(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'demoo': unknown; allowed: demo, published, small"):
        find_recipe("demoo")
