"""The admin port: answers probes in threads of its own, whatever happens on the port for callers."""
