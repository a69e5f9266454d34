"""All checks, in the order in which problems are best fixed. Knows no table and no command line."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge.analysis.recognizer import best_recognizer
from edge.check.model import check_bundle, check_codes, check_pace, check_place
from edge.check.outside import check_broker, check_clock
from edge.check.settings import check_program, check_schedule, check_settings, check_zone
from edge.check.sound import PLUG, check_folder, check_microphone
from edge.check.storage import check_database, check_disk, check_health_folder, check_state
from edge.check.verdict import CheckResult, attempt
from edge.config import Config
from edge.contract.bundle import read_bundle
from edge.contract.errors import BundleError, ConfigError
from edge.daemon.reload import read_at_start


def run_checks(
    path: Path | None, listen_s: float, tell: Callable[[str], None]
) -> list[CheckResult]:
    """Check a station.yaml (None: the defaults) and what it names on this machine; leaves nothing
    behind but a message to the broker.

    `listen_s`: seconds at the microphone, 0 for none. `tell` receives the name of each step as it
    begins. Raises ConfigError if the settings cannot be read: then there is nothing to check.
    """
    config = read_at_start(path).config
    checks = check_program() + check_settings(path, config) + check_zone(config)
    checks += attempt("schedule", "Fix this line of station.yaml.", lambda: check_schedule(config))
    tell("bundle and networks")
    checks += _model(config)
    tell("database and disk")
    for name, check in (
        ("state folder", check_state),
        ("health folder", check_health_folder),
        ("database", check_database),
        ("disk", check_disk),
    ):
        checks += attempt(
            name, "Let the station's user read and write there.", partial(check, config)
        )
    checks += check_clock(config)
    tell("broker")
    checks += attempt("broker", "Fix mqtt: in station.yaml.", lambda: check_broker(config))
    if config.source == "folder":
        tell("recordings")
        return checks + attempt(
            "folder", "Fix folder: in station.yaml.", lambda: check_folder(config)
        )
    tell(f"listening for {listen_s:g} s")
    return checks + attempt(
        "microphone", PLUG, lambda: check_microphone(config.microphone, listen_s)
    )


def _model(config: Config) -> list[CheckResult]:
    """Checks that need the bundle."""
    try:
        bundle = read_bundle(config.bundle_folder, config.station.language)
        recognizer = best_recognizer(bundle, config.runtime, config.engines_folder, config.members)
        apart = recognizer.check_probe()
    except ConfigError as error:
        name = "bundle" if "language" in str(error) else "members"
        return [CheckResult(name, "bad", str(error), "Fix this line of station.yaml.", stops=True)]
    except (BundleError, OSError) as error:  # OSError: files of another user
        advice = (
            "Copy the bundle again, complete and readable for the station's user, or set bundle: "
            "to another one."
        )
        return [CheckResult("bundle", "bad", " ".join(str(error).split()), advice, stops=True)]
    checks = check_bundle(recognizer.bundle, apart) + check_codes(config, recognizer.bundle)
    advice = "Export the bundle again, or set detect.prior: off to do without place and season."
    checks += attempt("place", advice, lambda: check_place(config, recognizer.bundle))
    return checks + attempt(
        "runtime", "Fix this line of station.yaml.", lambda: check_pace(config, recognizer)
    )
