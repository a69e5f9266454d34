"""What a run's networks score, and what is chosen by it: ensemble, blend, thresholds."""
