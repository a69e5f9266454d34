"""`make bench`: how fast, as ratios from one run. Never a test: a busy machine is not a bug."""
