"""Sound from outside: microphones and recordings. Knows no model and no store."""
