"""What people look at after a training."""
