"""What trainer, export and edge agree on: sound, species, bundle, score. Knows no engine and no
database."""
