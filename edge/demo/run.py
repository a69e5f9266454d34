"""`birdstation demo`: a replay of the soundscapes that ship with birdstation, with a broker and a
subscriber.

The replay is the real command in a process of its own; this file starts the broker and counts the
messages that arrive.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console
from rich.table import Table

from edge.config import DEMO_FOLDER
from edge.contract.errors import BundleError, UsageError
from edge.contract.text import text_of
from edge.demo.invented import REMEDY

_STATION = "demo"
_WRITTEN_BY = "# Written by `python -m edge demo`"  # begins settings whose station may be replaced
_SETTLE_S = 10.0
_MESSAGES_SHOWN_MAX = 5


def run_demo(out: Path, console: Console, source: Path = DEMO_FOLDER) -> dict[str, Any]:
    """Replay `source/{bundle, soundscapes, labels.csv, sites.json}` into `out/{station.yaml,
    station.db, summary.json}` and return the summary.

    Without mosquitto on the PATH it runs without a broker and says what to install. Raises
    BundleError if there is no demonstration in `source`, UsageError if `out` holds other things or
    cannot be written.
    """
    start = time.perf_counter()
    if not (source / "soundscapes").is_dir():
        raise BundleError(f"{source}: no demonstration here; make it: make demo-train PUBLISH=1")
    _check_out(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # as in /proc, where nothing can be made
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    for stale in out.glob("station.db*"):
        stale.unlink()
    with _mosquitto(console) as port, _subscriber(port) as received:
        summary = _replay(source, out, port)
        deadline = time.monotonic() + _SETTLE_S
        while port and len(received) < summary["detections"] and time.monotonic() < deadline:
            time.sleep(0.05)
    if port:
        console.print(_messages(received))
    else:
        console.print(
            "No messages, since mosquitto is not installed: apt-get install mosquitto, then run "
            "this again."
        )
    keys = (
        "detections",
        "species",
        "f1",
        "f1_low",
        "f1_high",
        "f1_all_nocall",
        "audio_s",
        "x_real_time",
    )
    result: dict[str, Any] = {key: summary[key] for key in keys}
    result["mqtt_received"] = len({message["id"] for message in received}) if port else None
    result["seconds_total"] = round(time.perf_counter() - start, 2)
    (out / "summary.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    console.print(
        f"settings {out / 'station.yaml'} · summary {out / 'summary.json'}", soft_wrap=True
    )
    if summary["notice"]:
        console.print(f"[yellow]This was the {summary['notice']}.[/]\n{REMEDY}.")
    return result


def _check_out(out: Path) -> None:
    """Check the output folder. Raises UsageError if another station's settings, record or summary
    would be replaced."""
    with suppress(OSError, UnicodeDecodeError):
        if (out / "station.yaml").read_text(encoding="utf8").startswith(_WRITTEN_BY):
            return
    for path in (out / "station.yaml", out / "summary.json", *out.glob("station.db*")):
        if path.exists():
            raise UsageError(
                f"{out}: holds a {path.name} that was not made by a demonstration; choose another "
                "folder for --out"
            )


def _replay(source: Path, out: Path, port: int | None) -> dict[str, Any]:
    """Run `birdstation replay`: its tables go to the user's screen, its JSON is returned."""
    try:
        sites = json.loads(text_of((source / "sites.json").read_bytes()))
    except (OSError, ValueError) as error:
        raise BundleError(f"{source / 'sites.json'}: not readable: {error}") from error
    settings: dict[str, Any] = {"station": {"id": _STATION}, "sites": sites}
    if source != DEMO_FOLDER:
        settings["bundle"] = str((source / "bundle").resolve())
    if port:
        settings["mqtt"] = {"host": "127.0.0.1", "port": port}
    config = out / "station.yaml"
    config.write_text(
        f"{_WRITTEN_BY}; the project's station.yaml explains every key.\n"
        + yaml.safe_dump(settings, sort_keys=False),
        encoding="utf8",
    )
    command = [
        sys.executable,
        "-m",
        "edge",
        "replay",
        str(source / "soundscapes"),
        "--config",
        str(config),
    ]
    command += ["--labels", str(source / "labels.csv"), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BundleError(f"{source}: the demonstration replay ended with status {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def free_port() -> int:
    """TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _mosquitto(console: Console) -> Iterator[int | None]:
    """Broker of our own on a free local port; None if mosquitto is not installed."""
    program = shutil.which("mosquitto") or shutil.which(
        "mosquitto", path="/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        broker = subprocess.Popen(
            [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            console.print(f"mosquitto listens on 127.0.0.1:{port}")
            yield port
        finally:
            broker.terminate()
            broker.wait(timeout=10)


@contextmanager
def _subscriber(port: int | None) -> Iterator[list[dict[str, Any]]]:
    """Collect the payloads that arrive while the block runs."""
    received: list[dict[str, Any]] = []
    if port is None:
        yield received
        return
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id="birdstation-demo-listener", protocol=mqtt.MQTTv5
    )
    subscribed = threading.Event()

    def on_subscribe(*_: object) -> None:
        subscribed.set()

    client.on_message = lambda _client, _data, message: received.append(json.loads(message.payload))
    client.on_subscribe = on_subscribe
    _connect(client, port)
    client.subscribe(f"birdstation/v1/{_STATION}/#", qos=1)
    client.loop_start()
    subscribed.wait(_SETTLE_S)  # messages published before that would be missed
    try:
        yield received
    finally:
        client.disconnect()
        client.loop_stop()


def _connect(client: mqtt.Client, port: int) -> None:
    for _ in range(100):  # the broker needs a moment to listen
        try:
            client.connect("127.0.0.1", port)
            return
        except OSError:
            time.sleep(0.05)
    client.connect("127.0.0.1", port)


def _messages(received: list[dict[str, Any]]) -> Table:
    title = f"An MQTT subscriber received {len(received)} messages, the last of them:"
    table = Table(title=title, title_justify="left")
    for name in ("start", "species", "score", "recording"):
        table.add_column(name, no_wrap=True)
    for message in received[-_MESSAGES_SHOWN_MAX:]:
        start = message["start"].replace("T", " ")[:21]  # tenths of a second
        table.add_row(
            start, message["common_name"], f"{message['score']:.2f}", message["recording"]
        )
    return table
