"""Which species a place and a day of year let expect: the model's parts, and tables of it for the
station."""
