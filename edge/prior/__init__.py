"""Species to be expected at a place and day of year: the parts of the model, and the station's
tables of it."""
