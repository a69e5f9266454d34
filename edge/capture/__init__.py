"""Sound from outside: recordings and when they began. Knows no model and no store."""
