"""Requests, a module for each family: each is validated and converted to a command or filter."""
