"""The metadata model: species to expect at a place on a day of the year."""
