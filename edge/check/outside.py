"""Checks of the clock, and of the broker by a real connection and an acknowledged message."""

import json
import time
from datetime import datetime, timezone
from pathlib import Path

from edge.check.verdict import CheckResult, Figures
from edge.config import Config, MqttSettings
from edge.contract.errors import PublishError
from edge.host.clock import boot_id, clock_state
from edge.messages import topic_of
from edge.publisher.link import Link
from edge.types import utc_text

ANSWER_S_MAX = 5.0
_YEAR_MAX = 2100
_TURN_S = 0.05


def check_clock(config: Config, wall_s: float | None = None) -> list[CheckResult]:
    """State of the wall clock at this moment; `wall_s` is its time, for tests."""
    shown_s = time.time() if wall_s is None else wall_s
    now = datetime.fromtimestamp(shown_s, timezone.utc)
    state = clock_state(shown_s)
    boot = boot_id()
    local = now.astimezone(config.zone or timezone.utc)
    found = f"{local:%Y-%m-%d %H:%M:%S %Z}, {state}" + (f", boot {boot[:8]}" if boot else "")
    figures: Figures = {"state": state, "time_utc": utc_text(now), "boot": boot}
    if shown_s < Path(__file__).stat().st_mtime - 86_400 or now.year >= _YEAR_MAX:
        advice = (
            "Set the clock (sudo date -s) or let it be set by network or GPS; detections would get "
            "wrong times."
        )
        found += "; this time is impossible"
        return [CheckResult("clock", "bad", found, advice, figures=figures)]
    advice = {
        "synced": "",
        "rtc": "Compare this time with a watch: a hardware clock keeps it, and nothing corrects "
        "it.",
        "unsynced": "Give it a network, GPS or a clock with a battery; `birdstation clock fix` "
        "corrects rows afterwards.",
    }[state]
    return [CheckResult("clock", "warning" if advice else "ok", found, advice, figures=figures)]


def check_broker(config: Config) -> list[CheckResult]:
    """Publish one message. Raises ConfigError if password or certificates cannot be read."""
    if config.mqtt is None:
        return [CheckResult("broker", "ok", "none configured: no messages")]
    where = f"{config.mqtt.host}:{config.mqtt.port}{' with TLS' if config.mqtt.tls else ''}"
    topic = topic_of(config, "check")
    payload = json.dumps({"schema": "check/1", "time": utc_text(datetime.now(timezone.utc))})
    begin = time.monotonic()
    refusal = ""
    for protocol in ("5", "3.1.1") if config.mqtt.protocol == "auto" else (config.mqtt.protocol,):
        refusal, other = _ask(
            config.mqtt, f"birdstation-{config.station.id}-check", protocol, topic, payload
        )
        if not refusal:
            ms = (time.monotonic() - begin) * 1000
            found = (
                f"{where}: acknowledged a message on {topic} after {ms:.0f} ms (MQTT {protocol})"
            )
            return [
                CheckResult(
                    "broker", "ok", found, figures={"answer_ms": round(ms, 1), "protocol": protocol}
                )
            ]
        if not other:
            break
    advice = (
        "Check that the broker runs, mqtt: in station.yaml, and this station's rights to publish."
    )
    return [CheckResult("broker", "bad", f"{where}: {refusal}", advice)]


def _ask(
    settings: MqttSettings, client: str, protocol: str, topic: str, payload: str
) -> tuple[str, bool]:
    """Send one message; the reason for which it was not accepted ("": it was), and True if another
    version of MQTT may help."""
    link = Link(settings, client, protocol)
    try:
        link.open()
        deadline = time.monotonic() + ANSWER_S_MAX
        while not (link.accepted or link.ended) and time.monotonic() < deadline:
            link.turn(_TURN_S)
        if not link.accepted or link.ended:
            return (
                link.ended
                or f"connected, but no MQTT reply within {ANSWER_S_MAX:g} s; is this really a "
                f"broker?",
                (link.other_protocol),
            )
        number = link.send(topic, payload)
        while time.monotonic() < deadline and not link.ended:
            for answered, refusal in link.answers:
                if answered == number:
                    return (f"{topic}: {refusal}" if refusal else ""), False
            link.turn(_TURN_S)
        return link.ended or f"no acknowledgement within {ANSWER_S_MAX:g} s", False
    except PublishError as error:
        return str(error), False
    finally:
        link.close()
