"""Tests of what several programs, or the project as a whole, promise."""
