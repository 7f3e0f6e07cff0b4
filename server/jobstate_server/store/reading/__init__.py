"""Reads, the same on every SQL backend: built with peewee, run on a connection of the reader's own."""
