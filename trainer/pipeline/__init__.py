"""The stages of a training: their inputs, which of them to run, and their work."""
