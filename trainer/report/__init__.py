"""The report of a training, its figures, and tracking."""
