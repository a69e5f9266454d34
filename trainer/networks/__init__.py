"""Networks: architectures, precision and weights. Knows no training."""
