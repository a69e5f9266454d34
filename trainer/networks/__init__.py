"""Networks, and how they are computed and kept. Knows no training."""
