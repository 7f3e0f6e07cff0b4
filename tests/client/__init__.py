"""The Python client library against real servers, scripted servers, and none at all."""
