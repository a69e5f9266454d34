"""Members: what an epoch consists of, how it is learnt, and where."""
