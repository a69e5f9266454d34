"""The record: one SQLite file. Each noun has its own file here; all of them stand on
connection.py."""
