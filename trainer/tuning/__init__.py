"""Scores of a run's networks, and the choices made by them: ensemble, blend, thresholds."""
