"""Results for people after a run: tables, figures, the score against labels, pages, Parquet."""
