"""The contract of trainer, export and edge: sound, species, bundle, score. Knows no engine and no
database."""
