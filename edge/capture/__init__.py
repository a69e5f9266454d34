"""Sound from outside: recordings, sound cards and start times. Knows no model and no store."""
