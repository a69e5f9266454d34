"""Heads on the embedding of a published model: from few recordings to species of one's own."""
