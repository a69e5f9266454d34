"""Training of members: the crops of an epoch, the training loop, and devices."""
