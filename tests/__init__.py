"""The tests of jobstate."""
