"""What is run by hand: it takes long, or wants root, a sound card, another architecture. See docs/verification.md."""
