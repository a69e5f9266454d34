"""A synthetic corpus in the layout of BirdCLEF 2021, generated from a seed, so that anyone can
train without data.

Knows nothing of how a corpus is read or trained on. Its birds, places and rasters are invented.
"""

from trainer.demo.corpus import CorpusSummary, make_corpus

__all__ = ["CorpusSummary", "make_corpus"]
