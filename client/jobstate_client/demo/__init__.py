"""The demonstration that `make demo` runs: a real server, a few workers and a watcher, for some seconds."""
