"""The rules and their encoding, alone: no I/O, no server, no waiting."""
