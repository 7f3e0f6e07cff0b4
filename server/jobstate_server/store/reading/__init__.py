"""Reads, the same for every SQL backend: built with peewee, and run on the reader's own connection."""
