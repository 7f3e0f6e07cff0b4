"""The demo of `make demo`: a real server, a few workers and a watch, for some seconds."""
