"""One small network that imitates the ensemble."""
