"""The metadata model: which species a place and a day let expect."""
