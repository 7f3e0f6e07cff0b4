"""The store in a SQLite file: one server, one file."""
