"""What can be known to be wrong at once is said in the first minute, not after the hours that the
networks take."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edge.contract.errors import ConfigError, CorpusError
from edge.prior.place import RASTERS
from tests.helpers.trainer_run import make_corpus, make_rasters, write_raster
from trainer.pipeline.stages import STAGES, Options, run_stages
from trainer.recipe import find_recipe


def test_rasters_that_miss_the_recordings(tmp_path: Path) -> None:
    make_corpus(tmp_path / "data")
    folder = make_rasters(tmp_path / "rasters")
    for name in RASTERS:
        write_raster(folder / f"{name}.tif", lambda *_: np.array(5), north=-40.0, rows=40)
    options = Options(tmp_path / "data", tmp_path / "run", "demo", folder, None, 1, "cpu")
    with pytest.raises(CorpusError, match="expected values where the recordings are"):
        run_stages(options, STAGES, Console(quiet=True))
    assert not (tmp_path / "run" / "folds.csv").exists()


def test_a_network_that_nobody_knows(tmp_path: Path) -> None:
    make_corpus(tmp_path / "data")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        find_recipe("demo").as_yaml().replace("test_resnet", "test_resnest"), encoding="utf8"
    )
    options = Options(tmp_path / "data", tmp_path / "run", str(recipe), None, None, 1, "cpu")
    with pytest.raises(ConfigError, match="architecture 'test_resnest': unknown to timm"):
        run_stages(options, STAGES, Console(quiet=True))
    assert not (tmp_path / "run").exists()
