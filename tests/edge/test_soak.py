"""Minutes of the soak in a process of its own, over a full hour, gaps and reloads: nothing grows
that must not.

`python -m tests.trials.soak` runs a day, with figures; nothing here depends on how fast this
machine is.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge.engines.onnx import OnnxEngine
from edge.publisher.link import IN_FLIGHT_MAX
from tests import HANGS_S
from tests.trials.soak import slopes

PROJECT = Path(__file__).parents[2]
FIELDS_WITHOUT_GROWTH = {
    "files": 2,
    "threads": 0,
    "tasks": 1,
    "ledger_waiting": 0,
    "in_flight": IN_FLIGHT_MAX,
}
# of half a million that Python holds; an object kept per window would be some per window of 90
BLOCKS_MAX = 4_000


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("soak") / "figures.json"
    command = [
        sys.executable,
        "-m",
        "tests.trials.soak",
        "--hours",
        "0.12",
        "--sample-s",
        "30",
        "--real-time-s",
        "6",
    ]
    done = subprocess.run(
        [*command, "--out", str(out)], cwd=PROJECT, capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return dict(json.loads(out.read_text()))


@pytest.mark.slow
def test_nothing_grows_that_must_not(figures: dict[str, Any]) -> None:
    samples = figures["samples"]
    middle = samples[len(samples) // 2]
    last = samples[-1]
    for name, more in FIELDS_WITHOUT_GROWTH.items():
        assert last[name] <= middle[name] + more, name
    assert last["blocks"] - middle["blocks"] < BLOCKS_MAX
    assert max(sample["wal_mb"] for sample in samples) < 8, (
        "SQLite begins its log anew at about 4 MB"
    )
    assert max(sample["clip_sound_s"] for sample in samples) < 70
    assert last["rss_mb"] < middle["rss_mb"] + 60


@pytest.mark.slow
def test_what_was_to_happen_happened(figures: dict[str, Any]) -> None:
    assert figures["wrong"] == []
    last = figures["samples"][-1]
    assert last["detections"] > 5
    assert last["clips_saved"] > 2
    assert last["clips_failed"] == 0
    assert last["gaps"] >= 4
    assert last["recordings"] >= 4, "a full hour and gaps end a stretch"
    assert figures["missing_s"] > 5
    assert figures["latency"]["windows"] >= 1
    assert figures["latency"]["end of window to committed s"]["median"] >= 1.0, (
        "a window waits for its context"
    )


def test_slopes_are_growth_in_a_day() -> None:
    samples = [
        {"hour": hour, "rss_mb": 100 + (50 if hour < 1 else 2 * hour), "files": 7.0}
        for hour in range(6)
    ]
    assert slopes(samples) == pytest.approx({"rss_mb": 48, "files": 0}, abs=1e-9)
    assert slopes(samples[:3]) == {}


def test_networks_do_not_wait_actively(bundle_folder: Path) -> None:
    """Their threads would cost more than all the rest of the daemon."""
    engine = OnnxEngine(sorted((bundle_folder / "members").glob("*.onnx")))
    for session in engine._sessions.values():
        assert (
            session.get_session_options().get_session_config_entry("session.force_spinning_stop")
            == "1"
        )
