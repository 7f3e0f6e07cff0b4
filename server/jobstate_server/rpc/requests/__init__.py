"""Requests, a module for each family: what is wrong with one, and the command or filter that it stands for."""
