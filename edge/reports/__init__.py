"""What people look at after a run: the score against labels, the tables."""
