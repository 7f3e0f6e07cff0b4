"""Copies a whole store into an empty one, from either backend to either."""
