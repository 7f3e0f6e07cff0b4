"""The Python client of jobstate."""
