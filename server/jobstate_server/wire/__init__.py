"""Converts between the domain and ``jobstate.v1``."""
