"""The benchmark: how far the server is from the limit of gRPC in Python. ``make bench`` runs it; pytest does not."""
