"""The record: one SQLite file. Each kind of row has its own module here; all are built on
connection.py."""
