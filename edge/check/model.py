"""Checks of the bundle, of the settings that refer to it, and of its speed on this machine. Opens
no database and asks no broker."""

import tempfile
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from math import isnan
from pathlib import Path

import numpy as np

from edge.analysis.recognizer import Recognizer
from edge.analysis.stretch import Analyst, Stretch
from edge.check.verdict import CheckResult, CheckVerdict, Figures
from edge.config import Config
from edge.contract.audio import RATE_HZ
from edge.contract.bundle import Bundle
from edge.contract.local_clock import LocalClock
from edge.daemon.live_microphone import station_place
from edge.demo.invented import REMEDY, notice_of
from edge.engines.tuning_record import FILE as TUNED
from edge.prior.place_table import prior_table
from edge.speech.listener import NETWORK as SPEECH_NETWORK
from edge.types import LoadLevel, RecordingRow

PACE_MIN = 1.2  # × real time; the margin is for clips, the system and a warm box
PACE_EASY = 3.0  # × real time; less may fail on a hot day, when the processor is clocked down
_MEASURE_S = 3.0
_WINDOWS_MIN = 5
_LADDER = {
    LoadLevel.OVERLAP: "without overlap",
    LoadLevel.NETWORKS: "and with as few networks as can answer",
}


def check_bundle(bundle: Bundle, apart: float) -> list[CheckResult]:
    """Identity and origin of the bundle; `apart`: largest difference of a score in its probe."""
    manifest = bundle.manifest
    training = {key: manifest.training.get(key) for key in ("recipe", "created")}
    origin = (
        ", ".join(f"{key} {value}" for key, value in training.items() if value)
        or "of unknown origin"
    )
    if manifest.training.get("title"):  # a published model
        origin = f"{manifest.training['title']}, adopted"
    count = len({member.file for member in manifest.members})
    networks = (
        f"{count} network{'' if count == 1 else 's'}{' and a student' if manifest.student else ''}"
    )
    found = (
        f"{bundle.folder}: {bundle.id[:16]}, {networks}, {len(bundle.taxonomy)} species, "
        f"{'with' if manifest.has_prior else 'no'} prior, {origin}; files whole, self-test passed "
        f"(largest difference {apart:.1g})"
    )
    found += f"; licence: {bundle.licence}" if bundle.licence else ""
    figures: Figures = {
        "id": bundle.id,
        "members": len(manifest.members),
        "species": len(bundle.taxonomy),
        "probe": apart,
        "licence": bundle.licence,
    }
    checks = [CheckResult("bundle", "ok", found, figures=figures)]
    notice = notice_of(manifest.taxonomy_digest)
    return [*checks, CheckResult("birds", "warning", notice, f"{REMEDY}.")] if notice else checks


def check_place(config: Config, bundle: Bundle) -> list[CheckResult]:
    """Place and season: make the table that the station will make, and say whether it is used."""
    place = station_place(config)
    if config.detect.prior == "off" or not bundle.manifest.has_prior:
        why = "detect.prior is off" if config.detect.prior == "off" else "the bundle has no prior"
        return [CheckResult("place", "ok", f"not used: {why}")]
    if place is None:
        advice = (
            "Set station.latitude and station.longitude, so that birds of another continent count "
            "for less."
        )
        return [
            CheckResult(
                "place",
                "warning",
                "not set: place and season are not used for the microphone",
                advice,
            )
        ]
    if place.latitude == place.longitude == 0:
        found = "0, 0: in the sea off Ghana, what a receiver without a fix says"
        return [
            CheckResult(
                "place",
                "warning",
                found,
                "Set station.latitude and station.longitude to where it stands.",
            )
        ]
    # not in the state folder: the file might belong to another user there
    with tempfile.TemporaryDirectory() as folder:
        table = prior_table(bundle, place, Path(folder))
    assert table is not None, "the bundle has a prior"
    today = table[LocalClock(config.zone).day(datetime.now(timezone.utc)).timetuple().tm_yday - 1]
    best = bundle.taxonomy[
        max(range(len(today)), key=lambda i: -1.0 if isnan(today[i]) else float(today[i]))
    ]
    found = (
        f"{place.latitude}, {place.longitude}; of the bundle's species {best.common_name} is the "
        "likeliest now"
    )
    beyond = int(np.isnan(today).sum())
    return [CheckResult("place", "ok", found + (f", {beyond} do not live here" if beyond else ""))]


def check_codes(config: Config, bundle: Bundle) -> list[CheckResult]:
    """Codes of sensitive species and of human voices: a code that the bundle does not know protects
    nothing."""
    checks = []
    unknown = sorted(set(config.sensitive.species) - set(bundle.taxonomy.codes))
    if unknown:
        advice = "Use codes that birdstation species lists, or leave these out."
        found = f"sensitive.species: expected codes of this bundle, found {', '.join(unknown)}"
        checks.append(CheckResult("privacy", "bad", found, advice))
    privacy = config.privacy
    voices = [bundle.taxonomy[index].code for index in bundle.taxonomy.of_kind(["human"])]
    classes = [*privacy.classes, *(code for code in voices if code not in privacy.classes)]
    if privacy.human == "off":
        checks.append(
            CheckResult(
                "privacy",
                "ok",
                "sound in which people speak is treated like any other (human: off)",
            )
        )
    elif not privacy.speech and not classes and not privacy.detector:
        found = (
            f"human: {privacy.human}, but people's voices are not recognised (speech is off, no "
            "classes, no detector): sound with them is kept"
        )
        advice = "Set privacy.speech: true, or human: off to say that clips may hold speech."
        checks.append(CheckResult("privacy", "warning", found, advice))
    else:
        by = [SPEECH_NETWORK] if privacy.speech else []
        by += [*classes, *([privacy.detector.name] if privacy.detector else [])]
        checks.append(
            CheckResult(
                "privacy", "ok", f"human: {privacy.human}; speech is recognised by {', '.join(by)}"
            )
        )
    return checks


@dataclass(frozen=True)
class _Pace:
    """Speed of the analysis."""

    times: float  # × real time
    windows_per_s: float
    p50_ms: float  # per window, image and networks
    p95_ms: float


def check_pace(config: Config, recognizer: Recognizer) -> list[CheckResult]:
    """Speed in times real time, with the hop of the settings and the station's own code.

    Where it is low, also the speed at each load level. Raises ConfigError for codes or networks in
    the settings that do not fit the bundle.
    """
    analyst = Analyst(config, recognizer)
    pace = _measure(analyst)
    threads = config.runtime.threads or "all"
    share = recognizer.bag_share
    by_ensemble = (
        f", {share:.0%} of the windows by the ensemble"
        if recognizer.members == "cascade" and share is not None
        else ""
    )
    found = (
        f"{recognizer.engine.name}, {threads} threads, members: {recognizer.members}{by_ensemble}: "
        f"{pace.times:.1f} × real time with a window every {config.windows.hop_s:g} s "
        f"({pace.windows_per_s:.1f} windows/s, {pace.p50_ms:.0f} ms each, 95 % within "
        f"{pace.p95_ms:.0f} ms)"
    )
    figures: dict[str, float | str | None] = {
        "x_real_time": round(pace.times, 2),
        "windows_per_s": round(pace.windows_per_s, 2),
        "window_ms_p50": round(pace.p50_ms, 2),
        "window_ms_p95": round(pace.p95_ms, 2),
        "members": recognizer.members,
        "bag_share": share,
    }
    if config.runtime.engine == "auto" and not (config.state / TUNED).is_file():
        found += "; not tuned for this machine: python -m export tune"
    checks = []
    if recognizer.degraded:
        advice = (
            "Run python -m export trt on this machine (docs/jetson.md), or set runtime.engine: "
            "onnx."
        )
        checks = [CheckResult("engines", "warning", recognizer.degraded, advice)]
    verdict = pace_verdict(pace.times)
    if verdict == "ok":
        return [*checks, CheckResult("runtime", "ok", found, figures=figures)]
    for step, words in _LADDER.items():
        shed = _measure(analyst, step).times
        found += f"; {words} {shed:.1f} ×"
        figures[f"x_real_time_shed_{step.value}"] = round(shed, 2)
    advice = (
        "Use a larger windows.hop_s (up to 5), a smaller bundle or a faster machine, and keep it "
        "cool."
    )
    return [*checks, CheckResult("runtime", verdict, found, advice, figures=figures)]


def pace_verdict(times: float) -> CheckVerdict:
    """Verdict on a speed, in times real time."""
    return "ok" if times >= PACE_EASY else "warning" if times >= PACE_MIN else "bad"


def _measure(analyst: Analyst, shed: LoadLevel = LoadLevel.NOTHING) -> _Pace:
    """Push the probe's sound hop by hop through a stretch for a few seconds, as live sound. The
    first window is not counted, since buffers are allocated then."""
    sound = analyst.bundle.probe().samples().reshape(-1)
    hop = analyst.config.hop_samples
    stretch = Stretch(analyst, _nowhere())
    stretch.shed = shed
    seconds: list[float] = []
    each: list[float] = []  # s per window; one push may complete several
    # end: 0 until the first windows are decided
    at = 0
    end = 0.0
    while True:
        begin = time.perf_counter()
        before = stretch.windows
        stretch.push(np.take(sound, range(at, at + hop), mode="wrap"))
        deque(stretch.found(), maxlen=0)
        took = time.perf_counter() - begin
        windows = stretch.windows - before
        at += hop
        if end:
            seconds.append(took)
            each += [took / windows] * windows if windows else []
            if windows and time.perf_counter() >= end and len(each) >= _WINDOWS_MIN:
                break
        elif windows:
            end = time.perf_counter() + _MEASURE_S
    spent = sum(seconds)
    p50, p95 = np.percentile(each, (50, 95))
    return _Pace(
        len(seconds) * hop / RATE_HZ / spent,
        len(each) / spent,
        float(p50) * 1000,
        float(p95) * 1000,
    )


def _nowhere() -> RecordingRow:
    now = datetime.now(timezone.utc)
    return RecordingRow(
        "check", "check", 0, 0, "", now, "clock", "assumed_utc", 0, None, source="microphone"
    )
