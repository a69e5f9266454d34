"""Log lines of `birdstation run` about its work: what it listens to, whether sound arrives, what it
heard.

Under a service manager there is no line per detection: a journal on an SD card wears the card, and
the record has them. Decides nothing.
"""

import logging
from datetime import timedelta

from edge.analysis.stretch import BatchResult
from edge.config import Config
from edge.contract.bundle import Bundle
from edge.demo.invented import notice_of
from edge.types import Gap, Outcome

log = logging.getLogger(__name__)


class Teller:
    """Logs at INFO. `by_hand`: a person started the program and is watching."""

    def __init__(self, bundle: Bundle, by_hand: bool) -> None:
        self._taxonomy = bundle.taxonomy
        self._notice = notice_of(bundle.manifest.taxonomy_digest)
        self._by_hand = by_hand
        self._last = ""

    def begin(self, config: Config) -> None:
        """Log the start of the station."""
        what = f"recordings arriving in {config.folder.path}"
        if config.source == "microphone":
            what = f"the microphone ({config.microphone.device or 'the default sound card'})"
        log.info(
            "station %s listens to %s; its record is %s", config.station.id, what, config.database
        )
        if self._notice:
            log.info("the %s", self._notice)
        if self._by_hand:
            log.info("press Ctrl-C to stop")

    def sound(self, card: str | None, silence: Gap | None) -> None:
        """Log whether sound arrives from a sound card, when that changes."""
        state = f"hearing {card}" if card else ""
        if silence is not None:
            state = f"no sound, {silence.reason}" + (
                f": {silence.detail}" if silence.detail else ""
            )
        if state and state != self._last:
            self._last = state
            log.info("%s", state)

    def found(self, found: BatchResult) -> None:
        """Log the detections of a batch of windows."""
        for detection in found.detections if self._by_hand else ():
            species = self._taxonomy[self._taxonomy.index(detection.species)]
            at = f"{found.row.path} at {detection.offset_s:.1f} s"
            if found.row.source == "microphone":
                local = detection.start + timedelta(minutes=detection.utc_offset_minutes)
                at = f"{local:%Y-%m-%d %H:%M:%S}"
            log.info("%s: %s %.2f", at, species.common_name or species.code, detection.score)

    def recording(self, outcome: Outcome | None) -> None:
        """Log a recording of the folder that was analysed; the folder itself logs refusals."""
        if (
            self._by_hand
            and outcome is not None
            and outcome.state == "analysed"
            and not outcome.earlier
        ):
            log.info(
                "%s: %.1f s analysed, %d new detections",
                outcome.path,
                outcome.audio_s,
                outcome.new_detections,
            )

    def end(self, config: Config) -> None:
        """Log the end of the station."""
        log.info("stopped; the record is %s", config.database)
