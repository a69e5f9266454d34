"""From a corpus of recordings to a Run: folds, members, metadata model, weights, threshold, report."""
