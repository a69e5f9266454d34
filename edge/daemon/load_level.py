"""Load level: how much work is left out, depending on how much sound waits. Knows no sound."""

import logging

from edge.types import LoadLevel

_CALM_S = 30.0  # with little sound waiting, before the load level goes down by one
_LEFT_OUT = {
    LoadLevel.NOTHING: "nothing",
    LoadLevel.OVERLAP: "overlap",
    LoadLevel.NETWORKS: "overlap and networks",
}
log = logging.getLogger(__name__)


class LoadShedder:
    """Raises the load level when sound waits: no overlap above a quarter of `full_s`, one member of
    each kind above a half. Lowers it again step by step, once little has waited for a while.

    load = LoadShedder(full_s=60)
    load.weigh(waiting_s=20, now_s=clock.at_s())
    load.shed   # the load level
    """

    def __init__(self, full_s: float) -> None:
        self.shed = LoadLevel.NOTHING
        self._full_s = full_s
        self._since_s = 0.0

    def weigh(self, waiting_s: float, now_s: float) -> None:
        """Set the load level for so much waiting sound; `now_s` is the monotonic clock."""
        full_s = self._full_s
        step = LoadLevel.NOTHING
        if waiting_s > full_s / 4:
            step = LoadLevel.OVERLAP
        if waiting_s > full_s / 2:
            step = LoadLevel.NETWORKS
        calm = waiting_s < full_s / 20 and now_s - self._since_s > _CALM_S
        if step > self.shed or (step < self.shed and calm):
            step = LoadLevel(max(step, self.shed - 1))
            log.warning(
                "%.0f s of sound waiting: leaving out %s, before: %s",
                waiting_s,
                _LEFT_OUT[step],
                _LEFT_OUT[self.shed],
            )
            self.shed = step
            self._since_s = now_s
