"""A folder of recordings as a corpus: tables, folds, spectrograms, soundscapes, backgrounds."""
