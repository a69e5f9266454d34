"""Real things, small, that several tests share."""
