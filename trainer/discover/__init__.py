"""Sounds that no class knows, in groups for a person to name: read, embedded, grouped, shown and
copied as a corpus without names."""
